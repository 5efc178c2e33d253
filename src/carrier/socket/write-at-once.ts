/**
 * Writes to a socket what the kernel takes at once, and leaves nothing with Node: bytes that were not written still
 * belong to the caller. The socket must have nothing left to write.
 */
import { writevSync } from "node:fs";
import type { Socket } from "node:net";
import { descriptorOf } from "./node-handle.js";

/** Whether a socket can be written to this way. It cannot if its descriptor is not to be found. */
export function writesAtOnce(socket: Socket): boolean {
  return descriptorOf(socket) >= 0;
}

/**
 * Returns the bytes written, which may be none. An error of the socket shows when the socket itself is written to.
 */
export function writeAtOnce(socket: Socket, chunks: readonly Uint8Array[]): number {
  const descriptor = descriptorOf(socket);
  if (descriptor < 0) return 0;
  try {
    return writevSync(descriptor, chunks);
  } catch {
    return 0;
  }
}
