/** Not seen yet. */
export const UNKNOWN = 0;
/** On the way to where the search is. */
export const OPEN = 1;
/** All that follows from it is explored. */
export const DONE = 2;

/**
 * What the search knows of each state, by the numbers of its three parts: a hash table in flat arrays, as there are
 * millions.
 */
export class StateTable {
  private size = 0;
  private mask = (1 << 16) - 1;
  private keys = new Int32Array((this.mask + 1) * 3);
  private colours = new Uint8Array(this.mask + 1);

  get(a: number, b: number, c: number): number {
    return this.colours[this.slotOf(a, b, c)];
  }

  set(a: number, b: number, c: number, colour: number): void {
    if (this.size * 2 > this.mask) this.grow();
    const slot = this.slotOf(a, b, c);
    if (this.colours[slot] === UNKNOWN) this.size++;
    this.put(slot, a, b, c, colour);
  }

  private put(slot: number, a: number, b: number, c: number, colour: number): void {
    this.keys[slot * 3] = a;
    this.keys[slot * 3 + 1] = b;
    this.keys[slot * 3 + 2] = c;
    this.colours[slot] = colour;
  }

  private slotOf(a: number, b: number, c: number): number {
    let hash = Math.imul(a, 0x9e3779b1) ^ Math.imul(b, 0x85ebca6b) ^ Math.imul(c, 0xc2b2ae35);
    hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
    let slot = (hash ^ (hash >>> 13)) & this.mask;
    const { keys, colours } = this;
    while (
      colours[slot] !== UNKNOWN &&
      (keys[slot * 3] !== a || keys[slot * 3 + 1] !== b || keys[slot * 3 + 2] !== c)
    ) {
      slot = (slot + 1) & this.mask;
    }
    return slot;
  }

  private grow(): void {
    const { keys, colours } = this;
    this.mask = this.mask * 2 + 1;
    this.keys = new Int32Array((this.mask + 1) * 3);
    this.colours = new Uint8Array(this.mask + 1);
    for (let old = 0; old < colours.length; old++) {
      if (colours[old] === UNKNOWN) continue;
      const [a, b, c] = [keys[old * 3], keys[old * 3 + 1], keys[old * 3 + 2]];
      this.put(this.slotOf(a, b, c), a, b, c, colours[old]);
    }
  }
}
