/**
 * SOCKET-9: what a peer sees of messages whose memory was taken away while they waited. Each frame is as long as it
 * says, no message is completed with anything but its own bytes, and all others arrive.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { FIELD, FLAG, FRAME_HEADER_BYTES } from "../../wire/frame.js";
import { Borrowed, Parts } from "../../wire/parts.js";
import { randomOf } from "../../memory/shm/random.test.util.js";
import type { Owner } from "../../../test/support/temp.js";
import { collect, pair, send } from "../../../test/support/socket-carrier.js";
import { waitUntil } from "../../../test/support/waiting.js";
import type { SocketCarrier } from "./socket.js";

/** More than the socket takes at once. */
const MUCH = 1 << 20;

interface Arrived {
  readonly streamId: number;
  /** The fragments that came, joined. */
  readonly bytes: Buffer;
  readonly messageLength: number;
  readonly isComplete: boolean;
}

/** The messages in the bytes that a peer got, which end with a whole fragment. */
function parse(bytes: Buffer): Map<number, Arrived> {
  const messages = new Map<number, Arrived>();
  let at = 0;
  while (at < bytes.length) {
    const word = (field: number) => bytes.readInt32LE(at + 4 * field);
    const byteLength = word(FIELD.byteLength);
    const streamId = word(FIELD.streamId);
    const flags = bytes[at + 5];
    const follows = (flags & FLAG.follows) !== 0;
    const padded = (byteLength + 7) & -8;
    const from = follows ? at + padded : at + FRAME_HEADER_BYTES;
    const to = from + word(FIELD.fragmentLength);
    assert.ok(byteLength >= FRAME_HEADER_BYTES && to <= bytes.length, `a frame at byte ${at} that does not end`);
    const before = messages.get(streamId);
    assert.notEqual(before?.isComplete, true, `stream ${streamId} goes on after its message`);
    messages.set(streamId, {
      streamId,
      bytes: Buffer.concat([before?.bytes ?? Buffer.alloc(0), bytes.subarray(from, to)]),
      messageLength: word(FIELD.messageLength),
      isComplete: (flags & FLAG.more) === 0,
    });
    at = follows ? to : at + padded;
  }
  return messages;
}

/** A message of borrowed memory between a few bytes of its own. */
class Message {
  readonly streamId: number;
  readonly values: Uint8Array[];
  readonly expected: Buffer;
  readonly parts: Parts;
  isTaken = false;
  failure: Error | undefined;
  returned = 0;

  private readonly fragmentBytesMax: number;

  constructor(streamId: number, sizes: readonly number[], fragmentBytesMax = Infinity) {
    this.streamId = streamId;
    this.fragmentBytesMax = fragmentBytesMax;
    this.values = sizes.map((byteLength, i) => new Uint8Array(byteLength).fill(1 + ((streamId + i) % 250)));
    const own = Buffer.from("own");
    const joined = this.values.flatMap((value) => [own, value]);
    this.expected = Buffer.concat([...joined, own]);
    this.parts = new Parts([...this.values.flatMap((value) => [own, new Borrowed(value)]), own]);
    this.parts.onReturned = () => this.returned++;
  }

  /** Hands over as much as there is room for. True: all of it, or it has failed. */
  send(carrier: SocketCarrier): boolean {
    const { parts } = this;
    try {
      while (parts.leftBytes > 0) {
        const bytesMax = Math.min(this.fragmentBytesMax, carrier.fragmentBytesMax);
        const length = parts.nextLength(bytesMax, carrier.borrowedEndBytesMax);
        if (!send(carrier, this.streamId, undefined, parts, length)) return false;
      }
    } catch (error) {
      this.failure = error as Error;
    }
    return true;
  }

  take(): void {
    this.isTaken = true;
    const [{ buffer }] = this.values.slice(this.streamId % this.values.length);
    structuredClone(buffer, { transfer: [buffer as ArrayBuffer] });
  }

  /** What the peer may have of it. */
  check(arrived: Arrived | undefined): void {
    const name = `message ${this.streamId} of ${this.expected.length} bytes`;
    const hasFailed = this.failure !== undefined || this.parts.failure !== undefined;
    if (arrived?.isComplete === true)
      assert.ok(arrived.bytes.equals(this.expected), `${name} arrived as something else`);
    else assert.ok(hasFailed, `${name} is missing, and nobody was told`);
    assert.ok(!hasFailed || this.isTaken, `${name} failed`);
  }
}

async function scene(owner: Owner) {
  const { carrier, raw } = await pair(owner);
  const received = collect(raw);
  raw.pause();
  return {
    carrier,
    raw,
    received,
    /** All that the peer gets. */
    all: async (): Promise<Map<number, Arrived>> => {
      raw.resume();
      await waitUntil("everything to leave", () => carrier.stats().unsentBytes === 0);
      assert.equal(carrier.closed, false);
      assert.equal(carrier.idle, true);
      // The last message of all.
      assert.equal(send(carrier, 0xffff, "the end"), true);
      await waitUntil("the end", () => received.bytes().subarray(-8).toString("latin1").includes("the end"));
      const messages = parse(received.bytes());
      messages.delete(0xffff);
      return messages;
    },
  };
}

test("a fragment that completes its message arrives whole if it has begun", async (context) => {
  const { carrier, all } = await scene(context);
  const before = new Message(1, [90_000]);
  const cut = new Message(2, [100_000, 60_000]);
  const messages = [before, cut];
  for (const message of messages) assert.equal(message.send(carrier), true);
  carrier.hurry();
  assert.ok(carrier.stats().unsentBytes > 0 && carrier.stats().unsentBytes < cut.expected.length, "it is cut");
  assert.equal(cut.returned, 1, "its memory is its user's again");
  cut.take();
  const arrived = await all();
  assert.deepEqual([...arrived.keys()], [1, 2]);
  messages.forEach((message) => message.check(arrived.get(message.streamId)));
  assert.equal(cut.parts.failure, undefined);
});

test("zeros make up for what is missing of a longer message, which is not completed", async (context) => {
  const { carrier, all } = await scene(context);
  const cut = new Message(1, [MUCH]);
  cut.send(carrier);
  assert.equal(cut.parts.leftBytes, 0);
  carrier.hurry();
  cut.take();
  const behind = new Message(2, [50_000]);
  behind.send(carrier);
  const arrived = await all();
  const { bytes, isComplete, messageLength } = arrived.get(1)!;
  assert.deepEqual([isComplete, messageLength], [false, cut.expected.length]);
  assert.ok(bytes.length < cut.expected.length);
  const sent = bytes.lastIndexOf(2) + 1;
  assert.ok(sent > 0 && bytes.subarray(0, sent).equals(cut.expected.subarray(0, sent)));
  assert.ok(bytes.subarray(sent).equals(Buffer.alloc(bytes.length - sent)));
  assert.match(cut.parts.failure!.message, /lost their memory/);
  assert.equal(cut.returned, 1);
  behind.check(arrived.get(2));
});

test("fragments that have not begun are taken back, with all that the message has queued", async (context) => {
  const { carrier, all } = await scene(context);
  const first = new Message(1, [MUCH / 2]);
  const lost = [new Message(2, [40_000]), new Message(3, [300_000, 50_000]), new Message(4, [64, 100_000])];
  const last = new Message(5, [50_000]);
  const messages = [first, ...lost, last];
  first.send(carrier);
  carrier.hurry();
  for (const message of [...lost, last]) assert.equal(message.send(carrier), true);
  for (const message of lost) message.take();
  const arrived = await all();
  assert.deepEqual([...arrived.keys()], [1, 5]);
  messages.forEach((message) => message.check(arrived.get(message.streamId)));
  assert.deepEqual(
    messages.map(({ returned, parts }) => [returned, parts.bytesOnLoan]),
    messages.map(() => [1, 0]),
  );
});

test("all that waits may be taken back, again and again, and there is room again", async (context) => {
  const { carrier, raw, all } = await scene(context);
  const others: Message[] = [];
  const sendOther = () => {
    const other = new Message(1 + others.length, [400_000]);
    others.push(other);
    assert.equal(other.send(carrier), true);
    carrier.hurry();
  };
  // With frames so long that they use up the staging memory, too.
  for (const [body, count] of [
    [undefined, 14],
    ["x".repeat(30_000), 8],
  ] as const) {
    for (let round = 0; round < 4; round++) {
      // Keeps the socket busy.
      sendOther();
      const { unsentBytes } = carrier.stats();
      assert.ok(unsentBytes > 0);
      const lost = Array.from({ length: count }, (_, i) => new Message(100 + i, [40_000]));
      for (const { parts, streamId } of lost)
        assert.equal(send(carrier, streamId, body, parts, parts.byteLength), true, "there is room");
      assert.ok(carrier.stats().unsentBytes > unsentBytes + count * 40_000);
      for (const message of lost) message.take();
      raw.resume();
      await waitUntil("it to be taken back", () => lost.every(({ returned }) => returned === 1));
      raw.pause();
      assert.equal(carrier.stats().unsentBytes, 0);
    }
  }
  // A part of it is with the socket, another one waits.
  for (let round = 0; round < 4; round++) {
    const lost = new Message(200 + 2 * round, [300_000, 1_500_000]);
    assert.equal(send(carrier, lost.streamId, undefined, lost.parts, 300_000), true);
    carrier.hurry();
    assert.equal(lost.send(carrier), true, "there is room");
    lost.take();
    raw.resume();
    await waitUntil("it to be taken back", () => lost.returned === 1);
    raw.pause();
    await waitUntil("zeros to leave", () => carrier.stats().unsentBytes === 0);
  }
  sendOther();
  const arrived = await all();
  assert.deepEqual(
    [...arrived.keys()].filter((streamId) => streamId < 100),
    others.map(({ streamId }) => streamId),
  );
  for (const message of others) message.check(arrived.get(message.streamId));
});

test("whatever waits, whenever its memory goes and whenever the peer reads", async (context) => {
  const below = randomOf(context);
  for (let round = 0; round < 12; round++) {
    const { carrier, raw, all } = await scene(context);
    const messages: Message[] = [];
    let waiting: Message[] = [];
    for (let step = 0; step < 120; step++) {
      const action = below(10);
      if (action < 4) {
        const sizes = Array.from({ length: 1 + below(3) }, () => [64, 5_000, 40_000, 150_000, 270_000, MUCH][below(6)]);
        const message = new Message(messages.length + 1, sizes, [100_000, 300_000, Infinity][below(3)]);
        messages.push(message);
        if (!message.send(carrier)) waiting.push(message);
      } else if (action < 6) {
        // The first of them may have begun.
        const reading = messages.filter(({ parts, isTaken }) => parts.bytesOnLoan > 0 && !isTaken);
        reading[below(2) * below(reading.length)]?.take();
      } else if (action === 6 && messages.length > 0) {
        if (below(3) === 0) carrier.keep(messages[below(messages.length)].parts);
      } else if (action === 7) {
        carrier.hurry();
      } else if (below(2) === 0) {
        raw.resume();
        await sleep(below(3));
      } else {
        raw.pause();
        await sleep(0);
      }
      waiting = waiting.filter((message) => !message.send(carrier));
    }
    raw.resume();
    await waitUntil("room for all", () => (waiting = waiting.filter((message) => !message.send(carrier))).length === 0);
    const arrived = await all();
    for (const message of messages) {
      message.check(arrived.get(message.streamId));
      assert.equal(message.parts.bytesOnLoan, 0);
    }
    carrier.close({ cause: "local", detail: "next" });
  }
});
