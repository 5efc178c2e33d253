/**
 * A lease is a receiver's right to read a block of the peer's arena, or a part of its own receive memory, until the
 * lease is released. A lease that is never released ends when nothing in this thread can reach its bytes any more.
 *
 * LEASE-1  A block goes back once for each time it came: after its ArrayBuffer was detached or collected, and after
 *          everything that had to be copied out of it was copied.
 */
import type { BlockUser, BlockView } from "./block-views.js";
import type { Origin } from "./origin.js";
import { ephemeral, originOf, setOrigin } from "./origin.js";

/**
 * How long received bytes that were not copied stay valid.
 *
 * - "collected" (the default): as long as anything refers to them, like ordinary memory, or until `release`.
 * - "scoped": in a handler, until it has settled; then they are detached. In a client, until `release`. This is the
 *   cheapest, because blocks are used again at once. Bytes that have to last longer are copied, or kept with `retain`.
 *   No background operation (`zlib`, `fs`, another call) may still be reading them at the end.
 * - "copied": nothing is leased; all bytes are copied to the heap.
 * - "strict": for tests. Like "scoped", for `bytes` of every size, and any use after the end throws an error that names
 *   the call. The exceptions are reading by index, which returns `undefined`, and native functions that access the
 *   memory directly and find none.
 */
export type LeaseLifetime = "collected" | "scoped" | "copied" | "strict";

export const LEASE_LIFETIMES: readonly LeaseLifetime[] = ["collected", "scoped", "copied", "strict"];

/** Whether leases end with the handler that received them. */
export function isScoped(lifetime: LeaseLifetime): boolean {
  return lifetime === "scoped" || lifetime === "strict";
}

/** Makes the ArrayBuffers of leases, as `BlockViews` does. */
export interface LeaseViews {
  open(unit: number, offset: number, byteLength: number, user: BlockUser): ArrayBuffer;
  detach(buffer: ArrayBuffer, user: BlockUser): boolean;
}

/** Where leased blocks go back to. */
export interface LeaseHome {
  readonly views: LeaseViews;
  /**
   * @param wasReturned whether a message to the block's owner has named the block meanwhile; that message has to arrive
   *   before the release
   */
  release(lease: Lease, wasReturned: boolean): void;
  /**
   * Only of memory that messages are received into: the lease's bytes, readable as long as the lease is pinned, even if
   * its user ends it.
   */
  readPinned?(lease: Lease, bytes: Uint8Array): Uint8Array;
}

/** The bytes that a lease is for: a part of the block at `unit`. */
export interface LeaseRange {
  readonly unit: number;
  readonly generation: number;
  readonly offset: number;
  readonly byteLength: number;
}

export class Lease implements Origin, BlockUser, LeaseRange {
  readonly kind = "lease";
  readonly home: LeaseHome;
  readonly unit: number;
  readonly generation: number;
  readonly offset: number;
  readonly byteLength: number;
  /** The call that brought the bytes. */
  readonly callLabel: string;
  gone: string | undefined;
  view: BlockView | undefined;
  /** Whether the bytes stay valid after the end of their scope. */
  retained = false;
  /** Whether sending the bytes ends the lease. */
  readonly endsWhenSent: boolean;
  private holds = 1;
  private ended = false;
  private returned = false;

  private constructor(home: LeaseHome, range: LeaseRange, lifetime: LeaseLifetime, callLabel: string) {
    this.home = home;
    this.unit = range.unit;
    this.generation = range.generation;
    this.offset = range.offset;
    this.byteLength = range.byteLength;
    this.endsWhenSent = lifetime !== "collected";
    this.callLabel = callLabel;
  }

  /**
   * Opens a lease, and adds it to `handles`.
   * @returns the leased bytes
   * @throws SystemError if the block cannot be mapped; then it still belongs to the caller
   */
  static open(
    home: LeaseHome,
    range: LeaseRange,
    lifetime: LeaseLifetime,
    callLabel: string,
    handles: LeaseHandle[],
  ): Uint8Array {
    const lease = new Lease(home, range, lifetime, callLabel);
    const buffer = home.views.open(range.unit, range.offset, range.byteLength, lease);
    setOrigin(buffer, lease);
    if (lease.endsWhenSent) ephemeral.count++;
    handles.push({ lease, buffer });
    return new Uint8Array(buffer);
  }

  /** Ends the user's right: all views on the bytes become empty. Does nothing if it has ended already. */
  end(buffer: ArrayBuffer, why: string): void {
    if (this.ended || !this.home.views.detach(buffer, this)) return;
    this.gone = why;
    this.userIsDone();
  }

  /**
   * Call when the bytes return to their owner in a message, and with them the right to the block. Like `end`, but the
   * block is not released in addition.
   * @returns false, and nothing is done, if something else still needs the block
   */
  endByReturning(buffer: ArrayBuffer, why: string): boolean {
    if (this.holds > 1 || this.returned || this.ended || !this.home.views.detach(buffer, this)) return false;
    this.gone = why;
    this.holds = 0;
    this.markEnded();
    return true;
  }

  /** Call when a message to the owner names the bytes and the lease goes on. */
  markReturned(): void {
    this.returned = true;
  }

  /** Keeps the block from going back while something of ours reads it. */
  pin(): void {
    this.holds++;
  }

  get isPinned(): boolean {
    return this.holds > 1;
  }

  unpin(): void {
    if (--this.holds === 0) this.home.release(this, this.returned);
  }

  onCollected(): void {
    if (!this.ended) this.userIsDone();
  }

  private markEnded(): void {
    this.ended = true;
    if (this.endsWhenSent) ephemeral.count--;
  }

  private userIsDone(): void {
    this.markEnded();
    this.unpin();
  }
}

/** A lease together with its buffer. It keeps the buffer alive, so only what may do that refers to it. */
export interface LeaseHandle {
  readonly lease: Lease;
  readonly buffer: ArrayBuffer;
}

/** The lease that bytes belong to, with its buffer. */
export function leaseHandleOf(bytes: ArrayBufferView): LeaseHandle | undefined {
  const origin = originOf(bytes);
  return origin instanceof Lease ? { lease: origin, buffer: bytes.buffer as ArrayBuffer } : undefined;
}
