import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { PayloadMismatch, PayloadPattern } from "./payload.js";

const sizes = [
  0,
  1,
  2,
  3,
  7,
  8,
  63,
  64,
  65,
  127,
  128,
  129,
  1_000,
  1_024,
  16_383,
  65_520,
  65_521,
  65_522,
  131_042,
  131_043,
  1 << 20,
];

describe("payload", () => {
  for (const size of sizes) {
    test(`${size} bytes pass when nothing changed, at any alignment`, () => {
      const pattern = new PayloadPattern(size);
      for (const offset of [0, 1, 3, 8]) {
        const data = new Uint8Array(size + 16).subarray(offset, offset + size);
        pattern.produce(data, 7 + offset, "request");
        pattern.check(data, 7 + offset, "request");
      }
    });

    test(`a single flipped bit anywhere in ${size} bytes is noticed`, () => {
      const pattern = new PayloadPattern(size);
      const data = new Uint8Array(size);
      pattern.produce(data, 42, "reply");
      const step = Math.max(1, Math.floor(size / 300));
      for (let i = 0; i < size; i += step) flipAt(i);
      if (size > 0) flipAt(size - 1);

      function flipAt(i: number): void {
        data[i] ^= 1 << (i % 8);
        assert.throws(() => pattern.check(data, 42, "reply"), new RegExp(`byte ${i} of ${size} `));
        data[i] ^= 1 << (i % 8);
      }
    });
  }

  test("every byte of the target is written", () => {
    for (const size of sizes) {
      const pattern = new PayloadPattern(size);
      const zeros = new Uint8Array(size);
      const ones = new Uint8Array(size).fill(255);
      pattern.produce(zeros, 3, "request");
      pattern.produce(ones, 3, "request");
      assert.deepEqual(Buffer.compare(zeros, ones), 0);
    }
  });

  test("a payload of the wrong length is noticed", () => {
    const pattern = new PayloadPattern(100);
    for (const size of [0, 99, 101])
      assert.throws(() => pattern.check(new Uint8Array(size), 1, "request"), PayloadMismatch);
    assert.throws(() => pattern.produce(new Uint8Array(99), 1, "request"), RangeError);
  });

  test("the reply of a call never passes for its request", () => {
    const pattern = new PayloadPattern(64);
    const data = new Uint8Array(64);
    for (let id = 0; id < 5_000; id++) {
      pattern.produce(data, id, "request");
      assert.throws(() => pattern.check(data, id, "reply"), PayloadMismatch);
    }
  });

  test("the payload of one call rarely passes for another's", () => {
    const pattern = new PayloadPattern(64);
    const data = new Uint8Array(64);
    let passed = 0;
    for (let id = 1; id <= 2_000; id++) {
      pattern.produce(data, id << 10, "request");
      try {
        pattern.check(data, (id - 1) << 10, "request");
        passed++;
      } catch (error) {
        assert.ok(error instanceof PayloadMismatch);
      }
    }
    assert.ok(passed < 20, `${passed} of 2000 passed`);
  });

  test("bytes that moved by a page or a block are noticed", () => {
    const size = 1 << 20;
    const pattern = new PayloadPattern(size);
    const data = new Uint8Array(size);
    for (const distance of [64, 4_096, 65_536, 262_144]) {
      pattern.produce(data, 9, "request");
      data.copyWithin(0, distance);
      assert.throws(() => pattern.check(data, 9, "request"), PayloadMismatch);
    }
  });
});
