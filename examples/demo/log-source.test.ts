import assert from "node:assert/strict";
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import type { TestContext } from "node:test";
import test from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { UsageError } from "./arguments.js";
import type { LogSource } from "./log-source.js";
import { copyStream, openLog } from "./log-source.js";

const never = new AbortController().signal;

function newFile(context: TestContext, content: string): string {
  const folder = mkdtempSync(join(tmpdir(), "isthmus-log-source-"));
  context.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, "access.log");
  writeFileSync(path, content);
  return path;
}

async function open(context: TestContext, path: string, follow: boolean): Promise<LogSource> {
  const source = await openLog(path, follow);
  context.after(() => source.close());
  return source;
}

async function readAll(source: LogSource, stop: AbortSignal): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of source.chunks(stop)) chunks.push(chunk);
  return String(Buffer.concat(chunks));
}

test("a file is read as it was when it was opened", async (context) => {
  const path = newFile(context, "one\ntwo");
  const source = await open(context, path, false);
  appendFileSync(path, " more\n");
  assert.equal(await readAll(source, never), "one\ntwo");
  assert.deepEqual(await source.target(), { path, headBytes: 7 });
});

test("a followed file is read as it grows, and to its end after the stop", async (context) => {
  const path = newFile(context, "one\n");
  const source = await open(context, path, true);
  const stop = new AbortController();
  const reading = readAll(source, stop.signal);
  for (const text of ["tw", "o\n", "three\n"]) {
    await sleep(20);
    appendFileSync(path, text);
  }
  stop.abort();
  assert.equal(await reading, "one\ntwo\nthree\n");
  assert.deepEqual(await source.target(), { path });
});

test("an empty file is empty", async (context) => {
  const path = newFile(context, "");
  const source = await open(context, path, false);
  assert.equal(await readAll(source, never), "");
  assert.deepEqual(await source.target(), { path });
});

test("a file that was truncated or replaced meanwhile cannot be checked against", async (context) => {
  const truncated = newFile(context, "one\n");
  const first = await open(context, truncated, false);
  await readAll(first, never);
  truncateSync(truncated, 1);
  await assert.rejects(first.target(), /truncated/);

  const replaced = newFile(context, "one\n");
  const second = await open(context, replaced, false);
  await readAll(second, never);
  writeFileSync(`${replaced}.new`, "one\n");
  renameSync(`${replaced}.new`, replaced);
  await assert.rejects(second.target(), /replaced/);
});

test("what cannot be read is refused by name", async (context) => {
  const path = newFile(context, "");
  mkdirSync(`${path}.d`);
  await assert.rejects(
    openLog(`${path}.gone`, false),
    (error) => error instanceof UsageError && /gone: no such file/.test(error.message),
  );
  await assert.rejects(openLog(`${path}/below`, false), /no such file/);
  await assert.rejects(
    openLog(`${path}.d`, true),
    (error) => error instanceof UsageError && /is a directory/.test(error.message),
  );
});

test("a stream is copied on its way, to be checked", async (context) => {
  const source = await copyStream(Readable.from([Buffer.from("one\nt"), Buffer.from("wo")]));
  context.after(() => rmSync(source.path));
  assert.equal(await readAll(source, never), "one\ntwo");
  assert.equal(readFileSync(source.path, "utf8"), "one\ntwo");
  assert.deepEqual(await source.target(), { path: source.path });
  await source.close();
});

test("a stream that never ends is left at the stop", async (context) => {
  const endless = new Readable({ read: () => undefined });
  endless.push("one\n");
  const source = await copyStream(endless);
  context.after(() => rmSync(source.path));
  const stop = new AbortController();
  const chunks: string[] = [];
  for await (const chunk of source.chunks(stop.signal)) {
    chunks.push(String(chunk));
    stop.abort();
  }
  assert.deepEqual(chunks, ["one\n"]);
  assert.ok(endless.destroyed);
  await source.close();
});

test("a file of the kernel, which claims to be empty, is copied", {
  skip: process.platform !== "linux",
}, async (context) => {
  const source = await openLog("/proc/self/status", false);
  context.after(() => rmSync(source.path));
  assert.match(await readAll(source, never), /^Name:/);
  assert.match(readFileSync(source.path, "utf8"), /^Name:/);
  await source.close();
});
