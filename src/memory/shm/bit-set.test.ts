import assert from "node:assert/strict";
import { test } from "node:test";
import { BitSet } from "./bit-set.js";
import { randomOf } from "./random.test.util.js";

test("a bit set has what a Set has, whatever is added and deleted", (context) => {
  const random = randomOf(context);
  const set = new BitSet();
  const model = new Set<number>();
  for (let step = 0; step < 20_000; step++) {
    const value = random(step % 3 === 0 ? 65_536 : 70);
    if (random(2) === 0) {
      set.add(value);
      model.add(value);
    } else {
      assert.equal(set.delete(value), model.delete(value));
    }
    assert.equal(set.size, model.size);
    const other = random(65_536);
    assert.equal(set.has(other), model.has(other));
    assert.equal(set.has(value), model.has(value));
  }
  assert.ok(model.size > 100);
});

test("numbers that cannot be in it are not", () => {
  const set = new BitSet();
  set.add(0);
  set.add(31);
  for (const value of [-1, -32, 1 << 30, 2 ** 31, 2 ** 32 - 1, 32, 30]) {
    assert.equal(set.has(value), false);
    assert.equal(set.delete(value), false);
  }
  assert.equal(set.size, 2);
});
