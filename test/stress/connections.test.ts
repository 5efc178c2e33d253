/** Many clients at once, and many one after the other: all are served, and nothing of them stays behind. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import type { ServerStats } from "../../src/index.js";
import type { Observation } from "./observe.js";
import { maximum, waitUntil } from "./observe.js";
import type { Peer } from "./processes.js";
import { scratchFolder, startPeer } from "./processes.js";
import { scaled } from "./settings.js";

const program = new URL("./connections.peer.js", import.meta.url);
const CLIENT_PROCESSES = 4;
const CLIENTS_EACH = 25;
const CALLS_EACH = scaled(20, 1000);
const CYCLES = scaled(300, 10_000);
const GROWTH_BYTES_MAX = 24 << 20;

test("a hundred clients at once are all served, and a server that lost them holds nothing of them", {
  timeout: 600_000,
}, async (t) => {
  const path = join(scratchFolder(t), "many.sock");
  const server = await startPeer(t, program);
  await server.ask("listen", path);
  const clients = await Promise.all(Array.from({ length: CLIENT_PROCESSES }, () => startPeer(t, program)));
  const calls = CLIENT_PROCESSES * CLIENTS_EACH * CALLS_EACH;
  const round = async () => {
    const done = await Promise.all(
      clients.map((client) =>
        client.ask<{ right: number; milliseconds: number }>(
          "callFromMany",
          { path, clients: CLIENTS_EACH, calls: CALLS_EACH },
          500_000,
        ),
      ),
    );
    assert.deepEqual(
      done.map(({ right }) => right),
      done.map(() => CLIENTS_EACH * CALLS_EACH),
    );
    assert.equal((await server.ask<ServerStats>("stats")).connections, CLIENT_PROCESSES * CLIENTS_EACH);
    const open = await server.ask<Observation>("observe");
    t.diagnostic(
      `${calls} calls of ${CLIENT_PROCESSES * CLIENTS_EACH} clients in ${maximum(done.map((one) => one.milliseconds)).toFixed(0)} ms; server: ${describe(open)}`,
    );
    await Promise.all(clients.map((client) => client.ask("closeAll")));
    await waitUntil(
      "the server to see all clients go",
      async () => (await server.ask<ServerStats>("stats")).connections === 0,
    );
    return server.ask<Observation>("observe");
  };
  // What the first hundred leave in the heap's and the allocator's reserves is no leak; the second hundred must find
  // room there.
  const before = await round();
  const after = await round();
  t.diagnostic(`server: after the first hundred ${describe(before)}; after the second ${describe(after)}`);
  assertNothingLeft(before, after, GROWTH_BYTES_MAX);
});

test("connecting, calling and closing over and over leaks no descriptor, mapping or memory on either side", {
  timeout: 900_000,
}, async (t) => {
  const path = join(scratchFolder(t), "cycles.sock");
  const server = await startPeer(t, program);
  await server.ask("listen", path);
  const clients = await Promise.all([startPeer(t, program), startPeer(t, program)]);
  const both = [server, ...clients];
  const observeAll = async () => {
    await waitUntil(
      "the server to see all clients go",
      async () => (await server.ask<ServerStats>("stats")).connections === 0,
    );
    return Promise.all(both.map((peer) => peer.ask<Observation>("observe")));
  };
  await cycleAll(clients, path, Math.ceil(CYCLES / 6));
  const before = await observeAll();
  const start = performance.now();
  await cycleAll(clients, path, CYCLES / 2);
  const milliseconds = performance.now() - start;
  const after = await observeAll();
  t.diagnostic(
    `${CYCLES} cycles in ${milliseconds.toFixed(0)} ms: ${((2 * milliseconds) / CYCLES).toFixed(2)} ms each`,
  );
  for (const [index, peer] of both.entries()) {
    t.diagnostic(
      `${peer === server ? "server" : "client"}: before ${describe(before[index])}; after ${describe(after[index])}`,
    );
    assertNothingLeft(before[index], after[index], GROWTH_BYTES_MAX);
  }
  const stats = await server.ask<ServerStats>("stats");
  assert.deepEqual({ refused: stats.refused, violations: stats.violations }, { refused: 0, violations: 0 });
});

async function cycleAll(clients: readonly Peer[], path: string, cycles: number): Promise<void> {
  const right = await Promise.all(clients.map((client) => client.ask<number>("cycle", { path, cycles }, 800_000)));
  assert.deepEqual(
    right,
    clients.map(() => cycles),
  );
}

function describe({ descriptors, segmentMappings, residentBytes }: Observation): string {
  return `${descriptors} descriptors, ${segmentMappings} segment mappings, ${(residentBytes / 2 ** 20).toFixed(1)} MiB`;
}

function assertNothingLeft(before: Observation, after: Observation, growthBytesMax: number): void {
  assert.equal(after.descriptors, before.descriptors, "descriptors");
  assert.equal(after.segmentMappings, before.segmentMappings, "mappings");
  assert.ok(
    after.residentBytes - before.residentBytes < growthBytesMax,
    `memory grew from ${before.residentBytes} to ${after.residentBytes} bytes`,
  );
}
