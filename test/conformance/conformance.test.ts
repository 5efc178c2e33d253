/**
 * Protobuf's own conformance tests, binary to binary, against the codec. They need a runner and a descriptor set from
 * protobuf's sources, which are not part of this project: docs/internals/conformance.md.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { accessSync, constants, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { knownFailures } from "./known-failures.js";

const RUNNER = "ISTHMUS_CONFORMANCE_RUNNER";
const DESCRIPTORS = "ISTHMUS_CONFORMANCE_DESCRIPTORS";
/** The newest edition of which the runner has more than trials. */
const EDITION = "2023";
const RUN_MS_MAX = 900_000;

const runner = process.env[RUNNER];
const descriptors = process.env[DESCRIPTORS];
const missing = [RUNNER, DESCRIPTORS].filter((name) => !process.env[name]);
const skip = missing.length > 0 && `set ${missing.join(" and ")}: docs/internals/conformance.md`;

const testee = fileURLToPath(new URL("./testee.js", import.meta.url));

interface Counts {
  readonly successes: number;
  readonly skipped: number;
  readonly expectedFailures: number;
  readonly unexpectedFailures: number;
}

const forms: readonly (readonly [name: string, way: string, nodeOptions: readonly string[]])[] = [
  ["from and to contiguous bytes", "plain", []],
  ["with views of the input", "view", []],
  ["through ropes", "rope", []],
  ["where code cannot be generated", "plain", ["--disallow-code-generation-from-strings"]],
  ["through ropes where code cannot be generated", "rope", ["--disallow-code-generation-from-strings"]],
];

let reference: Counts | undefined;

for (const [name, way, nodeOptions] of forms) {
  test(`the codec passes protobuf's conformance tests ${name}`, { skip }, (context) => {
    reference ??= run("protobuf-es", []).counts;
    const { counts, report } = run(way, nodeOptions);
    context.diagnostic(
      `${counts.successes} passed, ${counts.skipped} skipped, ${counts.expectedFailures} failed as known`,
    );
    assert.equal(counts.unexpectedFailures, 0, report);
    // Nothing is skipped that protobuf-es can do.
    assert.deepEqual(counts, reference, report);
    assert.ok(counts.successes > counts.expectedFailures, report);
  });
}

test("the conformance runner finds an answer that is wrong", { skip }, () => {
  const known = knownFailures.map(([name]) => name);
  assert.ok(known.length > 0, "there is no known failure left to find: find it in another way");
  const { counts, report } = run("plain", [], []);
  assert.equal(counts.unexpectedFailures, known.length, report);
  for (const name of known) assert.ok(report.includes(name), report);
});

function run(way: string, nodeOptions: readonly string[], allowed = knownFailures): { counts: Counts; report: string } {
  // What is wrong with the settings is said by name, not by a runner that finds its testee dead.
  accessSync(runner!, constants.X_OK);
  accessSync(descriptors!, constants.R_OK);
  const folder = mkdtempSync(join(tmpdir(), "isthmus-conformance-"));
  try {
    const list = join(folder, "known-failures.txt");
    writeFileSync(list, allowed.map(([name]) => `${name}\n`).join(""));
    const { error, stdout, stderr } = spawnSync(
      resolve(runner!),
      [
        "--enforce_recommended",
        "--maximum_edition",
        EDITION,
        "--failure_list",
        list,
        process.execPath,
        ...nodeOptions,
        testee,
        resolve(descriptors!),
        way,
      ],
      // The runner writes its findings to the folder it runs in.
      { cwd: folder, encoding: "utf8", timeout: RUN_MS_MAX, maxBuffer: 1 << 26 },
    );
    if (error !== undefined) throw error;
    const report = stdout + stderr;
    return { counts: countsOf(report), report };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * From the line with the result, of the first suite: binary and JSON. The second is about text, which is skipped whole.
 */
function countsOf(report: string): Counts {
  const line =
    /^CONFORMANCE SUITE \w+: (\d+) successes, (\d+) skipped, (\d+) expected failures, (\d+) unexpected failures\.$/m.exec(
      report,
    );
  assert.ok(line !== null, `the runner gives no result:\n${report}`);
  const [successes, skipped, expectedFailures, unexpectedFailures] = line.slice(1).map(Number);
  return { successes, skipped, expectedFailures, unexpectedFailures };
}
