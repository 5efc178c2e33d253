/** What a connection costs while idle: nothing. What it costs under load is in economy.timing.test.ts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { TransportStats } from "../../src/index.js";
import { startPair } from "./economy.scene.js";
import { scaled, skip } from "./settings.js";

const IDLE_MS = scaled(3000, 10_000);
const IDLE_CPU_MS_MAX = 10 * (IDLE_MS / 10_000) + scaled(4, 0);

test("two connected processes that have nothing to do use no processor time", { skip, timeout: 600_000 }, async (t) => {
  const [server, client] = await startPair(t);
  const calls = await client.ask<number>("call", { milliseconds: 500, inFlight: 64, byteLength: 1000 });
  const [serverMs, clientMs] = await Promise.all([server, client].map((peer) => peer.ask<number>("idle", IDLE_MS)));
  t.diagnostic(
    `after ${calls} calls, in ${IDLE_MS} ms idle: server ${serverMs.toFixed(2)} ms of processor time, client ${clientMs.toFixed(2)} ms`,
  );
  const stats = await client.ask<TransportStats>("stats");
  assert.equal(stats.state, "ready");
  assert.ok(serverMs < IDLE_CPU_MS_MAX, `server ${serverMs} ms`);
  assert.ok(clientMs < IDLE_CPU_MS_MAX, `client ${clientMs} ms`);
});
