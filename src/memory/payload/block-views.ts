/**
 * ArrayBuffers over single blocks of an arena: the part of shared memory that user code can access.
 *
 * BLOCK-1  The memory of a block is used again only when no ArrayBuffer reaches it any more: either it was detached
 *          here, with all views on it, or the addon reported that its backing store is gone. If a user moves the memory
 *          to another ArrayBuffer (`transfer`, up to Node 22), the block is not used again until that one is garbage
 *          too.
 *
 * Making an ArrayBuffer costs some microseconds, most of them in V8. So where V8 can do that, the memory of a detached
 * ArrayBuffer is moved to a new one, which waits here for the block's next use.
 */
import { collectYoung, notWhenIdle, whenIdle } from "../v8/gc.js";
import type { ArenaView } from "../shm/segment.js";
import { keepInThread, keepNewInThread, letMove, transferBuffer } from "../v8/array-buffer-transfer.js";
import { hiddenWasFreed, hideFromCount } from "../v8/external-memory.js";

/** The user of a block through an ArrayBuffer. It must not refer to the ArrayBuffer, or that is never collected. */
export interface BlockUser {
  /** The block's view; set by `BlockViews.open`. */
  view: BlockView | undefined;
  /** Called when the ArrayBuffer was collected, so that nothing can reach the block through it. */
  onCollected(): void;
}

/** A backing store over a block, whichever ArrayBuffer has it. */
export interface BlockView {
  readonly unit: number;
  readonly offset: number;
  readonly byteLength: number;
  readonly isHidden: boolean;
  /** Undefined while it is not in use. */
  user: BlockUser | undefined;
}

/** Most ArrayBuffers of an arena that wait to be used again. V8 counts each as external memory. */
const IDLE_MAX = 64;
/** Most places that are kept. */
const PLACES_MAX = 16 * IDLE_MAX;

/** The place of a unit, where an ArrayBuffer over its block may wait. */
interface Place {
  waiting: { readonly buffer: ArrayBuffer; readonly view: BlockView } | undefined;
}

/** All views. A view's token is its index plus one; free tokens are used again. (Not a map: see `BitSet`.) */
const views: (BlockView | undefined)[] = [];
const freeTokens: number[] = [];
/**
 * The young generation is collected after this many bytes of views were opened and not detached. Most of them are
 * garbage by then, and V8, which does not count them, would leave their blocks in use. It is collected in idle time, or
 * when a view is opened after more bytes than `LARGE_UNRETURNED_MAX` allows.
 */
const UNRETURNED_BYTES_MAX = 4 << 20;
/**
 * Outside of idle time, this many large views may be open, as long as they take no more than a quarter of the arena. If
 * it were collected more often, views in use would survive two collections, and then only a collection of the old
 * generation frees them (measured with 4 MiB, 4 calls in flight: 250 calls/s with half as many views, 400 with these).
 */
const LARGE_UNRETURNED_MAX = 8;

export class BlockViews {
  private readonly arena: ArenaView;
  private readonly unitBytes: number;
  /**
   * By unit. SUBTLE: a place stays in the map when its ArrayBuffer is used. If it were removed and added at every use,
   * the map would leave tables behind that keep used ArrayBuffers, and everything these refer to, until the old
   * generation is collected (see `BitSet`).
   */
  private readonly places = new Map<number, Place>();
  /** Number of places where an ArrayBuffer waits. */
  private idle = 0;
  private over = false;
  /** Bytes of the views opened since the young generation was collected last, less those detached since. */
  private unreturnedBytes = 0;
  private isDue = false;
  private readonly collectIfDue = () => {
    this.isDue = false;
    if (this.unreturnedBytes > UNRETURNED_BYTES_MAX) this.collect();
  };
  /** Number of ArrayBuffers that had to be made. */
  made = 0;
  /** Number of ArrayBuffers that were used again. */
  reused = 0;

  constructor(arena: ArenaView, unitBytes: number) {
    this.arena = arena;
    this.unitBytes = unitBytes;
    arena.listenToFreedViews(onViewFreed);
  }

  /**
   * Opens an ArrayBuffer over `byteLength` bytes (at least one) of the block at `unit`, from `offset` in the block on.
   * @throws SystemError if it cannot be mapped
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
      // Collecting while the peer works is better than after its answer has arrived.
      this.isDue = true;
      whenIdle(this.collectIfDue);
    }
    return buffer;
  }

  private collect(): void {
    this.unreturnedBytes = 0;
    collectYoung();
  }

  private reuse(unit: number, offset: number, byteLength: number, user: BlockUser): ArrayBuffer | undefined {
    const place = this.places.get(unit);
    if (place === undefined) return undefined;
    const { waiting } = place;
    if (waiting === undefined) return undefined;
    place.waiting = undefined;
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
   * Detaches an ArrayBuffer from its user: all views on it become empty.
   * @returns false if user code has moved its memory away already; then `onCollected` follows when that is garbage
   */
  detach(buffer: ArrayBuffer, user: BlockUser): boolean {
    const { view } = user;
    if (view === undefined || buffer.byteLength === 0) return false;
    this.returned(view, user);
    letMove(buffer);
    const place = this.over || this.idle === IDLE_MAX ? undefined : this.placeOf(view.unit);
    const moved = place !== undefined && place.waiting === undefined ? transferBuffer(buffer) : undefined;
    if (place === undefined || moved === undefined) {
      this.arena.detach(buffer);
    } else {
      keepInThread(moved);
      place.waiting = { buffer: moved, view };
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
   * Detaches an ArrayBuffer from its user like `detach`, but lets the caller read its bytes once more.
   * @returns the bytes, moved or copied, and a function to call when they are read; undefined if the ArrayBuffer is
   *   detached already
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

  /** Call when the connection is over. Nothing here is used again. */
  clear(): void {
    this.over = true;
    // Without idle time, as with both ends on one core, the callback would keep these views alive for ever.
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
  if (view.isHidden) hiddenWasFreed(view.byteLength);
  const { user } = view;
  if (user === undefined) return;
  user.view = undefined;
  user.onCollected();
}
