import assert from "node:assert/strict";
import { test } from "node:test";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { decodeStatus, encodeStatus } from "./status.js";

test("a status is read as it was written", () => {
  for (const status of [
    { code: 0, message: "", details: [] },
    { code: 16, message: "Ünä 🌉\n", details: [] },
    {
      code: -1,
      message: "x".repeat(100_000),
      details: [
        { type: "a.b.C", value: Uint8Array.of(1, 2, 3) },
        { type: "", value: new Uint8Array(0) },
      ],
    },
  ]) {
    assert.deepEqual(decodeStatus(encodeStatus(status)), status);
  }
});

test("a detail's type is what follows the last slash of its URL, whatever the host", () => {
  const writer = new BinaryWriter();
  writer
    .tag(3, WireType.LengthDelimited)
    .fork()
    .tag(1, WireType.LengthDelimited)
    .string("example.com/types/a.B")
    .join();
  assert.deepEqual(
    decodeStatus(writer.finish()).details.map(({ type }) => type),
    ["a.B"],
  );
});

test("fields that a later version adds, and fields of the wrong type, are skipped", () => {
  const writer = new BinaryWriter();
  writer.tag(9, WireType.LengthDelimited).string("new");
  writer.tag(1, WireType.LengthDelimited).string("not a number");
  writer.tag(2, WireType.LengthDelimited).string("message");
  writer.tag(15, WireType.Bit64).fixed64(1n);
  assert.deepEqual(decodeStatus(writer.finish()), { code: 0, message: "message", details: [] });
});

test("bytes that are no status throw, and never read past their end", () => {
  const bytes = encodeStatus({ code: 5, message: "message", details: [{ type: "t", value: Uint8Array.of(1, 2, 3) }] });
  let failed = 0;
  for (let byteLength = 0; byteLength < bytes.length; byteLength++) {
    try {
      decodeStatus(bytes.slice(0, byteLength));
    } catch (error) {
      assert.ok(error instanceof Error);
      failed++;
    }
  }
  assert.ok(failed > bytes.length / 2);
  assert.throws(() => decodeStatus(Uint8Array.of(0x12, 0xff, 0xff, 0xff, 0xff, 0x0f)));
});
