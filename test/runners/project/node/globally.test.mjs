import { mock, test } from "node:test";

mock.timers.enable();
const { define } = await import("../cases.mjs");

define({ test, fake: () => mock.timers.enable(), restore: () => mock.timers.reset(), faked: true });
