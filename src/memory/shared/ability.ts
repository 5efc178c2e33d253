/**
 * Whether this process can share memory at all. A kernel, a container's profile of system calls or the runtime may
 * refuse it, which no look at versions tells: so all that a connection needs is tried once per thread, on two small
 * segments.
 */
import type { Addon } from "../../os/addon.js";
import { isSystemError } from "../../os/addon.js";
import { RING_DATA_OFFSET } from "./layout.js";
import { createOwnMemory, joinMemory } from "./segment.js";

/** Of a limit of this process or machine, which others may make room below. */
const LIMITS: readonly unknown[] = ["ENOMEM", "ENOSPC", "EMFILE", "ENFILE"];

/** Whether a failure is about a limit that was reached, and not for ever. */
export function isLimit(error: unknown): boolean {
  return isSystemError(error) && LIMITS.includes(error.code);
}

/** Whether memory is refused, by the kernel or the runtime, however often it is asked for. */
export function isRefusal(error: unknown): error is Error {
  if (isSystemError(error)) return !isLimit(error);
  return error instanceof Error && (error as NodeJS.ErrnoException).code === "ERR_NO_EXTERNAL_BUFFERS";
}

/** Undefined: not known yet. */
let known: { readonly refusal: string | undefined } | undefined;

/** Why memory cannot be shared here, if so: what failed, and how. A limit that is reached right now is no reason. */
export function refusalOfMemory(addon: Addon): string | undefined {
  if (known !== undefined) return known.refusal;
  try {
    tryAll(addon);
    known = { refusal: undefined };
  } catch (error) {
    if (isRefusal(error)) known = { refusal: error.message };
    else if (!isLimit(error)) throw error;
  }
  return known?.refusal;
}

/** @throws what a connection would fail with */
function tryAll(addon: Addon): void {
  const geometry = { ringBytes: RING_DATA_OFFSET, arenaBytes: 2 * RING_DATA_OFFSET, releaseSlots: 1 };
  const peer = createOwnMemory(addon, geometry);
  const descriptors: number[] = [];
  try {
    descriptors.push(addon.duplicateDescriptor(peer.ringDescriptor));
    descriptors.push(addon.duplicateDescriptor(peer.arenaDescriptor));
    joinMemory(addon, createOwnMemory(addon, geometry), descriptors.splice(0), true).close();
  } finally {
    for (const descriptor of descriptors) addon.closeDescriptor(descriptor);
    peer.close();
  }
}
