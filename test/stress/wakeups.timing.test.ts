/** However both ends pause, every call is answered soon, on a machine that has nothing else to do. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { skip } from "./settings.js";
import { pingPong, WAKEUPS_MS_MAX } from "./wakeups.scene.js";

const CALL_MS_MAX = 1000;

test("no call waits for long however both sides pause", { skip, timeout: WAKEUPS_MS_MAX }, async (t) => {
  for (const run of await pingPong(t)) {
    assert.ok(run.calls > 100, `only ${run.calls} calls`);
    assert.ok(run.slowestMs < CALL_MS_MAX, `a call took ${run.slowestMs} ms`);
  }
});
