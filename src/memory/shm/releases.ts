/**
 * Releases of arena blocks: the receiver of a block writes an entry into its own segment, and the block's owner reads
 * it.
 *
 * RELEASE-1  The owner never has more blocks out than the receiver's release ring has slots. So entries are never
 *            overwritten before they are read, and no read cursor has to be shared.
 * RELEASE-2  An entry names a block that is out, with its current generation. Anything else is a violation.
 */
import { WORD } from "./layout.js";
import { Violation } from "./violation.js";
import type { WordAccess } from "./words.js";

/** The receiver's end: tells the peer which of its blocks are no longer in use here. */
export class ReleaseWriter {
  private count = 0;
  private published = 0;
  private readonly ownWords: Int32Array;
  private readonly mask: number;
  private readonly words: WordAccess;

  constructor(ownWords: Int32Array, slots: number, words: WordAccess = Atomics) {
    this.ownWords = ownWords;
    this.mask = slots - 1;
    this.words = words;
  }

  release(unit: number, generation: number): void {
    const at = WORD.releaseEntries + (this.count & this.mask) * 2;
    this.ownWords[at] = unit;
    this.ownWords[at + 1] = generation;
    this.count = (this.count + 1) | 0;
  }

  /** Publishes the entries to the owner. @returns false if there were no new entries */
  publish(): boolean {
    if (this.count === this.published) return false;
    this.published = this.count;
    // SYNC release.publish: a reader that sees this count also sees the entries.
    this.words.store(this.ownWords, WORD.released, this.count);
    return true;
  }
}

/** The owner's end: learns which blocks can be used again. */
export class ReleaseReader {
  private count = 0;
  private readonly peerWords: Int32Array;
  private readonly slots: number;
  private readonly words: WordAccess;

  constructor(peerWords: Int32Array, slots: number, words: WordAccess = Atomics) {
    this.peerWords = peerWords;
    this.slots = slots;
    this.words = words;
  }

  hasReleases(): boolean {
    return this.words.load(this.peerWords, WORD.released) !== this.count;
  }

  /** Calls `free` with every new entry, and returns their number. @throws Violation */
  collect(free: (unit: number, generation: number) => void): number {
    // SYNC release.publish
    const count = this.words.load(this.peerWords, WORD.released);
    const fresh = (count - this.count) | 0;
    if (fresh < 0 || fresh > this.slots) {
      throw new Violation("RELEASE-1", `${fresh} release entries in a ring of ${this.slots}`);
    }
    for (let i = 0; i < fresh; i++) {
      const at = WORD.releaseEntries + (this.count & (this.slots - 1)) * 2;
      // Each word is loaded once. The arena checks both against its private bookkeeping.
      free(this.peerWords[at] >>> 0, this.peerWords[at + 1] >>> 0);
      this.count = (this.count + 1) | 0;
    }
    return fresh;
  }
}
