/**
 * The analytics process: `node analytics-server.js ISTHMUS_SOCKET [GRPC_SOCKET]`. Serves the same routes over Isthmus
 * and, if asked, over Connect's gRPC. Tells its parent when it listens, and ends when the parent is gone.
 */
import { rmSync } from "node:fs";
import http2 from "node:http2";
import { createIsthmusServer } from "../../src/index.js";
import { createRoutes } from "./routes.js";

/** What it tells its parent. */
export interface ServerReady {
  /** Why there is no gRPC; undefined if there is, or if nobody asked. */
  readonly grpcProblem?: string;
}

const [isthmusPath, grpcPath] = process.argv.slice(2);
const routes = createRoutes();

// The socket lies in a private folder, so this user is who may connect, even if it is "nobody", whom the default keeps
// out.
const server = createIsthmusServer({ routes, allow: ({ uid }) => uid === process.getuid?.() });
await server.listen(`unix:${isthmusPath}`);
const problem =
  grpcPath === undefined ? undefined : await serveGrpc(grpcPath).catch((error: Error) => error.message.split("\n")[0]);
process.send?.({ ...(problem === undefined ? {} : { grpcProblem: problem }) } satisfies ServerReady);

// Ctrl-C in the terminal reaches this process too, but it is for the parent to decide when this one ends.
process.on("SIGINT", () => undefined);
process.on("disconnect", () => process.exit());

async function serveGrpc(path: string): Promise<void> {
  const { connectNodeAdapter } = await import("@connectrpc/connect-node");
  rmSync(path, { force: true });
  const server = http2.createServer(connectNodeAdapter({ routes }));
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(path, resolve));
}
