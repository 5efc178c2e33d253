import { test } from "node:test";
import { useFakeTimers } from "sinon";
import { toFake } from "../to-fake.mjs";

let clock = useFakeTimers({ toFake });
const { define } = await import("../cases.mjs");

define({ test, fake: () => (clock = useFakeTimers({ toFake })), restore: () => clock.restore(), faked: true });
