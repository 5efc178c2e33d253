/** Common parts of the tests in this folder: scratch folders, socket pairs, leak counts, child processes. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { isSystemError, loadAddon, requireAddon } from "./addon.js";

/** The `skip` option of every test that needs the addon: the reason why it cannot run here, or false. */
export const skip = loadAddon().reason ?? false;

export function scratchFolder(context: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "isthmus-os-"));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Creates two connected sockets of this process. The test closes them. */
export function socketPair(context: TestContext): [client: number, server: number] {
  const addon = requireAddon();
  const path = join(scratchFolder(context), "pair.sock");
  const listener = addon.bindSocket(path, 0o600, -1);
  addon.listenSocket(listener, 1);
  const client = addon.connectSocket(path);
  const server = addon.acceptSocket(listener);
  closeAll(listener);
  return [client, server];
}

export function closeAll(...descriptors: number[]): void {
  for (const fd of descriptors) requireAddon().closeDescriptor(fd);
  waitForCloses();
}

/** Blocks until the addon's threads have closed what they were given. */
export function waitForCloses(): void {
  const never = new Int32Array(new SharedArrayBuffer(4));
  for (let round = 0; round < 60_000 && requireAddon().closesUnderWay() > 0; round++) Atomics.wait(never, 0, 0, 1);
}

/** Open descriptors of this process, once those that are being closed are closed. */
export function descriptorCount(): number {
  waitForCloses();
  return readdirSync("/proc/self/fd").length;
}

/** The number of mappings in this process whose file name contains `name`. */
export function mappingCount(name: string): number {
  return readFileSync("/proc/self/maps", "utf8")
    .split("\n")
    .filter((line) => line.includes(name)).length;
}

let gc: (() => void) | undefined;

/** Collects garbage repeatedly until `done`, for at most some seconds. */
export async function collectUntil(done: () => boolean): Promise<void> {
  setFlagsFromString("--expose-gc");
  gc ??= runInNewContext("gc") as () => void;
  for (let round = 0; round < 100 && !done(); round++) {
    gc();
    await sleep(20);
  }
}

export async function waitUntil(what: string, done: () => boolean): Promise<void> {
  for (let round = 0; round < 3000; round++) {
    if (done()) return;
    await sleep(20);
  }
  assert.fail(`waited a minute for: ${what}`);
}

/** Matches a SystemError with this code and message, for assert.throws. */
export function systemError(code: string, message = /(?:)/) {
  return (error: unknown) => {
    assert.ok(isSystemError(error), String(error));
    assert.equal(error.code, code);
    assert.ok(error.errno < 0);
    assert.match(error.message, message);
    return true;
  };
}

export interface Outcome {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** The text of an ES module that runs `code` with `addon` in scope. */
export function moduleText(code: string): string {
  const url = new URL("./addon.js", import.meta.url).href;
  return `import { requireAddon } from ${JSON.stringify(url)};\nconst addon = requireAddon();\n${code}`;
}

/**
 * Runs `code` in a node process, which is killed after two minutes. With `shell`, that shell line is run, in which "$@"
 * is the command of the node process.
 */
export async function runChild(
  code: string,
  options: { shell?: string; nodeOptions?: string[] } = {},
): Promise<Outcome> {
  const node = [process.execPath, ...(options.nodeOptions ?? []), "--input-type=module", "-e", moduleText(code)];
  const [command, ...parameters] = options.shell === undefined ? node : ["sh", "-c", options.shell, "sh", ...node];
  const child = spawn(command, parameters, { stdio: ["ignore", "pipe", "pipe"], timeout: 120_000 });
  const output = { stdout: "", stderr: "" };
  child.stdout.on("data", (chunk: Buffer) => (output.stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (output.stderr += chunk.toString()));
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal, ...output }));
  });
}

/** Runs `code`, expects that it ends by itself with exit code 0, and returns its trimmed output. */
export async function runChildOk(code: string, options: Parameters<typeof runChild>[1] = {}): Promise<string> {
  const outcome = await runChild(code, options);
  assert.deepEqual({ code: outcome.code, signal: outcome.signal }, { code: 0, signal: null }, outcome.stderr);
  return outcome.stdout.trim();
}
