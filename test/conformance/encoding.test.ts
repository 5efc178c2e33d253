/**
 * The table of binary inputs, read and written by the codec: as it starts, when it has warmed up, and without the right
 * to generate code.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { decode, encodeInto } from "../../src/codec/index.js";
import { toBytes } from "./bytes.js";
import type { Case } from "./case.js";
import { checkCase, failuresOf, REFUSED } from "./case.js";
import { table } from "./table.js";

/** Reads and writes of each type, more than a codec may want to see before it takes a type for one worth compiling. */
const WARMING_ROUNDS = 2000;

const cases = table.flatMap((group) => group.cases);

for (const group of table) {
  test(`inputs are read and written as the encoding has it: ${group.name}`, () =>
    assert.deepEqual(failuresOf([group]), []));
}

test("inputs are read and written in the same way once the codec has seen many", () => {
  for (const [schema, input] of warmingInputs()) {
    const target = new Uint8Array(1024);
    for (let round = 0; round < WARMING_ROUNDS; round++) encodeInto(schema, decode(schema, input), target);
  }
  assert.deepEqual(failuresOf(table), []);
});

test("inputs are read and written in the same way where code cannot be generated", () => {
  const peer = fileURLToPath(new URL("./encoding.peer.js", import.meta.url));
  const run = spawnSync(process.execPath, ["--disallow-code-generation-from-strings", peer], {
    encoding: "utf8",
    maxBuffer: 1 << 26,
  });
  assert.equal(run.status, 0, run.stderr);
  assert.deepEqual(JSON.parse(run.stdout), { generates: false, cases: cases.length, failures: [] });
});

test("every row says something of its own", () => {
  const seen = new Map<string, string>();
  for (const group of table) {
    for (const row of group.cases) {
      const key = [
        row.schema.typeName,
        row.input.replace(/\s/g, ""),
        JSON.stringify(row.decodeOptions ?? {}),
        JSON.stringify(row.encodeOptions ?? {}),
      ].join(" ");
      const said = `${group.name}: ${row.name}`;
      assert.equal(seen.get(key), undefined, `"${said}" repeats "${seen.get(key)}"`);
      seen.set(key, said);
    }
  }
});

test("a row that is wrong is found", () => {
  const [row] = cases.filter((one) => one.output === undefined && one.input !== "");
  assert.doesNotThrow(() => checkCase(row));
  assert.throws(() => checkCase({ ...row, output: "08 7f" }), /other bytes/);
  assert.throws(() => checkCase({ ...row, output: REFUSED }), /the row is wrong/);
  assert.throws(() => checkCase({ ...row, fields: { nothing: 1 } }), /another value of nothing/);
});

/** For each type an input that can be read and written. */
function warmingInputs(): [Case["schema"], Uint8Array][] {
  const inputs = new Map<Case["schema"], Uint8Array>();
  for (const { schema, input, output } of cases) {
    if (output === undefined && input !== "" && input.length < 400 && !inputs.has(schema))
      inputs.set(schema, toBytes(input));
  }
  return [...inputs];
}
