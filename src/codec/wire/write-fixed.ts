/** Writes packed fields of fixed-width values (double, float, fixed32, …): all values at once, or as a span. */
import type { DescField } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import { bytesHooks } from "../rope/bytes-hooks.js";
import { labelOf, tagOf, widthOf, WIRE } from "./fields.js";
import { varint32Length, putVarint32 } from "./utf8.js";
import {
  delimitedLength,
  putRaw,
  readableList,
  putSpan,
  putTag,
  split64,
  splitUnsigned64,
  toDouble,
  toFloat,
  toInt32,
  toUint32,
  W,
} from "./write.js";

/** What the writer has to know of a packed field. */
export interface FixedField {
  readonly tag: number;
  readonly type: ScalarType;
  /** Bytes of a value. */
  readonly width: number;
  readonly label: string;
}

/** @param type the field's, of a fixed width */
export function fixedFieldOf(field: DescField, type: ScalarType): FixedField {
  return {
    tag: tagOf(field.number, WIRE.lengthDelimited),
    type,
    width: widthOf(type),
    label: labelOf(field),
  };
}

export function fixedListSize(list: ArrayLike<unknown>, { tag, width }: FixedField): number {
  return list.length === 0 ? 0 : varint32Length(tag) + delimitedLength(list.length * width);
}

export function putFixedList(
  b: Uint8Array,
  p: number,
  limit: number,
  list: ArrayLike<unknown>,
  field: FixedField,
): number {
  if (list.length === 0) return p;
  p = putTag(b, p, limit, field.tag);
  return p < 0 ? -1 : putPackedFixed(b, p, limit, list, field);
}

export type FixedArray = Float64Array | Float32Array | Int32Array | Uint32Array | BigInt64Array | BigUint64Array;

/**
 * The typed array whose memory, on a little-endian machine, has the same bytes as a packed field of this type;
 * undefined for types without a fixed width.
 */
export function fixedArrayOf(
  type: ScalarType,
): (new (buffer: ArrayBufferLike, byteOffset?: number, length?: number) => FixedArray) | undefined {
  switch (type) {
    case ScalarType.DOUBLE:
      return Float64Array;
    case ScalarType.FLOAT:
      return Float32Array;
    case ScalarType.SFIXED32:
      return Int32Array;
    case ScalarType.FIXED32:
      return Uint32Array;
    case ScalarType.SFIXED64:
      return BigInt64Array;
    case ScalarType.FIXED64:
      return BigUint64Array;
    default:
      return undefined;
  }
}

/** Values pass through this memory, which is viewed as typed arrays of every kind. */
const CHUNK_BYTES = 4096;
const chunkBytes = new Uint8Array(CHUNK_BYTES);
const chunkDoubles = new Float64Array(chunkBytes.buffer);
const chunkFloats = new Float32Array(chunkBytes.buffer);
const chunkWords = new Int32Array(chunkBytes.buffer);
/** Beginnings of the chunk. Values are written in parts of these sizes, so that no view has to be made. */
const chunks = [CHUNK_BYTES, 1024, 256, 64, 8, 4].map((byteLength) => chunkBytes.subarray(0, byteLength));

/** Writes length and values of a packed field that is not empty. */
function putPackedFixed(b: Uint8Array, p: number, limit: number, list: ArrayLike<unknown>, field: FixedField): number {
  const { type, width } = field;
  const byteLength = list.length * width;
  let bytes =
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- every type of fixed width has one
    list instanceof fixedArrayOf(type)! ? new Uint8Array(list.buffer, list.byteOffset, byteLength) : undefined;
  if (W.tracking && bytes !== undefined) bytes = bytesHooks.note(bytes);
  if (bytes === undefined && W.tracking) list = readableList(list);
  if (byteLength >= W.spanBytesMin) return putSpan(b, p, limit, bytes ?? packedBytes(list, field));
  if (p + varint32Length(byteLength) + byteLength > limit) return -1;
  p = putVarint32(b, p, byteLength);
  if (bytes !== undefined) putRaw(b, p, bytes);
  else putFixedValues(b, p, list, byteLength, field);
  return p + byteLength;
}

function packedBytes(list: ArrayLike<unknown>, field: FixedField): Uint8Array {
  const bytes = new Uint8Array(list.length * field.width);
  putFixedValues(bytes, 0, list, bytes.length, field);
  return bytes;
}

/** Writes the first `byteLength` bytes of values of a list. The caller has checked that there is room. */
function putFixedValues(
  b: Uint8Array,
  p: number,
  list: ArrayLike<unknown>,
  byteLength: number,
  { type, width, label }: FixedField,
): void {
  let from = 0;
  for (const part of chunks) {
    const count = part.length / width;
    for (; byteLength >= part.length; byteLength -= part.length) {
      fillChunk(list, from, count, type, label);
      putRaw(b, p, part);
      from += count;
      p += part.length;
    }
  }
}

function fillChunk(list: ArrayLike<unknown>, from: number, n: number, type: ScalarType, label: string): void {
  switch (type) {
    case ScalarType.DOUBLE:
      for (let i = 0; i < n; i++) {
        const value = list[from + i];
        chunkDoubles[i] = typeof value === "number" ? value : toDouble(value, label);
      }
      break;
    case ScalarType.FLOAT:
      for (let i = 0; i < n; i++) chunkFloats[i] = toFloat(list[from + i], label);
      break;
    case ScalarType.SFIXED32:
      for (let i = 0; i < n; i++) chunkWords[i] = toInt32(list[from + i], label);
      break;
    case ScalarType.FIXED32:
      for (let i = 0; i < n; i++) chunkWords[i] = toUint32(list[from + i], label);
      break;
    default:
      for (let i = 0; i < n; i++) {
        if (type === ScalarType.SFIXED64) split64(list[from + i], label);
        else splitUnsigned64(list[from + i], label);
        chunkWords[i * 2] = W.lo;
        chunkWords[i * 2 + 1] = W.hi;
      }
  }
}
