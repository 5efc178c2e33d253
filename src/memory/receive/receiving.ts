/** The receive memory of one connection: where each of its messages is received, and how much of it is leased. */
import type { Lease, LeaseHome } from "../payload/lease.js";
import { arenaOfThread, BLOCK_BYTES_MAX, BlockMemory } from "./receive-arena.js";
import { HeapMemory } from "./receive-heap.js";
import type { LeaseTally, ReceiveMemory } from "./receive-memory.js";

export class Receiving implements LeaseTally {
  leases = 0;
  leasedBytes = 0;
  /** Number of values leased so far. */
  valuesLeased = 0;
  private home: LeaseHome | undefined;

  /** Memory for a message of `byteLength` bytes. @throws RangeError if there is none at all */
  take(byteLength: number): ReceiveMemory {
    const arena = byteLength <= BLOCK_BYTES_MAX ? arenaOfThread() : undefined;
    const unit = arena === undefined ? -1 : arena.allocate(byteLength);
    if (arena === undefined || unit < 0) return new HeapMemory(this, byteLength);
    this.home ??= arena.homeFor(this);
    return new BlockMemory(this, this.home, arena, unit, byteLength);
  }

  opened(byteLength: number): void {
    this.leases++;
    this.valuesLeased++;
    this.leasedBytes += byteLength;
  }

  ended(lease: Lease): void {
    this.leases--;
    this.leasedBytes -= lease.byteLength;
  }
}
