/**
 * The one place that touches a private part of Node: `_handle`, the object of libuv behind a `net.Socket`. Everything
 * here looks before it uses, and says so if something is missing. The caller then does without: bytes and files are
 * copied. `node-handle.test.ts` checks what a running Node has.
 */
import type { Socket } from "node:net";
import { otherRuntime } from "../../os/runtime.js";

interface NodeHandle {
  readonly fd?: unknown;
  readonly readStart?: unknown;
  readonly writev?: unknown;
}

interface WithHandle {
  _handle?: NodeHandle | null;
}

function handleOf(socket: Socket): NodeHandle | undefined {
  // Other runtimes have properties of the same name with another meaning: Deno's `fd` is not a descriptor.
  if (otherRuntime !== undefined) return undefined;
  return (socket as unknown as WithHandle)._handle ?? undefined;
}

/** The socket's descriptor, which stays the socket's; −1: it has none, or it cannot be found. */
export function descriptorOf(socket: Socket): number {
  const fd = handleOf(socket)?.fd;
  return typeof fd === "number" && Number.isInteger(fd) && fd >= 0 ? fd : -1;
}

/**
 * Takes the handle out of a connected socket that nothing was read from, to make another socket of it. The socket is
 * destroyed, and the handle lives on. Undefined: there is no handle that a socket can be made of, and nothing was done.
 */
export function takeHandle(socket: Socket): object | undefined {
  const handle = handleOf(socket);
  if (typeof handle?.readStart !== "function" || typeof handle.writev !== "function") return undefined;
  (socket as unknown as WithHandle)._handle = null;
  // The server that accepted the socket counts it as gone.
  socket.destroy();
  return handle;
}
