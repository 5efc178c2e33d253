import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Socket } from "node:net";
import { FrameReader, FrameWriter } from "./net-frames.js";

/** What a writer puts on its socket, in one fragment. */
function written(frames: readonly Uint8Array[]): Buffer {
  const chunks: Buffer[] = [];
  const socket = {
    cork: () => undefined,
    uncork: () => undefined,
    write: (data: Uint8Array) => chunks.push(Buffer.from(data)),
  };
  const writer = new FrameWriter(socket as unknown as Socket);
  frames.forEach((data, i) => writer.send(BigInt(i), data));
  writer.flush();
  return Buffer.concat(chunks);
}

/** Feeds a reader with fragments of at most `fragmentLength` bytes. */
function read(stream: Buffer, fragmentLength: number): { id: bigint; data: Buffer }[] {
  const frames: { id: bigint; data: Buffer }[] = [];
  const reader = new FrameReader(1 << 30, (id, data) => frames.push({ id, data: Buffer.from(data) }));
  for (let at = 0; at < stream.length; ) {
    const target = reader.target();
    const length = stream.copy(target, 0, at, at + Math.min(fragmentLength, target.length));
    reader.received(length, target);
    at += length;
  }
  return frames;
}

describe("frames on a socket", () => {
  const sizes = [0, 1, 11, 12, 64, 4_096, 4_097, 40_000, 0, 300_000, 1_000_000, 64, 64];
  const frames = sizes.map((size, i) => Buffer.alloc(size, i + 1));

  for (const fragmentLength of [1, 2, 7, 12, 13, 1_000, 65_536, 1 << 30]) {
    test(`arrive as they were sent, in fragments of ${fragmentLength} bytes`, () => {
      const some = fragmentLength === 1 ? frames.slice(0, 8) : frames;
      const found = read(written(some), fragmentLength);
      assert.deepEqual(
        found.map(({ id }) => Number(id)),
        some.map((_, i) => i),
      );
      some.forEach((data, i) => assert.ok(data.equals(found[i].data), `frame ${i} of ${data.length} bytes`));
    });
  }

  test("a length beyond the limit is refused", () => {
    const reader = new FrameReader(100, () => undefined);
    const target = reader.target();
    target.writeUInt32LE(8 + 101, 0);
    assert.throws(() => reader.received(12, target), RangeError);
  });
});
