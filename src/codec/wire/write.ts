/**
 * Writes single values, for both forms of the encoder. A `put` function gets memory, a position and a limit. It returns
 * the position after what it wrote, or −1 if that would be past the limit. A `size` function returns how many bytes
 * `put` will write. For a value that the field cannot hold, both throw an error that names the field.
 *
 * WRITE-1  No byte outside of [offset, limit) is written, whatever the message does meanwhile.
 */
import { ScalarType } from "@bufbuild/protobuf";
import { bytesHooks } from "../rope/bytes-hooks.js";
import { putString, putVarint32, utf8Length, varint32Length } from "./utf8.js";
import type { Span } from "../rope/rope.js";

/**
 * State of the current encoding. An encoding that a getter starts within another one restores this state at its end.
 */
export const W = {
  /** Whether an encoding is in progress. */
  busy: false,
  /** Whether absent fields and nested plain objects are accepted, as by `create`. */
  lenient: false,
  writeUnknown: true,
  /**
   * Whether the current part was sized as a part of something larger, so that the lengths within it are in `memo`.
   * Otherwise a nested part is sized just before it is written.
   */
  sized: false,
  /** Lengths of nested parts, in writing order: stored while sizing, used while writing. */
  memo: new Int32Array(256),
  /** Index at which the next length is stored. */
  top: 0,
  /** Index of the length that is used next. */
  next: 0,
  // The same for the keys of maps.
  keys: [] as string[][],
  keysTop: 0,
  keysNext: 0,
  /** Values of at least this size become spans; Infinity: none does. */
  spanBytesMin: Infinity,
  /** Bytes of spans found while sizing. */
  spanBytesSized: 0,
  /** Bytes of spans left out while writing. */
  spanBytes: 0,
  spans: [] as Span[],
  /** Whether `bytesHooks` is called for the bytes that are written. */
  tracking: false,
  // The halves of the 64-bit integer split last.
  lo: 0,
  hi: 0,
};

const words64 = new BigInt64Array(1);
const words32 = new Int32Array(words64.buffer);
export const float64 = new Float64Array(words64.buffer);
const float32 = new Float32Array(words64.buffer);
export const bytes8 = new Uint8Array(words64.buffer);

/** Below this size a loop is faster than `set`. */
const LOOP_BYTES_MAX = 96;

/** Reserves the next place in `W.memo`. */
export function reserve(): number {
  const slot = W.top++;
  if (slot >= W.memo.length) {
    const larger = new Int32Array(W.memo.length * 2);
    larger.set(W.memo);
    W.memo = larger;
  }
  return slot;
}

export function putTag(b: Uint8Array, p: number, limit: number, tag: number): number {
  return p + varint32Length(tag) > limit ? -1 : putVarint32(b, p, tag);
}

/** Writes the length of a part that was sized before. */
export function putLength(b: Uint8Array, p: number, limit: number, byteLength: number): number {
  return p + varint32Length(byteLength) > limit ? -1 : putVarint32(b, p, byteLength);
}

export function fault(label: string, problem: string): Error {
  return new Error(`cannot encode field ${label} to binary: ${problem}`);
}

function shown(value: unknown): string {
  return typeof value === "number" || typeof value === "string" || typeof value === "bigint"
    ? String(value)
    : typeof value;
}

// 32-bit integers.

export function toInt32(value: unknown, label: string): number {
  const number = typeof value === "string" ? Number(value) : value;
  if (typeof number !== "number" || (number | 0) !== number) throw fault(label, `invalid int32: ${shown(value)}`);
  return number;
}

export function toUint32(value: unknown, label: string): number {
  const number = typeof value === "string" ? Number(value) : value;
  if (typeof number !== "number" || number >>> 0 !== number) throw fault(label, `invalid uint32: ${shown(value)}`);
  return number;
}

export function sizeInt32(value: unknown, label: string): number {
  const number = typeof value === "number" && (value | 0) === value ? value : toInt32(value, label);
  return number < 0 ? 10 : varint32Length(number);
}

export function putInt32(b: Uint8Array, p: number, limit: number, value: unknown, label: string): number {
  let number = typeof value === "number" && (value | 0) === value ? value : toInt32(value, label);
  if (number >= 0) return p + varint32Length(number) > limit ? -1 : putVarint32(b, p, number);
  if (p + 10 > limit) return -1;
  for (let i = 0; i < 9; i++) {
    b[p++] = (number & 0x7f) | 0x80;
    number >>= 7;
  }
  b[p++] = 1;
  return p;
}

export function sizeUint32(value: unknown, label: string): number {
  return varint32Length(typeof value === "number" && value >>> 0 === value ? value : toUint32(value, label));
}

export function putUint32(b: Uint8Array, p: number, limit: number, value: unknown, label: string): number {
  const number = typeof value === "number" && value >>> 0 === value ? value : toUint32(value, label);
  return p + varint32Length(number) > limit ? -1 : putVarint32(b, p, number);
}

function zigzag32(value: unknown, label: string): number {
  const number = typeof value === "number" && (value | 0) === value ? value : toInt32(value, label);
  return ((number << 1) ^ (number >> 31)) >>> 0;
}

export function sizeSint32(value: unknown, label: string): number {
  return varint32Length(zigzag32(value, label));
}

export function putSint32(b: Uint8Array, p: number, limit: number, value: unknown, label: string): number {
  const number = zigzag32(value, label);
  return p + varint32Length(number) > limit ? -1 : putVarint32(b, p, number);
}

export function sizeBool(): number {
  return 1;
}

export function putBool(b: Uint8Array, p: number, limit: number, value: unknown): number {
  if (p >= limit) return -1;
  b[p] = value ? 1 : 0;
  return p + 1;
}

function put32(b: Uint8Array, p: number, value: number): number {
  b[p] = value;
  b[p + 1] = value >>> 8;
  b[p + 2] = value >>> 16;
  b[p + 3] = value >>> 24;
  return p + 4;
}

export function sizeFixed32(): number {
  return 4;
}

export function putFixed32(b: Uint8Array, p: number, limit: number, value: unknown, label: string): number {
  const number = typeof value === "number" && value >>> 0 === value ? value : toUint32(value, label);
  return p + 4 > limit ? -1 : put32(b, p, number);
}

export function putSfixed32(b: Uint8Array, p: number, limit: number, value: unknown, label: string): number {
  const number = typeof value === "number" && (value | 0) === value ? value : toInt32(value, label);
  return p + 4 > limit ? -1 : put32(b, p, number);
}

// 64-bit integers: bigint, number or string, whichever the field holds.

const INT64_MIN = -(2n ** 63n);
const INT64_MAX = 2n ** 63n - 1n;
const UINT64_MAX = 2n ** 64n - 1n;

/** Splits a signed integer into `W.lo` and `W.hi`. */
export function split64(value: unknown, label: string): void {
  const integer = typeof value === "bigint" ? value : toBigInt(value, label);
  if (integer < INT64_MIN || integer > INT64_MAX) throw fault(label, `invalid int64: ${shown(value)}`);
  words64[0] = integer;
  W.lo = words32[0];
  W.hi = words32[1];
}

export function splitUnsigned64(value: unknown, label: string): void {
  const integer = typeof value === "bigint" ? value : toBigInt(value, label);
  if (integer < 0n || integer > UINT64_MAX) throw fault(label, `invalid uint64: ${shown(value)}`);
  words64[0] = integer;
  W.lo = words32[0];
  W.hi = words32[1];
}

function splitZigzag64(value: unknown, label: string): void {
  split64(value, label);
  const { lo, hi } = W;
  const sign = hi >> 31;
  W.lo = (lo << 1) ^ sign;
  W.hi = ((hi << 1) | (lo >>> 31)) ^ sign;
}

function toBigInt(value: unknown, label: string): bigint {
  try {
    return BigInt(value as string);
  } catch (error) {
    throw fault(label, (error as Error).message);
  }
}

/** Bytes of the integer in `W.lo` and `W.hi` as a varint. */
function varint64Length(): number {
  const hi = W.hi >>> 0;
  if (hi === 0) return varint32Length(W.lo >>> 0);
  if (hi < 0x8) return 5;
  if (hi < 0x400) return 6;
  if (hi < 0x20000) return 7;
  if (hi < 0x1000000) return 8;
  return hi < 0x80000000 ? 9 : 10;
}

function putVarint64(b: Uint8Array, p: number, limit: number): number {
  if (p + 10 > limit && p + varint64Length() > limit) return -1;
  let lo = W.lo >>> 0;
  let hi = W.hi >>> 0;
  while (hi !== 0) {
    b[p++] = (lo & 0x7f) | 0x80;
    lo = ((lo >>> 7) | (hi << 25)) >>> 0;
    hi >>>= 7;
  }
  return putVarint32(b, p, lo);
}

export function sizeInt64(value: unknown, label: string): number {
  split64(value, label);
  return varint64Length();
}

export function putInt64(b: Uint8Array, p: number, limit: number, value: unknown, label: string): number {
  split64(value, label);
  return putVarint64(b, p, limit);
}

export function sizeUint64(value: unknown, label: string): number {
  splitUnsigned64(value, label);
  return varint64Length();
}

export function putUint64(b: Uint8Array, p: number, limit: number, value: unknown, label: string): number {
  splitUnsigned64(value, label);
  return putVarint64(b, p, limit);
}

export function sizeSint64(value: unknown, label: string): number {
  splitZigzag64(value, label);
  return varint64Length();
}

export function putSint64(b: Uint8Array, p: number, limit: number, value: unknown, label: string): number {
  splitZigzag64(value, label);
  return putVarint64(b, p, limit);
}

export function sizeFixed64(): number {
  return 8;
}

export function putFixed64(b: Uint8Array, p: number, limit: number, value: unknown, label: string): number {
  splitUnsigned64(value, label);
  return p + 8 > limit ? -1 : put32(b, put32(b, p, W.lo), W.hi);
}

export function putSfixed64(b: Uint8Array, p: number, limit: number, value: unknown, label: string): number {
  split64(value, label);
  return p + 8 > limit ? -1 : put32(b, put32(b, p, W.lo), W.hi);
}

// Floating point.

/** Converts a value like DataView's setters. */
export function toDouble(value: unknown, label: string): number {
  if (typeof value === "bigint" || typeof value === "symbol") throw fault(label, `invalid double: ${typeof value}`);
  return Number(value);
}

export function toFloat(value: unknown, label: string): number {
  const number = typeof value === "string" ? Number(value) : value;
  if (typeof number !== "number" || (Number.isNaN(number) && typeof value === "string" && value !== "NaN"))
    throw fault(label, `invalid float32: ${shown(value)}`);
  // A number that is too large for 32 bits would become infinite.
  if (!Number.isFinite(Math.fround(number)) && Number.isFinite(number))
    throw fault(label, `invalid float32: ${shown(value)}`);
  return number;
}

export function putFloat(b: Uint8Array, p: number, limit: number, value: unknown, label: string): number {
  float32[0] = toFloat(value, label);
  return p + 4 > limit ? -1 : put32(b, p, words32[0]);
}

export function putDouble(b: Uint8Array, p: number, limit: number, value: unknown, label: string): number {
  float64[0] = typeof value === "number" ? value : toDouble(value, label);
  if (p + 8 > limit) return -1;
  b[p] = bytes8[0];
  b[p + 1] = bytes8[1];
  b[p + 2] = bytes8[2];
  b[p + 3] = bytes8[3];
  b[p + 4] = bytes8[4];
  b[p + 5] = bytes8[5];
  b[p + 6] = bytes8[6];
  b[p + 7] = bytes8[7];
  return p + 8;
}

// Strings and bytes, preceded by their length.

export function sizeText(value: unknown): number {
  const byteLength = utf8Length(typeof value === "string" ? value : String(value));
  return varint32Length(byteLength) + byteLength;
}

export function putText(b: Uint8Array, p: number, limit: number, value: unknown): number {
  return putString(b, p, limit, typeof value === "string" ? value : String(value));
}

/**
 * The value of a `bytes` field.
 * @throws Error that names the field if the value is not bytes, or is a view of memory that is gone
 */
export function toBytes(value: unknown, label: string): Uint8Array {
  if (value instanceof Uint8Array && value.length > 0 && !W.tracking) return value;
  // Bytes of another realm, as in jest, are no `Uint8Array` of this one.
  if (ArrayBuffer.isView(value) && (value as Uint8Array).BYTES_PER_ELEMENT === 1) {
    if (value.byteLength === 0) requireAttached(value as Uint8Array, label);
    return W.tracking ? bytesHooks.note(value as Uint8Array) : (value as Uint8Array);
  }
  if (W.lenient && Array.isArray(value)) return new Uint8Array(value as number[]);
  throw fault(label, `invalid bytes: ${value === null ? "null" : typeof value}`);
}

/**
 * Checks an empty array: a detached one looks empty too, and sending it would silently lose data.
 * @throws Error that names the field if the array is detached
 */
export function requireAttached(array: ArrayBufferView & { at(index: number): unknown }, label: string): void {
  try {
    // Returns undefined for an empty array, and throws for a detached one.
    array.at(0);
  } catch {
    throw fault(label, `its memory is gone: ${bytesHooks.explainGone(array)}`);
  }
}

export function sizeBytes(value: unknown, label: string): number {
  return delimitedLength(toBytes(value, label).length);
}

/** While sizing: bytes of a value of `n` bytes and its length. Counts the value if it will be a span. */
export function delimitedLength(n: number): number {
  if (n >= W.spanBytesMin) W.spanBytesSized += n;
  return varint32Length(n) + n;
}

export function putBytes(b: Uint8Array, p: number, limit: number, value: unknown, label: string): number {
  const bytes = toBytes(value, label);
  const n = bytes.length;
  if (n >= W.spanBytesMin) return putSpan(b, p, limit, bytes);
  if (p + varint32Length(n) + n > limit) return -1;
  p = putVarint32(b, p, n);
  putRaw(b, p, bytes);
  return p + n;
}

/** While tracking: the list to read element by element instead. */
export function readableList(list: ArrayLike<unknown>): ArrayLike<unknown> {
  if (!ArrayBuffer.isView(list) || list.byteLength === 0) return list;
  const bytes = new Uint8Array(list.buffer, list.byteOffset, list.byteLength);
  const read = bytesHooks.readable(bytes);
  if (read === bytes) return list;
  const ArrayType = list.constructor as new (
    buffer: ArrayBufferLike,
    byteOffset: number,
    length: number,
  ) => ArrayLike<unknown>;
  return new ArrayType(read.buffer, read.byteOffset, (list as ArrayLike<unknown>).length);
}

/** Copies bytes. The caller has checked that there is room. */
export function putRaw(b: Uint8Array, p: number, bytes: Uint8Array): void {
  const n = bytes.length;
  if (n > LOOP_BYTES_MAX) b.set(bytes, p);
  else for (let i = 0; i < n; i++) b[p + i] = bytes[i];
}

/** Writes the length of a span. The bytes stay where they are. */
export function putSpan(b: Uint8Array, p: number, limit: number, bytes: Uint8Array): number {
  if (p + varint32Length(bytes.length) > limit) return -1;
  p = putVarint32(b, p, bytes.length);
  W.spans.push({ position: p + W.spanBytes, bytes });
  W.spanBytes += bytes.length;
  return p;
}

// Writers by scalar type.

export interface ScalarWriter {
  readonly size: (value: unknown, label: string) => number;
  readonly put: (b: Uint8Array, p: number, limit: number, value: unknown, label: string) => number;
}

export const SCALAR_WRITERS: Readonly<Record<ScalarType, ScalarWriter>> = {
  [ScalarType.DOUBLE]: { size: sizeFixed64, put: putDouble },
  [ScalarType.FLOAT]: { size: sizeFixed32, put: putFloat },
  [ScalarType.INT64]: { size: sizeInt64, put: putInt64 },
  [ScalarType.UINT64]: { size: sizeUint64, put: putUint64 },
  [ScalarType.INT32]: { size: sizeInt32, put: putInt32 },
  [ScalarType.FIXED64]: { size: sizeFixed64, put: putFixed64 },
  [ScalarType.FIXED32]: { size: sizeFixed32, put: putFixed32 },
  [ScalarType.BOOL]: { size: sizeBool, put: putBool },
  [ScalarType.STRING]: { size: sizeText, put: putText },
  [ScalarType.BYTES]: { size: sizeBytes, put: putBytes },
  [ScalarType.UINT32]: { size: sizeUint32, put: putUint32 },
  [ScalarType.SFIXED32]: { size: sizeFixed32, put: putSfixed32 },
  [ScalarType.SFIXED64]: { size: sizeFixed64, put: putSfixed64 },
  [ScalarType.SINT32]: { size: sizeSint32, put: putSint32 },
  [ScalarType.SINT64]: { size: sizeSint64, put: putSint64 },
};
