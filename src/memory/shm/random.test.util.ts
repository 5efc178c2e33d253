/** For random tests: a printed seed, which can be set to repeat a run, and random numbers that depend on it. */
import type { TestContext } from "node:test";

/** A repeatable source of whole numbers below a bound. */
export type Random = (below: number) => number;

export function randomOf(context: TestContext): Random {
  const given = process.env["ISTHMUS_SEED"];
  const seed = given === undefined ? Math.floor(Math.random() * 2 ** 32) : Number(given) >>> 0;
  context.diagnostic(`seed ${seed} (ISTHMUS_SEED=${seed} repeats it)`);
  let state = seed;
  return (below) => {
    state = (state + 0x9e3779b9) | 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return Math.floor((((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32) * below);
  };
}

/** Matches a Violation of this rule, for assert.throws. */
export function violationOf(rule: string, message = /(?:)/): { name: "Violation"; rule: string; message: RegExp } {
  return { name: "Violation", rule, message };
}
