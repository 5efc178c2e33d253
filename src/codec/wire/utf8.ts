/**
 * Converts strings to UTF-8 in place, and back. Very short strings are converted by a loop, because a call into the
 * runtime costs more than that; others by the runtime's own conversions.
 *
 * UTF8-1  Text is decoded from private memory only. The runtime makes two passes, and a process that changes the bytes
 *         between them can crash this one.
 */

import { countWork, TEXT_UNITS } from "./work.js";

/** Node's conversion methods of Buffer. They work on any Uint8Array, and need no view of the part to convert. */
interface Conversions {
  utf8Write(this: Uint8Array, text: string, offset: number, byteLength: number): number;
  utf8Slice(this: Uint8Array, start: number, end: number): string;
}
// Called with the memory as `this`.
// eslint-disable-next-line @typescript-eslint/unbound-method
const { utf8Write, utf8Slice } = Buffer.prototype as unknown as Conversions;
const strictDecoder = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true });
const { fromCharCode } = String;

/**
 * Up to this many UTF-16 units, a loop is faster than the runtime (measured on Node 20: 1.3 ns a unit, 45 ns a call).
 */
const LOOP_UNITS_MAX = 24;
/** A string of up to this many units has a length prefix of one byte, whatever its characters are. */
const ONE_BYTE_PREFIX_UNITS_MAX = 42;

/** The number of UTF-8 bytes of a string. A lone surrogate counts as U+FFFD, as which it is written. */
export function utf8Length(text: string): number {
  const units = text.length;
  if (units > LOOP_UNITS_MAX) return Buffer.byteLength(text);
  for (let i = 0; i < units; i++) if (text.charCodeAt(i) > 0x7f) return Buffer.byteLength(text);
  return units;
}

/** Writes a string with its length prefix at `p`. Returns the position after it, or −1 if that is past `limit`. */
export function putString(b: Uint8Array, p: number, limit: number, text: string): number {
  const units = text.length;
  if (units > LOOP_UNITS_MAX) return putLongString(b, p, limit, text);
  const end = p + 1 + units;
  // No string has fewer bytes than units.
  if (end > limit) return -1;
  b[p] = units;
  for (let i = p + 1, unit = 0; i < end; i++, unit++) {
    const code = text.charCodeAt(unit);
    if (code > 0x7f) return putLongString(b, p, limit, text);
    b[i] = code;
  }
  return end;
}

function putLongString(b: Uint8Array, p: number, limit: number, text: string): number {
  const units = text.length;
  if (units <= ONE_BYTE_PREFIX_UNITS_MAX && p + 1 + units * 3 <= limit) {
    const byteLength = utf8Write.call(b, text, p + 1, units * 3);
    b[p] = byteLength;
    return p + 1 + byteLength;
  }
  const byteLength = Buffer.byteLength(text);
  const end = p + varint32Length(byteLength) + byteLength;
  if (end > limit) return -1;
  utf8Write.call(b, text, putVarint32(b, p, byteLength), byteLength);
  return end;
}

/**
 * Reads `n` bytes at `p` as a string (UTF8-1).
 * @param strict whether invalid UTF-8 is an error, rather than U+FFFD
 * @throws TypeError
 */
export function takeString(b: Uint8Array, p: number, n: number, strict: boolean): string {
  if (n <= 8) {
    if (n === 0) return "";
    const text = takeShort(b, p, n);
    if (text !== undefined) return text;
  }
  countWork(TEXT_UNITS + (n >>> 3));
  const text = utf8Slice.call(b, p, p + n);
  // Invalid UTF-8 has become U+FFFD, but U+FFFD may also have been in the text.
  if (strict && text.includes("\ufffd")) return strictDecoder.decode(b.subarray(p, p + n));
  return text;
}

/** A string of 1 to 8 ASCII characters, or undefined if it has others. */
function takeShort(b: Uint8Array, p: number, n: number): string | undefined {
  const b0 = b[p];
  if (n === 1) return b0 < 0x80 ? fromCharCode(b0) : undefined;
  const b1 = b[p + 1];
  if (n === 2) return (b0 | b1) < 0x80 ? fromCharCode(b0, b1) : undefined;
  const b2 = b[p + 2];
  if (n === 3) return (b0 | b1 | b2) < 0x80 ? fromCharCode(b0, b1, b2) : undefined;
  const b3 = b[p + 3];
  const first = b0 | b1 | b2 | b3;
  if (n === 4) return first < 0x80 ? fromCharCode(b0, b1, b2, b3) : undefined;
  const b4 = b[p + 4];
  if (n === 5) return (first | b4) < 0x80 ? fromCharCode(b0, b1, b2, b3, b4) : undefined;
  const b5 = b[p + 5];
  if (n === 6) return (first | b4 | b5) < 0x80 ? fromCharCode(b0, b1, b2, b3, b4, b5) : undefined;
  const b6 = b[p + 6];
  if (n === 7) return (first | b4 | b5 | b6) < 0x80 ? fromCharCode(b0, b1, b2, b3, b4, b5, b6) : undefined;
  const b7 = b[p + 7];
  return (first | b4 | b5 | b6 | b7) < 0x80 ? fromCharCode(b0, b1, b2, b3, b4, b5, b6, b7) : undefined;
}

/** Bytes of an unsigned 32-bit integer as a varint: one for every 7 bits. A multiplication replaces the division. */
export function varint32Length(value: number): number {
  return (352 - Math.clz32(value | 1) * 9) >>> 6;
}

/** Writes an unsigned 32-bit integer as a varint, and returns the position after it. */
export function putVarint32(b: Uint8Array, p: number, value: number): number {
  while (value > 0x7f) {
    b[p++] = (value & 0x7f) | 0x80;
    value >>>= 7;
  }
  b[p++] = value;
  return p;
}
