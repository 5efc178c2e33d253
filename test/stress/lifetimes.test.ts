/** Loans and leases for long: memory stays flat, comes back, and nothing waits for ever. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { Code } from "@connectrpc/connect";
import type { Ended, Lasted } from "./lifetimes.peer.js";
import type { MemorySample } from "./observe.js";
import { growthMiB, observe, waitUntil } from "./observe.js";
import { scratchFolder, startPeer } from "./processes.js";
import { scaled, skip } from "./settings.js";

const program = new URL("./lifetimes.peer.js", import.meta.url);
const CALLS = scaled(1500, 100_000);
const GROWTH_MIB_MAX = 48;

for (const leases of ["collected", "scoped", "copied", "strict"] as const) {
  test(`calls with 1 MiB each way, loans and heap in turn (${leases}): memory stays flat, and all blocks come back`, {
    skip,
    timeout: scaled(600_000, 900_000),
  }, async (t) => {
    const path = join(scratchFolder(t), "lasting.sock");
    const [server, client] = await Promise.all([startPeer(t, program), startPeer(t, program)]);
    await server.ask("listen", { path, leases, every: Math.ceil(CALLS / 60) });
    await client.ask("connect", { path, leases });
    const lasted = await client.ask<Lasted>("last", { calls: CALLS, inFlight: 8 }, scaled(500_000, 800_000));
    const served = await server.ask<MemorySample[]>("samples");
    t.diagnostic(`${CALLS} calls in ${lasted.milliseconds.toFixed(0)} ms`);
    assert.equal(lasted.right, CALLS);
    for (const [side, samples] of [
      ["client", lasted.client],
      ["server", served],
    ] as const) {
      const growth = growthMiB(samples.map(({ proportionalMiB }) => proportionalMiB));
      t.diagnostic(`${side}: ${growth.toFixed(1)} MiB of growth to ${samples.at(-1)!.proportionalMiB.toFixed(0)} MiB`);
      assert.ok(growth < GROWTH_MIB_MAX, `the ${side} grew by ${growth} MiB`);
    }
    await waitUntil("all blocks to be back", async () => {
      await server.ask("observe");
      const { arenaInUseBytes, leases: left } = await client.ask<{ arenaInUseBytes: number; leases: number }>("inUse");
      return arenaInUseBytes === 0 && left === 0;
    });
  });
}

test("many calls at once with 64 KiB of heap memory all get through", { skip, timeout: 600_000 }, async (t) => {
  const path = join(scratchFolder(t), "burst.sock");
  const [server, client] = await Promise.all([startPeer(t, program), startPeer(t, program)]);
  await server.ask("listen", { path, leases: "collected", every: 1e9 });
  await client.ask("connect", { path, leases: "collected" });
  const calls = scaled(5000, 10_000);
  assert.equal(await client.ask<number>("burst", { calls, byteLength: 65_536 }, 500_000), calls);
});

test("two processes that only send each other large loans do not deadlock", { skip, timeout: 600_000 }, async (t) => {
  const folder = scratchFolder(t);
  const paths = [join(folder, "left.sock"), join(folder, "right.sock")];
  const peers = await Promise.all([startPeer(t, program), startPeer(t, program)]);
  await Promise.all(
    peers.map((peer, side) => peer.ask("listen", { path: paths[side], leases: "collected", every: 1e9 })),
  );
  await Promise.all(peers.map((peer, side) => peer.ask("connect", { path: paths[1 - side], leases: "collected" })));
  const calls = scaled(400, 10_000);
  const lasted = await Promise.all(peers.map((peer) => peer.ask<Lasted>("last", { calls, inFlight: 64 }, 500_000)));
  assert.deepEqual(
    lasted.map(({ right }) => right),
    [calls, calls],
  );
});

test("a server that is killed while loans are in flight: each call rejects once, the loans are gone, the memory comes back", {
  skip,
  timeout: 600_000,
}, async (t) => {
  const path = join(scratchFolder(t), "killed.sock");
  const [server, client] = await Promise.all([startPeer(t, program), startPeer(t, program)]);
  await server.ask("listen", { path, leases: "collected", every: 1e9 });
  const before = observe(client.pid);
  await client.ask("connect", { path, leases: "collected" });
  server.signal("SIGSTOP");
  assert.equal(await client.ask<number>("hang", { loans: 64, byteLength: 1 << 20 }), 64);
  await server.kill();
  const { codes, consumed, settledTwice } = await client.ask<Ended>("ended");
  assert.deepEqual(codes, new Array<number>(64).fill(Code.Unavailable));
  assert.deepEqual({ consumed, settledTwice }, { consumed: 64, settledTwice: 0 });
  await waitUntil("the segments to be unmapped", async () => {
    await client.ask("observe");
    return observe(client.pid).segmentMappings === before.segmentMappings;
  });
});
