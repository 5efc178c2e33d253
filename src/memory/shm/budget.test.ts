import assert from "node:assert/strict";
import { test } from "node:test";
import { createCommitBudget } from "./budget.js";

const LIMIT = 1024;
/** Half of it is for shared memory. */
const makeBudget = () => createCommitBudget(2 * LIMIT);

test("a connection takes at most half of what the others leave (BUDGET-1)", () => {
  const budget = makeBudget();
  const shares = Array.from({ length: 4 }, () => budget.share());
  const got = shares.map((share) => {
    let taken = 0;
    while (share.take(16)) taken += 16;
    return taken;
  });
  assert.deepEqual(got, [512, 256, 128, 64]);
  assert.match(shares[0].explanation, /960 are in use, 512 of them by this connection/);
  shares[0].give(512);
  shares[0].close();
  // The others are entitled to more now.
  assert.equal(shares[3].take(16), true);
});

test("without a limit everything may be taken, and what belongs to no connection has the whole limit", () => {
  const unlimited = createCommitBudget(undefined).share();
  assert.equal(unlimited.take(2 ** 40), true);
  const budget = makeBudget();
  assert.equal(budget.take(LIMIT), true);
  assert.equal(budget.take(1), false);
});

test("before a connection is refused, the others give back what they do not use (BUDGET-2)", () => {
  const budget = makeBudget();
  const idle = budget.share();
  const busy = budget.share();
  const next = budget.share();
  assert.ok(idle.take(512) && busy.take(256));
  let asked = 0;
  idle.onPressure = () => {
    asked++;
    if (asked === 1) idle.give(512);
  };
  next.onPressure = () => assert.fail("nobody is asked to make room for itself");
  assert.equal(next.take(200), true);
  assert.equal(asked, 1);
  assert.equal(next.take(LIMIT), false);
  assert.equal(asked, 2);
  idle.close();
  assert.equal(next.take(LIMIT), false);
  assert.equal(asked, 2);
});
