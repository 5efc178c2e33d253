/** How busy the machine is: whether a process that polls takes a core away from one that has work. */
import { closeSync, openSync, readSync } from "node:fs";
import { availableParallelism } from "node:os";

/** What /proc/loadavg says: "0.58 1.14 1.07 2/345 12345", of which the 2 are runnable right now. */
export function parseRunnable(loadavg: string): number | undefined {
  const match = /^\S+ \S+ \S+ (\d+)\//.exec(loadavg);
  return match === null ? undefined : Number(match[1]);
}

/**
 * A gauge of how many more threads want to run than there are cores, smoothed over a few samples. A sample costs a few
 * microseconds and is taken at most every `SAMPLE_MS`, and only when somebody asks.
 */
export class LoadGauge {
  private readonly cores = availableParallelism();
  private descriptor: number | undefined;
  private readonly buffer = Buffer.alloc(64);
  private sampledAt = -Infinity;
  private excess = 0;

  /** @param now milliseconds, as `performance.now()` has them */
  overloaded(now: number): boolean {
    if (now - this.sampledAt >= SAMPLE_MS) {
      this.sampledAt = now;
      const runnable = this.read();
      if (runnable !== undefined) this.excess += (runnable - this.cores - this.excess) * SMOOTHING;
    }
    return this.excess > EXCESS_MAX;
  }

  private read(): number | undefined {
    try {
      this.descriptor ??= openSync("/proc/loadavg", "r");
      return parseRunnable(this.buffer.toString("latin1", 0, readSync(this.descriptor, this.buffer, 0, this.buffer.length, 0)));
    } catch {
      // Not Linux, or no descriptor left: then nobody knows.
      return undefined;
    }
  }

  close(): void {
    if (this.descriptor !== undefined) closeSync(this.descriptor);
    this.descriptor = undefined;
  }
}

const SAMPLE_MS = 20;
const SMOOTHING = 0.25;
const EXCESS_MAX = 0.5;
