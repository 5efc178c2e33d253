import { test } from "node:test";
import { useFakeTimers } from "sinon";
import { define } from "../cases.mjs";
import { toFake } from "../to-fake.mjs";

let clock;

define({ test, fake: () => (clock = useFakeTimers({ toFake })), restore: () => clock.restore(), faked: false });
