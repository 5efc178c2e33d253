/**
 * The ring of frames of one direction, with a single writer in one process and a single reader in another.
 *
 *            head (reader's segment)         tail (writer's segment)
 *              │                               │
 *   ───────────┼───────────────────────────────┼─────────────▶ positions
 *    consumed  │  published, not yet consumed  │  free up to head + capacity
 *
 * RING-1  0 ≤ tail − head ≤ capacity, in wrapping 32-bit arithmetic.
 * RING-2  A published byte is not written again before the reader's head has passed it.
 * RING-3  Cursors only move forward, in steps of FRAME_ALIGNMENT.
 *
 * Both sides keep their own cursor in private memory, and only publish it. A cursor of the peer is loaded once,
 * checked, and then used. The data is mapped twice in a row, so `index … index + length` never wraps.
 */
import { FRAME_ALIGNMENT, WORD } from "./layout.js";
import { assertOwn, Violation } from "./violation.js";
import type { WordAccess } from "./words.js";

/** The writer's end. */
export class RingWriter {
  /** The position up to which frames are written, published or not. */
  private tail = 0;
  private published = 0;
  /** The reader's head as last seen. It is never ahead of the real one. */
  private headSeen = 0;
  private readonly ownWords: Int32Array;
  private readonly peerWords: Int32Array;
  private readonly words: WordAccess;
  readonly capacity: number;

  /**
   * @param ownWords the writer's own ring segment, writable
   * @param peerWords the reader's ring segment, where its head lies
   */
  constructor(ownWords: Int32Array, peerWords: Int32Array, capacity: number, words: WordAccess = Atomics) {
    this.ownWords = ownWords;
    this.peerWords = peerWords;
    this.capacity = capacity;
    this.words = words;
  }

  /** The index in the ring data of the next frame. */
  get index(): number {
    return this.tail & (this.capacity - 1);
  }

  /**
   * The number of bytes that can be written at `index` now. Loads the reader's head only if fewer than `wanted` bytes
   * are known to be free.
   */
  free(wanted: number): number {
    let free = this.capacity - ((this.tail - this.headSeen) | 0);
    if (free < wanted) {
      // SYNC ring.consume: the reader has finished reading every byte before this head.
      const head = this.words.load(this.peerWords, WORD.head);
      const advance = (head - this.headSeen) | 0;
      if (advance < 0 || advance > ((this.published - this.headSeen) | 0) || advance % FRAME_ALIGNMENT !== 0) {
        throw new Violation("RING-3", `the read cursor moved by ${advance} bytes`);
      }
      this.headSeen = head;
      free += advance;
    }
    return free;
  }

  /** Adds the frame of `byteLength` bytes at `index` to the ring. The reader sees it after the next `publish`. */
  commit(byteLength: number): void {
    const padded = (byteLength + (FRAME_ALIGNMENT - 1)) & -FRAME_ALIGNMENT;
    assertOwn(
      padded <= this.capacity - ((this.tail - this.headSeen) | 0),
      "RING-1: a frame was committed past the reader's head",
    );
    this.tail = (this.tail + padded) | 0;
  }

  /** Publishes all committed frames to the reader. @returns false if there were no new frames */
  publish(): boolean {
    if (this.tail === this.published) return false;
    this.published = this.tail;
    // SYNC ring.commit: a reader that sees this tail also sees the bytes of the frames.
    this.words.store(this.ownWords, WORD.tail, this.tail);
    return true;
  }

  /** Whether the reader has consumed something since `free` last looked. */
  headMoved(): boolean {
    return this.words.load(this.peerWords, WORD.head) !== this.headSeen;
  }

  /** The position of the next frame. */
  get position(): number {
    return this.tail;
  }

  /** Whether the reader has published that it has taken the frame committed at `position`. */
  wasTaken(position: number): boolean {
    return ((this.words.load(this.peerWords, WORD.head) - position) | 0) > 0;
  }

  get hasUnpublished(): boolean {
    return this.tail !== this.published;
  }
}

/** The reader's end. */
export class RingReader {
  private head = 0;
  private headPublished = 0;
  private readonly ownWords: Int32Array;
  private readonly peerWords: Int32Array;
  private readonly words: WordAccess;
  private readonly capacity: number;

  /**
   * @param ownWords the reader's own ring segment, where its head is published
   * @param peerWords the writer's ring segment, mapped read-only
   */
  constructor(ownWords: Int32Array, peerWords: Int32Array, capacity: number, words: WordAccess = Atomics) {
    this.ownWords = ownWords;
    this.peerWords = peerWords;
    this.capacity = capacity;
    this.words = words;
  }

  /** The index in the ring data of the first byte that is not consumed. */
  get index(): number {
    return this.head & (this.capacity - 1);
  }

  /** Whether the writer has published frames that are not consumed yet. A cheap check that validates nothing. */
  hasFrames(): boolean {
    return this.words.load(this.peerWords, WORD.tail) !== this.head;
  }

  /** The number of bytes published and not consumed. @throws Violation if the writer's cursor is out of range */
  available(): number {
    // SYNC ring.commit: everything before this tail was written before the tail was stored.
    const tail = this.words.load(this.peerWords, WORD.tail);
    const available = (tail - this.head) | 0;
    if (available < 0 || available > this.capacity || available % FRAME_ALIGNMENT !== 0) {
      throw new Violation("RING-1", `${available} bytes published in a ring of ${this.capacity}`);
    }
    return available;
  }

  /** Moves past `byteLength` bytes, which must have been copied out. `publishHead` tells the writer. */
  consume(byteLength: number): void {
    this.head = (this.head + byteLength) | 0;
  }

  /** Lets the writer reuse everything consumed. @returns false if there was nothing new */
  publishHead(): boolean {
    if (this.head === this.headPublished) return false;
    this.headPublished = this.head;
    // SYNC ring.consume: our reads of these bytes are finished before the writer can see this head.
    this.words.store(this.ownWords, WORD.head, this.head);
    return true;
  }
}
