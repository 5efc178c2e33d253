/**
 * Whether this process can share memory at all. The kernel, a container's system call filter or the runtime may refuse
 * it, and versions do not tell. So everything that a connection needs is tried once per thread, on two small segments.
 */
import type { Addon } from "../../os/addon.js";
import { isSystemError } from "../../os/addon.js";
import { RING_DATA_OFFSET } from "./layout.js";
import { createOwnMemory, joinMemory } from "./segment.js";

/** Codes for a limit of this process or machine. Another attempt may succeed. */
const LIMITS: readonly unknown[] = ["ENOMEM", "ENOSPC", "EMFILE", "ENFILE"];

/** Whether a failure is due to a limit, so that another attempt may succeed. */
export function isLimit(error: unknown): boolean {
  return isSystemError(error) && LIMITS.includes(error.code);
}

/** Whether the kernel or the runtime refuses memory, so that another attempt fails too. */
export function isRefusal(error: unknown): error is Error {
  if (isSystemError(error)) return !isLimit(error);
  return error instanceof Error && (error as NodeJS.ErrnoException).code === "ERR_NO_EXTERNAL_BUFFERS";
}

/** Undefined while it is not known. */
let known: { readonly refusal: string | undefined } | undefined;

/** Why memory cannot be shared here: what failed, and how. Undefined if it can be, or if only a limit was reached. */
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

/** @throws the error that a connection would fail with */
function tryAll(addon: Addon): void {
  const geometry = { ringBytes: RING_DATA_OFFSET, arenaBytes: 2 * RING_DATA_OFFSET, releaseSlots: 1 };
  const peer = createOwnMemory(addon, geometry, false);
  const descriptors: number[] = [];
  try {
    descriptors.push(addon.duplicateDescriptor(peer.ringDescriptor));
    descriptors.push(addon.duplicateDescriptor(peer.arenaDescriptor));
    joinMemory(addon, createOwnMemory(addon, geometry, false), descriptors.splice(0)).close();
  } finally {
    for (const descriptor of descriptors) addon.closeDescriptor(descriptor);
    peer.close();
  }
}
