/** Wake-ups: however both ends pause, no call is left lying. How soon each is answered is in wakeups.timing.test.ts. */
import { test } from "node:test";
import { skip } from "./settings.js";
import { pingPong, WAKEUPS_MS_MAX } from "./wakeups.scene.js";

test("no wake-up is lost however both sides pause, and doorbells ring at most once a sleep", {
  skip,
  timeout: WAKEUPS_MS_MAX,
}, async (t) => {
  await pingPong(t);
});
