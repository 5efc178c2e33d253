import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { LogCounts } from "./analytics.js";
import type { Stats } from "./demo_pb.js";
import { StatsSchema } from "./demo_pb.js";
import { agrees, checksFor, differenceOf, quoteForShell, resultOf } from "./verify.js";

function statsOf(bytes: Uint8Array): Stats {
  const counts = new LogCounts();
  counts.add(bytes);
  return create(StatsSchema, {
    lines: BigInt(counts.lines),
    newlines: BigInt(counts.newlines),
    bytes: BigInt(counts.bytes),
    parsed: BigInt(counts.parsed),
    statuses: counts.statuses().map(({ status, count }) => ({ status, count: BigInt(count) })),
    paths: counts.topPaths(3).map(({ path, count }) => ({ path, count: BigInt(count) })),
  });
}

function runChecks(stats: Stats, path: string, headBytes?: number) {
  return checksFor(stats, { path, ...(headBytes === undefined ? {} : { headBytes }) }).map((check) => {
    const { status, stdout, stderr } = spawnSync("/bin/sh", ["-c", check.command], { encoding: "utf8" });
    return resultOf(check, status, stdout, stderr);
  });
}

function withFile(use: (path: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), "isthmus verify 'test-"));
  try {
    use(join(folder, "access.log"));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("wc and grep count what the analytics count, whatever is in the file", () => {
  const part = fc.constantFrom(
    "] ",
    '"',
    " ",
    "404",
    "200",
    "500",
    "600",
    "099",
    '] "GET / HTTP/1.1" 404 5',
    '] "GET /" 200 ',
    "\n",
    "\n",
    "\r\n",
    "\0",
    "\xff",
    "\xc3",
    "é",
    "\\",
    "]",
    "[",
    "a",
  );
  withFile((path) => {
    fc.assert(
      fc.property(fc.array(part, { maxLength: 400 }), fc.nat(), (parts, cut) => {
        const bytes = Buffer.from(parts.join(""), "latin1");
        writeFileSync(path, bytes);
        for (const result of runChecks(statsOf(bytes), path)) assert.ok(agrees(result), JSON.stringify(result));
        const head = bytes.subarray(0, cut % (bytes.length + 1));
        for (const result of runChecks(statsOf(head), path, head.length))
          assert.ok(agrees(result), JSON.stringify(result));
      }),
      { numRuns: 15 },
    );
  });
});

test("a count that is off by one does not agree", () => {
  const bytes = Buffer.from('x [t] "GET / HTTP/1.1" 200 5\nx [t] "GET / HTTP/1.1" 404 5\n');
  withFile((path) => {
    writeFileSync(path, bytes);
    const stats = statsOf(bytes);
    const disagreeing = (change: Partial<Stats>) =>
      runChecks({ ...stats, ...change }, path).filter((result) => !agrees(result)).length;
    assert.equal(disagreeing({}), 0);
    assert.equal(disagreeing({ newlines: stats.newlines + 1n }), 1);
    assert.equal(disagreeing({ bytes: stats.bytes - 1n }), 1);
    assert.equal(disagreeing({ parsed: 1n }), 1);
    assert.equal(
      disagreeing({
        statuses: stats.statuses.map(({ $typeName, status, count }) => ({ $typeName, status, count: count + 1n })),
      }),
      2,
    );
  });
});

test("a command that fails agrees with nothing, and says why", () => {
  const check = { command: "wc -l gone", counted: 0 };
  assert.deepEqual(resultOf(check, 1, "", "wc: gone: No such file\n"), {
    ...check,
    found: undefined,
    problem: "wc: gone: No such file",
  });
  assert.deepEqual(resultOf(check, 2, "0\n", ""), { ...check, found: undefined, problem: "it exited with 2" });
  assert.deepEqual(resultOf(check, null, "0\n", ""), { ...check, found: undefined, problem: "it was killed" });
  assert.ok(!agrees(resultOf(check, 1, "", "")));
  assert.ok(agrees(resultOf(check, 1, "0\n", "")), "grep exits with 1 when it finds none");
  assert.ok(agrees(resultOf({ ...check, counted: 12 }, 0, "  12 file\n", "")));
});

test("404 and 500 are checked always, other statuses if they are frequent", () => {
  const entry = (status: number, count: bigint) => ({ status, count });
  const stats = create(StatsSchema, {
    statuses: [entry(200, 9n), entry(201, 1n), entry(301, 5n), entry(304, 7n), entry(404, 1n)],
  });
  const commands = checksFor(stats, { path: "/x" }).map(({ command }) => command);
  assert.deepEqual(commands.slice(0, 2), ["wc -l /x", "wc -c /x"]);
  assert.deepEqual(
    commands.slice(3).map((command) => /" (\d+) '/.exec(command)?.[1]),
    ["200", "304", "404", "500"],
  );
});

test("two counts of one log differ as soon as one number does", () => {
  const stats = statsOf(Buffer.from('x [t] "GET /a HTTP/1.1" 200 5\nx [t] "GET /b HTTP/1.1" 404 5\n'));
  assert.equal(differenceOf(stats, stats), undefined);
  assert.equal(differenceOf(stats, { ...stats, lines: 3n }), "lines: 2 and 3");
  assert.match(differenceOf(stats, { ...stats, statuses: stats.statuses.slice(1) })!, /200/);
  assert.match(differenceOf(stats, { ...stats, paths: [] })!, /\/a.*nothing/);
});

test("a path is quoted so that the shell takes it as it is", () => {
  for (const name of ["/tmp/a.log", "a b", "it's", '$(x) `y` "z" \\ * ;', "новый\nlog"]) {
    assert.equal(execFileSync("/bin/sh", ["-c", `printf %s ${quoteForShell(name)}`], { encoding: "utf8" }), name);
  }
  assert.equal(quoteForShell("/tmp/a.log"), "/tmp/a.log");
});
