/**
 * How long the proofs run and what their random choices follow: `ISTHMUS_STRESS=full` for the long forms,
 * `ISTHMUS_SEED=<number>` to repeat a run.
 */
import type { TestContext } from "node:test";
import { loadAddon } from "../../src/os/addon.js";

export const full = process.env["ISTHMUS_STRESS"] === "full";

/** The reason why shared memory cannot be had here; an option of the proofs that are about it. */
export const skip = loadAddon().reason ?? false;

/** The figure of the form that runs. */
export function scaled<T>(short: T, long: T): T {
  return full ? long : short;
}

/** The seed of this run, printed so that it can be given back. */
export function seedOf(context: TestContext): number {
  const given = process.env["ISTHMUS_SEED"];
  const seed = given === undefined ? Math.floor(Math.random() * 0x1_0000_0000) : Number(given) >>> 0;
  context.diagnostic(`seed ${seed} (ISTHMUS_SEED=${seed} repeats it)`);
  return seed;
}

/** A 32-bit hash of up to three numbers, for choices that two processes make alike without telling each other. */
export function hash32(seed: number, sequence: number, salt: number): number {
  let h = Math.imul(seed ^ Math.imul(sequence + 0x9e3779b9, 0x85ebca6b), 0xc2b2ae35) ^ Math.imul(salt + 1, 0x27d4eb2f);
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d);
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b);
  return (h ^ (h >>> 16)) >>> 0;
}

/** A repeatable source of numbers in [0, 1). */
export function createRandom(seed: number): () => number {
  let count = 0;
  return () => hash32(seed, count++, 77) / 0x1_0000_0000;
}
