/** Writing packed fields of fixed-width values (double, float, fixed32, …): in fragmented send, or as spans. */
import { ScalarType } from "@bufbuild/protobuf";
import { bytesHooks } from "../rope/bytes-hooks.js";
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

export function fixedListSize(list: ArrayLike<unknown>, tag: number, width: number): number {
  return list.length === 0 ? 0 : varint32Length(tag) + delimitedLength(list.length * width);
}

export function putFixedList(
  b: Uint8Array,
  p: number,
  limit: number,
  list: ArrayLike<unknown>,
  tag: number,
  type: ScalarType,
  width: number,
  label: string,
): number {
  if (list.length === 0) return p;
  p = putTag(b, p, limit, tag);
  return p < 0 ? -1 : putPackedFixed(b, p, limit, list, type, width, label);
}

export type FixedArray = Float64Array | Float32Array | Int32Array | Uint32Array | BigInt64Array | BigUint64Array;

/**
 * The typed array whose memory is what a packed field of this type is on the wire, on a little-endian machine;
 * undefined for types of no fixed width.
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

/** Values on their way pass through this memory, which is typed arrays of every kind. */
const CHUNK_BYTES = 4096;
const chunkBytes = new Uint8Array(CHUNK_BYTES);
const chunkDoubles = new Float64Array(chunkBytes.buffer);
const chunkFloats = new Float32Array(chunkBytes.buffer);
const chunkWords = new Int32Array(chunkBytes.buffer);
/**
 * The chunk's beginnings: whatever there is to write is cut in parts of these sizes, so that no view is made for it.
 */
const chunks = [CHUNK_BYTES, 1024, 256, 64, 8, 4].map((byteLength) => chunkBytes.subarray(0, byteLength));

/** Writes length and values of a packed field that is not empty. */
export function putPackedFixed(
  b: Uint8Array,
  p: number,
  limit: number,
  list: ArrayLike<unknown>,
  type: ScalarType,
  width: number,
  label: string,
): number {
  const byteLength = list.length * width;
  let bytes =
    list instanceof fixedArrayOf(type)! ? new Uint8Array(list.buffer, list.byteOffset, byteLength) : undefined;
  if (W.tracking && bytes !== undefined) bytes = bytesHooks.note(bytes);
  if (bytes === undefined && W.tracking) list = readableList(list);
  if (byteLength >= W.spanBytesMin) return putSpan(b, p, limit, bytes ?? packedBytes(list, type, width, label));
  if (p + varint32Length(byteLength) + byteLength > limit) return -1;
  p = putVarint32(b, p, byteLength);
  if (bytes !== undefined) putRaw(b, p, bytes);
  else putFixedValues(b, p, list, byteLength, type, width, label);
  return p + byteLength;
}

function packedBytes(list: ArrayLike<unknown>, type: ScalarType, width: number, label: string): Uint8Array {
  const bytes = new Uint8Array(list.length * width);
  putFixedValues(bytes, 0, list, bytes.length, type, width, label);
  return bytes;
}

/** Writes the first values of a list, `byteLength` bytes of them, for which there is room. */
function putFixedValues(
  b: Uint8Array,
  p: number,
  list: ArrayLike<unknown>,
  byteLength: number,
  type: ScalarType,
  width: number,
  label: string,
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
