/** The analytics process as its client sees it: started, addressed, and called. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ServerReady } from "./analytics-server.js";
import type { Children, Program } from "./children.js";

/** The folder of the demo's sockets. */
export interface SocketFolder {
  /** `unix:PATH` */
  readonly address: string;
  readonly isthmusPath: string;
  readonly grpcPath: string;
  remove(): void;
}

export interface AnalyticsProcess {
  readonly program: Program;
  /** Why it does not serve gRPC; undefined if it does. */
  readonly grpcProblem: string | undefined;
}

/** Of a Unix socket's path, in bytes; the server needs some for a temporary name of its own. */
const SOCKET_PATH_MAX = 90;

export function createSocketFolder(): SocketFolder {
  const longest = Buffer.byteLength(join(tmpdir(), "isthmus-demo-XXXXXX", "isthmus.sock"));
  const folder = mkdtempSync(join(longest > SOCKET_PATH_MAX ? "/tmp" : tmpdir(), "isthmus-demo-"));
  const isthmusPath = join(folder, "isthmus.sock");
  return {
    address: `unix:${isthmusPath}`,
    isthmusPath,
    grpcPath: join(folder, "grpc.sock"),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** @throws Error that says why it did not start */
export async function startAnalytics(
  children: Children,
  sockets: SocketFolder,
  withGrpc: boolean,
): Promise<AnalyticsProcess> {
  const program = children.fork("analytics process", "./analytics-server.js", [
    sockets.isthmusPath,
    ...(withGrpc ? [sockets.grpcPath] : []),
  ]);
  const { grpcProblem } = await program.message<ServerReady>();
  return { program, grpcProblem };
}
