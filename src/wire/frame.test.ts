import assert from "node:assert/strict";
import { test } from "node:test";
import {
  BLOCK_REFERENCE_BYTES,
  FIELD,
  FLAG,
  FRAME_BYTES_MAX,
  FRAME_HEADER_BYTES,
  INLINE_BYTES_MAX,
  KIND,
  METADATA_BYTES_MAX,
  METHODS_MAX,
  packKindFlagsCode,
} from "./frame.js";

test("kind, flags and code lie in the bytes that the layout draws", () => {
  const bytes = new Uint8Array(Uint32Array.of(packKindFlagsCode(0xab, 0xcd, 0xef12)).buffer);
  assert.deepEqual([...bytes], [0xab, 0xcd, 0x12, 0xef]);
});

test("the fields fill the header, one word each", () => {
  assert.deepEqual(Object.values(FIELD), [0, 1, 2, 3, 4, 5, 6, 7]);
  assert.equal(Object.keys(FIELD).length * 4, FRAME_HEADER_BYTES);
});

test("kinds, flags and method numbers fit their fields and differ", () => {
  const kinds = Object.values(KIND);
  assert.equal(new Set(kinds).size, kinds.length);
  assert.ok(kinds.every((kind) => kind > 0 && kind < 256));
  const flags = Object.values(FLAG);
  assert.ok(flags.every((flag) => flag > 0 && flag < 256 && (flag & (flag - 1)) === 0));
  assert.equal(new Set(flags).size, flags.length);
  assert.ok(METHODS_MAX <= 65536);
});

test("the largest metadata and the largest inline fragment make a frame together", () => {
  assert.equal(FRAME_HEADER_BYTES + METADATA_BYTES_MAX + INLINE_BYTES_MAX, FRAME_BYTES_MAX);
  assert.ok(BLOCK_REFERENCE_BYTES <= INLINE_BYTES_MAX);
});
