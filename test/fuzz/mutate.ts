/** Damage to wire bytes, as a hostile or broken peer would do it; and to the span tables of ropes. */
import type { DescMessage } from "@bufbuild/protobuf";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import type { Rope, Span } from "../../src/codec/index.js";
import type { Random } from "./random.js";
import { pushTag, pushVarint } from "./unknown.js";

type Mutator = (random: Random, bytes: Uint8Array, other: Uint8Array, schema: DescMessage) => Uint8Array;

/** Damaged once to four times. `other` is a second message of the schema. */
export function mutate(random: Random, bytes: Uint8Array, other: Uint8Array, schema: DescMessage): Uint8Array {
  let mutated = bytes;
  for (let i = random.pick([1, 1, 1, 2, 3, 4]); i > 0; i--)
    mutated = random.pick(mutators)(random, mutated, other, schema);
  return mutated;
}

const mutators: readonly Mutator[] = [
  // Truncation, at the front seldom.
  (random, bytes) =>
    random.once(8) ? bytes.slice(random.below(bytes.length + 1)) : bytes.slice(0, random.below(bytes.length + 1)),
  flipBit,
  flipBit,
  (random, bytes) =>
    replaced(bytes, random.below(bytes.length), 1, [random.pick([0, 1, 0x7f, 0x80, 0xff, random.below(256)])]),
  (random, bytes) =>
    replaced(bytes, random.below(bytes.length + 1), 0, random.bytes(1 + random.below(random.once(8) ? 40 : 3))),
  (random, bytes) => replaced(bytes, random.below(bytes.length), 1 + random.below(random.once(8) ? 40 : 3), []),
  // Splices of two messages: anywhere, and between fields.
  (random, bytes, other) =>
    replaced(
      bytes.subarray(0, random.below(bytes.length + 1)),
      Infinity,
      0,
      other.subarray(random.below(other.length + 1)),
    ),
  (random, bytes, other) => replaced(bytes, boundary(random, bytes), 0, other),
  (_random, bytes, other) => replaced(bytes, Infinity, 0, other),
  // A field twice: what is merged, replaced or appended.
  (random, bytes) => {
    const [start, end] = fieldAt(random, bytes);
    return replaced(bytes, random.once(2) ? end : boundary(random, bytes), 0, bytes.slice(start, end));
  },
  (random, bytes) => {
    const [start, end] = fieldAt(random, bytes);
    return replaced(bytes, start, end - start, []);
  },
  rewriteVarint,
  rewriteVarint,
  rewireTag,
  // Tags of groups and of the schema's fields, anywhere.
  (random, bytes, _other, schema) => {
    const tag: number[] = [];
    pushTag(tag, numberOf(random, schema), random.pick([3, 4, 4, random.below(8)]));
    return replaced(bytes, random.once(2) ? boundary(random, bytes) : random.below(bytes.length + 1), 0, tag);
  },
  (random, bytes, _other, schema) => {
    const number = numberOf(random, schema);
    const open: number[] = [];
    const close: number[] = [];
    pushTag(open, number, 3);
    pushTag(close, random.once(4) ? number + 1 : number, 4);
    return Uint8Array.from([...open, ...bytes, ...close]);
  },
  // A field whose length announces more than there is.
  (random, bytes, _other, schema) => {
    const field: number[] = [];
    pushTag(field, numberOf(random, schema), 2);
    pushVarint(
      field,
      random.pick([1, 127, 128, 65536, 2 ** 24, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, bytes.length, bytes.length + 1]),
    );
    return replaced(bytes, boundary(random, bytes), 0, field);
  },
  nest,
  // Text that is not UTF-8.
  (random, bytes, _other, schema) => {
    const text = random.pick(NOT_UTF8);
    const field: number[] = [];
    pushTag(field, numberOf(random, schema), 2);
    pushVarint(field, text.length);
    return replaced(bytes, boundary(random, bytes), 0, [...field, ...text]);
  },
  (random) => random.bytes(random.below(60)),
];

/** Overlong, halves of surrogates, beyond U+10FFFF, cut off, without a beginning. */
export const NOT_UTF8: readonly (readonly number[])[] = [
  [0xc0, 0x80],
  [0xc1, 0xbf],
  [0xe0, 0x80, 0x80],
  [0xe0, 0x9f, 0xbf],
  [0xf0, 0x80, 0x80, 0x80],
  [0xf0, 0x8f, 0xbf, 0xbf],
  [0xed, 0xa0, 0x80],
  [0xed, 0xbf, 0xbf],
  [0xed, 0xa0, 0xbd, 0xed, 0xb8, 0x80],
  [0xf4, 0x90, 0x80, 0x80],
  [0xf5, 0x80, 0x80, 0x80],
  [0xf7, 0xbf, 0xbf, 0xbf],
  [0xf8, 0x88, 0x80, 0x80, 0x80],
  [0xfc, 0x84, 0x80, 0x80, 0x80, 0x80],
  [0xfe],
  [0xff],
  [0xc3],
  [0xe6, 0xbc],
  [0xe6],
  [0xf0, 0x9f, 0x98],
  [0xf0, 0x9f],
  [0xf0],
  [0x80],
  [0xbf],
  [0xc3, 0x28],
  [0xe6, 0x28, 0xa1],
  [0xf0, 0x9f, 0x28, 0x80],
];

function flipBit(random: Random, bytes: Uint8Array): Uint8Array {
  const copy = bytes.slice();
  if (copy.length > 0) copy[random.below(copy.length)] ^= 1 << random.below(8);
  return copy;
}

function replaced(bytes: Uint8Array, at: number, length: number, by: Uint8Array | readonly number[]): Uint8Array {
  const start = Math.min(at, bytes.length);
  const end = Math.min(start + length, bytes.length);
  const result = new Uint8Array(bytes.length - (end - start) + by.length);
  result.set(bytes.subarray(0, start));
  result.set(by, start);
  result.set(bytes.subarray(end), start + by.length);
  return result;
}

/** Where the top-level fields start, as far as they can be told apart, and where the last one ends. */
function boundaries(bytes: Uint8Array): number[] {
  const starts = [0];
  const reader = new BinaryReader(bytes);
  try {
    while (reader.pos < reader.len && starts.length < 100) {
      const [fieldNumber, wireType] = reader.tag();
      reader.skip(wireType, fieldNumber);
      starts.push(reader.pos);
    }
  } catch {
    // The rest is no message.
  }
  return starts;
}

function boundary(random: Random, bytes: Uint8Array): number {
  return random.pick(boundaries(bytes));
}

function fieldAt(random: Random, bytes: Uint8Array): [start: number, end: number] {
  const starts = boundaries(bytes);
  const i = random.below(starts.length);
  return [starts[i], starts[i + 1] ?? bytes.length];
}

function numberOf(random: Random, schema: DescMessage): number {
  return schema.fields.length === 0 || random.once(8) ? 1 + random.below(40) : random.pick(schema.fields).number;
}

/**
 * A varint anywhere: longer than it need be, up to eleven bytes, or another number. Lengths and tags are among them.
 */
function rewriteVarint(random: Random, bytes: Uint8Array): Uint8Array {
  const start = random.once(2) ? boundary(random, bytes) + random.below(3) : random.below(bytes.length);
  let end = start;
  let value = 0;
  while (end < bytes.length && end - start < 5) {
    value |= (bytes[end] & 0x7f) << (7 * (end - start));
    if (bytes[end++] < 0x80) break;
  }
  const by: number[] = [];
  if (random.once(2)) pushVarint(by, value, 1 + random.below(10));
  else
    pushVarint(
      by,
      random.pick([value + 1, value - 1, value * 2, value + 128, 0, 127, 128, 2 ** 28, 2 ** 31, 2 ** 32 - 1]),
    );
  return replaced(bytes, start, end - start, by);
}

/** Another wire type or field number on a top-level field. */
function rewireTag(random: Random, bytes: Uint8Array, _other: Uint8Array, schema: DescMessage): Uint8Array {
  const at = boundary(random, bytes);
  if (at >= bytes.length) return bytes;
  if (random.once(2)) return replaced(bytes, at, 1, [(bytes[at] & 0xf8) | random.below(8)]);
  const tag: number[] = [];
  pushTag(tag, numberOf(random, schema), bytes[at] & 7);
  return replaced(bytes, at, 1, tag);
}

/** The message in itself, or in unknown groups, around the recursion limit of 100. */
function nest(random: Random, bytes: Uint8Array, _other: Uint8Array, schema: DescMessage): Uint8Array {
  const fields = schema.fields.filter((field) => field.message !== undefined);
  const field = fields.length === 0 || random.once(3) ? undefined : random.pick(fields);
  const number = field?.number ?? numberOf(random, schema);
  const group = field === undefined ? random.once(2) : field.fieldKind !== "map" && field.delimitedEncoding;
  let inner: readonly number[] = bytes.length > 200 ? [] : [...bytes];
  // Every level of a map is an entry with a value.
  for (let depth = random.once(4) ? random.below(200) : 95 + random.below(10); depth > 0; depth--) {
    if (field?.fieldKind === "map") {
      const entry: number[] = [];
      pushTag(entry, 2, 2);
      pushVarint(entry, inner.length);
      inner = [...entry, ...inner];
    }
    const open: number[] = [];
    const close: number[] = [];
    pushTag(open, number, group ? 3 : 2);
    if (group) pushTag(close, number, 4);
    else pushVarint(open, inner.length);
    inner = [...open, ...inner, ...close];
  }
  return Uint8Array.from(inner);
}

/** A rope whose table or parts are not what they were. It may still be one that keeps the rules. */
export function mutateRope(random: Random, rope: Rope): Rope {
  const { inline, byteLength } = rope;
  const spans: Span[] = [...rope.spans];
  const i = random.below(spans.length);
  const span: Span | undefined = spans[i];
  const move = (position: number): Rope => ({
    inline,
    spans: spans.with(i, { position, bytes: span.bytes }),
    byteLength,
  });
  const resize = (bytes: Uint8Array): Rope => {
    const total = random.once(2) ? byteLength + bytes.length - span.bytes.length : byteLength;
    return { inline, spans: spans.with(i, { position: span.position, bytes }), byteLength: total };
  };
  switch (span === undefined ? 9 + random.below(2) : random.below(12)) {
    case 0:
      return move(span.position + random.pick([-2, -1, 1, 2, random.below(20) - 10]));
    case 1:
      return move(
        random.pick([
          -1,
          -0.5,
          span.position + 0.5,
          NaN,
          Infinity,
          -Infinity,
          2 ** 31,
          2 ** 32,
          2 ** 53,
          byteLength,
          byteLength + 1,
          -(2 ** 40),
        ]),
      );
    case 2:
      return move(random.pick(spans).position);
    case 3:
      return resize(random.bytes(span.bytes.length + 1 + random.below(4)));
    case 4:
      return resize(span.bytes.subarray(0, random.below(span.bytes.length + 1)));
    case 5:
      // Dropped, with and without its length.
      spans.splice(i, 1);
      return { inline, spans, byteLength: random.once(2) ? byteLength - span.bytes.length : byteLength };
    case 6:
      // Twice, with and without its length.
      spans.splice(random.below(spans.length + 1), 0, span);
      return { inline, spans, byteLength: random.once(2) ? byteLength + span.bytes.length : byteLength };
    case 7: {
      const j = random.below(spans.length);
      [spans[i], spans[j]] = [spans[j], spans[i]];
      return { inline, spans, byteLength };
    }
    case 8: {
      // Two spans change their bytes.
      const j = random.below(spans.length);
      return {
        inline,
        spans: spans
          .with(i, { position: span.position, bytes: spans[j].bytes })
          .with(j, { position: spans[j].position, bytes: span.bytes }),
        byteLength,
      };
    }
    case 9: {
      const bytes = random.bytes(random.below(5));
      spans.splice(random.below(spans.length + 1), 0, { position: random.below(byteLength + 2), bytes });
      if (random.once(2)) spans.sort((a, b) => a.position - b.position);
      return { inline, spans, byteLength: random.once(2) ? byteLength + bytes.length : byteLength };
    }
    case 10:
      return {
        inline,
        spans,
        byteLength: random.pick([
          0,
          -1,
          byteLength - 1,
          byteLength + 1,
          byteLength + 0.5,
          NaN,
          Infinity,
          -Infinity,
          2 ** 53,
          -(2 ** 31),
        ]),
      };
    default:
      return {
        inline: random.once(2)
          ? inline.subarray(0, random.below(inline.length + 1))
          : replaced(inline, random.below(inline.length + 1), 0, random.bytes(1)),
        spans,
        byteLength,
      };
  }
}
