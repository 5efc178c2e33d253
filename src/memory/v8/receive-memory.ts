/**
 * Private memory that large messages are received into, and used again for the next ones: fresh memory for each would
 * be mapped, faulted in page by page and unmapped again, which costs more than reading the socket.
 *
 * What a decoded message keeps of it are leases (`lease.ts`): large values, seen through ArrayBuffers. Everything else
 * of the message is copied out.
 *
 * RECEIVE-1  Memory is used again only when nobody reaches it: the message is decoded or dropped, the carrier reads
 *            nothing into it any more, nothing that is sent lies in it, and each lease on it has ended (LEASE-1,
 *            BLOCK-1).
 * RECEIVE-2  What is kept for reuse is bounded, per thread, and returned when it has not been used for a while. What
 *            finds no room here is received into memory of its own: nothing waits.
 *
 * With the addon it lies in blocks of an arena that nobody else maps, so that a value's end is known even if it is
 * garbage. Without, it is ordinary ArrayBuffers, which come back only if the value was released or its scope has ended.
 */
import { loadAddon } from "../../os/addon.js";
import type { Addon } from "../../os/addon.js";
import { setTimeout } from "../../os/timers.js";
import { Arena } from "../shared/arena.js";
import { BlockViews } from "../payload/block-views.js";
import { ARENA_UNIT_BYTES } from "../shared/layout.js";
import type { LeaseHandle, LeaseHome, LeaseLifetime } from "../payload/lease.js";
import { Lease } from "../payload/lease.js";
import { HeapMemory } from "./receive-heap.js";
import type { ArenaView } from "../shared/segment.js";
import { commitBudget, listenToFreedViews } from "../shared/segment.js";

/** Of one thread, over all its connections. */
const ARENA_BYTES = 64 << 20;
/** Larger messages would leave each other no room. */
const BLOCK_BYTES_MAX = Math.floor(ARENA_BYTES / 3);
const MAPPED_BYTES_MIN = 2 << 20;
const IDLE_MS = 10_000;
/** From this size on, in bytes, values stay where they were received; smaller ones are copied to the heap. */
export const KEPT_BYTES_MIN = 32 << 10;

/** Where one message is received. */
export interface ReceiveMemory {
  /** As long as was asked for; contents unspecified. */
  readonly bytes: Uint8Array;
  /** Somebody besides needs it to stay as it is, until `unhold`. It starts with one hold. */
  hold(): void;
  unhold(): void;
  /**
   * The value in bytes [at, at + byteLength), for the message to keep; undefined: it has to be copied. Leases are added
   * to `handles`, at the latest by `lent`.
   */
  lend(
    at: number,
    byteLength: number,
    lifetime: LeaseLifetime,
    callLabel: string,
    handles: LeaseHandle[],
  ): Uint8Array | undefined;
  /** All values of the message are lent. */
  lent(lifetime: LeaseLifetime, callLabel: string, handles: LeaseHandle[]): void;
}

/** What one connection receives. */
export class Receiving {
  leases = 0;
  leasedBytes = 0;
  /** Values that were leased so far. */
  valuesLeased = 0;
  private homeMade: LeaseHome | undefined;

  /** Memory for a message of `byteLength` bytes. @throws RangeError if there is none at all */
  take(byteLength: number): ReceiveMemory {
    const arena = byteLength <= BLOCK_BYTES_MAX ? arenaOfThread() : undefined;
    const unit = arena === undefined ? -1 : arena.allocate(byteLength);
    if (arena === undefined || unit < 0) return new HeapMemory(this, byteLength);
    this.homeMade ??= arena.homeFor(this);
    return new BlockMemory(this, this.homeMade, arena, unit, byteLength);
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

class BlockMemory implements ReceiveMemory {
  readonly bytes: Uint8Array;
  private readonly receiving: Receiving;
  private readonly home: LeaseHome;
  private readonly arena: ReceiveArena;
  private readonly unit: number;

  constructor(receiving: Receiving, home: LeaseHome, arena: ReceiveArena, unit: number, byteLength: number) {
    this.receiving = receiving;
    this.home = home;
    this.arena = arena;
    this.unit = unit;
    this.bytes = arena.bytesOf(unit, 0, byteLength);
  }

  hold(): void {
    this.arena.hold(this.unit);
  }

  unhold(): void {
    this.arena.free(this.unit);
  }

  lend(
    at: number,
    byteLength: number,
    lifetime: LeaseLifetime,
    callLabel: string,
    handles: LeaseHandle[],
  ): Uint8Array | undefined {
    try {
      const bytes = Lease.open(this.home, this.unit, 0, at, byteLength, lifetime, callLabel, handles);
      this.arena.hold(this.unit);
      this.receiving.opened(byteLength);
      return bytes;
    } catch {
      // No mapping or address space left: a copy needs none.
      return undefined;
    }
  }

  lent(): void {}
}

/**
 * The blocks of one thread. A block has a hold for the message that is received, for each lease, and for each read or
 * write under way.
 */
class ReceiveArena {
  private readonly arena: Arena;
  private readonly mapping: ReceiveMapping;
  private readonly views: BlockViews;
  /** Bytes of a block that was asked for in vain. */
  private wantedBytes = 0;
  private trimming: NodeJS.Timeout | undefined;

  /** @throws SystemError */
  constructor(addon: Addon) {
    const descriptor = addon.createSegment("isthmus-receive", ARENA_BYTES);
    try {
      addon.commitPages(descriptor, 0, ARENA_UNIT_BYTES);
      this.mapping = new ReceiveMapping(addon, descriptor);
    } catch (error) {
      addon.closeDescriptor(descriptor);
      throw error;
    }
    listenToFreedViews(addon);
    const pages = {
      byteLength: ARENA_BYTES,
      commit: (offset: number, byteLength: number) => addon.commitPages(descriptor, offset, byteLength),
      decommit: (offset: number, byteLength: number) => addon.returnPages(descriptor, offset, byteLength),
    };
    this.arena = new Arena(pages, commitBudget(), () => this.growOn());
    this.views = new BlockViews(this.mapping, ARENA_UNIT_BYTES);
  }

  homeFor(receiving: Receiving): LeaseHome {
    return {
      views: this.views,
      release: (lease) => {
        receiving.ended(lease);
        this.free(lease.unit);
      },
      readPinned: (lease, bytes) => this.bytesOf(lease.unit, lease.offset + bytes.byteOffset, bytes.length),
    };
  }

  /** A block with one hold, or −1: there is none now. */
  allocate(byteLength: number): number {
    let unit = this.arena.allocate(byteLength);
    if (unit < 0 && this.arena.grow()) unit = this.arena.allocate(byteLength);
    if (unit < 0) {
      // The next one of its kind is to find room.
      this.wantedBytes = Math.max(this.wantedBytes, byteLength);
      return -1;
    }
    try {
      this.mapping.upTo(unit * ARENA_UNIT_BYTES + byteLength);
      return unit;
    } catch (error) {
      this.arena.free(unit, error);
      return -1;
    }
  }

  private growOn(): void {
    if (this.wantedBytes === 0) return;
    const unit = this.arena.allocate(this.wantedBytes);
    if (unit >= 0) this.arena.free(unit);
    else if (this.arena.mayGrow) return void this.arena.grow();
    this.wantedBytes = 0;
  }

  bytesOf(unit: number, offset: number, byteLength: number): Uint8Array {
    const from = unit * ARENA_UNIT_BYTES + offset;
    return this.mapping.upTo(from + byteLength).subarray(from, from + byteLength);
  }

  hold(unit: number): void {
    this.arena.hold(unit);
  }

  free(unit: number): void {
    this.arena.free(unit);
    if (this.arena.outstanding === 0 && this.arena.trimmableBytes > 0) this.trimLater();
  }

  private trimLater(): void {
    if (this.trimming !== undefined) return;
    const { allocations } = this.arena;
    this.trimming = setTimeout(() => {
      this.trimming = undefined;
      if (this.arena.allocations !== allocations) {
        if (this.arena.trimmableBytes > 0) this.trimLater();
        return;
      }
      try {
        this.arena.trim();
      } catch {
        // The kernel does not take the memory back now: it stays for the next messages.
      }
    }, IDLE_MS).unref();
  }
}

/**
 * Of the arena only what has been used is mapped (SEGMENT-4). SUBTLE: when more is mapped, the mapping before is left
 * to the collector: the socket may be about to read into it.
 */
class ReceiveMapping implements ArenaView {
  readonly byteLength = ARENA_BYTES;
  private readonly addon: Addon;
  private readonly descriptor: number;
  private buffer: ArrayBuffer;
  private bytes: Uint8Array;

  constructor(addon: Addon, descriptor: number) {
    this.addon = addon;
    this.descriptor = descriptor;
    this.buffer = addon.mapSegment(descriptor, MAPPED_BYTES_MIN, 0, true);
    this.bytes = new Uint8Array(this.buffer);
  }

  upTo(end: number): Uint8Array {
    if (end > this.buffer.byteLength) {
      let { byteLength } = this.buffer;
      while (byteLength < end) byteLength *= 2;
      this.buffer = this.addon.mapSegment(this.descriptor, Math.min(byteLength, ARENA_BYTES), 0, true);
      this.bytes = new Uint8Array(this.buffer);
    }
    return this.bytes;
  }

  viewOf(offset: number, byteLength: number, token: number): ArrayBuffer {
    this.upTo(offset + byteLength);
    return this.addon.viewMapping(this.buffer, offset, byteLength, token);
  }

  detach(buffer: ArrayBuffer): void {
    this.addon.detachMapping(buffer);
  }
}

let found: ReceiveArena | false | undefined;

/** Undefined where there is no addon, or no memory for it. */
function arenaOfThread(): ReceiveArena | undefined {
  found ??= make();
  return found === false ? undefined : found;
}

function make(): ReceiveArena | false {
  const { addon } = loadAddon();
  if (addon === undefined) return false;
  try {
    return new ReceiveArena(addon);
  } catch {
    return false;
  }
}
