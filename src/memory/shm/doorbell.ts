/**
 * Sleep and wake-up: how a side that has no work goes to sleep without missing what the other side does meanwhile.
 *
 * The sleep word lies in the sleeper's segment:   bits 31…3 sleep number (odd = asleep) · bits 2…0 what is awaited
 *
 *   sleeper                                 other side
 *   1 store sleep word (odd)                1 store what it did (tail, head or released)
 *   2 check everything awaited again        2 load the sleep word
 *   3 nothing there → sleep                 3 asleep, awaiting this, not rung yet → ring once
 *
 * BELL-1  Each side stores, then loads. Both are sequentially consistent, so at least one side sees the other's store,
 *         and a wake-up cannot be lost.
 * BELL-2  A sleep is rung at most once. The other side remembers the word that it rang, and not a flag. SUBTLE: with a
 *         flag ("parked" plus "already rung"), the sleeper could wake by itself and sleep again while the ringer still
 *         believes that it has rung; both would then wait for ever.
 * BELL-3  On waking: take the doorbell's bytes, then store an even word, then look for work. In another order, a ring
 *         for the next sleep could be taken too early and lost.
 */
import { WORD } from "./layout.js";
import type { WordAccess } from "./words.js";

/** What a sleeper awaits. Values can be or-ed. */
export const AWAIT = {
  /** A new tail: frames to read. */
  frames: 1,
  /** A new head: room in the ring. */
  space: 2,
  /** New release entries: room in the arena. */
  blocks: 4,
} as const;

const ASLEEP = 8;
const STEP = 8;

/** The sleeping side: writes its own sleep word. */
export class Sleeper {
  private word = 0;
  private readonly ownWords: Int32Array;
  private readonly words: WordAccess;
  /** Number of sleeps so far: the peer may ring this many times in total (BELL-2). */
  sleeps = 0;

  constructor(ownWords: Int32Array, words: WordAccess = Atomics) {
    this.ownWords = ownWords;
    this.words = words;
  }

  get asleep(): boolean {
    return (this.word & ASLEEP) !== 0;
  }

  /**
   * Announces that this side is about to sleep. Afterwards the caller must check everything awaited once more, and call
   * `wake` if something is there.
   */
  park(awaiting: number): void {
    const next = this.asleep ? this.word + 2 * STEP : this.word + STEP;
    this.word = (next & -STEP) | awaiting | 0;
    this.sleeps++;
    // SYNC bell.park: stored before the second check; the other side loads it after its own store.
    this.words.store(this.ownWords, WORD.sleep, this.word);
  }

  /** Announces that this side is awake, so that the peer need not ring. */
  wake(): void {
    if (!this.asleep) return;
    this.word = ((this.word + STEP) & -STEP) | 0;
    this.words.store(this.ownWords, WORD.sleep, this.word);
  }
}

/** The side that may have to ring: watches the peer's sleep word. */
export class Bell {
  private rung = 0;
  private readonly peerWords: Int32Array;
  private readonly words: WordAccess;

  constructor(peerWords: Int32Array, words: WordAccess = Atomics) {
    this.peerWords = peerWords;
    this.words = words;
  }

  /** Call after the store that the peer may be waiting for. @returns whether to ring now, once */
  mustRing(event: number): boolean {
    // SYNC bell.park: our store came before this load.
    const word = this.words.load(this.peerWords, WORD.sleep);
    if (word === this.rung) return false;
    // The word has changed, so the sleep that was rung last is over. It is reset, so that a sleep number that wraps
    // around to the same value does not look as if it had been rung already.
    this.rung = 0;
    if ((word & ASLEEP) === 0 || (word & event) === 0) return false;
    this.rung = word;
    return true;
  }
}
