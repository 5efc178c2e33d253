/** The shared memory of the model: which cell stands for which word, bytes or block of which side. */
import { WORD } from "../../src/memory/shm/layout.js";
import type { Scenario } from "./scenario.js";

/** Ring data and release entries: this many bytes are a cell. */
export const CELL_BYTES = 8;

/** Numbers of the cells; what belongs to a side lies in its segments. */
export class Cells {
  readonly names: string[] = [];
  readonly doorbell = this.pair("doorbell");
  readonly rings = this.pair("rings");
  readonly tail = this.pair("tail");
  readonly head = this.pair("head");
  readonly sleep = this.pair("sleep");
  readonly released = this.pair("released");
  readonly data: readonly [readonly number[], readonly number[]];
  readonly entries: readonly [readonly number[], readonly number[]];
  readonly blocks: readonly [readonly number[], readonly number[]];

  constructor({ ringBytes, releaseSlots, blocks }: Scenario) {
    const many = (name: string, count: number): [readonly number[], readonly number[]] => {
      const side = (of: string) => Array.from({ length: count }, (_, i) => this.cell(`${of}.${name}[${i}]`));
      return [side("A"), side("B")];
    };
    this.data = many("data", ringBytes / CELL_BYTES);
    this.entries = many("entry", blocks > 0 ? releaseSlots : 0);
    this.blocks = many("block", blocks);
  }

  wordOf(side: number, index: number): number {
    switch (index) {
      case WORD.tail:
        return this.tail[side];
      case WORD.head:
        return this.head[side];
      case WORD.sleep:
        return this.sleep[side];
      case WORD.released:
        return this.released[side];
      default:
        throw new Error(`word ${index} is not shared`);
    }
  }

  private pair(name: string): readonly [number, number] {
    return [this.cell(`A.${name}`), this.cell(`B.${name}`)];
  }

  private cell(name: string): number {
    return this.names.push(name) - 1;
  }
}

/** Eight bytes as one small number: cells hold no more. */
export class Octets {
  private readonly pairs: [number, number][] = [[0, 0]];
  private readonly ids = new Map<string, number>([["0,0", 0]]);

  idOf(low: number, high: number): number {
    const key = `${low},${high}`;
    let id = this.ids.get(key);
    if (id === undefined) {
      id = this.pairs.push([low, high]) - 1;
      this.ids.set(key, id);
    }
    return id;
  }

  pair(id: number): readonly [number, number] {
    return this.pairs[id];
  }
}

export interface Shared {
  readonly scenario: Scenario;
  readonly cells: Cells;
  readonly octets: Octets;
}

/** One side's private copies of the segments. */
export interface Copies {
  readonly ownRing: ArrayBuffer;
  readonly peerRing: ArrayBuffer;
  readonly ownArena: ArrayBuffer;
  readonly peerArena: ArrayBuffer;
}
