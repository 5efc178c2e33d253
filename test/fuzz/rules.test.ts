/**
 * Where the codec is on purpose stricter than protobuf-es, which knows no spans and writes detached bytes as empty
 * ones.
 */
import assert from "node:assert/strict";
import { create, toBinary } from "@bufbuild/protobuf";
import { describe, test } from "node:test";
import { OneofsSchema, PayloadsSchema, type Payloads } from "../proto/codec/modern_pb.js";
import { loadApi, makesSpans } from "./api.js";
import { ropeOf } from "./ropes.js";

describe("the codec's own rules", async () => {
  const api = await loadApi();
  const skip = makesSpans(api) ? false : "this is protobuf-es, without rules of its own";
  const bytes = toBinary(
    PayloadsSchema,
    create(PayloadsSchema, {
      data: new Uint8Array(20).fill(8),
      text: "twelve bytes",
      inner: { data: new Uint8Array(30) },
    }),
  );

  // 0: tag and length of data · 2: data · 22: tag and length of text · 24: text · 36: tag and length of inner ·
  // 38: tag and length of its data · 40: its data
  const misplaced: [string, { start: number; length: number }[]][] = [
    ["begins at a tag", [{ start: 0, length: 22 }]],
    ["begins at a length", [{ start: 1, length: 21 }]],
    ["reaches into the next field", [{ start: 2, length: 21 }]],
    ["is the rest of the message", [{ start: 2, length: bytes.length - 2 }]],
    ["is empty before a length", [{ start: 23, length: 0 }]],
  ];
  for (const [name, places] of misplaced) {
    test(`a span that ${name} is refused (ROPE-2)`, { skip }, () => {
      assert.throws(() => api.decodeRope(PayloadsSchema, ropeOf(bytes, places)));
    });
  }

  // There may have been a payload in it for the writer, whose schema can be another.
  test("a span within bytes is refused or joined, nothing else", () => {
    const expected = api.decode(PayloadsSchema, bytes);
    for (const place of [
      { start: 3, length: 19 },
      { start: 2, length: 19 },
      { start: 10, length: 0 },
      { start: 22, length: 0 },
      { start: bytes.length, length: 0 },
      { start: 40, length: 29 },
    ]) {
      let decoded: unknown = expected;
      try {
        decoded = api.decodeRope(PayloadsSchema, ropeOf(bytes, [place]));
      } catch {
        // Refused.
      }
      assert.deepEqual(decoded, expected);
    }
  });

  test("a span may stand for any payload, also one that is text or a message", () => {
    const expected = api.decode(PayloadsSchema, bytes);
    for (const places of [
      [{ start: 2, length: 20 }],
      [{ start: 24, length: 12 }],
      [{ start: 38, length: 32 }],
      [{ start: 40, length: 30 }],
      [
        { start: 2, length: 20 },
        { start: 24, length: 12 },
        { start: 40, length: 30 },
      ],
    ]) {
      assert.deepEqual(api.decodeRope(PayloadsSchema, ropeOf(bytes, places)), expected);
    }
  });

  test("large bytes become spans from the given size on", { skip }, () => {
    for (const size of [1, 99, 100, 101, 5000]) {
      const data = new Uint8Array(size);
      const { spans } = api.encodeRope(
        PayloadsSchema,
        create(PayloadsSchema, { data, parts: [data], inner: { data }, named: { a: data } }),
        {
          spanBytesMin: 100,
        },
      );
      assert.deepEqual(
        spans.map((span) => span.bytes.length),
        size >= 100 ? [size, size, size, size] : [],
      );
      assert.ok(
        spans.every((span) => span.bytes.buffer === data.buffer),
        "spans are the message's own bytes",
      );
    }
  });

  test("detached bytes are refused by an error that names the field", { skip }, () => {
    const detached = () => {
      const data = new Uint8Array(10);
      structuredClone(data, { transfer: [data.buffer] });
      return data;
    };
    const messages: [string, Payloads][] = [
      ["data", create(PayloadsSchema, { data: detached() })],
      ["parts", create(PayloadsSchema, { parts: [Uint8Array.of(1), detached()] })],
      ["named", create(PayloadsSchema, { named: { a: detached() } })],
      ["blob", create(PayloadsSchema, { choice: { case: "blob", value: detached() } })],
      ["data", create(PayloadsSchema, { inner: { data: detached() } })],
    ];
    for (const [name, message] of messages) {
      const error = { message: new RegExp(`\\b${name}\\b.*detached|detached.*\\b${name}\\b`, "s") };
      assert.throws(() => api.sizeOf(PayloadsSchema, message), error);
      assert.throws(() => api.encodeInto(PayloadsSchema, message, new Uint8Array(100)), error);
      assert.throws(() => api.encodeRope(PayloadsSchema, message, { spanBytesMin: 0 }), error);
    }
    const only = create(OneofsSchema, { single: { case: "only", value: detached() } });
    assert.throws(() => api.encodeInto(OneofsSchema, only, new Uint8Array(100)), /only/);
  });

  test("empty bytes are not taken for detached ones", () => {
    const message = create(PayloadsSchema, {
      parts: [new Uint8Array(0), new Uint8Array(new ArrayBuffer(8), 8)],
      choice: { case: "blob", value: new Uint8Array(0) },
    });
    const target = new Uint8Array(50);
    const written = api.encodeInto(PayloadsSchema, message, target);
    assert.deepEqual(target.subarray(0, written), toBinary(PayloadsSchema, message));
  });
});
