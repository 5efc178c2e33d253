import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { Violation } from "../../memory/shm/violation.js";
import { MESSAGE_COST_BYTES } from "../../wire/frame.js";
import { KEPT } from "../../send/send-queue.js";
import { StreamWriter } from "./stream-writer.js";

const LENGTH = 100;
const COST = LENGTH + MESSAGE_COST_BYTES;

/** Numbers from 0 on, and what becomes of their iterator. */
function numbers(end = Infinity) {
  const seen = { pulled: 0, closed: 0, thrown: undefined as unknown };
  async function* generate() {
    try {
      for (; seen.pulled < end; ) yield await Promise.resolve(seen.pulled++);
    } catch (error) {
      seen.thrown = error;
      throw error;
    } finally {
      seen.closed++;
    }
  }
  return { seen, iterator: generate() };
}

function writerOf(windowBytes: number, send: (message: unknown) => number = () => LENGTH) {
  const sent: unknown[] = [];
  const events: string[] = [];
  const writer = new StreamWriter(
    {
      sendMessage: (message) => {
        sent.push(message);
        return send(message);
      },
      onDrained: () => events.push("drained"),
      onBroken: (error, isSending) => events.push(`${isSending ? "send" : "pull"}: ${(error as Error).message}`),
    },
    windowBytes,
  );
  return { writer, sent, events };
}

test("messages are pulled as long as there is credit, the last of it may be overdrawn, and more credit goes on (CREDIT-1)", async () => {
  const { seen, iterator } = numbers();
  const { writer, sent } = writerOf(2 * COST + 1);
  writer.start(iterator);
  await turn();
  assert.deepEqual(sent, [0, 1, 2]);
  assert.equal(seen.pulled, 3);
  writer.onCredit(COST - 1);
  await turn();
  assert.equal(sent.length, 3);
  writer.onCredit(1);
  await turn();
  assert.equal(sent.length, 4);
  void writer.stop(undefined);
});

test("more credit than was used breaks the protocol (CREDIT-2)", () => {
  const { writer } = writerOf(1000);
  assert.throws(
    () => writer.onCredit(1),
    (error: unknown) => error instanceof Violation && error.rule === "CREDIT-2",
  );
});

test("a message that is kept holds the next one back until it is out, and costs then", async () => {
  const { seen, iterator } = numbers();
  const { writer, sent } = writerOf(2 * COST, () => KEPT);
  writer.start(iterator);
  await turn();
  assert.deepEqual([sent.length, seen.pulled], [1, 1]);
  writer.onSent(LENGTH);
  assert.equal(seen.pulled, 1, "it is not pulled from within");
  await turn();
  assert.equal(seen.pulled, 2);
  writer.onSent(LENGTH);
  await turn();
  assert.equal(seen.pulled, 2);
  writer.onCredit(COST);
  await turn();
  assert.equal(seen.pulled, 3);
});

test("the end is told once all is out", async () => {
  const { iterator, seen } = numbers(3);
  const { writer, events } = writerOf(10 * COST);
  writer.start(iterator);
  await turn();
  assert.deepEqual(events, ["drained"]);
  void writer.stop(undefined);
  assert.equal(seen.closed, 1);
});

test("what is thrown by the iterable, or in sending, is told, once", async () => {
  const broken = { next: () => Promise.reject(new Error("mine")) };
  const pulling = writerOf(COST);
  pulling.writer.start(broken);
  await turn();
  assert.deepEqual(pulling.events, ["pull: mine"]);
  const sending = writerOf(COST, () => {
    throw new Error("too large");
  });
  const { iterator } = numbers();
  sending.writer.start(iterator);
  await turn();
  assert.deepEqual(sending.events, ["send: too large"]);
  const atOnce = writerOf(COST);
  atOnce.writer.start({
    next: () => {
      throw new Error("no promise");
    },
  });
  assert.deepEqual(atOnce.events, ["pull: no promise"]);
});

test("what is no result of an iterator is told as if it had thrown", async () => {
  const wrong = [
    undefined,
    null,
    "text",
    {
      get done(): boolean {
        throw new Error("mine");
      },
    },
    {
      done: false,
      get value(): unknown {
        throw new Error("mine");
      },
    },
  ];
  for (const result of wrong) {
    const { writer, sent, events } = writerOf(COST);
    writer.start({ next: () => Promise.resolve(result as never) });
    await turn();
    assert.deepEqual([sent.length, events.length], [0, 1]);
    assert.match(events[0], /^pull: (mine|the iterator's result is not an object but (undefined|null|string))$/);
  }
});

test("stopping ends the iterable: with the error, if there is one", async () => {
  for (const error of [undefined, new Error("canceled")]) {
    const { seen, iterator } = numbers();
    const { writer, sent } = writerOf(COST);
    writer.start(iterator);
    await turn();
    void writer.stop(error);
    await turn();
    assert.deepEqual([sent.length, seen.closed, seen.thrown], [1, 1, error]);
    writer.onSent(LENGTH);
    await turn();
    assert.equal(sent.length, 1);
  }
  const { seen, iterator } = numbers();
  const { writer } = writerOf(COST);
  void writer.stop(undefined);
  writer.start(iterator);
  await turn();
  assert.equal(seen.pulled, 0);
});

test("iterables that always have a message leave the event loop its turns (TURN-1)", async () => {
  const writers = Array.from({ length: 4 }, () => {
    const { iterator, seen } = numbers();
    const { writer } = writerOf(2 ** 52);
    writer.start(iterator);
    return { writer, seen };
  });
  for (let i = 0; i < 5; i++) await turn();
  for (const { writer, seen } of writers) {
    assert.ok(seen.pulled > 0);
    void writer.stop(undefined);
  }
});
