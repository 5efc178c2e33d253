/**
 * Writes to a socket what the kernel takes at once, and leaves nothing with Node: what is not written is still the
 * caller's. The socket must have nothing left to write.
 */
import { writevSync } from "node:fs";
import type { Socket } from "node:net";
import { otherRuntime } from "../../os/runtime.js";

/** Whether anything can be written this way: else there is no descriptor to be had. */
export function writesAtOnce(socket: Socket): boolean {
  return descriptorOf(socket) >= 0;
}

/**
 * Returns the bytes written, which may be none. Whatever is wrong with the socket shows when it is written to itself.
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

function descriptorOf(socket: Socket): number {
  // Deno has numbers of its own that look like descriptors.
  if (otherRuntime !== undefined) return -1;
  // Not public, and missed where it is not: then bytes are copied for Node to write.
  const { _handle: handle } = socket as unknown as { readonly _handle?: { readonly fd?: unknown } | null };
  return typeof handle?.fd === "number" ? handle.fd : -1;
}
