import assert from "node:assert/strict";
import test from "node:test";
import { bar, clip, count, figure, padEnd, padStart, plural, printable, rough, sparkline, widthOf } from "./text.js";

test("numbers are grouped and show as many digits as say something", () => {
  assert.deepEqual([0, 999, 1000, 1234567n].map(count), ["0", "999", "1,000", "1,234,567"]);
  assert.deepEqual(
    [1, 2].map((value) => plural(value, "line")),
    ["1 line", "2 lines"],
  );
  assert.deepEqual([0.123, 3.456, 9.999, 34.56, 99.96, 345.6, 1234, NaN, Infinity].map(figure), [
    "0.12",
    "3.46",
    "10.0",
    "34.6",
    "100",
    "346",
    "1,234",
    "–",
    "–",
  ]);
  assert.deepEqual([0, 7, 779, 1234, 311_847].map(rough), ["0", "7", "779", "1,230", "312,000"]);
});

test("a bar is as long as its fraction, and visible for anything above nothing", () => {
  assert.deepEqual(
    [0, NaN, 1e-9, 0.5, 1, 2].map((fraction) => bar(fraction, 4)),
    ["", "", "▏", "██", "████", "████"],
  );
});

test("a sparkline shows the newest values", () => {
  assert.equal(sparkline([9, 0, 4, 8], 3), "▁▅█");
  assert.equal(sparkline([], 5), "");
  assert.equal(sparkline([1, 2], 0).length <= 2, true);
});

test("text from a log cannot steer the terminal", () => {
  assert.equal(printable("/a\x1b[31m\r\n\u202e\u00e9", 40), "/a·[31m····");
  assert.equal(printable("/long/path", 6), "/long…");
  assert.equal(printable("/exact", 6), "/exact");
});

test("styles take no width and are not cut in two", () => {
  const styled = "\x1b[1mab\x1b[0mcd";
  assert.equal(widthOf(styled), 4);
  assert.equal(clip(styled, 4), styled);
  assert.equal(clip(styled, 1), "\x1b[1ma\x1b[0m");
  assert.equal(clip(styled, 3), "\x1b[1mab\x1b[0mc");
  assert.equal(padEnd(styled, 6), `${styled}  `);
  assert.equal(padStart(styled, 6), `  ${styled}`);
  assert.equal(padStart("long", 2), "long");
});
