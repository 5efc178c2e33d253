/** One run of Connect's conformance runner, and what it says of it. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Runner } from "./runner.js";
import type { Suite } from "./suites.js";

const RUN_MS_MAX = 900_000;

export interface Programs {
  /** Command lines of what is tested; the runner's own reference takes the place of the one that is missing. */
  readonly client?: readonly string[];
  readonly server?: readonly string[];
}

export interface Choice {
  /** What the runner is told of the programs: its `Config`, in YAML. */
  readonly config: string;
  /** In place of the runner's own. */
  readonly suites?: readonly Suite[];
  /** Patterns of names. The runner complains of one that passes. */
  readonly knownFailures?: readonly string[];
}

export interface Report {
  readonly passed: number;
  readonly failed: number;
  readonly knownToFail: number;
  /** The names of the cases that were answered; their first component is the suite. */
  readonly cases: readonly string[];
  /** What the runner wrote, but for these names. */
  readonly text: string;
}

/** @param folder for files of this run; must exist */
export function run(
  runner: Runner,
  folder: string,
  { client, server }: Programs,
  { config, suites = [], knownFailures = [] }: Choice,
): Report {
  const configFile = join(folder, "config.yaml");
  writeFileSync(configFile, config);
  const suiteFolder = join(folder, "suites");
  mkdirSync(suiteFolder, { recursive: true });
  const suiteFiles = suites.map(({ name, text }) => {
    const file = join(suiteFolder, `${name}.yaml`);
    writeFileSync(file, text);
    return file;
  });
  const mode = client === undefined ? "server" : server === undefined ? "client" : "both";
  const options = ["--mode", mode, "--conf", configFile, "--vv"];
  for (const file of suiteFiles) options.push("--test-file", file);
  for (const pattern of knownFailures) options.push("--known-failing", pattern);
  const commands = mode === "both" ? [...client!, "----", ...server!] : (client ?? server!);
  const { error, status, stdout, stderr } = spawnSync(runner.program, [...options, "--", ...commands], {
    encoding: "utf8",
    timeout: RUN_MS_MAX,
    killSignal: "SIGKILL",
    maxBuffer: 1 << 26,
  });
  const named = (pattern: RegExp) => [...stdout.matchAll(pattern)].map(([, name]) => name);
  const cases = named(/^Received response for "(.+)"\.\.\.$/gm);
  const text = (stdout + stderr).replace(/^(Sending|Received) .*\n/gm, "");
  if (error !== undefined) {
    const answered = new Set(cases);
    const open = named(/^Sending request for "(.+)"\.\.\.$/gm).filter((name) => !answered.has(name));
    throw new Error(
      `the runner did not get to its end (${error.message}):\n${text}without answer:\n${open.join("\n")}`,
    );
  }
  const counts = /^(\d+) passed, (\d+) failed$/m.exec(stdout);
  assert.ok(counts !== null, `the runner gives no result:\n${text}`);
  const [passed, failed] = counts.slice(1).map(Number);
  assert.equal(status, failed === 0 ? 0 : 1, text);
  const knownToFail = Number(/^\(Another (\d+) failed as expected/m.exec(stdout)?.[1] ?? 0);
  return { passed, failed, knownToFail, cases, text };
}

const KINDS = ["unary", "client-stream", "server-stream", "bidi-stream"] as const;

/** How many cases there are of each kind of stream. */
export function tally(cases: readonly string[]): Record<(typeof KINDS)[number], number> {
  const counts = { unary: 0, "client-stream": 0, "server-stream": 0, "bidi-stream": 0 };
  for (const name of cases) {
    // Some cases of unary calls do not say so.
    counts[KINDS.find((kind) => name.split("/").includes(kind)) ?? "unary"]++;
  }
  return counts;
}
