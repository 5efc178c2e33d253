import assert from "node:assert/strict";
import { test } from "node:test";
import { Patience } from "./patience.js";

/** How long one would look, from work at `start`: asked every 10 µs, as a poller does. */
function lookFrom(patience: Patience, start: number): number {
  let now = start;
  while (patience.lasts(now)) now += 0.01;
  return now - start;
}

test("who may not look never does", () => {
  const patience = new Patience(0);
  for (let now = 1; now < 100; now++) {
    patience.work(now);
    assert.equal(patience.lasts(now), false);
    patience.sleep(now);
    patience.wake(now + 0.01, true);
  }
});

test("the window follows the waits that were covered, and never passes what is allowed", () => {
  const patience = new Patience(200);
  let now = 1;
  patience.work(now);
  assert.ok(lookFrom(patience, now) < 0.1);
  for (let i = 0; i < 20; i++) {
    lookFrom(patience, now);
    patience.sleep(now + 0.05);
    patience.wake((now += 0.15), true);
    patience.work(now);
  }
  const window = lookFrom(patience, now);
  assert.ok(window > 0.15 && window <= 0.211, `${window} ms`);
});

test("looking stops where it does not pay, and sleeps that tell nothing change nothing", () => {
  const patience = new Patience(200);
  let now = 1;
  let looked = 0;
  for (let i = 0; i < 200; i++) {
    patience.work(now);
    const spent = lookFrom(patience, now);
    if (i >= 20) looked += spent;
    patience.sleep(now + spent);
    patience.wake((now += 10), true);
  }
  assert.ok(looked < 0.5, `${looked} ms of looking in 180 waits of 10 ms`);
});

test("looking is tried again when sleeps turn out to be short", () => {
  const patience = new Patience(200);
  let now = 1;
  const round = (waitMs: number) => {
    patience.work(now);
    const spent = lookFrom(patience, now);
    patience.sleep(now + spent);
    patience.wake((now += waitMs), true);
    return spent;
  };
  for (let i = 0; i < 50; i++) round(10);
  let looked = 0;
  for (let i = 0; i < 10_000 && looked === 0; i++) looked = round(0.1);
  assert.ok(looked > 0);
});

test("time that the event loop was away does not count as waiting", () => {
  const patience = new Patience(200);
  patience.work(1);
  patience.away(100);
  assert.equal(patience.lasts(101), true);
});
