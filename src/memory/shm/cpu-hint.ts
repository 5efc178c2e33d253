/**
 * The CPU that each side runs on: a hint that both ends share a core, so that one cannot make progress while the other
 * runs. A stale or wrong word costs some latency and nothing else.
 */
import { WORD } from "./layout.js";
import type { WordAccess } from "./words.js";

export class CpuHint {
  private own = 0;
  private readonly ownWords: Int32Array;
  private readonly peerWords: Int32Array;
  private readonly words: WordAccess;

  constructor(ownWords: Int32Array, peerWords: Int32Array, words: WordAccess = Atomics) {
    this.ownWords = ownWords;
    this.peerWords = peerWords;
    this.words = words;
  }

  /** Tells the peer which CPU this side runs on. */
  publish(cpu: number): void {
    if (cpu + 1 === this.own) return;
    this.own = cpu + 1;
    this.words.store(this.ownWords, WORD.cpu, this.own);
  }

  sharesCore(): boolean {
    return this.own !== 0 && this.words.load(this.peerWords, WORD.cpu) === this.own;
  }
}
