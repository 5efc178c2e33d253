import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import type { ReceivedFrame } from "../../carrier/carrier.js";
import type { MessageCodec } from "../../codec/codec.js";
import { Violation } from "../../memory/shm/violation.js";
import { FLAG, MESSAGE_COST_BYTES } from "../../wire/frame.js";
import { StreamReader, takeSingle } from "./stream-reader.js";

const codec = {
  decode: (input: Uint8Array, offset: number, byteLength: number) => ({
    bytes: [...input.subarray(offset, offset + byteLength)],
  }),
} as unknown as MessageCodec;

function frameOf(bytes: number[], more: Partial<ReceivedFrame> = {}): ReceivedFrame {
  const scratch = Uint8Array.from(bytes);
  const length = bytes.length;
  return {
    flags: 0,
    messageLength: length,
    inlineLength: length,
    fragmentLength: length,
    scratch,
    fragmentSource: scratch,
    fragmentOffset: 0,
    spanCount: 0,
    following: false,
    spans: [],
    ...more,
  } as unknown as ReceivedFrame;
}

function readerOf(windowBytes: number, statusFollows = false) {
  const grants: number[] = [];
  const options = {
    codec,
    receivePolicy: { lifetime: "collected", callLabel: "/test.Service/Method" },
    readMaxBytes: 1000,
    windowBytes,
    spanSource: undefined,
    isSingle: false,
    statusFollows,
  } as const;
  return { reader: new StreamReader(options, (bytes) => grants.push(bytes)), grants };
}

const violation = (rule: string) => (error: unknown) => error instanceof Violation && error.rule === rule;
const value = async (reader: StreamReader) => ((await reader.next()).value as { bytes: number[] } | undefined)?.bytes;

test("messages are pulled in the order they came, before and after somebody waits", async () => {
  const { reader } = readerOf(10_000);
  reader.take(frameOf([1]));
  reader.take(frameOf([2]));
  assert.deepEqual([await value(reader), await value(reader)], [[1], [2]]);
  const later = [value(reader), value(reader), value(reader)];
  reader.take(frameOf([3]));
  reader.take(frameOf([4]));
  reader.onEnd();
  assert.deepEqual(await Promise.all(later), [[3], [4], undefined]);
  assert.equal((await reader.next()).done, true);
});

test("what is pulled is granted, from half a window on; what waits is not (CREDIT-2)", async () => {
  const { reader, grants } = readerOf(4 * (MESSAGE_COST_BYTES + 1));
  for (let i = 0; i < 4; i++) reader.take(frameOf([i]));
  assert.throws(() => reader.take(frameOf([9])), violation("CREDIT-1"));
  await reader.next();
  assert.deepEqual(grants, []);
  await reader.next();
  assert.deepEqual(grants, [2 * (MESSAGE_COST_BYTES + 1)]);
  reader.take(frameOf([4]));
  reader.take(frameOf([5]));
  assert.throws(() => reader.take(frameOf([9])), violation("CREDIT-1"));
});

test("nothing is granted once the last message has begun", async () => {
  const { reader, grants } = readerOf(200);
  reader.take(frameOf([1], { flags: FLAG.endStream }));
  await reader.next();
  assert.deepEqual(grants, []);
  assert.equal((await reader.next()).done, true);
});

test("a last message does not end a direction that has a status yet to come", async () => {
  const { reader } = readerOf(200, true);
  reader.take(frameOf([1], { flags: FLAG.endStream }));
  await reader.next();
  const pending = reader.next();
  reader.end(new ConnectError("failed", Code.Aborted));
  await assert.rejects(pending, /failed/);
});

test("many messages that wait are pulled one by one, through every clearing away", async () => {
  const { reader } = readerOf(2 ** 30);
  let next = 0;
  for (let i = 0; i < 5000; i++) {
    reader.take(frameOf([i & 0xff, i >> 8]));
    if (i % 3 === 0) assert.deepEqual(await value(reader), [next & 0xff, next++ >> 8]);
  }
  for (; next < 5000; next++) assert.deepEqual(await value(reader), [next & 0xff, next >> 8]);
});

test("an error comes after what had arrived, once; then the iterator is done", async () => {
  const { reader } = readerOf(1000);
  reader.take(frameOf([1]));
  reader.end(new ConnectError("gone", Code.Unavailable));
  assert.deepEqual(await value(reader), [1]);
  await assert.rejects(reader.next(), /gone/);
  assert.equal((await reader.next()).done, true);
});

test("what is dropped is not pulled any more", async () => {
  const { reader } = readerOf(1000);
  reader.take(frameOf([1]));
  reader.drop(new ConnectError("canceled", Code.Canceled));
  await assert.rejects(reader.next(), /canceled/);
});

test("messages that are too large or cannot be decoded fail the call, not the connection", () => {
  assert.equal(readerOf(1000).reader.take(frameOf([1], { messageLength: 1001 }))?.code, Code.ResourceExhausted);
  const { reader } = readerOf(1000);
  const failing = new StreamReader(
    {
      ...(reader as unknown as { options: object }).options,
      codec: {
        decode: () => {
          throw new Error("bad bytes");
        },
      },
    } as never,
    () => undefined,
  );
  assert.match(failing.take(frameOf([1]))!.message, /parse binary: bad bytes/);
});

test("after the last message nothing may come, and no end within one (STREAM-8, STREAM-9)", () => {
  const { reader } = readerOf(1000);
  reader.take(frameOf([1], { flags: FLAG.more, messageLength: 3, inlineLength: 3 }));
  assert.throws(() => reader.onEnd(), violation("STREAM-9"));
  reader.take(frameOf([2, 3], { messageLength: 3 }));
  reader.onEnd();
  assert.throws(() => reader.onEnd(), violation("STREAM-8"));
  assert.throws(() => reader.take(frameOf([1])), violation("STREAM-8"));
});

test("exactly one message is single", async () => {
  async function* of(...messages: unknown[]) {
    for (const message of messages) yield await Promise.resolve(message);
  }
  assert.equal(await takeSingle(of(7)), 7);
  for (const messages of [of(), of(1, 2)])
    await assert.rejects(
      takeSingle(messages),
      (error: unknown) => error instanceof ConnectError && error.code === Code.Unimplemented,
    );
});
