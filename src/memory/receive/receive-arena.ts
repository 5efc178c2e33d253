/** Receive memory in blocks of an arena that no other process maps: see receive-memory.ts. Needs the addon. */
import { loadAddon } from "../../os/addon.js";
import type { Addon } from "../../os/addon.js";
import { setTimeout } from "../../os/timers.js";
import { BlockViews } from "../payload/block-views.js";
import type { LeaseHandle, LeaseHome, LeaseLifetime } from "../payload/lease.js";
import { Lease } from "../payload/lease.js";
import { Arena } from "../shm/arena.js";
import { ARENA_UNIT_BYTES } from "../shm/layout.js";
import type { ArenaView } from "../shm/segment.js";
import { commitBudget, listenToFreedViews } from "../shm/segment.js";
import type { LeaseTally, ReceiveMemory } from "./receive-memory.js";

/** Size of a thread's arena, which all its connections share. */
const ARENA_BYTES = 64 << 20;
/** Largest message that is received into a block: larger ones would leave no room for each other. */
export const BLOCK_BYTES_MAX = Math.floor(ARENA_BYTES / 3);
const MAPPED_BYTES_MIN = 2 << 20;
const IDLE_MS = 10_000;

export class BlockMemory implements ReceiveMemory {
  readonly bytes: Uint8Array;
  private readonly tally: LeaseTally;
  private readonly home: LeaseHome;
  private readonly arena: ReceiveArena;
  private readonly unit: number;

  constructor(tally: LeaseTally, home: LeaseHome, arena: ReceiveArena, unit: number, byteLength: number) {
    this.tally = tally;
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
      const range = { unit: this.unit, generation: 0, offset: at, byteLength };
      const bytes = Lease.open(this.home, range, lifetime, callLabel, handles);
      this.arena.hold(this.unit);
      this.tally.opened(byteLength);
      return bytes;
    } catch {
      // No mapping or address space is left; the caller's copy needs neither.
      return undefined;
    }
  }

  lent(): void {}
}

/**
 * The arena of one thread. A block has one hold for the message that is being received, one for each lease, and one for
 * each read or write in progress.
 */
export class ReceiveArena {
  private readonly arena: Arena;
  private readonly mapping: ReceiveMapping;
  private readonly views: BlockViews;
  /** Size of the largest block that could not be allocated since the arena last grew. */
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
    const pages = {
      byteLength: ARENA_BYTES,
      commit: (offset: number, byteLength: number) => addon.commitPages(descriptor, offset, byteLength),
      decommit: (offset: number, byteLength: number) => addon.returnPages(descriptor, offset, byteLength),
    };
    this.arena = new Arena(pages, commitBudget().share(), () => this.growOn());
    this.views = new BlockViews(this.mapping, ARENA_UNIT_BYTES);
  }

  homeFor(tally: LeaseTally): LeaseHome {
    return {
      views: this.views,
      release: (lease) => {
        tally.ended(lease);
        this.free(lease.unit);
      },
      readPinned: (lease, bytes) => this.bytesOf(lease.unit, lease.offset + bytes.byteOffset, bytes.length),
    };
  }

  /** Allocates a block with one hold. Returns its unit, or −1 if there is none now. */
  allocate(byteLength: number): number {
    let unit = this.arena.allocate(byteLength);
    if (unit < 0 && this.arena.grow()) unit = this.arena.allocate(byteLength);
    if (unit < 0) {
      // Grow, so that the next message of this size finds room.
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
        // The kernel refuses to take the memory back now, so it stays for the next messages.
      }
    }, IDLE_MS).unref();
  }
}

/**
 * Maps only the part of the arena that has been used (SEGMENT-4). SUBTLE: when the part grows, the old mapping is left
 * to the garbage collector and not detached, because the socket may be about to read into it.
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

  listenToFreedViews(onFreed: (token: number) => void): void {
    listenToFreedViews(this.addon, onFreed);
  }
}

let found: ReceiveArena | false | undefined;

/** The arena of this thread; undefined if there is no addon, or no memory for an arena. */
export function arenaOfThread(): ReceiveArena | undefined {
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
