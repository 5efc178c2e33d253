import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { joinRope } from "../../src/codec/index.js";
import type { Payload } from "../proto/bench_pb.js";
import { createPassthroughCodec } from "./passthrough.js";

describe("the pass-through codec", () => {
  const payload = (id: bigint, data: number[]): Payload => ({
    $typeName: "isthmus.bench.Payload",
    id,
    data: Uint8Array.from(data),
  });

  test("reads what it wrote, at any offset and in views", () => {
    const codec = createPassthroughCodec();
    for (const target of [new Uint8Array(64), new Uint8Array(100).subarray(7, 71), Buffer.alloc(64)]) {
      for (const message of [payload(0n, []), payload(0xffff_ffff_ffff_ffffn, [1, 2, 3])]) {
        const byteLength = codec.encodeInto(message, target, 5, target.length, true);
        assert.equal(byteLength, 8 + message.data.length);
        const read = codec.decode(target, 5, byteLength, false, []) as Payload;
        assert.equal(read.id, message.id);
        assert.deepEqual([...read.data], [...message.data]);
      }
    }
  });

  test("what it read stays when the memory is used again", () => {
    const codec = createPassthroughCodec();
    const memory = Buffer.alloc(32);
    const byteLength = codec.encodeInto(payload(1n, [9, 9]), memory, 0, memory.length, true);
    const read = codec.decode(memory, 0, byteLength, false, []) as Payload;
    memory.fill(0);
    assert.deepEqual([...read.data], [9, 9]);
  });

  test("encodes to a rope what it encodes into a target", () => {
    const codec = createPassthroughCodec();
    const target = new Uint8Array(32);
    const byteLength = codec.encodeInto(payload(77n, [5, 6]), target, 0, target.length, true);
    const rope = codec.encode(payload(77n, [5, 6]));
    assert.deepEqual([...joinRope(rope)], [...target.subarray(0, byteLength)]);
  });

  test("says how much it needs, and writes nothing past the limit", () => {
    const codec = createPassthroughCodec();
    const target = new Uint8Array(64);
    assert.equal(codec.encodeInto(payload(1n, [1, 2, 3]), target, 4, 14, true), -1 - 11);
    assert.ok(target.every((byte) => byte === 0));
    assert.equal(codec.encodeInto(payload(1n, [1, 2, 3]), target, 4, 15, true), 11);
    assert.ok(target.subarray(15).every((byte) => byte === 0));
  });
});
