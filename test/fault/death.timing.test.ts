/** How soon a side knows that the other was killed, on a machine that has nothing else to do. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { maximum, percentile } from "../stress/observe.js";
import { scaled } from "../stress/settings.js";
import type { Notice } from "./death.scene.js";
import { killClients, killServers } from "./death.scene.js";

/** From the hang-up to the last rejection. */
const NOTICE_P50_MS_MAX = scaled(25, 10);
/**
 * The longest of those under small calls. Under large ones the survivor may be in a full collection, of arrays that the
 * load made.
 */
const SMALL_NOTICE_MS_MAX = scaled(100, 10);
/** From the kill, on a busy machine. The kernel first takes the victim's memory apart; only then it hangs up. */
const NOTICE_MS_MAX = scaled(500, 250);

test("a killed server is noticed within milliseconds of its hang-up", { timeout: 600_000 }, async (t) =>
  checkNotices(await killServers(t)),
);

test("a killed client is noticed within milliseconds of its hang-up", { timeout: 600_000 }, async (t) =>
  checkNotices(await killClients(t)),
);

function checkNotices(notices: readonly Notice[]): void {
  const afterHangUp = notices.map(({ afterHangUpMs }) => afterHangUpMs);
  const afterKill = notices.map(({ afterKillMs }) => afterKillMs);
  const small = notices.filter(({ isLarge }) => !isLarge).map(({ afterHangUpMs }) => afterHangUpMs);
  const show = (values: readonly number[]) => values.map((value) => value.toFixed(1)).join(", ");
  assert.ok(percentile(afterHangUp, 50) < NOTICE_P50_MS_MAX, show(afterHangUp));
  assert.ok(maximum(small) < SMALL_NOTICE_MS_MAX, show(small));
  assert.ok(maximum(afterKill) < NOTICE_MS_MAX, show(afterKill));
}
