import { tmpdir } from "node:os";
import { join } from "node:path";

// Both processes need to see the socket's folder. Windows has no Unix sockets that Node can use.
const DEFAULT = process.platform === "win32" ? "tcp:127.0.0.1:7000" : `unix:${join(tmpdir(), "isthmus-starter.sock")}`;

/** Where the server listens: ADDRESS in the environment, or a socket in the folder for temporary files. */
export const address = process.env["ADDRESS"] ?? DEFAULT;
