/**
 * The codec of protobuf-es: its `toBinary` and `fromBinary`, except that large `bytes` fields of a message are taken as
 * they are instead of being copied through its writer.
 */
import type { BinaryReadOptions, BinaryWriteOptions, DescField, DescMessage, Message, MessageInitShape } from "@bufbuild/protobuf";
import { create, fromBinary, isMessage, ScalarType, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import type { MessageCodecFactory } from "./codec.js";
import { totalLength } from "./codec.js";

/** From this size a field is worth the work of splitting the message around it. */
const LARGE_BYTES_MIN = 4096;
/** `set` has a fixed cost of about 100 ns; below this size a loop is faster. */
const LOOP_BYTES_MAX = 96;
/** `FeatureSet.FieldPresence.LEGACY_REQUIRED`: a message with such fields cannot be encoded in halves. */
const LEGACY_REQUIRED = 3;

export function createProtobufEsCodec(options?: Partial<BinaryReadOptions & BinaryWriteOptions>): MessageCodecFactory {
  return (schema) => {
    const splitter = createSplitter(schema, options);
    let kept: { readonly message: unknown; readonly parts: readonly Uint8Array[] } | undefined;
    const toParts = (message: unknown): readonly Uint8Array[] => {
      const whole = isMessage(message, schema) ? message : create(schema, message as MessageInitShape<DescMessage>);
      return splitter?.(whole) ?? [toBinary(schema, whole, options)];
    };
    return {
      aliasesInput: true,
      encodeInto(message, target, offset, limit) {
        const parts = toParts(message);
        const byteLength = parts.length === 1 ? parts[0].length : totalLength(parts);
        if (byteLength > limit - offset) {
          kept = { message, parts };
          return -1 - byteLength;
        }
        let at = offset;
        for (const part of parts) {
          copy(part, target, at);
          at += part.length;
        }
        return byteLength;
      },
      encode(message) {
        const parts = kept !== undefined && kept.message === message ? kept.parts : toParts(message);
        kept = undefined;
        return parts;
      },
      decode(input, offset, byteLength) {
        return fromBinary(schema, input.subarray(offset, offset + byteLength), options);
      },
    };
  };
}

type FieldValues = Message & Record<string, unknown>;
type Splitter = (message: FieldValues) => readonly Uint8Array[] | undefined;

/** A function that encodes a message around its large bytes fields, and returns undefined for one that has none. */
function createSplitter(schema: DescMessage, options: Partial<BinaryWriteOptions> | undefined): Splitter | undefined {
  // protobuf-es writes fields by number, and unknown fields last.
  const fields = [...schema.fields].sort((a, b) => a.number - b.number);
  const candidates = fields.filter((field) => field.fieldKind === "scalar" && field.scalar === ScalarType.BYTES && field.oneof === undefined);
  if (candidates.length === 0 || fields.some((field) => (field.presence as number) === LEGACY_REQUIRED)) return undefined;
  return (message) => {
    if (!candidates.some((field) => isLarge(message, field))) return undefined;
    const parts: Uint8Array[] = [];
    let rest = create(schema) as FieldValues;
    const flush = () => {
      const bytes = toBinary(schema, rest, options);
      if (bytes.length > 0) parts.push(bytes);
      rest = create(schema);
    };
    for (const field of fields) {
      if (candidates.includes(field) && isLarge(message, field)) {
        const value = message[field.localName] as Uint8Array;
        flush();
        parts.push(new BinaryWriter().tag(field.number, WireType.LengthDelimited).uint32(value.length).finish(), value);
      } else {
        copyField(message, rest, field);
      }
    }
    if (message.$unknown !== undefined) rest.$unknown = message.$unknown;
    flush();
    return parts;
  };
}

function isLarge(message: FieldValues, field: DescField): boolean {
  const value = message[field.localName];
  return value instanceof Uint8Array && value.length >= LARGE_BYTES_MIN;
}

function copyField(from: FieldValues, to: FieldValues, field: DescField): void {
  if (field.oneof !== undefined) {
    const group = from[field.oneof.localName] as { case?: string };
    if (group.case === field.localName) to[field.oneof.localName] = group;
  } else if (Object.hasOwn(from, field.localName)) {
    to[field.localName] = from[field.localName];
  }
}

function copy(from: Uint8Array, to: Uint8Array, offset: number): void {
  if (from.length > LOOP_BYTES_MAX) to.set(from, offset);
  else for (let i = 0; i < from.length; i++) to[offset + i] = from[i];
}
