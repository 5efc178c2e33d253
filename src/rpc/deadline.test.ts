import assert from "node:assert/strict";
import { test } from "node:test";
import { Code } from "@connectrpc/connect";
import { boundedTimeout, timedOut } from "./deadline.js";

test("a timeout counts if it is positive and a timer can count it", () => {
  for (const timeoutMs of [0.001, 1, 2 ** 31 - 1]) assert.equal(boundedTimeout(timeoutMs), timeoutMs);
  for (const timeoutMs of [undefined, 0, -1, NaN, 2 ** 31, Infinity])
    assert.equal(boundedTimeout(timeoutMs), undefined);
});

test("running out of time is DeadlineExceeded", () => {
  assert.equal(timedOut().code, Code.DeadlineExceeded);
  assert.equal(timedOut(" while waiting").rawMessage, "the operation timed out while waiting");
});
