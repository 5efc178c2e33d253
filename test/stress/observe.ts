/**
 * What must not grow: descriptors, mappings and memory of a process, as the kernel counts them; and small statistics.
 */
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { waitForCloses } from "../support/resources.js";

export interface Observation {
  readonly descriptors: number;
  /**
   * Mapped ranges of segments that belong to connections; the memory that a thread receives into stays mapped, and
   * grows in steps.
   */
  readonly segmentMappings: number;
  readonly residentBytes: number;
}

export function observeSelf(): Observation {
  waitForCloses();
  return observe("self");
}

export function observe(pid: number | "self"): Observation {
  return {
    descriptors: readdirSync(`/proc/${pid}/fd`).length,
    segmentMappings: readFileSync(`/proc/${pid}/maps`, "utf8").match(/memfd:isthmus(?!-receive)/g)?.length ?? 0,
    residentBytes: statusKiB(`/proc/${pid}/status`, "VmRSS") * 1024,
  };
}

export interface MemorySample {
  readonly residentMiB: number;
  /** Resident, with shared pages divided by the number of processes that map them. */
  readonly proportionalMiB: number;
  readonly sharedMiB: number;
}

export function sampleMemory(): MemorySample {
  const rollup = readFileSync("/proc/self/smaps_rollup", "utf8");
  const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(rollup)?.[1] ?? NaN) / 1024;
  return {
    residentMiB: field("Rss"),
    proportionalMiB: field("Pss"),
    sharedMiB: field("Shared_Clean") + field("Shared_Dirty"),
  };
}

/**
 * Growth in MiB after the warm-up (the first fifth): the median of the last quarter of the samples less the median of
 * the first quarter, so single peaks of the collector do not count.
 */
export function growthMiB(samples: readonly number[]): number {
  const steady = samples.slice(Math.floor(samples.length / 5));
  const quarter = Math.max(1, Math.floor(steady.length / 4));
  return median(steady.slice(-quarter)) - median(steady.slice(0, quarter));
}

export function median(values: readonly number[]): number {
  return percentile(values, 50);
}

export function percentile(values: readonly number[], percent: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * percent) / 100))] ?? NaN;
}

export function maximum(values: readonly number[]): number {
  return values.reduce((most, value) => Math.max(most, value), -Infinity);
}

/** Full collections with turns of the event loop between, so that what waits for a finaliser goes too. */
export async function collectGarbage(): Promise<void> {
  for (let round = 0; round < 4; round++) {
    globalThis.gc?.();
    await sleep(10);
  }
}

export async function waitUntil(
  what: string,
  done: () => boolean | Promise<boolean>,
  timeoutMs = 60_000,
): Promise<void> {
  for (const end = performance.now() + timeoutMs; performance.now() < end; ) {
    if (await done()) return;
    await sleep(10);
  }
  throw new Error(`waited ${timeoutMs} ms for: ${what}`);
}

function statusKiB(path: string, name: string): number {
  return Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(readFileSync(path, "utf8"))?.[1] ?? NaN);
}
