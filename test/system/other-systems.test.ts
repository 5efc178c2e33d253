/**
 * A program for Linux on other systems: what works, and what the errors say. The system's name is faked; what macOS and
 * Windows themselves do is not seen here.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const FAKE = new URL("../../../scripts/fake-platform.mjs", import.meta.url).href;
const PROGRAM = fileURLToPath(new URL("./other-systems.peer.js", import.meta.url));

type Results = Record<"path" | "tcp" | "shm" | "allow" | "mode" | "workers" | "blocking" | "long", string>;

function runOn(platform: string): { results: Results; warnings: string } {
  const { stdout, stderr, status } = spawnSync(process.execPath, [`--import=${FAKE}`, PROGRAM], {
    encoding: "utf8",
    env: { ...process.env, ISTHMUS_ADDON: "", ISTHMUS_TEST_PLATFORM: platform },
  });
  assert.equal(status, 0, stderr);
  return { results: JSON.parse(stdout) as Results, warnings: stderr };
}

function assertCommon(results: Results, platform: string): void {
  assert.equal(results.tcp, "socket: ECHO, 6");
  assert.match(
    results.workers,
    new RegExp(`option \`workers\` needs the native addon.*not Linux \\(${platform}\\); leave it out`),
  );
}

test("as on macOS, paths and TCP work over sockets with one warning, and the errors say what to do", () => {
  const { results, warnings } = runOn("darwin");
  assertCommon(results, "darwin");
  assert.equal(results.path, "socket: ECHO, 6");
  assert.match(results.shm, /shared memory is not available here: not Linux \(darwin\)/);
  assert.match(results.allow, /option `allow` needs .* without the addon \(not Linux \(darwin\)\); leave it out/);
  assert.match(results.mode, /mode 0660 lets other users connect, and without the addon .*; use mode 0600/);
  assert.match(results.blocking, /blocking calls need shared memory.*use createIsthmusTransport/);
  assert.match(results.long, /the path has 106 bytes, but Unix sockets allow 103/);
  assert.equal(warnings.match(/ISTHMUS_NO_SHARED_MEMORY/g)?.length, 1);
});

test("as on Windows, TCP works, and every path is refused with what to write", () => {
  const { results } = runOn("win32");
  assertCommon(results, "win32");
  const refused =
    /on Windows there are no Unix sockets; use TCP on the loopback interface, such as tcp:127\.0\.0\.1:7000/;
  for (const outcome of [results.path, results.allow, results.mode, results.blocking, results.long])
    assert.match(outcome, refused);
});
