/** Vectors with the same number of dimensions, scaled to length 1, and a search among them. */
export class VectorIndex {
  readonly dimensions: number;
  private readonly batches: Float32Array[] = [];

  constructor(dimensions: number) {
    this.dimensions = dimensions;
  }

  get count(): number {
    return this.batches.reduce((sum, batch) => sum + batch.length, 0) / this.dimensions;
  }

  /** Reads `values` once and keeps scaled copies. */
  add(values: Float32Array): void {
    const batch = new Float32Array(values.length);
    for (let start = 0; start < values.length; start += this.dimensions) {
      const scale = 1 / lengthOf(values, start, this.dimensions);
      for (let at = start; at < start + this.dimensions; at++) batch[at] = values[at] * scale;
    }
    this.batches.push(batch);
  }

  topK(query: Float32Array, k: number): { id: number; score: number }[] {
    const scale = 1 / lengthOf(query, 0, this.dimensions);
    const scores: { id: number; score: number }[] = [];
    for (const batch of this.batches) {
      for (let start = 0; start < batch.length; start += this.dimensions) {
        let sum = 0;
        for (let at = 0; at < this.dimensions; at++) sum += batch[start + at] * query[at];
        scores.push({ id: scores.length, score: sum * scale });
      }
    }
    return scores.sort((a, b) => b.score - a.score).slice(0, k);
  }
}

function lengthOf(values: Float32Array, start: number, dimensions: number): number {
  let sum = 0;
  for (let at = start; at < start + dimensions; at++) sum += values[at] * values[at];
  return Math.sqrt(sum);
}
