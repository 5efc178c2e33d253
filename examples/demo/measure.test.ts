import assert from "node:assert/strict";
import test from "node:test";
import { quantile, Subject } from "./measure.js";

test("quantiles are values that were measured", () => {
  const values = Float64Array.from({ length: 100 }, (_, index) => index + 1);
  assert.deepEqual(
    [0, 0.5, 0.99, 1].map((share) => quantile(values, share)),
    [1, 50, 99, 100],
  );
  assert.equal(quantile(Float64Array.of(7), 0.5), 7);
  assert.ok(Number.isNaN(quantile(new Float64Array(), 0.5)));
});

test("the slices of a measurement add up, and warming up does not count", async () => {
  let calls = 0;
  let cpu = 0;
  const subject = new Subject(
    async () => {
      calls++;
      await new Promise((resolve) => setImmediate(resolve));
    },
    () => Promise.resolve((cpu += 1000)),
  );
  await subject.warmUp(4);
  const warm = calls;
  await subject.measure(4);
  await subject.measure(4);
  const result = subject.result();
  assert.equal(result.answers, calls - warm);
  assert.ok(result.p50Micros > 0 && result.p99Micros >= result.p50Micros && result.callsPerSecond > 0);
  assert.ok(result.cpuMicrosOne > 0 && result.cpuMicrosMany > 0);
});

test("a wrong answer ends the measurement", async () => {
  const subject = new Subject(
    (number) => (number === 3 ? Promise.reject(new Error("wrong")) : Promise.resolve()),
    () => Promise.resolve(0),
  );
  await assert.rejects(subject.measure(1000), /wrong/);
});
