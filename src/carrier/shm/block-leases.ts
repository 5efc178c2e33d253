/** Which received values are leased, and how many leases this side has on the blocks of one arena. */
import type { Lease, LeaseLifetime } from "../../memory/payload/lease.js";

/**
 * Smallest value, in bytes, that is leased; smaller ones are copied. Measured (2-core VM, Node 20): a lease costs 3 to
 * 5 µs and a share of a garbage collection, a copy of 32 KiB to new memory about as much.
 */
const LEASE_BYTES_MIN = 32 << 10;

/** The share of an arena from which on its owner may be short of blocks because of leases. */
const MUCH = 1 / 16;

/** Whether a received value of this size is to be leased, as far as its lifetime decides that. */
export function wantsLease(lifetime: LeaseLifetime, byteLength: number): boolean {
  return byteLength > 0 && (lifetime === "strict" || (lifetime !== "copied" && byteLength >= LEASE_BYTES_MIN));
}

export class BlockLeases {
  count = 0;
  bytes = 0;
  private readonly slots: number;
  private readonly arenaBytes: number;

  /** @param slots blocks of the arena that may be out at once */
  constructor(slots: number, arenaBytes: number) {
    this.slots = slots;
    this.arenaBytes = arenaBytes;
  }

  /** BLOCKS-2 */
  mayAdd(byteLength: number): boolean {
    return this.count < this.slots / 2 && this.bytes + byteLength <= this.arenaBytes / 2;
  }

  /** Whether the leases are a considerable part of the arena, in bytes or in blocks. */
  get isMuch(): boolean {
    return this.count >= this.slots * MUCH || this.bytes >= this.arenaBytes * MUCH;
  }

  add(byteLength: number): void {
    this.count++;
    this.bytes += byteLength;
  }

  /** A lease has ended. Its block may still be held. */
  ended(lease: Lease): void {
    this.count--;
    this.bytes -= lease.byteLength;
  }
}
