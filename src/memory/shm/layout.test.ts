import assert from "node:assert/strict";
import test from "node:test";
import {
  ARENA_UNIT_BYTES,
  HEADER_BYTES,
  RELEASE_OFFSET,
  RELEASE_SLOTS_MAX,
  RING_DATA_OFFSET,
  WORD,
  readArenaHeader,
  readRingHeader,
  ringSegmentBytes,
  writeArenaHeader,
  writeRingHeader,
} from "./layout.js";
import { violationOf } from "./random.test.util.js";

const RING = { ringBytes: 1 << 20, releaseSlots: 1024 };
const RING_SEGMENT = ringSegmentBytes(RING);
const ARENA = { arenaBytes: 64 << 20 };

/** The fields of a header as 32-bit words. */
const FIELD = { magic: 0, version: 1, kind: 2, segmentBytes: 3, ringBytes: 4, releaseSlots: 5 } as const;

function ringHeader(changes: Partial<Record<keyof typeof FIELD, number>> = {}): Uint8Array {
  const segment = new ArrayBuffer(HEADER_BYTES);
  writeRingHeader(segment, RING);
  return changed(segment, changes);
}

function arenaHeader(changes: Partial<Record<keyof typeof FIELD, number>> = {}): Uint8Array {
  const segment = new ArrayBuffer(HEADER_BYTES);
  writeArenaHeader(segment, ARENA);
  return changed(segment, changes);
}

function changed(segment: ArrayBuffer, changes: Partial<Record<keyof typeof FIELD, number>>): Uint8Array {
  const words = new Uint32Array(segment);
  for (const [field, value] of Object.entries(changes)) words[FIELD[field as keyof typeof FIELD]] = value;
  return new Uint8Array(segment);
}

test("a header gives back the geometry that was written", () => {
  assert.deepEqual(readRingHeader(ringHeader(), RING_SEGMENT), RING);
  assert.deepEqual(readArenaHeader(arenaHeader(), ARENA.arenaBytes), ARENA);
});

test("the smallest and the largest geometry are good", () => {
  for (const geometry of [
    { ringBytes: 65536, releaseSlots: 1 },
    { ringBytes: 1 << 28, releaseSlots: 4096 },
  ]) {
    const segment = new ArrayBuffer(HEADER_BYTES);
    writeRingHeader(segment, geometry);
    assert.deepEqual(readRingHeader(new Uint8Array(segment), ringSegmentBytes(geometry)), geometry);
  }
  for (const arenaBytes of [2 * RING_DATA_OFFSET, 2 ** 32 - RING_DATA_OFFSET]) {
    const segment = new ArrayBuffer(HEADER_BYTES);
    writeArenaHeader(segment, { arenaBytes });
    assert.deepEqual(readArenaHeader(new Uint8Array(segment), arenaBytes), { arenaBytes });
  }
});

test("a geometry of our own that cannot be is refused before anything is written", () => {
  for (const ringBytes of [0, -65536, 32768, 65537, 3 << 16, 1 << 29, 2 ** 32, NaN, 65536.5]) {
    assert.throws(
      () => writeRingHeader(new ArrayBuffer(HEADER_BYTES), { ...RING, ringBytes }),
      RangeError,
      `ring bytes ${ringBytes}`,
    );
  }
  for (const releaseSlots of [0, -1, 3, 8192, NaN, 1.5]) {
    assert.throws(
      () => writeRingHeader(new ArrayBuffer(HEADER_BYTES), { ...RING, releaseSlots }),
      RangeError,
      `slots ${releaseSlots}`,
    );
  }
  for (const arenaBytes of [
    0,
    RING_DATA_OFFSET,
    2 * RING_DATA_OFFSET + ARENA_UNIT_BYTES,
    2 ** 32,
    NaN,
    Infinity,
    -(2 ** 20),
  ]) {
    assert.throws(
      () => writeArenaHeader(new ArrayBuffer(HEADER_BYTES), { arenaBytes }),
      RangeError,
      `arena bytes ${arenaBytes}`,
    );
  }
});

test("LAYOUT-2: magic, version and kind of another are violations, in either header", () => {
  for (const [field, value] of [
    ["magic", 0],
    ["magic", 0x4953_5448],
    ["version", 0],
    ["version", 2],
    ["kind", 0],
    ["kind", 3],
  ] as const) {
    assert.throws(() => readRingHeader(ringHeader({ [field]: value }), RING_SEGMENT), violationOf("LAYOUT-2"), field);
    assert.throws(
      () => readArenaHeader(arenaHeader({ [field]: value }), ARENA.arenaBytes),
      violationOf("LAYOUT-2"),
      field,
    );
  }
  assert.throws(() => readRingHeader(arenaHeader(), ARENA.arenaBytes), violationOf("LAYOUT-2", /kind 2 where 1/));
  assert.throws(() => readArenaHeader(ringHeader(), RING_SEGMENT), violationOf("LAYOUT-2", /kind 1 where 2/));
});

test("LAYOUT-3: a size that is not the descriptor's is a violation", () => {
  for (const segmentBytes of [0, RING_SEGMENT - 4096, RING_SEGMENT + 4096, 0xffffffff]) {
    assert.throws(
      () => readRingHeader(ringHeader({ segmentBytes }), RING_SEGMENT),
      violationOf("LAYOUT-3", /the header says/),
    );
    assert.throws(() => readRingHeader(ringHeader(), segmentBytes), violationOf("LAYOUT-3", /the header says/));
  }
  assert.throws(() => readArenaHeader(arenaHeader(), ARENA.arenaBytes * 2), violationOf("LAYOUT-3", /the header says/));
  // The header has only the low 32 bits of the size.
  assert.throws(() => readArenaHeader(arenaHeader(), ARENA.arenaBytes + 2 ** 32), violationOf("LAYOUT-3"));
});

test("LAYOUT-3: ring bytes that do not make the segment are a violation", () => {
  for (const ringBytes of [65536, RING.ringBytes / 2, RING.ringBytes * 2, 1 << 28]) {
    assert.throws(
      () => readRingHeader(ringHeader({ ringBytes }), RING_SEGMENT),
      violationOf("LAYOUT-3", /does not make a segment/),
    );
  }
});

test("LAYOUT-3: ring bytes and release slots out of range are violations, even if the sizes agree", () => {
  for (const ringBytes of [0, 1, 8, 32768, 65528, 3 << 16, 1 << 29, 0x8000_0000, 0xffff_ffff]) {
    const segmentBytes = RING_DATA_OFFSET + ringBytes;
    assert.throws(
      () => readRingHeader(ringHeader({ ringBytes, segmentBytes }), segmentBytes),
      violationOf("LAYOUT-3"),
      `ring bytes ${ringBytes}`,
    );
  }
  for (const releaseSlots of [0, 3, 1000, RELEASE_SLOTS_MAX + 1, 8192, 0x8000_0000, 0xffff_ffff]) {
    assert.throws(
      () => readRingHeader(ringHeader({ releaseSlots }), RING_SEGMENT),
      violationOf("LAYOUT-3", /release slots/),
      `slots ${releaseSlots}`,
    );
  }
});

test("LAYOUT-3: an arena that is too small or no multiple of 64 KiB is a violation, even if the sizes agree", () => {
  for (const segmentBytes of [0, RING_DATA_OFFSET, 2 * RING_DATA_OFFSET + ARENA_UNIT_BYTES, 0xffff_f000]) {
    assert.throws(
      () => readArenaHeader(arenaHeader({ segmentBytes }), segmentBytes),
      violationOf("LAYOUT-3", /arena bytes/),
      `${segmentBytes}`,
    );
  }
});

test("LAYOUT-1: every shared word has a pair of cache lines of its own, before the release entries", () => {
  const { releaseEntries, ...words } = WORD;
  const offsets = Object.values(words).map((index) => index * 4);
  assert.equal(releaseEntries * 4, RELEASE_OFFSET);
  offsets.forEach((offset, i) => {
    assert.equal(offset % 128, 0);
    assert.ok(offset >= 4096 && offset + 128 <= RELEASE_OFFSET);
    assert.equal(offsets.indexOf(offset), i);
  });
  assert.ok(RELEASE_OFFSET + 4096 * 8 <= RING_DATA_OFFSET);
});
