/**
 * A set of small whole numbers, for members that are added and removed all the time. V8's `Set` and `Map` leave a table
 * behind after every few changes, and each table refers to the next one. Once a table is old, no collection of the
 * young generation frees the tables after it, nor what they refer to.
 */
export class BitSet {
  private words = new Int32Array(4);
  private count = 0;

  get size(): number {
    return this.count;
  }

  /** Accepts any number, even one that cannot be a member. */
  has(value: number): boolean {
    const word = value >>> 5;
    return word < this.words.length && (this.words[word] & (1 << value)) !== 0;
  }

  add(value: number): void {
    const word = value >>> 5;
    if (word >= this.words.length) this.grow(word + 1);
    const bit = 1 << value;
    if ((this.words[word] & bit) !== 0) return;
    this.words[word] |= bit;
    this.count++;
  }

  /** @returns whether the number was a member */
  delete(value: number): boolean {
    if (!this.has(value)) return false;
    this.words[value >>> 5] &= ~(1 << value);
    this.count--;
    return true;
  }

  private grow(length: number): void {
    const grown = new Int32Array(Math.max(length, 2 * this.words.length));
    grown.set(this.words);
    this.words = grown;
  }
}
