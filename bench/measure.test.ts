import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { HeapMeter, Recorder, allocatedBetween, median, mergeSorted, percentile } from "./measure.js";

describe("measure", () => {
  test("a percentile is the smallest sample that the share does not exceed", () => {
    const sorted = Float64Array.from({ length: 1_000 }, (_, i) => i + 1);
    assert.equal(percentile(sorted, 0.5), 500);
    assert.equal(percentile(sorted, 0.99), 990);
    assert.equal(percentile(sorted, 0.999), 999);
    assert.equal(percentile(sorted, 1), 1_000);
    assert.equal(percentile(sorted, 0), 1);
  });

  test("percentiles of one sample are that sample, of none NaN", () => {
    assert.equal(percentile(Float64Array.of(3), 0.5), 3);
    assert.equal(percentile(Float64Array.of(3), 0.999), 3);
    assert.ok(Number.isNaN(percentile(new Float64Array(0), 0.5)));
  });

  test("samples of several processes are merged in order", () => {
    assert.deepEqual(
      [...mergeSorted([Float64Array.of(10, 2), Float64Array.of(), Float64Array.of(9, 1)])],
      [1, 2, 9, 10],
    );
  });

  test("the median ignores what is absent", () => {
    assert.equal(median([3, 1, 2]), 2);
    assert.equal(median([4, 1, 2, 3]), 2.5);
    assert.equal(median([null, 10, NaN]), 10);
    assert.equal(median([null]), null);
    assert.equal(median([]), null);
  });

  test("a recorder keeps every sample until it is full, then a fair share of all", () => {
    const recorder = new Recorder();
    for (let i = 0; i < 100; i++) recorder.add(i, i * 2);
    assert.equal(recorder.count, 100);
    assert.deepEqual(
      [...recorder.samples().callMs],
      Array.from({ length: 100 }, (_, i) => i),
    );
    assert.equal(recorder.samples().payloadMs[99], 198);

    recorder.reset();
    const total = 1_000_000;
    for (let i = 0; i < total; i++) recorder.add(i, i);
    assert.equal(recorder.count, total);
    const kept = recorder.samples().callMs.sort();
    assert.ok(kept.length < total);
    assert.ok(
      Math.abs(percentile(kept, 0.5) / total - 0.5) < 0.02,
      `the median of what is kept is ${percentile(kept, 0.5)}`,
    );
  });

  test("allocation is what the heap grew by, whatever collections freed", () => {
    assert.equal(allocatedBetween(100, [], 150), 50);
    assert.equal(
      allocatedBetween(
        100,
        [
          { before: 300, after: 120 },
          { before: 420, after: 50 },
        ],
        60,
      ),
      200 + 300 + 10,
    );
  });

  test("a heap meter sees at least what was allocated, and not much more", () => {
    const meter = new HeapMeter();
    const kept: number[][] = [];
    meter.start();
    for (let i = 0; i < 20_000; i++) kept[i % 100] = Array.from({ length: 100 }, () => i + 0.5);
    const bytes = meter.stop();
    if (bytes === null) return;
    assert.ok(bytes > 20_000 * 800, `${bytes} bytes are too few`);
    assert.ok(bytes < 20_000 * 800 * 20, `${bytes} bytes are too many`);
  });
});
