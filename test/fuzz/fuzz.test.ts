/**
 * The codec does what protobuf-es does: some thousand cases of every kind, and with `ISTHMUS_STRESS=full` a million
 * random messages and a million damaged inputs. Once with code generation and once in a process that forbids it.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { describe, test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { full, scaled, seedOf } from "../stress/settings.js";

const CASES = process.env["ISTHMUS_FUZZ_CASES"] ?? String(scaled(3000, 1_000_000));
const TIMEOUT_MS = scaled(900_000, 3 * 3_600_000);

describe("the codec", () => {
  test("does what protobuf-es does, for random messages, damaged input and hostile ropes", async (context) => {
    const output = await campaign(context, []);
    assert.match(output, /with code generation/);
  });

  test("does so too where code must not be generated", async (context) => {
    const output = await campaign(context, ["--disallow-code-generation-from-strings"]);
    assert.match(output, /without code generation/);
  });
});

/** Runs the campaign in a process of its own, and gives what it printed. */
async function campaign(context: TestContext, flags: readonly string[]): Promise<string> {
  const program = fileURLToPath(new URL("run.js", import.meta.url));
  const child = spawn(process.execPath, [...flags, program], {
    stdio: ["ignore", "pipe", "inherit"],
    timeout: TIMEOUT_MS,
    env: { ...process.env, ISTHMUS_SEED: String(seedOf(context)), ISTHMUS_FUZZ_CASES: CASES },
  });
  const ended = new Promise<number | string | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve(code ?? signal));
  });
  let output = "";
  for await (const line of createInterface({ input: child.stdout })) {
    output += `${line}\n`;
    // Progress is for those who wait; the counts of every type are long.
    if (full) console.log(line);
  }
  const status = await ended;
  context.diagnostic(/\d+ messages and .*/.exec(output)?.[0] ?? "no count was printed");
  assert.equal(status, 0, output);
  return output;
}
