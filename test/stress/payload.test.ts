import assert from "node:assert/strict";
import { test } from "node:test";
import { checksum, DIRECTION, Payloads } from "./payload.js";

test("a checksum notices any single changed bit, and bytes that are missing, added or in another order", () => {
  for (const length of [1, 15, 16, 17, 100]) {
    const data = Uint8Array.from({ length }, (_, i) => (i * 37) & 255);
    const right = checksum(data, 5);
    for (let bit = 0; bit < length * 8; bit++) {
      const wrong = data.slice();
      wrong[bit >> 3] ^= 1 << (bit & 7);
      assert.notEqual(checksum(wrong, 5), right, `bit ${bit} of ${length} bytes`);
    }
    assert.notEqual(checksum(data.subarray(1), 5), right);
    assert.notEqual(checksum(Uint8Array.from([...data, 0]), 5), right);
    assert.notEqual(checksum(data, 6), right);
    if (length > 1) assert.notEqual(checksum(data.slice().reverse(), 5), right);
  }
});

test("payload sizes span 0 bytes to 4 MiB, and both ends agree on them without talking", () => {
  const one = new Payloads(1, 100);
  const other = new Payloads(1, 100);
  const sizes = Array.from({ length: 20_000 }, (_, sequence) => one.sizeOf(sequence, DIRECTION.request));
  assert.equal(Math.min(...sizes), 0);
  assert.ok(Math.max(...sizes) > 3 << 20);
  for (let sequence = 0; sequence < 100; sequence++) {
    assert.deepEqual(one.make(sequence, DIRECTION.reply), other.make(sequence, DIRECTION.reply));
    assert.equal(one.make(sequence, DIRECTION.reply).length, one.sizeOf(sequence, DIRECTION.reply));
  }
  assert.notDeepEqual(
    sizes.slice(0, 50),
    Array.from({ length: 50 }, (_, sequence) => one.sizeOf(sequence, DIRECTION.reply)),
  );
});
