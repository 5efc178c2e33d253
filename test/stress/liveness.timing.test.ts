/**
 * How late timers, process.nextTick and HTTP are while calls run back to back, compared with processes that only
 * compute.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { show, watchLiveness } from "./liveness.scene.js";
import { scaled } from "./settings.js";

// The short form shares its processors with whatever else runs there.
const INTERVAL_P99_MS_MAX = scaled(60, 5);
const NEXT_TICK_P99_MS_MAX = scaled(25, 1);
const HTTP_P99_MS_MAX = scaled(200, 50);

for (const inFlight of [1, 64]) {
  test(`with ${inFlight} in flight, timers, process.nextTick and HTTP of both processes are on time`, {
    timeout: 600_000,
  }, async (t) => {
    const { floorMs, server, client, http } = await watchLiveness(t, inFlight);
    const intervalMsMax = Math.max(INTERVAL_P99_MS_MAX, 2 * floorMs);
    assert.ok(server.interval.p99 < intervalMsMax, `server's interval ${show(server.interval)}`);
    assert.ok(client.interval.p99 < intervalMsMax, `client's interval ${show(client.interval)}`);
    assert.ok(
      server.nextTick.p99 < Math.max(NEXT_TICK_P99_MS_MAX, floorMs),
      `process.nextTick ${show(server.nextTick)}`,
    );
    assert.ok(http.ticks > 20, `only ${http.ticks} HTTP requests were answered`);
    assert.ok(http.p99 < Math.max(HTTP_P99_MS_MAX, 4 * floorMs), `HTTP ${show(http)}`);
  });
}
