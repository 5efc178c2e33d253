/** Runs an example the way its user does. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { tempFolder } from "../test/support/temp.js";

/** Returns the example's output. It must exit with 0, write nothing to stderr, and leave no file behind. */
export async function runExample(context: TestContext, name: string, ...parameters: string[]): Promise<string> {
  const folder = tempFolder(context);
  const child = spawn(process.execPath, [fileURLToPath(new URL("./run.js", import.meta.url)), name, ...parameters], {
    env: { PATH: process.env["PATH"], TMPDIR: folder },
    stdio: ["ignore", "pipe", "pipe"],
  });
  context.after(() => child.kill("SIGKILL"));
  let output = "";
  let complaint = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (complaint += chunk.toString()));
  const [exitCode] = (await once(child, "close")) as [number | null];
  assert.deepEqual({ exitCode, complaint }, { exitCode: 0, complaint: "" }, output);
  assert.deepEqual(readdirSync(folder), []);
  return output;
}
