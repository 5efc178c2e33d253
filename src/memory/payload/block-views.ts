/**
 * ArrayBuffers over single blocks of an arena: what user code gets to see of shared memory.
 *
 * BLOCK-1  The memory of a block is used again only when no ArrayBuffer reaches it any more: it was detached here, with
 *          all views on it, or the addon told that its backing store is gone. A user who moves the memory away
 *          (`transfer`, up to Node 22) keeps it from being used until that is garbage too.
 *
 * Making one costs some microseconds, most of it V8's. So where V8 can do that, a detached one's memory moves to a
 * new ArrayBuffer that waits here for the block's next use.
 */
import { collectYoung, notWhenIdle, whenIdle } from "../v8/gc.js";
import type { ArenaView } from "../shared/segment.js";
import { keepInThread, keepNewInThread, letMove, transferBuffer } from "../v8/array-buffer-transfer.js";
import { expectFreed, hideFromCount, showToCount } from "../v8/external-memory.js";

/** Whoever uses a block through an ArrayBuffer. Must not refer to it, or it is never collected. */
export interface BlockUser {
  /** The block's view; set by `BlockViews.open`. */
  view: BlockView | undefined;
  /** The ArrayBuffer is gone, and with it its memory: nobody can reach the block through it. */
  onCollected(): void;
}

/** One backing store over a block, whichever ArrayBuffer has it. */
export interface BlockView {
  readonly unit: number;
  readonly offset: number;
  readonly byteLength: number;
  readonly isHidden: boolean;
  /** Undefined while nobody uses it. */
  user: BlockUser | undefined;
}

/** ArrayBuffers that wait to be used again, per arena. Each counts as external memory for V8. */
const IDLE_MAX = 64;
/** Places known at a time: a few times as many. */
const PLACES_MAX = 16 * IDLE_MAX;

/** Where the ArrayBuffer of a unit waits, if one does. */
interface Place {
  waiting: { readonly buffer: ArrayBuffer; readonly view: BlockView } | undefined;
}

/** By token, which is an index here plus one; those that are free are used again (no map: see `BitSet`). */
const views: (BlockView | undefined)[] = [];
const freeTokens: number[] = [];
/**
 * After views of this many bytes that nobody gave back the young generation is collected: most of them are garbage by
 * then, and V8, which does not count them, would leave their blocks in use. In idle time at once, else when the next
 * one is opened, …
 */
const UNRETURNED_BYTES_MAX = 4 << 20;
/**
 * … and of large ones after so many, as long as they take no more than a quarter of the arena. More often, those that
 * are in use would be seen by two collections, and then only one of the old generation frees them (measured: 4 MiB, 4
 * in flight: 250 calls/s with half as many, 400 with these).
 */
const LARGE_UNRETURNED_MAX = 8;

export class BlockViews {
  private readonly arena: ArenaView;
  private readonly unitBytes: number;
  /**
   * By unit. SUBTLE: places stay when what waited there is used. Taken out and put in at every use, the map would leave
   * tables behind that keep used ArrayBuffers, and all that these refer to, until the old generation is collected (see
   * `BitSet`).
   */
  private readonly places = new Map<number, Place>();
  /** Places where one waits. */
  private idle = 0;
  private over = false;
  /** Of views opened since the young generation was collected last, less those detached since. */
  private unreturnedBytes = 0;
  private isDue = false;
  private readonly collectIfDue = () => {
    this.isDue = false;
    if (this.unreturnedBytes > UNRETURNED_BYTES_MAX) this.collect();
  };
  /** ArrayBuffers that had to be made, and those that were used again. */
  made = 0;
  reused = 0;

  constructor(arena: ArenaView, unitBytes: number) {
    this.arena = arena;
    this.unitBytes = unitBytes;
    arena.listenToFreedViews(onViewFreed);
  }

  /**
   * An ArrayBuffer over `byteLength` bytes (at least one) of the block at `unit`, from `offset` in it on.
   * @throws SystemError when it cannot be mapped
   */
  open(unit: number, offset: number, byteLength: number, user: BlockUser): ArrayBuffer {
    const unreturnedMax = Math.max(
      UNRETURNED_BYTES_MAX,
      Math.min(LARGE_UNRETURNED_MAX * byteLength, this.arena.byteLength / 4),
    );
    if (this.unreturnedBytes > unreturnedMax) this.collect();
    const buffer = this.reuse(unit, offset, byteLength, user) ?? this.make(unit, offset, byteLength, user);
    this.unreturnedBytes += byteLength;
    if (this.unreturnedBytes > UNRETURNED_BYTES_MAX && !this.isDue && !this.over) {
      // Better while the peer works than when its answer is here.
      this.isDue = true;
      whenIdle(this.collectIfDue);
    }
    return buffer;
  }

  private collect(): void {
    expectFreed(this.unreturnedBytes);
    this.unreturnedBytes = 0;
    collectYoung();
  }

  private reuse(unit: number, offset: number, byteLength: number, user: BlockUser): ArrayBuffer | undefined {
    const place = this.places.get(unit);
    const waiting = place?.waiting;
    if (waiting === undefined) return undefined;
    place!.waiting = undefined;
    this.idle--;
    const { buffer, view } = waiting;
    if (view.offset !== offset || view.byteLength !== byteLength) {
      this.discard(buffer);
      return undefined;
    }
    this.reused++;
    view.user = user;
    user.view = view;
    return buffer;
  }

  private make(unit: number, offset: number, byteLength: number, user: BlockUser): ArrayBuffer {
    const token = freeTokens.pop() ?? views.push(undefined);
    let buffer: ArrayBuffer;
    try {
      buffer = keepNewInThread(this.arena.viewOf(unit * this.unitBytes + offset, byteLength, token));
    } catch (error) {
      freeTokens.push(token);
      throw error;
    }
    const isHidden = hideFromCount(byteLength);
    const view = { unit, offset, byteLength, user, isHidden };
    views[token - 1] = view;
    user.view = view;
    this.made++;
    return buffer;
  }

  /**
   * Takes an ArrayBuffer away from its user: all views on it are empty from now on. False if it is detached already, by
   * whoever moved its memory away; then `onCollected` follows when that is garbage.
   */
  detach(buffer: ArrayBuffer, user: BlockUser): boolean {
    const { view } = user;
    if (view === undefined || buffer.byteLength === 0) return false;
    this.returned(view, user);
    letMove(buffer);
    const place = this.over || this.idle === IDLE_MAX ? undefined : this.placeOf(view.unit);
    const moved = place !== undefined && place.waiting === undefined ? transferBuffer(buffer) : undefined;
    if (moved === undefined) {
      this.arena.detach(buffer);
    } else {
      keepInThread(moved);
      place!.waiting = { buffer: moved, view };
      this.idle++;
    }
    return true;
  }

  private placeOf(unit: number): Place {
    const known = this.places.get(unit);
    if (known !== undefined) return known;
    if (this.places.size === PLACES_MAX)
      for (const [other, { waiting }] of this.places) if (waiting === undefined) this.places.delete(other);
    const place: Place = { waiting: undefined };
    this.places.set(unit, place);
    return place;
  }

  /**
   * Takes an ArrayBuffer away from its user like `detach`, but for reading once more what is in it: the bytes, and what
   * is to be called when they are read. Where memory cannot be moved they are copied. Undefined if it is detached
   * already.
   */
  move(buffer: ArrayBuffer, user: BlockUser): { readonly bytes: Uint8Array; readonly done: () => void } | undefined {
    if (user.view === undefined || buffer.byteLength === 0) return undefined;
    this.returned(user.view, user);
    letMove(buffer);
    const moved = transferBuffer(buffer) ?? buffer.slice(0);
    this.arena.detach(buffer);
    return { bytes: new Uint8Array(moved), done: () => this.arena.detach(moved) };
  }

  private returned(view: BlockView, user: BlockUser): void {
    view.user = undefined;
    user.view = undefined;
    this.unreturnedBytes = Math.max(this.unreturnedBytes - view.byteLength, 0);
  }

  private discard(buffer: ArrayBuffer): void {
    letMove(buffer);
    this.arena.detach(buffer);
  }

  /** The connection is over: nothing here will be used again. */
  clear(): void {
    this.over = true;
    // Where there is no idle time, as with both ends on one core, these views would be kept for ever.
    notWhenIdle(this.collectIfDue);
    for (const { waiting } of this.places.values()) if (waiting !== undefined) this.discard(waiting.buffer);
    this.places.clear();
    this.idle = 0;
  }
}

/** Called by the addon when a view's backing store is gone. */
function onViewFreed(token: number): void {
  const view = views[token - 1];
  if (view === undefined) return;
  views[token - 1] = undefined;
  freeTokens.push(token);
  if (view.isHidden) showToCount(view.byteLength);
  const { user } = view;
  if (user === undefined) return;
  user.view = undefined;
  user.onCollected();
}
