import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Recorder } from "../measure.js";
import { PayloadMismatch, PayloadPattern } from "../payload.js";
import { countOf, endOfLines, LineReader, producerOf, writeLine } from "./lines.js";
import { lineBytes } from "./task.js";

describe("lines", () => {
  const pattern = new PayloadPattern(lineBytes);

  test("a line says who wrote it, and how long it took", () => {
    const delays = new Recorder();
    const reader = new LineReader(delays);
    for (let number = 0; number < 3; number++) {
      const line = writeLine(pattern, 255, number);
      assert.equal(producerOf(line), 255);
      assert.ok(line.id < 1n << 64n);
      reader.take(line);
    }
    assert.equal(reader.count, 3);
    assert.ok(delays.samples().callMs.every((ms) => ms >= 0 && ms < 60_000));
    const end = endOfLines(7, 3);
    assert.deepEqual([producerOf(end), countOf(end)], [7, 3]);
  });

  test("a line that is lost, doubled or changed is noticed", () => {
    const changed = writeLine(pattern, 0, 0);
    changed.data[lineBytes - 1] ^= 1;
    for (const line of [writeLine(pattern, 0, 1), changed]) {
      assert.throws(() => new LineReader(new Recorder()).take(line), PayloadMismatch);
    }
    const reader = new LineReader(new Recorder());
    reader.take(writeLine(pattern, 0, 0));
    assert.throws(() => reader.take(writeLine(pattern, 0, 0)), PayloadMismatch);
  });
});
