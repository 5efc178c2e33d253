/** The demo as its user starts it: the compiled program, in a process of its own, without a terminal. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import test from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const program = fileURLToPath(new URL("../../examples/demo/main.js", import.meta.url));
const skip = process.platform !== "linux" && "shared memory is for Linux";

const line = (path: string, status: number) =>
  `10.0.0.1 - - [22/Nov/2026:16:59:55 +0000] "GET ${path} HTTP/1.1" ${status} 12\n`;

interface Run {
  readonly exitCode: number | null;
  readonly output: string;
  readonly errorOutput: string;
}

function newFolder(context: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "isthmus-e2e-"));
  context.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

/** Everything that the demo makes goes to `folder`, which is also where it runs. */
function start(folder: string, args: readonly string[], input?: string) {
  const child = spawn(process.execPath, [program, ...args], { cwd: folder, env: { ...process.env, TMPDIR: folder } });
  const texts = { output: "", errorOutput: "" };
  child.stdout.setEncoding("utf8").on("data", (text: string) => (texts.output += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (texts.errorOutput += text));
  if (input !== undefined) child.stdin.end(input);
  const ended = new Promise<Run>((resolve, reject) => {
    child.once("error", reject).once("close", (exitCode) => resolve({ exitCode, ...texts }));
  });
  return { child, texts, ended };
}

const run = (folder: string, args: readonly string[], input = "") => start(folder, args, input).ended;

function assertVerified({ exitCode, output, errorOutput }: Run): void {
  assert.equal(exitCode, 0, output + errorOutput);
  assert.equal(errorOutput, "");
  assert.match(output, /^verified: 4 of 4 parts, in \d+\.\d s\n$/m);
  assert.equal(output.match(/^ {3}PASS {2}/gm)?.length, 4);
  assert.doesNotMatch(output, /FAILED|✗|\x1b/); // eslint-disable-line no-control-regex
  // Where Node is installed is not the demo's doing.
  for (const text of output.replaceAll(process.execPath, "node").split("\n"))
    assert.ok(text.length <= 130, `a line of ${text.length} characters: ${text}`);
}

const count = (text: string) => Number(text.replaceAll(",", ""));

/** What ran is over, and its sockets are gone. */
function assertNothingLeft(folder: string, output: string): void {
  assert.deepEqual(
    readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory()),
    [],
  );
  const pids = [...output.matchAll(/(?:process|analytics|web server|new server):? (\d+)/g)].map((match) => match[1]);
  assert.ok(new Set(pids).size >= 2);
  for (const pid of pids) assert.ok(!runs(pid), `process ${pid} still runs`);
}

function runs(pid: string): boolean {
  try {
    // After the name in parentheses the state; Z is dead, only not yet collected by whoever inherited it.
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

test("by default the demo verifies its own traffic, shows both processes, and leaves only the log", {
  skip,
}, async (context) => {
  const folder = newFolder(context);
  const result = await run(folder, ["--quick"]);
  assertVerified(result);
  assertNothingLeft(folder, result.output);
  const [, lines, path] = /✓ +([\d,]+) {2}wc -l (\S+)/.exec(result.output)!;
  assert.ok(count(lines) > 0 && existsSync(path));
  for (const status of [200, 404, 500])
    assert.match(result.output, new RegExp(`✓ +[1-9][\\d,]* {2}LC_ALL=C grep -ac '.*" ${status} ' `));
  assert.match(result.output, /64 of 64 pending calls rejected \(Unavailable\)/);
  assert.ok(result.output.split("\n").length <= 50);
});

test("a given file is counted to the last byte", { skip }, async (context) => {
  const folder = newFolder(context);
  const path = join(folder, "it's a log");
  const odd = Buffer.concat([
    Buffer.from('no log line " 404 "\r\n\n'),
    Buffer.from([0xff, 0, 0xfe, 0x0a]),
    Buffer.from(line(`/${"p".repeat(1 << 20)}`, 200)),
  ]);
  writeFileSync(
    path,
    Buffer.concat([odd, Buffer.from(line("/a", 404) + line("/\x1b[31m", 404) + line("/a", 500).trimEnd())]),
  );
  const result = await run(folder, ["--quick", "it's a log"]);
  assertVerified(result);
  assertNothingLeft(folder, result.output);
  assert.match(result.output, /lines +7 \(3 unparsed, the last one without newline\)/);
  assert.match(result.output, /✓ +6 {2}wc -l '.*it'\\''s a log'\n/);
  assert.match(result.output, /✓ +2 {2}LC_ALL=C grep -ac '.*" 404 '/);
});

test("a followed file is counted as it grows, until Ctrl-C", { skip }, async (context) => {
  const folder = newFolder(context);
  const path = join(folder, "growing.log");
  writeFileSync(path, line("/", 200));
  const { child, texts, ended } = start(folder, ["-f", path, "--quick"]);
  while (!texts.output.includes(path) && child.exitCode === null) await sleep(10);
  for (let at = 0; at < 20; at++) {
    const text = line(`/${at}`, 404);
    appendFileSync(path, text.slice(0, 30));
    await sleep(5);
    appendFileSync(path, text.slice(30));
  }
  child.kill("SIGINT");
  const result = await ended;
  assertVerified(result);
  assert.match(result.output, /✓ +21 {2}wc -l /);
  assert.match(result.output, /✓ +20 {2}LC_ALL=C grep -ac '.*" 404 '/);
});

test("what cannot be verified fails, with exit code 1", { skip }, async (context) => {
  const folder = newFolder(context);
  const path = join(folder, "truncated.log");
  writeFileSync(path, line("/", 200).repeat(1000));
  const { child, texts, ended } = start(folder, ["-f", path, "--quick"]);
  while (!/1,000 lines/.test(texts.output) && child.exitCode === null) await sleep(10);
  truncateSync(path);
  child.kill("SIGINT");
  const { exitCode, output } = await ended;
  assert.equal(exitCode, 1);
  assert.match(output, /^ {3}FAILED {2}.*truncated.log was truncated/m);
  assert.match(output, /^FAILED: .*was truncated.*\n$/m);
  assert.doesNotMatch(output, /verified/);
  assertNothingLeft(folder, output);
});

test("the standard input is counted, and kept to be checked", { skip }, async (context) => {
  const folder = newFolder(context);
  const result = await run(folder, ["--quick", "-"], line("/a", 200).repeat(3000) + line("/b", 500));
  assertVerified(result);
  const [, path] = /✓ +3,001 {2}wc -l (\S+)/.exec(result.output)!;
  assert.ok(path.startsWith(folder) && existsSync(path));
});

test("a missing file and wrong arguments end the demo at once, with exit code 2", async (context) => {
  const folder = newFolder(context);
  for (const [args, reason] of [
    [["gone.log"], /gone\.log: no such file/],
    [["--nope"], /--nope/],
    [["."], /is a directory/],
  ] as const) {
    const { exitCode, output, errorOutput } = await run(folder, args);
    assert.equal(exitCode, 2);
    assert.equal(output, "");
    assert.match(errorOutput, reason);
    assert.equal(errorOutput.trimEnd().split("\n").length, 1);
  }
  assert.deepEqual(readdirSync(folder), []);
});

test("--help explains, and starts nothing", async (context) => {
  const { exitCode, output } = await run(newFolder(context), ["--help"]);
  assert.equal(exitCode, 0);
  assert.match(output, /^Usage: npm run demo/);
});

test("a signal ends the demo and all that it started", { skip }, async (context) => {
  const folder = newFolder(context);
  const { child, texts, ended } = start(folder, []);
  while (!texts.output.includes("web server") && child.exitCode === null) await sleep(10);
  child.kill("SIGTERM");
  const { exitCode, output } = await ended;
  assert.equal(exitCode, 143);
  const pids = [...output.matchAll(/(?:analytics|web server) (\d+)/g)].map((match) => match[1]);
  // Killed they are; that they are gone takes the kernel a moment.
  for (let look = 0; look < 3000 && pids.some(runs); look++) await sleep(20);
  assertNothingLeft(folder, output);
  assert.deepEqual(readdirSync(folder), []);
});
