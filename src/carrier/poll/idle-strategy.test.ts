import assert from "node:assert/strict";
import { test } from "node:test";
import { IdleStrategy } from "./idle-strategy.js";

/**
 * A connection that gets work after one wait after the other, and looks for it every 10 µs for as long as it has
 * idleStrategy.
 */
class Waiter {
  now = 1;
  readonly idleStrategy: IdleStrategy;

  constructor(maxMicros: number) {
    this.idleStrategy = new IdleStrategy(maxMicros);
    this.idleStrategy.work(this.now);
  }

  /** Waits so long for the next work. Returns how much of it was spent looking. */
  wait(millis: number): number {
    const start = this.now;
    const end = start + millis;
    let looking = true;
    while (this.now < end && (looking = this.idleStrategy.lasts(this.now))) this.now += 0.01;
    const spent = this.now - start;
    if (!looking) {
      this.idleStrategy.sleep(this.now, true);
      this.now = end;
      this.idleStrategy.wake(this.now);
    }
    this.idleStrategy.work(this.now);
    return spent;
  }
}

test("who may not look never does", () => {
  const idleStrategy = new IdleStrategy(0);
  for (let now = 1; now < 100; now++) {
    idleStrategy.work(now);
    assert.equal(idleStrategy.lasts(now), false);
    idleStrategy.sleep(now, true);
    idleStrategy.wake(now + 0.01);
  }
});

test("waits that are short enough are learnt, and then covered whole by looking", () => {
  const waiter = new Waiter(200);
  assert.ok(waiter.wait(0.15) < 0.1, "a short window at first");
  for (let i = 0; i < 20; i++) waiter.wait(0.15);
  assert.ok(waiter.wait(0.15) >= 0.149);
});

test("nobody looks for longer than allowed", () => {
  for (const maxMicros of [50, 200, 1000]) {
    const waiter = new Waiter(maxMicros);
    for (let i = 0; i < 20; i++) waiter.wait((maxMicros / 1000) * 0.9);
    assert.ok(waiter.wait(50) <= maxMicros / 1000 + 0.011);
  }
});

test("looking stops where it does not pay", () => {
  const waiter = new Waiter(200);
  for (let i = 0; i < 20; i++) waiter.wait(10);
  let looked = 0;
  for (let i = 0; i < 200; i++) looked += waiter.wait(10);
  assert.ok(looked < 0.5, `${looked} ms of looking in 200 waits of 10 ms`);
});

test("looking is tried again when sleeps turn out to be short", () => {
  const waiter = new Waiter(200);
  for (let i = 0; i < 50; i++) waiter.wait(10);
  let looked = 0;
  for (let i = 0; i < 10_000 && looked === 0; i++) looked = waiter.wait(0.1);
  assert.ok(looked > 0);
});

test("time that the event loop was away does not count as waiting", () => {
  const idleStrategy = new IdleStrategy(200);
  for (let i = 0; i < 4; i++) idleStrategy.work(1);
  idleStrategy.away(100);
  assert.equal(idleStrategy.lasts(101), true);
});

test("work that comes now and then is not looked for, however short the wait; work that goes on coming is", () => {
  const waiter = new Waiter(200);
  const { idleStrategy } = waiter;
  for (let i = 0; i < 50; i++) {
    idleStrategy.sleep(waiter.now, false);
    waiter.now += 2;
    idleStrategy.wake(waiter.now);
    for (let call = 0; call < 3; call++) assert.equal(waiter.wait(0.05), 0);
  }
  waiter.wait(0.05);
  assert.ok(waiter.wait(0.05) > 0.049);
});

test("who is rung and finds nothing looks for as long as is allowed, though looking has not paid; with the work that ends", () => {
  const waiter = new Waiter(200);
  const { idleStrategy } = waiter;
  for (let i = 0; i < 50; i++) waiter.wait(10);
  idleStrategy.sleep(waiter.now, true);
  waiter.now += 10;
  idleStrategy.wake(waiter.now);
  assert.equal(idleStrategy.lasts(waiter.now), false);
  idleStrategy.announced(waiter.now);
  assert.equal(idleStrategy.lasts(waiter.now + 0.19), true);
  assert.equal(idleStrategy.lasts(waiter.now + 0.21), false);
  idleStrategy.announced(waiter.now);
  idleStrategy.work(waiter.now + 0.1);
  assert.equal(idleStrategy.lasts(waiter.now + 0.15), false);
});
