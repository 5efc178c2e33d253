import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { ConnectError } from "@connectrpc/connect";
import { Code } from "@connectrpc/connect";
import { CallQueue } from "./call-queue.js";

function recorded() {
  const queue = new CallQueue();
  const events: string[] = [];
  const add = (name: string, timeoutMs?: number, signal?: AbortSignal) =>
    queue.add(
      timeoutMs,
      signal,
      (leftMs) =>
        events.push(`${name} starts${leftMs === undefined ? "" : leftMs < timeoutMs! ? " with less" : " with all"}`),
      (error: ConnectError) => events.push(`${name} ${Code[error.code]}`),
    );
  return { queue, events, add };
}

test("calls start in the order they came", () => {
  const { queue, events, add } = recorded();
  for (const name of ["a", "b", "c"]) add(name);
  while (queue.size > 0) queue.startNext();
  assert.deepEqual(events, ["a starts", "b starts", "c starts"]);
});

test("a call whose signal aborts leaves at once, wherever it stands, and is passed over", () => {
  const { queue, events, add } = recorded();
  const [first, last] = [new AbortController(), new AbortController()];
  add("a", undefined, first.signal);
  add("b");
  add("c", undefined, last.signal);
  last.abort();
  first.abort();
  assert.equal(queue.size, 1);
  queue.startNext();
  assert.equal(queue.size, 0);
  assert.deepEqual(events, ["c Canceled", "a Canceled", "b starts"]);
});

test("a call whose signal has aborted already never enters", () => {
  const { queue, events, add } = recorded();
  add("a", undefined, AbortSignal.abort());
  assert.equal(queue.size, 0);
  assert.deepEqual(events, ["a Canceled"]);
});

test("a call whose deadline passes leaves, and one that starts before has what is left", async () => {
  const { queue, events, add } = recorded();
  add("late", 5);
  add("early", 600_000);
  while (queue.size > 1) await sleep(5);
  assert.equal(queue.size, 1);
  queue.startNext();
  assert.deepEqual(events, ["late DeadlineExceeded", "early starts with less"]);
});

test("a call that has started listens to nothing any more", async () => {
  const { queue, events, add } = recorded();
  const controller = new AbortController();
  add("a", 5, controller.signal);
  queue.startNext();
  controller.abort();
  await sleep(20);
  assert.equal(events.length, 1);
});

test("calls may be added and given up while others start, over and over, and the order holds", () => {
  const queue = new CallQueue();
  const started: number[] = [];
  const expected: number[] = [];
  const controllers: AbortController[] = [];
  let next = 0;
  for (let round = 0; round < 3000; round++) {
    for (let i = 0; i < 3; i++) {
      const number = next++;
      controllers[number] = new AbortController();
      queue.add(
        undefined,
        controllers[number].signal,
        () => started.push(number),
        () => {},
      );
      if (number % 3 === 1) controllers[number].abort();
      else expected.push(number);
    }
    if (queue.size > 5) while (queue.size > 2) queue.startNext();
  }
  while (queue.size > 0) queue.startNext();
  assert.deepEqual(started, expected);
});
