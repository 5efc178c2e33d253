/**
 * The analytics process: `node analytics-server.js ISTHMUS_SOCKET [GRPC_SOCKET]`. Serves the same routes over Isthmus
 * and, if asked to, over Connect's gRPC. Tells its parent when it listens, and ends when the parent has ended.
 */
import { rmSync } from "node:fs";
import http2 from "node:http2";
import { createIsthmusServer } from "../../src/index.js";
import { createRoutes } from "./routes.js";

/** What it tells its parent. */
export interface ServerReady {
  /** Why there is no gRPC; undefined if there is, or if it was not asked for. */
  readonly grpcProblem?: string;
}

const [isthmusPath, grpcPath] = process.argv.slice(2);
const routes = createRoutes();

// The socket is in a private folder, so this user may connect, even if it is "nobody", which the default refuses.
const server = createIsthmusServer({ routes, allow: ({ uid }) => uid === process.getuid?.() });
await server.listen(`unix:${isthmusPath}`);
const problem =
  grpcPath === undefined
    ? undefined
    : await serveGrpc(grpcPath).catch((error: unknown) => (error as Error).message.split("\n")[0]);
process.send?.({ ...(problem === undefined ? {} : { grpcProblem: problem }) } satisfies ServerReady);

// Ctrl-C in the terminal reaches this process too, but the parent decides when it ends.
process.on("SIGINT", () => undefined);
process.on("disconnect", () => process.exit());

async function serveGrpc(path: string): Promise<void> {
  const { connectNodeAdapter } = await import("@connectrpc/connect-node");
  rmSync(path, { force: true });
  const server = http2.createServer(connectNodeAdapter({ routes }));
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(path, resolve));
}
