import { mock, test } from "node:test";
import { define } from "../cases.mjs";

define({ test, fake: () => mock.timers.enable(), restore: () => mock.timers.reset(), faked: false });
