/** Measures a call, one at a time and many at once, in short slices that are added up. */

/** Processor time used so far, in microseconds, by both processes together. */
export type CpuMeter = () => Promise<number>;

export interface Measurement {
  /** One call at a time. */
  readonly p50Micros: number;
  readonly p99Micros: number;
  readonly cpuMicrosOne: number;
  /** Many calls at a time. */
  readonly callsPerSecond: number;
  readonly cpuMicrosMany: number;
  /** The number of answers, each of which was checked. */
  readonly answers: number;
}

/** Makes a call and checks its answer. @throws Error if the answer is wrong */
export type Call = (number: number) => Promise<void>;

interface Slice {
  calls: number;
  millis: number;
  cpuMicros: number;
}

export const IN_FLIGHT = 64;

export class Subject {
  private readonly call: Call;
  private readonly cpu: CpuMeter;
  private readonly latencies: number[] = [];
  private readonly one: Slice = { calls: 0, millis: 0, cpuMicros: 0 };
  private readonly many: Slice = { calls: 0, millis: 0, cpuMicros: 0 };
  private number = 0;

  constructor(call: Call, cpu: CpuMeter) {
    this.call = call;
    this.cpu = cpu;
  }

  /** Not measured: lets both sides compile their hot code. */
  async warmUp(millis: number): Promise<void> {
    await this.runOne(millis / 2, []);
    await this.runMany(millis / 2);
  }

  async measure(millis: number): Promise<void> {
    await this.addTo(this.one, () => this.runOne(millis / 2, this.latencies));
    await this.addTo(this.many, () => this.runMany(millis / 2));
  }

  result(): Measurement {
    const sorted = Float64Array.from(this.latencies).sort();
    const { one, many } = this;
    return {
      p50Micros: quantile(sorted, 0.5) * 1000,
      p99Micros: quantile(sorted, 0.99) * 1000,
      cpuMicrosOne: one.cpuMicros / one.calls,
      callsPerSecond: (many.calls / many.millis) * 1000,
      cpuMicrosMany: many.cpuMicros / many.calls,
      answers: one.calls + many.calls,
    };
  }

  private async addTo(slice: Slice, run: () => Promise<number>): Promise<void> {
    const cpuBefore = await this.cpu();
    const start = performance.now();
    slice.calls += await run();
    slice.millis += performance.now() - start;
    slice.cpuMicros += (await this.cpu()) - cpuBefore;
  }

  private async runOne(millis: number, latencies: number[]): Promise<number> {
    const start = performance.now();
    let calls = 0;
    for (let before = start; before - start < millis; calls++) {
      await this.call(this.number++);
      const now = performance.now();
      latencies.push(now - before);
      before = now;
    }
    return calls;
  }

  private async runMany(millis: number): Promise<number> {
    const end = performance.now() + millis;
    let calls = 0;
    const loop = async () => {
      for (; performance.now() < end; calls++) await this.call(this.number++);
    };
    await Promise.all(Array.from({ length: IN_FLIGHT }, loop));
    return calls;
  }
}

/** The smallest value that `share` of the sorted values do not exceed. */
export function quantile(sorted: Float64Array, share: number): number {
  return sorted.length === 0 ? NaN : sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}
