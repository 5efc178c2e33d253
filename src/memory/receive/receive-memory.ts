/**
 * Private memory that large messages are received into and that is used again for later messages. Fresh memory for each
 * message would be mapped, faulted in page by page and unmapped again, which costs more than reading the socket.
 *
 * A decoded message keeps parts of this memory as leases (`lease.ts`): large values, each seen through an ArrayBuffer.
 * Everything else of the message is copied out.
 *
 * RECEIVE-1  Memory is used again only when nothing reaches it: the message is decoded or discarded, the carrier no
 *            longer reads into it, no message that is being sent lies in it, and each lease on it has ended (LEASE-1,
 *            BLOCK-1).
 * RECEIVE-2  The memory kept for reuse is bounded per thread, and is freed after some time without use. A message that
 *            finds no room in it is received into memory of its own, so no message waits for memory.
 *
 * With the addon, the memory is blocks of an arena that no other process maps (`receive-arena.ts`); the addon reports
 * the end of a value even if its user dropped it. Without the addon, it is ordinary ArrayBuffers (`receive-heap.ts`),
 * which come back only after `release` or the end of the scope.
 */
import type { Lease, LeaseHandle, LeaseLifetime } from "../payload/lease.js";

/** Values of at least this many bytes stay where they were received; smaller ones are copied to the heap. */
export const KEPT_BYTES_MIN = 32 << 10;

/** The memory that one message is received into. */
export interface ReceiveMemory {
  /** Has exactly the requested length. Its initial contents are unspecified. */
  readonly bytes: Uint8Array;
  /** Keeps the memory unchanged until the matching `unhold`. A new `ReceiveMemory` has one hold. */
  hold(): void;
  unhold(): void;
  /**
   * Gives the message the value in bytes [at, at + byteLength). Leases are added to `handles`, by `lent` at the latest.
   * @returns undefined if the caller has to copy the value instead
   */
  lend(
    at: number,
    byteLength: number,
    lifetime: LeaseLifetime,
    callLabel: string,
    handles: LeaseHandle[],
  ): Uint8Array | undefined;
  /** Call after the last `lend` for the message. */
  lent(lifetime: LeaseLifetime, callLabel: string, handles: LeaseHandle[]): void;
}

/** Counts the leases on one connection's receive memory. */
export interface LeaseTally {
  opened(byteLength: number): void;
  ended(lease: Lease): void;
}
