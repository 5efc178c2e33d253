/** The sendQueue over a carrier with little room: everything leaves, as long as what it says it waits for comes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { SendingCarrier } from "../carrier/carrier.js";
import type { MessageCodec } from "../codec/codec.js";
import {
  BLOCK_REFERENCE_BYTES,
  FIELD,
  FLAG,
  FRAME_BYTES_MAX,
  FRAME_HEADER_BYTES,
  INLINE_BYTES_MAX,
  KIND,
  SLOT_BITS,
} from "../wire/frame.js";
import type { Parts } from "../wire/parts.js";
import { KEPT, SendQueue } from "./send-queue.js";

const RING_BYTES = 20 << 10;
const BLOCKS = 3;
const FRAGMENT_BYTES = 16 << 10;
const RUNS = 2000;

interface Sent {
  readonly streamId: number;
  readonly fragmentLength: number;
  readonly byteLength: number;
  readonly block: boolean;
}

/** A carrier whose room the test gives back frame by frame. */
class NarrowCarrier implements SendingCarrier {
  readonly ringBytes = new Uint8Array(2 * FRAME_BYTES_MAX);
  readonly ringWords = new Int32Array(this.ringBytes.buffer);
  readonly index = 0;
  readonly fragmentBytesMax = FRAGMENT_BYTES;
  readonly borrowedEndBytesMax = FRAGMENT_BYTES;
  readonly fragmentFlag = FLAG.inBlock;
  readonly closed = false;
  readonly blocks = undefined;
  readonly receiving = undefined;
  readonly idle = true;
  awaits = { space: false, blocks: false };
  /** In the ring. */
  readonly frames: Sent[] = [];
  /** All that has left. */
  readonly sent: Sent[] = [];
  private usedBytes = 0;
  private usedBlocks = 0;
  private readonly block = new Uint8Array(FRAGMENT_BYTES);
  private placed = false;

  freeBytes(): number {
    return RING_BYTES - this.usedBytes;
  }

  commit(byteLength: number): void {
    const words = this.ringWords;
    const frame = {
      streamId: words[FIELD.streamId],
      fragmentLength: words[FIELD.fragmentLength],
      byteLength,
      block: this.placed,
    };
    assert.ok(byteLength <= this.freeBytes());
    this.placed = false;
    this.usedBytes += byteLength;
    this.frames.push(frame);
    this.sent.push(frame);
  }

  placeFragment(source: Parts, byteLength: number): number {
    if (this.usedBlocks === BLOCKS) return -1;
    source.copyTo(this.block, 0, byteLength);
    this.usedBlocks++;
    this.placed = true;
    return BLOCK_REFERENCE_BYTES;
  }

  /** The peer takes a frame. */
  take(): void {
    const frame = this.frames.shift()!;
    this.usedBytes -= frame.byteLength;
    if (frame.block) this.usedBlocks--;
  }

  setWaitFor(space: boolean, blocks: boolean): void {
    this.awaits = { space, blocks };
  }

  publish(): void {}
  hurry(): void {}
  keep(): void {}
  prewake(): void {}
  requestPump(): void {}
  close(): void {}
}

/** Messages are their lengths. */
const codec: MessageCodec = {
  encodeInto: (message, _target, offset, limit) =>
    (message as number) <= limit - offset ? (message as number) : -1 - (message as number),
  encode: (message) => ({ inline: new Uint8Array(message as number), spans: [], byteLength: message as number }),
  decode: () => undefined,
};

function newOutbox() {
  const carrier = new NarrowCarrier();
  const left: number[] = [];
  const sendQueue = new SendQueue(carrier, {
    onSent: (streamId) => left.push(streamId),
    onFailed: (_, thrown) => assert.fail(String(thrown)),
  });
  const send = (streamId: number, byteLength: number) => {
    if (
      sendQueue.send({
        kind: KIND.request,
        flags: FLAG.endStream,
        code: 0,
        streamId,
        argument: 0,
        metadata: undefined,
        codec,
        message: byteLength,
        writeMaxBytes: 1 << 30,
        label: "",
      }) !== KEPT
    )
      left.push(streamId);
  };
  /** As the carrier's step: what was waited for has come. */
  const goOn = () => {
    if (carrier.awaits.space || carrier.awaits.blocks) sendQueue.pump();
  };
  return { carrier, left, sendQueue, send, goOn };
}

/** Repeatable numbers from 0 to 1. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

test("whatever is sent in whatever order, everything leaves, as one whole each, when the peer takes what there is", () => {
  for (let run = 0; run < RUNS; run++) {
    const random = randomFrom(run);
    const { carrier, left, send, goOn } = newOutbox();
    const lengths = new Map<number, number>();
    const messages = 3 + Math.floor(random() * 12);
    while (lengths.size < messages) {
      if (random() < 0.7) {
        const streamId = lengths.size + 1;
        const byteLength =
          random() < 0.3
            ? INLINE_BYTES_MAX + 1 + Math.floor(random() * 4 * FRAGMENT_BYTES)
            : Math.floor(random() * INLINE_BYTES_MAX * (random() < 0.5 ? 1 : 0.2));
        lengths.set(streamId, byteLength);
        send(streamId, byteLength);
      } else {
        for (let taken = Math.floor(random() * 4); taken > 0 && carrier.frames.length > 0; taken--) carrier.take();
        goOn();
      }
    }
    while (carrier.frames.length > 0) {
      for (let taken = 1 + Math.floor(random() * carrier.frames.length); taken > 0; taken--) carrier.take();
      goOn();
    }
    assert.deepEqual(
      carrier.awaits,
      { space: false, blocks: false },
      `run ${run}: it waits although the peer has taken everything`,
    );
    const arrived = new Map<number, number>();
    for (const { streamId, fragmentLength } of carrier.sent)
      arrived.set(streamId, (arrived.get(streamId) ?? 0) + fragmentLength);
    assert.deepEqual(new Map([...arrived].sort(([a], [b]) => a - b)), lengths, `run ${run}`);
    assert.deepEqual(
      [...left].sort((a, b) => a - b),
      [...lengths.keys()],
      `run ${run}`,
    );
  }
});

test("a large message goes on when the small ones before it have left behind another large one", () => {
  const { carrier, left, send, goOn } = newOutbox();
  // A frame of the one and a frame of the other leave room for a header, but not for a fragment.
  const [most, rest] = [INLINE_BYTES_MAX, RING_BYTES - INLINE_BYTES_MAX - 3 * FRAME_HEADER_BYTES];
  send(1, rest);
  send(2, most);
  send(3, 2 * FRAGMENT_BYTES);
  send(4, rest);
  send(5, 2 * FRAGMENT_BYTES);
  send(6, 100);
  assert.equal(carrier.freeBytes(), FRAME_HEADER_BYTES);
  carrier.take();
  goOn();
  assert.deepEqual(left, [1, 2, 4]);
  // The first large one found no room, so it goes first this time; then the last small one leaves, which the second has
  // waited for.
  for (; carrier.frames.length > 0; goOn()) carrier.take();
  assert.deepEqual(left, [1, 2, 4, 3, 6, 5]);
});

test("so does one that came later, and is behind small ones", () => {
  const { carrier, left, sendQueue, send, goOn } = newOutbox();
  send(1, INLINE_BYTES_MAX);
  send(2, RING_BYTES - INLINE_BYTES_MAX - 3 * FRAME_HEADER_BYTES);
  send(3, 2 * FRAGMENT_BYTES);
  send(4, 100);
  send(5, 2 * FRAGMENT_BYTES);
  // Woken for nothing.
  sendQueue.pump();
  assert.deepEqual(left, [1, 2]);
  for (; carrier.frames.length > 0; goOn()) carrier.take();
  assert.deepEqual(left, [1, 2, 3, 4, 5]);
});

test("a message that waits for room leaves as it was when it was sent", () => {
  const { carrier, sendQueue, send, goOn } = newOutbox();
  send(1, INLINE_BYTES_MAX);
  send(2, RING_BYTES - INLINE_BYTES_MAX - 3 * FRAME_HEADER_BYTES);
  const bytes = Uint8Array.of(1, 2, 3);
  const copying: MessageCodec = {
    encodeInto(message, target, offset, limit) {
      const { length } = message as Uint8Array;
      if (length > limit - offset) return -1 - length;
      target.set(message as Uint8Array, offset);
      return length;
    },
    encode: (message) => ({ inline: Uint8Array.from(message as Uint8Array), spans: [], byteLength: 3 }),
    decode: () => undefined,
  };
  const head = { kind: KIND.request, flags: FLAG.endStream, code: 0, streamId: 3, argument: 0, metadata: undefined };
  assert.equal(sendQueue.send({ ...head, codec: copying, message: bytes, writeMaxBytes: 1 << 30, label: "" }), KEPT);
  bytes.fill(9);
  for (; carrier.frames.length > 0; goOn()) carrier.take();
  assert.deepEqual(
    carrier.sent.map(({ streamId }) => streamId),
    [1, 2, 3],
  );
  assert.deepEqual([...carrier.ringBytes.subarray(FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + 3)], [1, 2, 3]);
});

test("a reset that waits for room leaves, whatever is dropped of its stream, and does not hold its slot", () => {
  const { carrier, sendQueue, send, goOn } = newOutbox();
  send(1, INLINE_BYTES_MAX);
  send(2, RING_BYTES - INLINE_BYTES_MAX - 2 * FRAME_HEADER_BYTES);
  const slot = 5;
  const [given, next] = [(1 << SLOT_BITS) | slot, (2 << SLOT_BITS) | slot];
  assert.equal(sendQueue.drop(given), "sent");
  sendQueue.sendControl(KIND.reset, 1, given, 0);
  sendQueue.drop(given);
  assert.equal(sendQueue.holds(slot), false);
  send(next, 10);
  assert.equal(sendQueue.holds(slot), true);
  // Room for one frame: the reset. The next call of the slot still waits.
  carrier.take();
  const left = carrier.sent.length + carrier.frames.length;
  sendQueue.pump();
  assert.ok(carrier.sent.length + carrier.frames.length > left);
  for (; carrier.frames.length > 0; goOn()) carrier.take();
  assert.deepEqual(
    carrier.sent.map(({ streamId }) => streamId),
    [1, 2, given, next],
  );
  assert.equal(sendQueue.holds(slot), false);
});

test("large messages take turns fragment by fragment, and small ones pass them", () => {
  const { carrier, send, goOn } = newOutbox();
  send(1, 6 * FRAGMENT_BYTES);
  send(2, 6 * FRAGMENT_BYTES);
  for (let streamId = 3; carrier.frames.length > 0; streamId++) {
    carrier.take();
    goOn();
    if (streamId < 7) send(streamId, 100);
  }
  const order = carrier.sent.map(({ streamId }) => streamId);
  assert.equal(order.filter((streamId) => streamId === 1).length, 6);
  assert.equal(order.filter((streamId) => streamId === 2).length, 6);
  // Its first fragments went before the other was there.
  const large = order.filter((streamId) => streamId <= 2).slice(order.indexOf(2));
  for (let i = 1; i < large.length && large.slice(i).includes(3 - large[i - 1]); i++)
    assert.notEqual(large[i], large[i - 1], order.join());
  for (const small of [3, 4, 5, 6]) assert.ok(order.indexOf(small) < order.lastIndexOf(1), order.join());
});
