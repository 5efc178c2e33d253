/** How long a message that is refused for its number of values stops the thread. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { DescMessage } from "@bufbuild/protobuf";
import { decode } from "../../src/codec/index.js";
import { DEFAULTS } from "../../src/connect/options/defaults.js";
import { KindsSchema } from "../proto/kinds_pb.js";

const BYTES = 16 << 20;
const STOPPED_MS_MAX = 100;

function repeated(bytes: readonly number[]): Uint8Array {
  return Uint8Array.from({ length: BYTES - (BYTES % bytes.length) }, (_, i) => bytes[i % bytes.length]);
}

function tag(number: number, wireType: number): number[] {
  const value = number * 8 + wireType;
  return value < 128 ? [value] : [(value & 127) | 128, value >> 7];
}

function numberOf(schema: DescMessage, name: string): number {
  return schema.fields.find((field) => field.localName === name)!.number;
}

for (const [name, wireType, value] of [
  ["children", 2, [0]],
  ["strings", 2, [0]],
  ["strings", 2, [20, ...Buffer.alloc(20, "x")]],
  ["blobs", 2, [20, ...Buffer.alloc(20, "x")]],
  ["int64s", 0, [1]],
  ["doubles", 1, [0, 0, 0, 0, 0, 0, 0, 0]],
  ["stringMap", 2, [0]],
  ["int32", 0, [1]],
  ["int64", 0, [1]],
  ["string", 2, [20, ...Buffer.alloc(20, "x")]],
  ["choiceString", 2, [0]],
  ["choiceMessage", 2, [0]],
  ["nested", 2, [0]],
  ["timestamp", 2, [0]],
] as const) {
  test(`${BYTES >> 20} MiB of ${name} of ${value.length} bytes stop the thread for at most ${STOPPED_MS_MAX} ms`, () => {
    const input = repeated([...tag(numberOf(KindsSchema, name), wireType), ...value]);
    const took: number[] = [];
    for (let i = 0; i < 5; i++) {
      const start = performance.now();
      try {
        decode(KindsSchema, input, { valuesMax: DEFAULTS.valuesPerMessage });
      } catch (error) {
        assert.match(String(error), /valuesMax/);
      }
      took.push(performance.now() - start);
    }
    const median = took.sort((a, b) => a - b)[2];
    assert.ok(median <= STOPPED_MS_MAX, `${median} ms`);
  });
}
