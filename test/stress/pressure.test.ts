/** Back-pressure: what cannot be sent yet waits, in bounded memory, and never for ever. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { MemorySample } from "./observe.js";
import { scratchFolder, startPeer } from "./processes.js";
import { scaled } from "./settings.js";

const program = new URL("./pressure.peer.js", import.meta.url);
const CALLS = scaled(2000, 10_000);
const CALL_BYTES = 32 << 10;
/** The default arena of one direction, which also counts as resident. */
const ARENA_MIB = 64;
const REPLY_BYTES = scaled(100_000, 300_000);

interface Progress {
  readonly settled: number;
  readonly wrong: number;
}

test("calls to a stopped server wait in memory bounded by their own size, and all complete when it goes on", {
  timeout: 600_000,
}, async (t) => {
  const path = join(scratchFolder(t), "stopped.sock");
  const [server, client] = await Promise.all([startPeer(t, program), startPeer(t, program)]);
  await server.ask("listen", { path });
  const issue = { path, pid: server.pid, calls: CALLS, byteLength: CALL_BYTES };
  const { before, after, pending } = await client.ask<{ before: number; after: number; pending: number }>(
    "issue",
    issue,
  );
  await sleep(500);
  const waiting = await client.ask<MemorySample>("memory");
  const progress = await client.ask<Progress>("progress");
  const callsMiB = (CALLS * CALL_BYTES) / 2 ** 20;
  t.diagnostic(
    `${pending} calls of ${CALL_BYTES} bytes (${callsMiB} MiB) wait: resident ${before.toFixed(0)} MiB before, ${after.toFixed(0)} MiB issued, ` +
      `${waiting.residentMiB.toFixed(0)} MiB half a second later`,
  );
  assert.deepEqual(progress, { settled: 0, wrong: 0 });
  assert.ok(pending >= CALLS, `${pending} calls pending`);
  assert.ok(
    waiting.residentMiB - before < 1.5 * callsMiB + ARENA_MIB + 48,
    `resident memory grew to ${waiting.residentMiB} MiB`,
  );
  server.signal("SIGCONT");
  const start = performance.now();
  assert.deepEqual(await client.ask<Progress>("finish"), { settled: CALLS, wrong: 0 });
  t.diagnostic(`all answered ${(performance.now() - start).toFixed(0)} ms after the server went on`);
});

test("two processes that fill each other's small rings and arenas at once do not deadlock", {
  timeout: 600_000,
}, async (t) => {
  const folder = scratchFolder(t);
  const memory = { ringBytes: 65_536, arenaBytes: 131_072 };
  const paths = [join(folder, "left.sock"), join(folder, "right.sock")];
  const peers = await Promise.all([startPeer(t, program), startPeer(t, program)]);
  await Promise.all(
    peers.map((peer, side) => peer.ask("listen", { path: paths[side], memory, replyBytes: REPLY_BYTES })),
  );
  for (const [calls, byteLength] of [
    [scaled(32, 3000), 1_000_000],
    [scaled(128, 20_000), 12_000],
  ] as const) {
    const exchanged = await Promise.all(
      peers.map((peer, side) =>
        peer.ask<{ right: number; milliseconds: number }>("exchange", {
          path: paths[1 - side],
          calls,
          inFlight: 64,
          byteLength,
          memory,
        }),
      ),
    );
    assert.deepEqual(
      exchanged.map(({ right }) => right),
      [calls, calls],
    );
    t.diagnostic(
      `${calls} calls of ${byteLength} bytes each way, answered with ${REPLY_BYTES}: ${exchanged.map(({ milliseconds }) => milliseconds.toFixed(0)).join(" and ")} ms`,
    );
  }
});
