/**
 * Ropes made and judged without the codec: every length-delimited payload of a message can be made a span of it, and
 * whether a table of spans keeps ROPE-1 and ROPE-2 is found out here in the slow and obvious way.
 */
import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import type { Rope, Span } from "../../src/codec/index.js";
import type { Random } from "./random.js";

/** Where a length-delimited payload lies in a message's wire bytes. */
export interface Payload {
  readonly start: number;
  readonly length: number;
  /** Whether the schema sees fields in it. */
  readonly nested: boolean;
}

export interface Payloads {
  /** Outer ones before what they contain. */
  readonly found: readonly Payload[];
  /** Whether all of the bytes were understood. If not, what stands before the place that was not. */
  readonly complete: boolean;
}

/** Before a payload stand a tag and a length. */
const HEAD_BYTES_MIN = 2;

const fieldsOf = new Map<DescMessage, ReadonlyMap<number, DescField>>();

/** The length-delimited payloads that a reader with this schema meets. */
export function payloadsOf(schema: DescMessage, bytes: Uint8Array): Payloads {
  const found: Payload[] = [];
  const reader = new BinaryReader(bytes);
  try {
    walk(schema, reader, bytes.length, found, 0);
  } catch {
    return { found, complete: false };
  }
  return { found, complete: reader.pos === bytes.length };
}

type Shape = DescMessage | { readonly mapValue: DescMessage | undefined } | undefined;

function walk(shape: Shape, reader: BinaryReader, end: number, found: Payload[], group: number): void {
  while (reader.pos < end) {
    const [fieldNumber, wireType] = reader.tag();
    if (wireType === WireType.EndGroup) {
      if (fieldNumber !== group) throw new Error("another group ends");
      return;
    }
    const field = shape !== undefined && "kind" in shape ? fieldMapOf(shape).get(fieldNumber) : undefined;
    if (field !== undefined && !wireTypesOf(field).includes(wireType))
      throw new Error("another wire type than the schema's");
    if (wireType === WireType.StartGroup) {
      walk(field?.message, reader, reader.len, found, fieldNumber);
    } else if (wireType === WireType.LengthDelimited) {
      const length = reader.uint32();
      const inner: Shape =
        shape !== undefined && "mapValue" in shape
          ? fieldNumber === 2
            ? shape.mapValue
            : undefined
          : field?.fieldKind === "map"
            ? { mapValue: field.message }
            : field?.message;
      const start = reader.pos;
      if (start + length > end) throw new Error("longer than what it is in");
      found.push({ start, length, nested: inner !== undefined });
      if (inner === undefined) reader.pos += length;
      else walk(inner, reader, start + length, found, -1);
      if (reader.pos !== start + length) throw new Error("not as long as announced");
    } else {
      reader.skip(wireType, fieldNumber);
    }
  }
  if (group > 0) throw new Error("a group does not end");
}

function fieldMapOf(schema: DescMessage): ReadonlyMap<number, DescField> {
  let fields = fieldsOf.get(schema);
  if (fields === undefined)
    fieldsOf.set(schema, (fields = new Map(schema.fields.map((field) => [field.number, field]))));
  return fields;
}

const wireTypes = new Map<DescField, readonly WireType[]>();

function wireTypesOf(field: DescField): readonly WireType[] {
  let types = wireTypes.get(field);
  if (types === undefined) wireTypes.set(field, (types = findWireTypes(field)));
  return types;
}

function findWireTypes(field: DescField): readonly WireType[] {
  if (field.fieldKind === "map") return [WireType.LengthDelimited];
  if (field.message !== undefined) return [field.delimitedEncoding ? WireType.StartGroup : WireType.LengthDelimited];
  const single = field.enum !== undefined ? WireType.Varint : wireTypeOf(field.scalar);
  return field.fieldKind === "list" ? [single, WireType.LengthDelimited] : [single];
}

function wireTypeOf(type: ScalarType): WireType {
  switch (type) {
    case ScalarType.STRING:
    case ScalarType.BYTES:
      return WireType.LengthDelimited;
    case ScalarType.DOUBLE:
    case ScalarType.FIXED64:
    case ScalarType.SFIXED64:
      return WireType.Bit64;
    case ScalarType.FLOAT:
    case ScalarType.FIXED32:
    case ScalarType.SFIXED32:
      return WireType.Bit32;
    default:
      return WireType.Varint;
  }
}

/** The bytes as a rope that has some of the payloads as spans; undefined if there are none. */
export function carve(random: Random, bytes: Uint8Array, { found }: Payloads): Rope | undefined {
  const chosen: Payload[] = [];
  const share = random.pick([1, 2, 2, 3, 6]);
  let end = 0;
  for (const payload of found) {
    // Between two payloads stand the tag and the length of the second, unless it is an empty one at the very end of the
    // first.
    if (payload.start < end + HEAD_BYTES_MIN || payload.start >= bytes.length || !random.once(share)) continue;
    if (payload.length === 0 && !random.once(4)) continue;
    chosen.push(payload);
    end = payload.start + payload.length;
  }
  return chosen.length === 0 ? undefined : ropeOf(bytes, chosen);
}

/** The bytes as a rope with these payloads, in order and apart, as spans in memory of their own. */
export function ropeOf(
  bytes: Uint8Array,
  payloads: readonly { readonly start: number; readonly length: number }[],
): Rope {
  const spans: Span[] = [];
  const inline = new Uint8Array(bytes.length - payloads.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  let to = 0;
  for (const { start, length } of payloads) {
    inline.set(bytes.subarray(at, start), to);
    to += start - at;
    spans.push({ position: start, bytes: bytes.slice(start, start + length) });
    at = start + length;
  }
  inline.set(bytes.subarray(at), to);
  return { inline, spans, byteLength: bytes.length };
}

/** The rope's wire bytes, if it keeps ROPE-1; else undefined. */
export function joined({ inline, spans, byteLength }: Rope): Uint8Array | undefined {
  let total = inline.length;
  for (const { bytes } of spans) total += bytes.length;
  if (byteLength !== total) return undefined;
  const bytes = new Uint8Array(total);
  let at = 0;
  let from = 0;
  for (const { position, bytes: span } of spans) {
    if (!Number.isInteger(position) || position < at + HEAD_BYTES_MIN || from + position - at > inline.length)
      return undefined;
    bytes.set(inline.subarray(from, from + position - at), at);
    bytes.set(span, position);
    from += position - at;
    at = position + span.length;
  }
  bytes.set(inline.subarray(from), at);
  return bytes;
}

/** Whether every span is exactly one of the payloads (ROPE-2). */
export function standOnPayloads({ spans }: Rope, { found }: Payloads): boolean {
  return spans.every(({ position, bytes }) =>
    found.some(({ start, length }) => start === position && length === bytes.length),
  );
}
