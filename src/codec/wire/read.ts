/**
 * Reads single values, for both forms of the decoder. A `take` function reads at `R.pos`, advances it, and never reads
 * past `R.len`.
 *
 * READ-1  The input is private memory, or at least memory that does not change meanwhile (see UTF8-1). Spans are the
 *         exception: they are only copied, or passed on as they are.
 */
import { ScalarType, protoInt64 } from "@bufbuild/protobuf";
import { WIRE } from "./fields.js";
import type { Span } from "../rope/rope.js";
import { takeString } from "./utf8.js";
import { BYTES_UNITS, work } from "./work.js";

const NO_SPANS: readonly Span[] = [];

/** Returns bytes [at, at + byteLength) of `input` for the message to keep, or undefined if they have to be copied. */
export type Lend = (input: Uint8Array, at: number, byteLength: number) => Uint8Array | undefined;

/** State of the current decoding. Decoding runs no user code, so there is only one at a time. */
export const R = {
  pos: 0,
  /** End of the input. */
  len: 0,
  depth: 0,
  depthMax: 100,
  keepUnknown: true,
  /** Decoded bytes of at least this length are views of the input; 0: all of them; Infinity: none. */
  viewsFrom: Infinity,
  /** Makes these views, if set. It may decline. */
  lend: undefined as Lend | undefined,
  /** Collects every decoded `bytes` value, if set. Each value then has an ArrayBuffer of its own. */
  collected: undefined as Uint8Array[] | undefined,
  /** Whether `bytes` values that are spans are those very arrays, and not copies. */
  spanViews: false,
  // The halves of the 64-bit integer read last.
  lo: 0,
  hi: 0,
  // Only for ropes. A position in memory plus `shift` is a position in the joined message, which is `joinedLen` long.
  joinedLen: 0,
  spans: NO_SPANS,
  /** Index of the next span. */
  nextSpan: 0,
  /** The place of the next span in the inline part; Infinity: there is none. */
  spanAt: Infinity,
  /** Bytes of the spans taken so far. */
  shift: 0,
};

export const float64 = new Float64Array(1);
/** Reading a bigint through a DataView is faster than from a BigInt64Array, and takes less memory meanwhile. */
const view64 = new DataView(float64.buffer);
const words32 = new Int32Array(float64.buffer);
const float32 = new Float32Array(float64.buffer);
export const bytes8 = new Uint8Array(float64.buffer);

export function eof(): never {
  throw new RangeError("premature EOF");
}

export function tooDeep(name: string): never {
  throw new Error(`cannot decode ${name} from binary: maximum recursion depth of ${R.depthMax} reached`);
}

/** Reads an unsigned 32-bit varint. The upper bits of a longer varint, of up to ten bytes, are dropped. */
export function takeVarint32(b: Uint8Array): number {
  const { len } = R;
  let p = R.pos;
  if (p >= len) eof();
  let byte = b[p++];
  let value = byte & 0x7f;
  for (let shift = 7; byte > 0x7f; shift += 7) {
    if (shift === 70) throw new Error("invalid varint");
    if (p >= len) eof();
    byte = b[p++];
    if (shift < 35) value |= (byte & (shift === 28 ? 0x0f : 0x7f)) << shift;
  }
  R.pos = p;
  return value >>> 0;
}

/** Reads a varint of up to 64 bits into `R.lo` and `R.hi`. */
function takeVarint64(b: Uint8Array): void {
  const { len } = R;
  let p = R.pos;
  let lo = 0;
  let hi = 0;
  for (let shift = 0; ; shift += 7) {
    if (shift === 70) throw new Error("invalid varint");
    if (p >= len) eof();
    const byte = b[p++];
    const bits = byte & 0x7f;
    if (shift < 28) lo |= bits << shift;
    else if (shift === 28) {
      lo |= bits << 28;
      hi = bits >>> 4;
    } else hi |= bits << (shift - 32);
    if (byte < 0x80) break;
  }
  R.pos = p;
  R.lo = lo;
  R.hi = hi;
}

/** Reads a tag: field number and wire type. @throws if it is not a valid tag */
export function takeTag(b: Uint8Array): number {
  const start = R.pos;
  const tag = takeVarint32(b);
  const byteLength = R.pos - start;
  if (byteLength > 5 || (byteLength === 5 && b[R.pos - 1] > 0x0f))
    throw new Error("illegal tag: varint overflows uint32");
  checkTag(tag);
  return tag;
}

export function checkTag(tag: number): void {
  if (tag < 8 || (tag & 7) > 5) throw new Error(`illegal tag: field no ${tag >>> 3} wire type ${tag & 7}`);
}

export function takeInt32(b: Uint8Array): number {
  return takeVarint32(b) | 0;
}

export function takeSint32(b: Uint8Array): number {
  const value = takeVarint32(b);
  return (value >>> 1) ^ -(value & 1);
}

export function takeBool(b: Uint8Array): boolean {
  takeVarint64(b);
  return (R.lo | R.hi) !== 0;
}

function take32(b: Uint8Array): number {
  const p = R.pos;
  if (p + 4 > R.len) eof();
  R.pos = p + 4;
  return b[p] | (b[p + 1] << 8) | (b[p + 2] << 16) | (b[p + 3] << 24);
}

function take64(b: Uint8Array): void {
  if (R.pos + 8 > R.len) eof();
  R.lo = take32(b);
  R.hi = take32(b);
}

export function takeFixed32(b: Uint8Array): number {
  return take32(b) >>> 0;
}

export function takeSfixed32(b: Uint8Array): number {
  return take32(b);
}

export function takeFloat(b: Uint8Array): number {
  words32[0] = take32(b);
  return float32[0];
}

export function takeDouble(b: Uint8Array): number {
  const p = R.pos;
  if (p + 8 > R.len) eof();
  bytes8[0] = b[p];
  bytes8[1] = b[p + 1];
  bytes8[2] = b[p + 2];
  bytes8[3] = b[p + 3];
  bytes8[4] = b[p + 4];
  bytes8[5] = b[p + 5];
  bytes8[6] = b[p + 6];
  bytes8[7] = b[p + 7];
  R.pos = p + 8;
  return float64[0];
}

/** bigint, or string if protobuf-es is told not to use bigint. */
type Int64 = bigint | string;

function signed64(): Int64 {
  if (!protoInt64.supported) return protoInt64.dec(R.lo, R.hi);
  words32[0] = R.lo;
  words32[1] = R.hi;
  return view64.getBigInt64(0, true);
}

function unsignedOf64(): Int64 {
  if (!protoInt64.supported) return protoInt64.uDec(R.lo, R.hi);
  words32[0] = R.lo;
  words32[1] = R.hi;
  return view64.getBigUint64(0, true);
}

export function takeInt64(b: Uint8Array): Int64 {
  takeVarint64(b);
  return signed64();
}

export function takeUint64(b: Uint8Array): Int64 {
  takeVarint64(b);
  return unsignedOf64();
}

export function takeSint64(b: Uint8Array): Int64 {
  takeVarint64(b);
  const { lo, hi } = R;
  const sign = -(lo & 1);
  R.lo = ((lo >>> 1) | (hi << 31)) ^ sign;
  R.hi = (hi >>> 1) ^ sign;
  return signed64();
}

export function takeFixed64(b: Uint8Array): Int64 {
  take64(b);
  return unsignedOf64();
}

export function takeSfixed64(b: Uint8Array): Int64 {
  take64(b);
  return signed64();
}

/** Reads a length, and checks that as many bytes follow. */
export function takeLength(b: Uint8Array): number {
  const n = takeVarint32(b);
  if (n > R.len - R.pos) eof();
  return n;
}

export function takeText(b: Uint8Array): string {
  const n = takeLength(b);
  const p = R.pos;
  R.pos = p + n;
  return takeString(b, p, n, false);
}

export function takeStrictText(b: Uint8Array): string {
  const n = takeLength(b);
  const p = R.pos;
  R.pos = p + n;
  return takeString(b, p, n, true);
}

export function takeBytes(b: Uint8Array): Uint8Array {
  const n = takeLength(b);
  const p = R.pos;
  R.pos = p + n;
  return bytesAt(b, p, n);
}

/**
 * Small copies share an ArrayBuffer of this size, each part of which is used once: making an ArrayBuffer for each copy
 * would cost more than everything else. A copy that is kept keeps at most this much memory alive.
 */
const SLAB_BYTES = 16384;
const SLAB_SHARE_MAX = 2048;
const LOOP_BYTES_MAX = 96;
let slab = new Uint8Array(SLAB_BYTES);
/** The same memory: an array's `buffer` is a getter, which every copy would call. */
let slabBuffer = slab.buffer;
let slabUsed = 0;

/** Returns the `n` bytes at `p` as a view or a copy. */
export function bytesAt(b: Uint8Array, p: number, n: number): Uint8Array {
  work.units += BYTES_UNITS;
  if (R.collected !== undefined) {
    const own = new Uint8Array(n);
    own.set(b.subarray(p, p + n));
    R.collected.push(own);
    return own;
  }
  if (n >= R.viewsFrom) {
    const view = R.lend === undefined ? new Uint8Array(b.buffer, b.byteOffset + p, n) : R.lend(b, p, n);
    if (view !== undefined) return view;
  }
  if (n > SLAB_SHARE_MAX) {
    // Not filled with zeros: every byte is written at once.
    const copy = new Uint8Array(Buffer.allocUnsafeSlow(n).buffer);
    copy.set(b.subarray(p, p + n));
    return copy;
  }
  // SUBTLE: `slab.length` and not the constant: a user who transfers the buffer of a small copy detaches the slab.
  if (slabUsed + n > slab.length) {
    slab = new Uint8Array(SLAB_BYTES);
    slabBuffer = slab.buffer;
    slabUsed = 0;
  }
  const from = slabUsed;
  // The next copy starts aligned, so that it can be viewed as numbers of any size.
  slabUsed = (from + n + 7) & -8;
  if (n > LOOP_BYTES_MAX) slab.set(b.subarray(p, p + n), from);
  else for (let i = 0; i < n; i++) slab[from + i] = b[p + i];
  return new Uint8Array(slabBuffer, from, n);
}

/** Runs a decoding that adds each `bytes` value to `target`, if given. */
export function collectingBytes<T>(target: Uint8Array[] | undefined, decode: () => T): T {
  R.collected = target;
  try {
    return decode();
  } finally {
    R.collected = undefined;
  }
}

/** The length from which a decoding makes views, unless it makes views of everything. */
let lentFrom = Infinity;

/**
 * Runs a decoding that calls `lend` for each `bytes` value of at least `bytesMin` bytes, and for packed fields that are
 * kept as typed arrays.
 */
export function lending<T>(bytesMin: number, lend: Lend, decode: () => T): T {
  lentFrom = bytesMin;
  R.lend = lend;
  try {
    return decode();
  } finally {
    lentFrom = Infinity;
    R.lend = undefined;
  }
}

/** Sets whether the bytes of the next decoding are views of the input. */
export function setViews(views: boolean): void {
  R.viewsFrom = views ? 0 : lentFrom;
}

/** Skips the value of an unknown field whose tag was just read. @param budget how deep groups may be nested in it */
export function skip(b: Uint8Array, tag: number, budget: number): void {
  switch (tag & 7) {
    case WIRE.varint:
      for (;;) {
        if (R.pos >= R.len) eof();
        if (b[R.pos++] < 0x80) return;
      }
    case WIRE.bit64:
      R.pos += 8;
      break;
    case WIRE.bit32:
      R.pos += 4;
      break;
    case WIRE.lengthDelimited: {
      const n = takeLength(b);
      R.pos += n;
      break;
    }
    case WIRE.startGroup:
      if (budget <= 0) throw new Error("maximum recursion depth reached");
      for (;;) {
        const inner = takeTag(b);
        if ((inner & 7) === WIRE.endGroup) {
          if (inner >>> 3 !== tag >>> 3) throw new Error("invalid end group tag");
          return;
        }
        skip(b, inner, budget - 1);
      }
    default:
      throw new Error(`cant skip wire type ${tag & 7}`);
  }
  if (R.pos > R.len) eof();
}

export type ScalarReader = (b: Uint8Array) => unknown;

export const SCALAR_READERS: Readonly<Record<ScalarType, ScalarReader>> = {
  [ScalarType.DOUBLE]: takeDouble,
  [ScalarType.FLOAT]: takeFloat,
  [ScalarType.INT64]: takeInt64,
  [ScalarType.UINT64]: takeUint64,
  [ScalarType.INT32]: takeInt32,
  [ScalarType.FIXED64]: takeFixed64,
  [ScalarType.FIXED32]: takeFixed32,
  [ScalarType.BOOL]: takeBool,
  [ScalarType.STRING]: takeStrictText,
  [ScalarType.BYTES]: takeBytes,
  [ScalarType.UINT32]: takeVarint32,
  [ScalarType.SFIXED32]: takeSfixed32,
  [ScalarType.SFIXED64]: takeSfixed64,
  [ScalarType.SINT32]: takeSint32,
  [ScalarType.SINT64]: takeSint64,
};

// Packed fields of fixed-width values, all values at once.

/** From this size on, making a DataView pays. */
const VIEW_BYTES_MIN = 256;

/**
 * Appends the doubles in the `n` bytes at `R.pos` to a list and returns it. The bytes are there, and `n` is a multiple
 * of 8. An empty list is replaced by one that has its final size from the start.
 */
export function takePackedDoubles(b: Uint8Array, n: number, list: number[]): number[] {
  const count = n >>> 3;
  const at = list.length;
  const values = at === 0 ? new Array<number>(count) : list;
  const view = viewNext(b, n);
  if (view === undefined) for (let i = 0; i < count; i++) values[at + i] = takeDouble(b);
  else for (let i = 0; i < count; i++) values[at + i] = view.getFloat64(i * 8, true);
  return values;
}

export function takePackedFloats(b: Uint8Array, n: number, list: number[]): number[] {
  const count = n >>> 2;
  const at = list.length;
  const values = at === 0 ? new Array<number>(count) : list;
  const view = viewNext(b, n);
  if (view === undefined) for (let i = 0; i < count; i++) values[at + i] = takeFloat(b);
  else for (let i = 0; i < count; i++) values[at + i] = view.getFloat32(i * 4, true);
  return values;
}

export function takePackedSfixed32(b: Uint8Array, n: number, list: number[]): number[] {
  const count = n >>> 2;
  const at = list.length;
  const values = at === 0 ? new Array<number>(count) : list;
  const view = viewNext(b, n);
  if (view === undefined) for (let i = 0; i < count; i++) values[at + i] = takeSfixed32(b);
  else for (let i = 0; i < count; i++) values[at + i] = view.getInt32(i * 4, true);
  return values;
}

export function takePackedFixed32(b: Uint8Array, n: number, list: number[]): number[] {
  const count = n >>> 2;
  const at = list.length;
  const values = at === 0 ? new Array<number>(count) : list;
  const view = viewNext(b, n);
  if (view === undefined) for (let i = 0; i < count; i++) values[at + i] = takeFixed32(b);
  else for (let i = 0; i < count; i++) values[at + i] = view.getUint32(i * 4, true);
  return values;
}

/** Moves past the next `n` bytes and returns a view of them. Returns undefined, and does not move, if they are few. */
function viewNext(b: Uint8Array, n: number): DataView | undefined {
  if (n < VIEW_BYTES_MIN) return undefined;
  const view = new DataView(b.buffer, b.byteOffset + R.pos, n);
  R.pos += n;
  return view;
}
