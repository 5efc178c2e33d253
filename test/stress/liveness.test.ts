/**
 * The event loops of both processes stay alive while calls run back to back, and async contexts stay apart. How late
 * they are is in liveness.timing.test.ts.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { program, watchLiveness } from "./liveness.scene.js";
import { scratchFolder, startPeer } from "./processes.js";
import { scaled } from "./settings.js";

for (const inFlight of [1, 64]) {
  test(`with ${inFlight} in flight, timers, process.nextTick and HTTP of both processes have their turns`, {
    timeout: 600_000,
  }, async (t) => {
    const { server, client, http } = await watchLiveness(t, inFlight);
    for (const times of [server.interval.ticks, server.handled, client.interval.ticks, http.ticks])
      assert.ok(times > 0);
  });
}

test("what one call's AsyncLocalStorage holds is never seen in another's handler or client", {
  timeout: 600_000,
}, async (t) => {
  const folder = scratchFolder(t);
  const peer = await startPeer(t, program);
  const leaks = await peer.ask<string[]>("asyncContexts", {
    paths: [join(folder, "front.sock"), join(folder, "back.sock")],
    calls: scaled(4000, 200_000),
  });
  assert.deepEqual(leaks.slice(0, 10), []);
});
