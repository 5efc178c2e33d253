/**
 * Repeatable random choices, quick enough for millions of messages. One source per case, so a case repeats by itself.
 */

export class Random {
  #state = 0;

  constructor(seed: number, sequence = 0) {
    this.restart(seed, sequence);
  }

  /** Goes on as a new source with this seed would. */
  restart(seed: number, sequence: number): void {
    this.#state =
      Math.imul(seed ^ Math.imul(sequence + 0x9e3779b9, 0x85ebca6b), 0xc2b2ae35) ^ Math.imul(sequence, 0x27d4eb2f);
  }

  /** 32 random bits, as an unsigned number. */
  bits(): number {
    this.#state = (this.#state + 0x9e3779b9) | 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return (mixed ^ (mixed >>> 15)) >>> 0;
  }

  /** A whole number in [0, bound). */
  below(bound: number): number {
    return Math.floor((this.bits() / 2 ** 32) * bound);
  }

  /** True once in `times`. */
  once(times: number): boolean {
    return this.bits() < 2 ** 32 / times;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)];
  }

  bytes(length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    for (let i = 0; i < length; i += 4) {
      const bits = this.bits();
      bytes[i] = bits;
      bytes[i + 1] = bits >>> 8;
      bytes[i + 2] = bits >>> 16;
      bytes[i + 3] = bits >>> 24;
    }
    return bytes;
  }
}
