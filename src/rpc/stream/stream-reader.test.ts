import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import type { ReceivedFrame } from "../../carrier/carrier.js";
import type { MessageCodec } from "../../codec/codec.js";
import { KeptBytes, KeptPool } from "../../memory/kept/kept-bytes.js";
import { Violation } from "../../memory/shm/violation.js";
import { FLAG, MESSAGE_COST_BYTES } from "../../wire/frame.js";
import { StreamReader, takeSingle } from "./stream-reader.js";

const numbers = {
  decode: (input: Uint8Array, offset: number, byteLength: number) => ({
    bytes: [...input.subarray(offset, offset + byteLength)],
  }),
} satisfies Pick<MessageCodec, "decode">;

/** Refuses messages that begin with 0. */
const choosy = {
  decode(input: Uint8Array, offset: number, byteLength: number) {
    if (input[offset] === 0) throw new Error("bad bytes");
    return numbers.decode(input, offset, byteLength);
  },
} satisfies Pick<MessageCodec, "decode">;

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

function readerOf(windowBytes: number, statusFollows = false, codec: Pick<MessageCodec, "decode"> = numbers) {
  const grants: number[] = [];
  const kept = new KeptBytes(Infinity, new KeptPool(Infinity));
  const options = {
    codec: codec as MessageCodec,
    receivePolicy: { lifetime: "collected", callLabel: "/test.Service/Method" },
    readMaxBytes: 1000,
    windowBytes,
    spanSource: undefined,
    isSingle: false,
    statusFollows,
    kept,
  } as const;
  const unreadable: ConnectError[] = [];
  const owner = {
    grant: (bytes: number) => void grants.push(bytes),
    onUnreadable: (error: ConnectError) => void unreadable.push(error),
  };
  return { reader: new StreamReader(options, owner), grants, kept, unreadable };
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

test("a message that is too large fails the call, not the connection", () => {
  assert.equal(readerOf(1000).reader.take(frameOf([1], { messageLength: 1001 }))?.code, Code.ResourceExhausted);
});

test("a message that cannot be decoded fails the call: at once if it is waited for, otherwise when it is pulled", async () => {
  const waited = readerOf(1000, false, choosy);
  const pull = waited.reader.next();
  assert.match(waited.reader.take(frameOf([0]))!.message, /parse binary: bad bytes/);
  assert.equal(waited.unreadable.length, 0);
  waited.reader.end(new ConnectError("refused", Code.Aborted));
  await assert.rejects(pull, /refused/);

  const { reader, kept, unreadable } = readerOf(1000, false, choosy);
  for (const first of [1, 0, 2]) assert.equal(reader.take(frameOf([first])), undefined);
  assert.deepEqual(await value(reader), [1]);
  await assert.rejects(reader.next(), /parse binary: bad bytes/);
  assert.match(unreadable[0].message, /parse binary: bad bytes/);
  // Nothing behind it is delivered, and it is reported once.
  assert.equal((await reader.next()).done, true);
  assert.equal(kept.used, 0);
});

test("messages are decoded when they are pulled, and counted until then (KEPT-1)", async () => {
  let decoded = 0;
  const counting = { decode: (...input: Parameters<typeof numbers.decode>) => (decoded++, numbers.decode(...input)) };
  const { reader, kept } = readerOf(100_000, false, counting);
  for (let i = 0; i < 10; i++) reader.take(frameOf([i, i, i]));
  reader.take(frameOf([1, 2], { flags: FLAG.more, messageLength: 3, inlineLength: 3 }));
  reader.take(frameOf([3], { messageLength: 3 }));
  assert.equal(decoded, 0);
  assert.equal(kept.used, 11 * (MESSAGE_COST_BYTES + 3));
  for (let i = 0; i < 10; i++) assert.deepEqual(await value(reader), [i, i, i]);
  assert.equal(kept.used, MESSAGE_COST_BYTES + 3);
  assert.deepEqual(await value(reader), [1, 2, 3]);
  assert.deepEqual([decoded, kept.used], [11, 0]);
  const pull = reader.next();
  reader.take(frameOf([9]));
  assert.deepEqual([decoded, kept.used], [12, 0]);
  await pull;
  for (let i = 0; i < 3; i++) reader.take(frameOf([i]));
  reader.take(frameOf([1], { flags: FLAG.more, messageLength: 3, inlineLength: 3 }));
  reader.drop(undefined);
  assert.deepEqual([decoded, kept.used], [12, 0]);
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
