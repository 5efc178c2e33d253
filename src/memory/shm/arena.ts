/**
 * The payload memory of one direction: allocates blocks of a sealed memory segment that the peer reads in place.
 *
 * All bookkeeping is private to the owner; the peer sees only the bytes of a block. Blocks are counted in units of 4
 * KiB, so every block is page- and 64-byte aligned. Free neighbours are joined at once. Among free blocks of a size
 * class, the one freed last is used first, so that hot pages stay hot.
 *
 * ARENA-1  Blocks that are out never overlap, and none contains unit 0 (the header).
 * ARENA-2  A block is free again when it has no holds any more. The peer's holds are counted separately from ours: the
 *          peer can release only blocks that it was given, once for each time, under the generation they went out with.
 * ARENA-3  Memory is committed before it is allocated, so running out of memory is an error here and never a SIGBUS
 *          later. At most one step is committed per turn of the event loop, because a step takes about a millisecond.
 */
import { setImmediate } from "../../os/timers.js";
import type { CommitBudget } from "./budget.js";
import { ARENA_UNIT_BYTES } from "./layout.js";
import { assertOwn, Violation } from "./violation.js";

/** The pages of an arena. */
export interface ArenaPages {
  /** Size of the segment in bytes. */
  readonly byteLength: number;
  /** Reserves memory for these bytes. @throws SystemError ENOSPC or ENOMEM if there is none */
  commit(offset: number, byteLength: number): void;
  /** Returns the memory of these bytes to the kernel. Undefined: it stays until the connection ends. */
  readonly decommit: ((offset: number, byteLength: number) => void) | undefined;
}

export const COMMIT_STEP_BYTES = 2 << 20;

// States of a unit. Only the first unit of a block in use is OUT, so nothing else can be released.
const FREE = 0;
const OUT = 1;
const LAST_OF_OUT = 2;
const NONE = -1;
const CLASSES = 21;

/** The blocks of an arena that one side holds. */
interface HolderTotals {
  readonly blocks: number;
  readonly bytes: number;
}

export class Arena {
  private readonly pages: ArenaPages;
  private readonly budget: CommitBudget;
  private readonly onRoom: () => void;
  /** The first unit that is not committed. */
  private committedUnits = 1;
  private grewThisTurn = false;
  private blocksOut = 0;
  private unitsOut = 0;
  /** The peer's holds beyond the first one on each block, over all blocks. */
  private furtherHolds = 0;
  /** Number of blocks allocated so far. */
  allocations = 0;
  private closed = false;
  /** Why there is no more memory. Cleared when a block is allocated or freed, or memory is committed. */
  private refusal: string | undefined;

  // Indexed by unit. `size` is valid at the first and the last unit of a block, the others at the first.
  private size = new Int32Array(0);
  private state = new Uint8Array(0);
  private generation = new Uint32Array(0);
  private peerHolds = new Int32Array(0);
  private ownHolds = new Int32Array(0);
  private next = new Int32Array(0);
  private previous = new Int32Array(0);
  private readonly firstFree = new Int32Array(CLASSES).fill(NONE);

  /** @param onRoom called in a later turn when the arena may have grown, so that waiting sends can be tried again */
  constructor(pages: ArenaPages, budget: CommitBudget, onRoom: () => void) {
    this.pages = pages;
    this.budget = budget;
    this.onRoom = onRoom;
    this.ensureBooks(1);
    this.state[0] = OUT;
    this.size[0] = 1;
  }

  get outstanding(): number {
    return this.blocksOut;
  }

  /**
   * The most releases that may come from the peer: one for each block that is out or may go out, and one for each
   * further hold on a block.
   */
  get releasesDue(): number {
    return this.blocksOut + this.furtherHolds;
  }

  get outstandingBytes(): number {
    return this.unitsOut * ARENA_UNIT_BYTES;
  }

  get committedBytes(): number {
    return this.committedUnits * ARENA_UNIT_BYTES;
  }

  get byteLength(): number {
    return this.pages.byteLength;
  }

  /**
   * Why no memory can be allocated although no block is out. Then a sender has nothing to wait for, and fails with it.
   */
  get exhausted(): string | undefined {
    return this.blocksOut === 0 ? this.refusal : undefined;
  }

  /** Why memory was refused last, unless something has changed since. */
  get refused(): string | undefined {
    return this.refusal;
  }

  /** Whether the arena can still grow. */
  get mayGrow(): boolean {
    return !this.closed && this.refusal === undefined && this.committedBytes < this.pages.byteLength;
  }

  /**
   * Allocates a block of at least `byteLength` bytes, with one hold of ours.
   * @returns its first unit, or −1 if there is none at the moment
   */
  allocate(byteLength: number): number {
    const units = Math.max(1, Math.ceil(byteLength / ARENA_UNIT_BYTES));
    const unit = this.find(units);
    if (unit === NONE) return NONE;
    this.refusal = undefined;
    this.unlink(unit);
    const rest = this.size[unit] - units;
    if (rest > 0) this.link(unit + units, rest);
    this.mark(unit, units, OUT);
    this.generation[unit] = (this.generation[unit] + 1) >>> 0;
    this.ownHolds[unit] = 1;
    this.blocksOut++;
    this.unitsOut += units;
    this.allocations++;
    return unit;
  }

  generationOf(unit: number): number {
    return this.generation[unit];
  }

  /** Whether the peer holds a block at `unit` that has this generation and at least `byteLength` bytes. */
  isOut(unit: number, generation: number, byteLength: number): boolean {
    return (
      this.isBlock(unit) &&
      this.generation[unit] === generation &&
      this.peerHolds[unit] > 0 &&
      byteLength <= this.bytesOf(unit)
    );
  }

  /** The size of a block in use, in bytes. */
  bytesOf(unit: number): number {
    return this.size[unit] * ARENA_UNIT_BYTES;
  }

  /** Adds a hold of the peer. Call before a frame that names the block is published. */
  lend(unit: number): void {
    if (this.peerHolds[unit]++ > 0) this.furtherHolds++;
  }

  /**
   * Totals of the blocks that the peer holds, and of those that only this side holds. Visits every block, so it is for
   * error messages and not for the path of a call.
   */
  holders(): { readonly peer: HolderTotals; readonly own: HolderTotals } {
    const peer = { blocks: 0, bytes: 0 };
    const own = { blocks: 0, bytes: 0 };
    for (let unit = 1; unit < this.committedUnits; unit += this.size[unit]) {
      if (this.state[unit] !== OUT) continue;
      const held = this.peerHolds[unit] > 0 ? peer : own;
      held.blocks++;
      held.bytes += this.bytesOf(unit);
    }
    return { peer, own };
  }

  /** Turns one of our holds into one of the peer's. */
  handOver(unit: number): void {
    this.lend(unit);
    this.ownHolds[unit]--;
  }

  /** Turns one of the peer's holds into one of ours: the peer returned the block in a message. */
  takeOver(unit: number): void {
    this.endPeerHold(unit);
    this.ownHolds[unit]++;
  }

  /** Adds a hold of ours on a block in use. */
  hold(unit: number): void {
    this.ownHolds[unit]++;
  }

  /** Removes one of our holds. @param because why the block could not be used, if it could not */
  free(unit: number, because?: unknown): void {
    assertOwn(this.isBlock(unit) && this.ownHolds[unit] > 0, "ARENA-2: a block without a hold was freed");
    this.ownHolds[unit]--;
    this.freeIfUnheld(unit);
    if (because !== undefined) this.refusal = because instanceof Error ? because.message : "a block could not be used";
  }

  /** Removes one of the peer's holds. @throws Violation if it has none under this generation (ARENA-2) */
  release(unit: number, generation: number): void {
    if (!this.isBlock(unit) || this.peerHolds[unit] === 0) {
      throw new Violation("RELEASE-2", `unit ${unit} is not the start of a block that is out`);
    }
    if (this.generation[unit] !== generation) {
      throw new Violation(
        "RELEASE-2",
        `block ${unit} is out under generation ${this.generation[unit]}, not ${generation}`,
      );
    }
    this.endPeerHold(unit);
    this.freeIfUnheld(unit);
  }

  private endPeerHold(unit: number): void {
    if (--this.peerHolds[unit] > 0) this.furtherHolds--;
  }

  private isBlock(unit: number): boolean {
    return unit > 0 && unit < this.committedUnits && this.state[unit] === OUT;
  }

  private freeIfUnheld(unit: number): void {
    if (this.peerHolds[unit] > 0 || this.ownHolds[unit] > 0) return;
    this.refusal = undefined;
    this.blocksOut--;
    this.unitsOut -= this.size[unit];
    this.insertFree(unit);
  }

  /**
   * Commits one more step, at most once per turn of the event loop.
   * @returns whether there is more room now. If not, and the arena is not at its limit, `onRoom` follows in a later
   *   turn
   */
  grow(): boolean {
    const offset = this.committedUnits * ARENA_UNIT_BYTES;
    const bytes = Math.min(COMMIT_STEP_BYTES - (offset % COMMIT_STEP_BYTES), this.pages.byteLength - offset);
    if (bytes <= 0 || this.grewThisTurn || this.closed) return false;
    if (!this.budget.take(bytes)) {
      this.refusal = this.budget.explanation;
      return false;
    }
    try {
      this.pages.commit(offset, bytes);
    } catch (error) {
      this.budget.give(bytes);
      this.refusal = error instanceof Error ? error.message : String(error);
      return false;
    }
    this.refusal = undefined;
    this.grewThisTurn = true;
    setImmediate(() => {
      this.grewThisTurn = false;
      if (!this.closed) this.onRoom();
    });
    const first = this.committedUnits;
    const units = bytes / ARENA_UNIT_BYTES;
    this.ensureBooks(first + units);
    this.committedUnits += units;
    this.mark(first, units, OUT);
    this.insertFree(first);
    return true;
  }

  /**
   * For a driver that blocks the event loop: marks the end of what counts as a turn.
   * @returns whether the arena has grown in that turn, so that it can grow again now
   */
  nextTurn(): boolean {
    const grew = this.grewThisTurn;
    this.grewThisTurn = false;
    return grew;
  }

  /** The bytes that `trim` would return now. */
  get trimmableBytes(): number {
    return this.blocksOut > 0 || this.closed || this.pages.decommit === undefined
      ? 0
      : Math.max(0, this.committedBytes - COMMIT_STEP_BYTES);
  }

  /** Returns all memory but the first step to the kernel, if no block is out. @returns the number of bytes */
  trim(): number {
    const bytes = this.trimmableBytes;
    if (bytes === 0) return 0;
    const offset = COMMIT_STEP_BYTES;
    const keepUnits = COMMIT_STEP_BYTES / ARENA_UNIT_BYTES;
    this.pages.decommit?.(offset, bytes);
    this.budget.give(bytes);
    this.committedUnits = keepUnits;
    this.firstFree.fill(NONE);
    this.link(1, keepUnits - 1);
    return bytes;
  }

  /** Call when the connection is over: its memory does not count in the budget any more. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.budget.give((this.committedUnits - 1) * ARENA_UNIT_BYTES);
  }

  /** Frees the block that starts at `unit`, and joins it with free neighbours. */
  private insertFree(unit: number): void {
    let start = unit;
    let units = this.size[unit];
    const after = unit + units;
    if (after < this.committedUnits && this.state[after] === FREE) {
      this.unlink(after);
      units += this.size[after];
    }
    if (this.state[unit - 1] === FREE) {
      start = unit - this.size[unit - 1];
      this.unlink(start);
      units += this.size[start];
    }
    // Once joined, `unit` may lie inside a free block, where a second release must find no block (ARENA-2).
    this.state[unit] = FREE;
    this.link(start, units);
  }

  private find(units: number): number {
    // In its own class, a free block may be too small. In any higher class, every block fits.
    const ownClass = classOf(units);
    for (
      let unit = this.firstFree[ownClass], looked = 0;
      unit !== NONE && looked < 8;
      unit = this.next[unit], looked++
    ) {
      if (this.size[unit] >= units) return unit;
    }
    for (let sizeClass = ownClass + 1; sizeClass < CLASSES; sizeClass++) {
      if (this.firstFree[sizeClass] !== NONE) return this.firstFree[sizeClass];
    }
    for (let unit = this.firstFree[ownClass]; unit !== NONE; unit = this.next[unit]) {
      if (this.size[unit] >= units) return unit;
    }
    return NONE;
  }

  private link(unit: number, units: number): void {
    this.mark(unit, units, FREE);
    const sizeClass = classOf(units);
    const head = this.firstFree[sizeClass];
    this.next[unit] = head;
    this.previous[unit] = NONE;
    if (head !== NONE) this.previous[head] = unit;
    this.firstFree[sizeClass] = unit;
  }

  private unlink(unit: number): void {
    const next = this.next[unit];
    const previous = this.previous[unit];
    if (next !== NONE) this.previous[next] = previous;
    if (previous !== NONE) this.next[previous] = next;
    else this.firstFree[classOf(this.size[unit])] = next;
  }

  private mark(unit: number, units: number, state: typeof FREE | typeof OUT): void {
    const last = unit + units - 1;
    this.size[last] = units;
    this.size[unit] = units;
    this.state[last] = state === OUT ? LAST_OF_OUT : FREE;
    this.state[unit] = state;
  }

  private ensureBooks(units: number): void {
    const have = this.size.length;
    if (have >= units) return;
    const want = Math.max(units, have * 2);
    const grown = <T extends Int32Array | Uint32Array | Uint8Array>(to: T, from: T): T => {
      to.set(from);
      return to;
    };
    this.size = grown(new Int32Array(want), this.size);
    this.state = grown(new Uint8Array(want), this.state);
    this.generation = grown(new Uint32Array(want), this.generation);
    this.peerHolds = grown(new Int32Array(want), this.peerHolds);
    this.ownHolds = grown(new Int32Array(want), this.ownHolds);
    this.next = grown(new Int32Array(want), this.next);
    this.previous = grown(new Int32Array(want), this.previous);
  }
}

function classOf(units: number): number {
  return 31 - Math.clz32(units);
}
