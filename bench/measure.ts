/** Figures of one measured stretch: latencies without allocation, percentiles, medians, garbage per call. */
import v8 from "node:v8";

/** Latencies kept per stretch; beyond that, each new one replaces a random one, so what is kept stays a fair sample. */
const samplesMax = 1 << 17;

/** Remembers how long calls took, in milliseconds. `add` allocates nothing. */
export class Recorder {
  readonly #callMs = new Float64Array(samplesMax);
  readonly #payloadMs = new Float64Array(samplesMax);
  #count = 0;
  #random = 0x2545_f491;

  /** Calls recorded since `reset`, kept or not. */
  get count(): number {
    return this.#count;
  }

  reset(): void {
    this.#count = 0;
  }

  /**
   * @param callMs from the call to its promise; @param payloadMs the same with writing the request and reading the
   * reply.
   */
  add(callMs: number, payloadMs: number): void {
    let at = this.#count++;
    if (at >= samplesMax) {
      let x = this.#random;
      x ^= x << 13;
      x ^= x >>> 17;
      x ^= x << 5;
      this.#random = x;
      at = Math.floor(((x >>> 0) / 0x1_0000_0000) * this.#count);
      if (at >= samplesMax) return;
    }
    this.#callMs[at] = callMs;
    this.#payloadMs[at] = payloadMs;
  }

  /** Copies of what is kept, unsorted. */
  samples(): { callMs: Float64Array; payloadMs: Float64Array } {
    const kept = Math.min(this.#count, samplesMax);
    return { callMs: this.#callMs.slice(0, kept), payloadMs: this.#payloadMs.slice(0, kept) };
  }
}

/** The smallest sample that at least `share` (0 to 1) of the samples do not exceed; NaN without samples. */
export function percentile(sorted: Float64Array, share: number): number {
  if (sorted.length === 0) return NaN;
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1))];
}

/** All samples of several processes in one ascending array. */
export function mergeSorted(parts: readonly Float64Array[]): Float64Array {
  const merged = new Float64Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    merged.set(part, at);
    at += part.length;
  }
  return merged.sort();
}

/** The middle value, or the mean of the two middle ones. Absent and NaN values do not count; null if none is left. */
export function median(values: readonly (number | null)[]): number | null {
  const sorted = values.filter((value) => value !== null && !Number.isNaN(value)).sort((a, b) => a! - b!) as number[];
  if (sorted.length === 0) return null;
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** How `HeapMeter` knows what was allocated. */
export const heapMethod =
  allocatedBytes() !== null
    ? "total_allocated_bytes"
    : typeof v8.GCProfiler === "function"
      ? "GCProfiler"
      : "unavailable";

/**
 * Bytes allocated on this thread's V8 heap between `start` and `stop`.
 *
 * Where V8 counts allocations (`total_allocated_bytes` in the heap statistics of newer Node), it is that counter's
 * difference. Elsewhere, `v8.GCProfiler` gives the used heap just before and after each collection, and what was
 * allocated is the sum of what the heap grew by between collections: exact, whatever the collections freed. Memory
 * outside the heap (the backing stores of array buffers) is in neither.
 */
export class HeapMeter {
  #profiler: v8.GCProfiler | null = null;
  #from = 0;

  start(): void {
    const counted = allocatedBytes();
    if (counted !== null) {
      this.#from = counted;
      return;
    }
    if (heapMethod === "unavailable") return;
    this.#profiler = new v8.GCProfiler();
    this.#profiler.start();
    this.#from = usedHeapBytes();
  }

  /** null where this Node offers neither way. */
  stop(): number | null {
    const counted = allocatedBytes();
    if (counted !== null) return counted - this.#from;
    if (this.#profiler === null) return null;
    const now = usedHeapBytes();
    const { statistics } = this.#profiler.stop();
    this.#profiler = null;
    return allocatedBetween(
      this.#from,
      statistics.map((gc) => ({
        before: gc.beforeGC.heapStatistics.usedHeapSize,
        after: gc.afterGC.heapStatistics.usedHeapSize,
      })),
      now,
    );
  }
}

/** Sum of the heap's growth from `first` over all collections to `last`. */
export function allocatedBetween(
  first: number,
  collections: readonly { before: number; after: number }[],
  last: number,
): number {
  let sum = 0;
  let from = first;
  for (const { before, after } of collections) {
    sum += Math.max(0, before - from);
    from = after;
  }
  return sum + Math.max(0, last - from);
}

function usedHeapBytes(): number {
  return v8.getHeapStatistics().used_heap_size;
}

function allocatedBytes(): number | null {
  const { total_allocated_bytes: bytes } = v8.getHeapStatistics() as { total_allocated_bytes?: number };
  return typeof bytes === "number" ? bytes : null;
}
