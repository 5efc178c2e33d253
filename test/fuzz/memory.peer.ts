/**
 * Decodes input made to take much memory for its size, and prints what stays of it per byte of input. Run with a small
 * heap and `--expose-gc`, so that it also dies of what is only needed for a while.
 */
import type { DescMessage } from "@bufbuild/protobuf";
import { fromBinary } from "@bufbuild/protobuf";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { ClosedEnumsSchema } from "../proto/codec/legacy_pb.js";
import { AsMapSchema } from "../proto/codec/mismatch_pb.js";
import {
  ExpandedScalarsSchema,
  ImplicitScalarsSchema,
  NothingSchema,
  PackedScalarsSchema,
  PayloadsSchema,
  TreeSchema,
} from "../proto/codec/modern_pb.js";
import { loadApi } from "./api.js";
import { pushTag, pushVarint } from "./unknown.js";

/** What one kind of input cost. */
export interface Cost {
  readonly name: string;
  readonly inputBytes: number;
  /** Memory that the decoded message holds, and that it holds when protobuf-es made it. */
  readonly held: number;
  readonly heldByProtobufEs: number;
  readonly outcome: "decoded" | "refused";
}

const INPUT_BYTES = 64 * 1024;

type Case = readonly [name: string, schema: DescMessage, input: Uint8Array];

/** The same small thing over and over. */
function filled(...element: number[]): Uint8Array {
  const bytes = new Uint8Array(INPUT_BYTES - (INPUT_BYTES % element.length));
  for (let i = 0; i < bytes.length; i++) bytes[i] = element[i % element.length];
  return bytes;
}

function packed(number: number, payload: Uint8Array): Uint8Array {
  return new BinaryWriter().tag(number, 2).bytes(payload).finish();
}

/** A field that says it is longer than everything. */
function announced(number: number, length: number): Uint8Array {
  const bytes: number[] = [];
  pushTag(bytes, number, 2);
  pushVarint(bytes, length);
  return Uint8Array.from([...bytes, ...Array<number>(100).fill(0)]);
}

/** Different keys, so that no entry replaces another. */
function mapEntries(): Uint8Array {
  const writer = new BinaryWriter();
  for (let i = 0; i < INPUT_BYTES / 9; i++) {
    writer.tag(1, 2).fork().tag(1, 2).string(i.toString(36).padStart(3, "0")).join();
  }
  return writer.finish();
}

const cases: readonly Case[] = [
  ["packed bools", PackedScalarsSchema, packed(13, filled(1))],
  ["packed int32", PackedScalarsSchema, packed(3, filled(1))],
  ["packed int64", PackedScalarsSchema, packed(4, filled(1))],
  ["packed float", PackedScalarsSchema, packed(2, filled(0, 0, 0x80, 0x3f))],
  ["packed double", PackedScalarsSchema, packed(1, filled(0, 0, 0, 0, 0, 0, 0xf0, 0x3f))],
  ["packed enums", PackedScalarsSchema, packed(16, filled(1))],
  ["expanded bools", ExpandedScalarsSchema, filled(0x68, 1)],
  ["empty strings", PackedScalarsSchema, filled(0x72, 0)],
  ["empty bytes", PackedScalarsSchema, filled(0x7a, 0)],
  ["bytes of one byte", PackedScalarsSchema, filled(0x7a, 1, 7)],
  ["empty messages without fields", PackedScalarsSchema, filled(0x92, 1, 0)],
  ["empty messages of 17 fields", PackedScalarsSchema, filled(0x8a, 1, 0)],
  ["empty messages with lists and maps", TreeSchema, filled(0x22, 0)],
  ["one message merged again and again", TreeSchema, filled(0x12, 0)],
  ["a oneof set again and again", TreeSchema, filled(0x3a, 0)],
  ["map entries", AsMapSchema, mapEntries()],
  ["one map entry again and again", AsMapSchema, filled(0x0a, 0)],
  ["unknown varints", NothingSchema, filled(0x08, 1)],
  ["unknown empty bytes", NothingSchema, filled(0x0a, 0)],
  ["unknown groups", NothingSchema, filled(0x0b, 0x0c)],
  ["unknown numbers of a closed enum", ClosedEnumsSchema, filled(0x08, 99)],
  ["bytes said to be of 2 GiB", PayloadsSchema, announced(1, 2 ** 31 - 1)],
  ["bytes said to be of 4 GiB", PayloadsSchema, announced(1, 2 ** 32 - 1)],
  ["text said to be of 1 GiB", PayloadsSchema, announced(3, 2 ** 30)],
  ["packed floats said to be of 2 GiB", PayloadsSchema, announced(5, 2 ** 31 - 4)],
  ["packed bools said to be of 1 GiB", PayloadsSchema, announced(8, 2 ** 30)],
  ["a message said to be of 2 GiB", PayloadsSchema, announced(9, 2 ** 31 - 1)],
  ["an unknown field said to be of 2 GiB", NothingSchema, announced(1, 2 ** 31 - 1)],
  ["a map entry said to be of 2 GiB", AsMapSchema, announced(1, 2 ** 31 - 1)],
  ["only zero bytes", ImplicitScalarsSchema, filled(0)],
];

const api = await loadApi();
const costs = cases.flatMap(([name, schema, input]): Cost[] => {
  const inputBytes = input.length;
  const [heldByProtobufEs] = held(() => fromBinary(schema, input.slice()));
  const [contiguous, outcome] = held(() => api.decode(schema, input));
  const rope = { inline: input, spans: [], byteLength: inputBytes };
  const [fromRope, ropeOutcome] = held(() => api.decodeRope(schema, rope));
  return [
    { name, inputBytes, held: contiguous, heldByProtobufEs, outcome },
    { name: `${name}, as a rope`, inputBytes, held: fromRope, heldByProtobufEs, outcome: ropeOutcome },
  ];
});
// A rope's own announcement is believed only if the parts bear it out.
for (const byteLength of [2 ** 28, 2 ** 31, 2 ** 32 + 1]) {
  const [bytes, outcome] = held(() =>
    api.decodeRope(PayloadsSchema, {
      inline: new Uint8Array(10),
      spans: [{ position: 2, bytes: new Uint8Array(8) }],
      byteLength,
    }),
  );
  costs.push({
    name: `a rope said to be of ${byteLength} bytes`,
    inputBytes: 18,
    held: bytes,
    heldByProtobufEs: 0,
    outcome,
  });
}
console.log(JSON.stringify(costs));

/** The median of three: the collector may take back what others left behind, in the middle of a measurement. */
function held(run: () => unknown): [bytes: number, outcome: Cost["outcome"]] {
  return [heldOnce(run), heldOnce(run), heldOnce(run)].sort((a, b) => a[0] - b[0])[1];
}

/**
 * Memory in use after a call that was not in use before it; of a refusal, also what it left as garbage outside the
 * heap.
 */
function heldOnce(run: () => unknown): [bytes: number, outcome: Cost["outcome"]] {
  // Once for what is made only once.
  attempt(run);
  collect();
  const before = process.memoryUsage();
  const result = attempt(run);
  const left = process.memoryUsage();
  if (result === undefined) return [Math.max(0, left.arrayBuffers - before.arrayBuffers), "refused"];
  collect();
  const after = process.memoryUsage();
  const bytes = after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers;
  // `result` is looked at after the measurement, so it was not garbage in it.
  return [bytes, result === undefined ? "refused" : "decoded"];
}

function attempt(run: () => unknown): unknown {
  try {
    return run();
  } catch {
    return undefined;
  }
}

function collect(): void {
  (globalThis as { gc?: () => void }).gc?.();
}
