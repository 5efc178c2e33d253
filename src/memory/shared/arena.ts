/**
 * The payload memory of one direction: hands out blocks of a sealed memory segment that the peer reads in place.
 *
 * All bookkeeping is private to the owner: the peer sees the bytes of a block and nothing else. Blocks are counted in
 * units of 4 KiB, so every block is page- and 64-byte aligned. Free neighbours are joined at once; among free blocks of
 * a size class the one freed last is used first, so hot pages stay hot.
 *
 * ARENA-1  Blocks that are out never overlap, and none contains unit 0 (the header).
 * ARENA-2  A block is free again when nobody holds it any more. The peer's holds are counted apart from ours: it can
 *          only give back what it was given, once for each time, under the generation that it went out with.
 * ARENA-3  Memory is committed before it is handed out, so running out of memory is an error here and never a SIGBUS
 *          later; at most one step per turn of the event loop, because committing costs about a millisecond per step.
 */
import { setImmediate } from "../../os/timers.js";
import type { CommitBudget } from "./budget.js";
import { ARENA_UNIT_BYTES } from "./layout.js";
import { assertOwn, Violation } from "./violation.js";

/** The pages behind an arena. */
export interface ArenaPages {
  /** Size of the segment in bytes. */
  readonly byteLength: number;
  /** Makes sure that memory stands behind these bytes. @throws SystemError ENOSPC or ENOMEM when there is none */
  commit(offset: number, byteLength: number): void;
  /** Gives the memory behind these bytes back. */
  decommit(offset: number, byteLength: number): void;
}

export const COMMIT_STEP_BYTES = 2 << 20;

// States of a unit: only the first unit of a block that is in use says OUT, so nothing else can be released.
const FREE = 0;
const OUT = 1;
const LAST_OF_OUT = 2;
const NONE = -1;
const CLASSES = 21;

/** Blocks of an arena that somebody holds. */
interface HolderTotals {
  readonly blocks: number;
  readonly bytes: number;
}

export class Arena {
  private readonly pages: ArenaPages;
  private readonly budget: CommitBudget;
  private readonly onRoom: () => void;
  /** First unit that is not committed. */
  private committedUnits = 1;
  private grewThisTurn = false;
  private blocksOut = 0;
  private unitsOut = 0;
  /** Holds of the peer beyond the first on a block, of all blocks. */
  private furtherHolds = 0;
  /** Blocks handed out so far. */
  allocations = 0;
  private closed = false;
  /** Why there is no more memory, until some is handed out, comes back or is committed. */
  private refusal: string | undefined;

  // Per unit. `size` is meaningful at the first and the last unit of a block, the rest at the first.
  private size = new Int32Array(0);
  private state = new Uint8Array(0);
  private generation = new Uint32Array(0);
  private peerHolds = new Int32Array(0);
  private ownHolds = new Int32Array(0);
  private next = new Int32Array(0);
  private previous = new Int32Array(0);
  private readonly firstFree = new Int32Array(CLASSES).fill(NONE);

  /** @param onRoom called (in a later turn) after the arena may have grown, so that whoever waits tries again */
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
   * Most releases that may come from the peer: one for each block that is out or may go out, and for each further time
   * it has one.
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

  /** Why no memory at all can be had, if that is so; a sender that has nothing to wait for fails with it. */
  get exhausted(): string | undefined {
    return this.blocksOut === 0 ? this.refusal : undefined;
  }

  /** Why memory was refused last, if it still counts. */
  get refused(): string | undefined {
    return this.refusal;
  }

  /** Whether growing has not come to an end. */
  get mayGrow(): boolean {
    return !this.closed && this.refusal === undefined && this.committedBytes < this.pages.byteLength;
  }

  /**
   * Takes a block of at least `byteLength` bytes, with one hold of ours, and returns its first unit; −1: there is none
   * at the moment.
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

  /** Whether this is a block that the peer holds, of at least `byteLength` bytes. */
  isOut(unit: number, generation: number, byteLength: number): boolean {
    return (
      this.isBlock(unit) &&
      this.generation[unit] === generation &&
      this.peerHolds[unit] > 0 &&
      byteLength <= this.bytesOf(unit)
    );
  }

  /** Size of a block that is in use, in bytes. */
  bytesOf(unit: number): number {
    return this.size[unit] * ARENA_UNIT_BYTES;
  }

  /** The peer is told of a block: it holds it from now on, besides us. */
  lend(unit: number): void {
    if (this.peerHolds[unit]++ > 0) this.furtherHolds++;
  }

  /**
   * Which blocks the peer holds, and which only this side does. Walks over all of them: for an error, not for a call's
   * path.
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

  /** One of our holds becomes the peer's. */
  handOver(unit: number): void {
    this.lend(unit);
    this.ownHolds[unit]--;
  }

  /** One of the peer's holds becomes ours: it gave the block back in a message. */
  takeOver(unit: number): void {
    this.endPeerHold(unit);
    this.ownHolds[unit]++;
  }

  /** One more hold of ours on a block that somebody holds. */
  hold(unit: number): void {
    this.ownHolds[unit]++;
  }

  /** One hold of ours less. @param because why the block could not be used, if that is the reason */
  free(unit: number, because?: unknown): void {
    assertOwn(this.isBlock(unit) && this.ownHolds[unit] > 0, "ARENA-2: a block was dropped that is not held");
    this.ownHolds[unit]--;
    this.freeIfUnheld(unit);
    if (because !== undefined) this.refusal = because instanceof Error ? because.message : "a block could not be used";
  }

  /** Takes back one hold of the peer's. @throws Violation if it has none under this generation (ARENA-2) */
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
   * Commits one more step, at most once per turn of the event loop. True if there is more room right now. If not, and
   * the arena is not at its limit, `onRoom` follows in a later turn.
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
   * For who does not let the event loop turn: what counts as a turn is over. True: the arena may have grown meanwhile,
   * or can grow now.
   */
  nextTurn(): boolean {
    const grew = this.grewThisTurn;
    this.grewThisTurn = false;
    return grew;
  }

  /** What `trim` could give back now. */
  get trimmableBytes(): number {
    return this.blocksOut > 0 || this.closed ? 0 : Math.max(0, this.committedBytes - COMMIT_STEP_BYTES);
  }

  /** Gives back all memory but the first step's, if no block is out. Returns the bytes given back. */
  trim(): number {
    const bytes = this.trimmableBytes;
    if (bytes === 0) return 0;
    const offset = COMMIT_STEP_BYTES;
    const keepUnits = COMMIT_STEP_BYTES / ARENA_UNIT_BYTES;
    this.pages.decommit(offset, bytes);
    this.budget.give(bytes);
    this.committedUnits = keepUnits;
    this.firstFree.fill(NONE);
    this.link(1, keepUnits - 1);
    return bytes;
  }

  /** The connection is over: what was committed counts no more. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.budget.give((this.committedUnits - 1) * ARENA_UNIT_BYTES);
  }

  /** Makes the block that starts at `unit` free and joins it with free neighbours. */
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
    // Once joined, `unit` may lie inside a free block: a second release must find no block there (ARENA-2).
    this.state[unit] = FREE;
    this.link(start, units);
  }

  private find(units: number): number {
    // In its own class a free block may be too small; in any higher class every one fits.
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
