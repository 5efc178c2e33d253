import assert from "node:assert/strict";
import test from "node:test";
import { RING_DATA_OFFSET, WORD } from "./layout.js";
import { randomOf, violationOf } from "./random.test.util.js";
import { RingReader, RingWriter } from "./ring.js";

const CAPACITY = 65536;

/** Both ends of one direction, and the words of both sides. */
function makeRing(capacity = CAPACITY) {
  const writerWords = new Int32Array(RING_DATA_OFFSET / 4);
  const readerWords = new Int32Array(RING_DATA_OFFSET / 4);
  const writer = new RingWriter(writerWords, readerWords, capacity);
  const reader = new RingReader(readerWords, writerWords, capacity);
  /** Moves both ends by `byteLength` bytes. */
  const pass = (byteLength: number) => {
    assert.ok(writer.free(byteLength) >= byteLength);
    writer.commit(byteLength);
    writer.publish();
    assert.equal(reader.available(), byteLength);
    reader.consume(byteLength);
    reader.publishHead();
  };
  return { writer, reader, writerWords, readerWords, pass };
}

/** A ring whose cursors are at `position`, because that many bytes were passed through it. */
function ringAt(position: number) {
  const ring = makeRing();
  for (let at = 0; at < position; ) {
    const byteLength = Math.min(CAPACITY, position - at);
    ring.pass(byteLength);
    at += byteLength;
  }
  assert.equal(ring.writerWords[WORD.tail], position | 0);
  return ring;
}

test("a committed frame is seen when it is published, not before", () => {
  const { writer, reader } = makeRing();
  assert.equal(writer.publish(), false);
  writer.commit(40);
  assert.equal(writer.hasUnpublished, true);
  assert.equal(reader.hasFrames(), false);
  assert.equal(writer.publish(), true);
  assert.equal(writer.publish(), false);
  assert.equal(reader.hasFrames(), true);
  assert.equal(reader.available(), 40);
});

test("frames start at multiples of eight bytes", () => {
  const { writer, reader } = makeRing();
  writer.commit(33);
  assert.equal(writer.index, 40);
  writer.commit(1);
  assert.equal(writer.index, 48);
  writer.publish();
  assert.equal(reader.available(), 48);
});

test("RING-2: room that was consumed comes back when the head is published, not before", () => {
  const { writer, reader } = makeRing();
  assert.equal(writer.free(CAPACITY), CAPACITY);
  writer.commit(CAPACITY);
  assert.equal(writer.free(8), 0);
  writer.publish();
  reader.consume(reader.available());
  assert.equal(writer.free(8), 0);
  assert.equal(writer.headMoved(), false);
  assert.equal(reader.publishHead(), true);
  assert.equal(reader.publishHead(), false);
  assert.equal(writer.headMoved(), true);
  assert.equal(writer.free(8), CAPACITY);
  assert.equal(writer.headMoved(), false);
});

test("the head is not looked at while enough room is known", () => {
  let loads = 0;
  const words = {
    load: (array: Int32Array, index: number) => (loads++, array[index]),
    store: (array: Int32Array, index: number, value: number) => (array[index] = value),
  };
  const writer = new RingWriter(
    new Int32Array(RING_DATA_OFFSET / 4),
    new Int32Array(RING_DATA_OFFSET / 4),
    CAPACITY,
    words,
  );
  writer.free(CAPACITY);
  assert.equal(loads, 0);
  writer.commit(8);
  writer.free(CAPACITY);
  assert.equal(loads, 1);
});

test("RING-1: committing past the reader's head is our own bug and says so", () => {
  const { writer } = makeRing();
  writer.commit(CAPACITY - 8);
  assert.throws(() => writer.commit(16), /broken invariant: RING-1/);
});

for (const [name, position] of [
  ["the sign changes", 2 ** 31],
  ["the position wraps", 2 ** 32],
] as const) {
  test(`frames pass where ${name}, in an empty and in a full ring`, (context) => {
    const random = randomOf(context);
    const { writer, reader, pass } = ringAt(position - 24);
    pass(40);
    const sizes: number[] = [];
    for (let round = 0; round < 2000; round++) {
      for (let free = writer.free(CAPACITY); free >= 8 && random(4) > 0; free = writer.free(CAPACITY)) {
        const size = 8 * (1 + random(Math.min(free / 8, 1000)));
        writer.commit(size);
        sizes.push(size);
      }
      writer.publish();
      const published = sizes.reduce((sum, size) => sum + size, 0);
      assert.equal(reader.available(), published);
      assert.equal(writer.free(CAPACITY), CAPACITY - published);
      for (let left = random(sizes.length + 1); left > 0; left--) reader.consume(sizes.shift()!);
      reader.publishHead();
    }
  });

  test(`RING-1, RING-3: a hostile cursor is found where ${name}`, () => {
    for (const advance of [-8, CAPACITY + 8, 4, 2 ** 31 - 8, -(2 ** 31)]) {
      const { reader, writerWords } = ringAt(position - 24);
      writerWords[WORD.tail] = (position - 24 + advance) | 0;
      assert.throws(() => reader.available(), violationOf("RING-1"), `a tail that moves by ${advance}`);
    }
    for (const advance of [-8, 48, 4, 2 ** 31 - 8, -(2 ** 31)]) {
      const { writer, readerWords } = ringAt(position - 24);
      assert.equal(writer.free(CAPACITY), CAPACITY);
      writer.commit(40);
      writer.publish();
      readerWords[WORD.head] = (position - 24 + advance) | 0;
      assert.throws(() => writer.free(CAPACITY), violationOf("RING-3"), `a head that moves by ${advance}`);
    }
  });
}

test("RING-1: a tail beyond the capacity, backwards or unaligned is a violation", () => {
  for (const tail of [CAPACITY + 8, -8, 4, 1, 0x7fffffff, -0x80000000]) {
    const { reader, writerWords } = makeRing();
    writerWords[WORD.tail] = tail;
    assert.throws(
      () => reader.available(),
      violationOf("RING-1", /bytes published in a ring of 65536/),
      `tail ${tail}`,
    );
  }
});

test("RING-1: a tail that goes back behind what was consumed is a violation", () => {
  const { reader, writerWords, pass } = makeRing();
  pass(64);
  writerWords[WORD.tail] = 56;
  assert.equal(reader.hasFrames(), true);
  assert.throws(() => reader.available(), violationOf("RING-1", /^protocol violation RING-1: -8 bytes/));
});

test("RING-1: a ring that is exactly full is no violation", () => {
  const { reader, writerWords } = makeRing();
  writerWords[WORD.tail] = CAPACITY;
  assert.equal(reader.available(), CAPACITY);
});

test("RING-3: a head beyond what was published is a violation, even if it was committed", () => {
  for (const head of [48, -8, 4, CAPACITY, 0x7fffffff, -0x80000000]) {
    const { writer, readerWords } = makeRing();
    writer.commit(40);
    writer.publish();
    writer.commit(40);
    readerWords[WORD.head] = head;
    assert.throws(() => writer.free(CAPACITY), violationOf("RING-3", /the read cursor moved by/), `head ${head}`);
  }
});

test("RING-3: a head that goes back behind where it was seen is a violation", () => {
  const { writer, readerWords, pass } = makeRing();
  pass(64);
  writer.free(CAPACITY);
  writer.commit(8);
  readerWords[WORD.head] = 56;
  assert.throws(() => writer.free(CAPACITY), violationOf("RING-3", /moved by -8 bytes/));
});

test("what the peer publishes is loaded once for each use", () => {
  let loads = 0;
  const words = { load: () => (loads++, 64), store: (_: Int32Array, __: number, value: number) => value };
  const reader = new RingReader(
    new Int32Array(RING_DATA_OFFSET / 4),
    new Int32Array(RING_DATA_OFFSET / 4),
    CAPACITY,
    words,
  );
  assert.equal(reader.available(), 64);
  assert.equal(loads, 1);
});
