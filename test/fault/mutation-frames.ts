/**
 * What the two processes of the mutation proof agree on: where frames and spans lie in the segments, and the messages
 * that are put there before they are damaged.
 *
 * The ring's data is divided into slots of one frame each; all integers are little-endian:
 *
 *   0    schema       u32   index in SCHEMAS, by which the frame is to be read
 *   4    inlineBytes  u32
 *   8    spanCount    u32   0: the inline part is a contiguous message
 *   12   byteLength   u32   of the joined message
 *   16   span table         up to SPANS_MAX of { position u32, offset in the arena u32, length u32 }
 *   112  inline part        up to the slot's end
 *
 * Each slot for ropes has a region of the arena for its spans; a damaged table may point anywhere in the arena.
 */
import type { DescMessage, Message } from "@bufbuild/protobuf";
import { create, toBinary } from "@bufbuild/protobuf";
import type { Rope } from "../../src/codec/index.js";
import { ARENA_UNIT_BYTES } from "../../src/memory/shm/layout.js";
import { randomMessage } from "../fuzz/messages.js";
import { mutateRope } from "../fuzz/mutate.js";
import type { Random } from "../fuzz/random.js";
import type { Payload } from "../fuzz/ropes.js";
import { carve, payloadsOf } from "../fuzz/ropes.js";
import { DelimitedSchema, Utf8Schema } from "../proto/codec/editions_pb.js";
import { StructsSchema, WrappersSchema } from "../proto/codec/known_pb.js";
import { ClosedEnumsSchema, ExtendableSchema, GroupsSchema, LegacyPackedSchema } from "../proto/codec/legacy_pb.js";
import {
  AsBytesSchema,
  AsMapSchema,
  AsMessageSchema,
  AsMixtureSchema,
  AsOneofSchema,
  AsPackedFixedSchema,
  AsRepeatedBytesSchema,
  AsStringSchema,
  AsUnknownSchema,
} from "../proto/codec/mismatch_pb.js";
import {
  ExpandedScalarsSchema,
  ImplicitScalarsSchema,
  MapsOfEveryValueSchema,
  MapsToBytesSchema,
  MapsToStringSchema,
  NumbersSchema,
  OneofsSchema,
  PackedScalarsSchema,
  PayloadsSchema,
  StringLongsSchema,
  TreeSchema,
} from "../proto/codec/modern_pb.js";

export const GEOMETRY = { ringBytes: 1 << 16, releaseSlots: 64, arenaBytes: 1 << 17 } as const;

export const FRAME_WORD = { schema: 0, inlineBytes: 1, spanCount: 2, byteLength: 3, table: 4 } as const;
export const SPAN_WORDS = 3;
export const SPANS_MAX = 8;
export const FRAME_HEADER_BYTES = 4 * (FRAME_WORD.table + SPAN_WORDS * SPANS_MAX);

/**
 * Few slots, so that a frame is often damaged while it is being read. The first half have contiguous frames, the others
 * ropes.
 */
export const SLOTS = 4;
export const SLOT_BYTES = GEOMETRY.ringBytes / SLOTS;
export const INLINE_BYTES_MAX = SLOT_BYTES - FRAME_HEADER_BYTES;
/** Unit 0 of an arena holds its header. */
export const SPANS_OFFSET = ARENA_UNIT_BYTES;
const REGION_BYTES = Math.floor((GEOMETRY.arenaBytes - SPANS_OFFSET) / (SLOTS / 2)) & -64;

export const isRopeSlot = (slot: number) => slot >= SLOTS / 2;

const KINDRED: readonly DescMessage[] = [
  ...[PayloadsSchema, AsBytesSchema, AsStringSchema, AsMessageSchema, AsMixtureSchema, AsPackedFixedSchema],
  ...[AsRepeatedBytesSchema, AsMapSchema, AsOneofSchema, AsUnknownSchema],
];

/** Every frame is written by one of these and read by one of these, not always the same. */
export const SCHEMAS: readonly DescMessage[] = [
  ...KINDRED,
  ...[
    Utf8Schema,
    MapsToStringSchema,
    MapsToBytesSchema,
    MapsOfEveryValueSchema,
    TreeSchema,
    GroupsSchema,
    DelimitedSchema,
  ],
  ...[
    PackedScalarsSchema,
    ExpandedScalarsSchema,
    LegacyPackedSchema,
    ImplicitScalarsSchema,
    StringLongsSchema,
    OneofsSchema,
  ],
  ...[NumbersSchema, ExtendableSchema, ClosedEnumsSchema, StructsSchema, WrappersSchema],
];

/** A frame before it is damaged, with the places where damage does the most. */
export interface Draft {
  readonly schema: number;
  readonly rope: Rope;
  /** Where in the arena's memory each span goes. */
  readonly offsets: readonly number[];
  /** In positions of the joined message; empty if the rope's own table is damaged already. */
  readonly payloads: readonly Payload[];
}

/** A random frame for a slot; undefined if the one that was drawn is too large. */
export function draftOf(random: Random, slot: number): Draft | undefined {
  const writer = random.once(2) ? PayloadsSchema : random.pick(SCHEMAS);
  const message = writer === PayloadsSchema && !random.once(4) ? largePayloads(random) : randomMessage(random, writer);
  const bytes = binaryOf(writer, message);
  if (bytes === undefined || bytes.length === 0) return undefined;
  const payloads = payloadsOf(writer, bytes);
  const reader = random.once(6) ? random.pick(random.once(4) ? SCHEMAS : KINDRED) : writer;
  const schema = SCHEMAS.indexOf(reader);
  if (!isRopeSlot(slot)) {
    const rope = { inline: bytes, spans: [], byteLength: bytes.length };
    return bytes.length > INLINE_BYTES_MAX ? undefined : { schema, rope, offsets: [], payloads: payloads.found };
  }
  const sound = carve(random, bytes, payloads);
  if (sound === undefined) return undefined;
  const hostile = random.once(10);
  const rope = hostile ? mutateRope(random, sound) : sound;
  if (rope.spans.length === 0 || rope.spans.length > SPANS_MAX || rope.inline.length > INLINE_BYTES_MAX)
    return undefined;
  const start = SPANS_OFFSET + (slot - SLOTS / 2) * REGION_BYTES;
  let end = start;
  const offsets = rope.spans.map((span) => {
    // Aligned, as a payload of numbers should be, but not always.
    const offset = ((end + 63) & -64) + (random.once(4) ? random.below(8) : 0);
    end = offset + span.bytes.length;
    return offset;
  });
  return end > start + REGION_BYTES ? undefined : { schema, rope, offsets, payloads: hostile ? [] : payloads.found };
}

/** Undefined for a message without its required fields, or with text that UTF-8 has no form for. */
function binaryOf(schema: DescMessage, message: Message): Uint8Array | undefined {
  try {
    return toBinary(schema, message);
  } catch {
    return undefined;
  }
}

/** What spans are made for: long values of every kind. */
function largePayloads(random: Random): Message {
  const some = <T>(draw: () => T): T[] => Array.from({ length: random.once(3) ? 1 + random.below(2) : 0 }, draw);
  return create(PayloadsSchema, {
    data: random.once(2) ? random.bytes(random.below(random.once(8) ? 3000 : 200)) : new Uint8Array(0),
    parts: some(() => random.bytes(random.below(100))),
    text: random.once(2) ? randomText(random) : "",
    lines: some(() => randomText(random)),
    floats: numbers(random),
    doubles: numbers(random),
    fixed64s: numbers(random).map(BigInt),
    named: random.once(4) ? { [randomText(random)]: random.bytes(random.below(100)), key: random.bytes(7) } : {},
    ...(random.once(4) && {
      inner: { text: randomText(random), doubles: numbers(random), data: random.bytes(random.below(40)) },
    }),
    ...(random.once(4) && { choice: { case: "payloads", value: { lines: [randomText(random), randomText(random)] } } }),
    more: some(() => ({ text: randomText(random), bools: [true, false] })),
  });
}

/** A few of them, or enough that they are kept as they lie. */
function numbers(random: Random): number[] {
  const length = random.once(2) ? (random.once(2) ? 64 + random.below(80) : random.below(20)) : 0;
  return Array.from({ length }, () => random.below(1000));
}

/** Characters of one to four bytes, alone and mixed: the runtime's decoders have a path for each. */
const ALPHABETS: readonly (readonly string[])[] = [
  ["a", "b"],
  ["é", "ÿ", "a"],
  ["ж", "é"],
  ["漢", "字"],
  ["😀", "𝒳"],
  ["a", "é", "漢", "😀"],
];
/** Around the lengths at which the codec and the runtime change their way. */
const LENGTHS = [1, 2, 7, 8, 9, 15, 16, 17, 24, 25, 31, 33, 42, 60, 64, 127, 130];
const LONG_LENGTHS = [300, 512, 1000, 1700];

function randomText(random: Random): string {
  const alphabet = random.pick(ALPHABETS);
  const length = random.pick(random.once(6) ? LONG_LENGTHS : LENGTHS);
  let text = "";
  for (let i = 0; i < length; i++) text += random.pick(alphabet);
  return text;
}
