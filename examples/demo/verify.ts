/**
 * Checks the analytics process's counts against `wc` and `grep`, run on the same file. A user can paste the commands.
 * Counting bytes (`LC_ALL=C`, `-a`) makes them count exactly what `analytics.ts` counts.
 */
import type { Stats } from "./demo_pb.js";

/** One number, counted twice. */
export interface Check {
  /** A shell command that prints a number first. */
  readonly command: string;
  readonly counted: number;
}

export interface CheckResult extends Check {
  /** What the command printed; undefined if that was not a number. */
  readonly found: number | undefined;
  /** Why there is no number. */
  readonly problem?: string;
}

/** What to check against: a file, or its first bytes if it has grown since or was not read to its end. */
export interface CheckTarget {
  readonly path: string;
  readonly headBytes?: number;
}

/** These are checked even if they did not occur. */
const STATUSES_ALWAYS = [404, 500];
const STATUSES_CHECKED_MAX = 4;

export function checksFor(stats: Stats, target: CheckTarget): Check[] {
  const path = quoteForShell(target.path);
  const on = (tool: string) =>
    target.headBytes === undefined ? `${tool} ${path}` : `head -c ${target.headBytes} ${path} | ${tool}`;
  // After `] "request" ` the status, then a space. In a bracket-free place `]` stands for itself.
  const grep = (status: string) => on(`LC_ALL=C grep -ac '^[^"]*] "[^"]*" ${status} '`);
  return [
    { command: on("wc -l"), counted: Number(stats.newlines) },
    { command: on("wc -c"), counted: Number(stats.bytes) },
    { command: grep("[1-5][0-9][0-9]"), counted: Number(stats.parsed) },
    ...statusesToCheck(stats).map(([status, counted]) => ({ command: grep(String(status)), counted })),
  ];
}

/** The most frequent statuses and the ones that always matter, in ascending order. */
function statusesToCheck(stats: Stats): [status: number, count: number][] {
  const counts = new Map(STATUSES_ALWAYS.map((status) => [status, 0]));
  const frequent = stats.statuses
    .map(({ status, count }) => [status, Number(count)] as const)
    .sort((a, b) => b[1] - a[1]);
  for (const [status, count] of frequent) {
    if (counts.has(status) || counts.size < STATUSES_CHECKED_MAX) counts.set(status, count);
  }
  return [...counts].sort((a, b) => a[0] - b[0]);
}

/** @param output what the command wrote; `exitCode` 1 is how grep says "none" */
export function resultOf(check: Check, exitCode: number | null, output: string, errorOutput: string): CheckResult {
  const match = /^\s*(\d+)(\s|$)/.exec(output);
  if (match !== null && (exitCode === 0 || exitCode === 1)) return { ...check, found: Number(match[1]) };
  const problem =
    errorOutput.trim().split("\n")[0] || (exitCode === null ? "it was killed" : `it exited with ${exitCode}`);
  return { ...check, found: undefined, problem };
}

export function agrees(result: CheckResult): boolean {
  return result.found === result.counted;
}

/** The difference between two counts of one log; undefined if there is none. */
export function differenceOf(first: Stats, second: Stats): string | undefined {
  for (const name of ["lines", "newlines", "bytes", "parsed"] as const) {
    if (first[name] !== second[name]) return `${name}: ${first[name]} and ${second[name]}`;
  }
  const tallies = (stats: Stats) => [
    ...stats.statuses.map(({ status, count }) => `status ${status}: ${count}`),
    ...stats.paths.map(({ path, count }) => `${path}: ${count}`),
  ];
  const [a, b] = [tallies(first), tallies(second)];
  for (let at = 0; at < Math.max(a.length, b.length); at++) {
    if (a[at] !== b[at]) return `${a[at] ?? "nothing"} and ${b[at] ?? "nothing"}`;
  }
  return undefined;
}

export function quoteForShell(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
