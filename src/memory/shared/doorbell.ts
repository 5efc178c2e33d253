/**
 * Sleep and wake: how a side that ran out of work goes to sleep without missing what the other side does meanwhile.
 *
 * The sleep word lies in the sleeper's segment:   bits 31…3 sleep number (odd = asleep) · bits 2…0 what is awaited
 *
 *   sleeper                                 other side
 *   1 store sleep word (odd)                1 store what it did (tail, head or released)
 *   2 look at everything awaited again      2 load the sleep word
 *   3 nothing there → sleep                 3 asleep, awaiting this, not rung yet → ring once
 *
 * BELL-1  Each side stores, then loads; both are sequentially consistent, so at least one sees the other's store: a
 *         wake-up cannot be lost.
 * BELL-2  A sleep is rung at most once. The other side remembers the word it rang, not a flag: SUBTLE: with a flag
 *         ("parked" plus "already rung") the sleeper wakes by itself, sleeps again, and the ringer still thinks it has
 *         rung; both then wait for ever.
 * BELL-3  On waking: take the doorbell's bytes, then store an even word, then look for work. In the other order a ring
 *         for the next sleep could be swallowed.
 */
import { WORD } from "./layout.js";
import type { WordAccess } from "./words.js";

/** What a sleeper awaits; values can be or-ed. */
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
  /** How many sleep words have said "asleep": the peer may ring this often in all (BELL-2). */
  sleeps = 0;

  constructor(ownWords: Int32Array, words: WordAccess = Atomics) {
    this.ownWords = ownWords;
    this.words = words;
  }

  get asleep(): boolean {
    return (this.word & ASLEEP) !== 0;
  }

  /**
   * Says that this side is about to sleep. The caller must look at everything awaited once more afterwards, and call
   * `wake` if something is there.
   */
  park(awaiting: number): void {
    const next = this.asleep ? this.word + 2 * STEP : this.word + STEP;
    this.word = (next & -STEP) | awaiting | 0;
    this.sleeps++;
    // SYNC bell.park: stored before the second look, loaded by the other side after its own store.
    this.words.store(this.ownWords, WORD.sleep, this.word);
  }

  /** Says that this side is awake: nobody needs to ring. */
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

  /** Call after the store that the peer may be waiting for. True: ring now, once. */
  mustRing(event: number): boolean {
    // SYNC bell.park: our store came before this load.
    const word = this.words.load(this.peerWords, WORD.sleep);
    if (word === this.rung) return false;
    // Whatever else it says, the sleep that was rung last is over; forgetting it keeps a number that has wrapped
    // around from looking as if it had been rung already.
    this.rung = 0;
    if ((word & ASLEEP) === 0 || (word & event) === 0) return false;
    this.rung = word;
    return true;
  }
}
