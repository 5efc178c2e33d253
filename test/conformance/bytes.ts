/**
 * Wire bytes as the rows of the table write them: hexadecimal text, blanks ignored. Made from the encoding's rules
 * alone, so that the rows do not depend on the code that they judge.
 */

/** Numbers of the wire types. */
export const VARINT = 0;
export const FIXED64 = 1;
export const LENGTH = 2;
export const GROUP = 3;
export const GROUP_END = 4;
export const FIXED32 = 5;

export function compact(text: string): string {
  const hex = text.replace(/\s/g, "");
  if (!/^(?:[0-9a-f]{2})*$/.test(hex)) throw new Error(`not hexadecimal bytes: ${text}`);
  return hex;
}

export function toBytes(text: string): Uint8Array<ArrayBuffer> {
  const hex = compact(text);
  return Uint8Array.from({ length: hex.length / 2 }, (_, i) => Number.parseInt(hex.slice(2 * i, 2 * i + 2), 16));
}

export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

export function textHex(text: string): string {
  return Buffer.from(text, "utf8").toString("hex");
}

/** The shortest varint of a number that is not negative. */
export function varint(value: number): string {
  let hex = "";
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    const bits = rest % 128;
    hex += (rest >= 128 ? bits | 128 : bits).toString(16).padStart(2, "0");
    if (rest < 128) return hex;
  }
}

export function tag(number: number, wireType: number): string {
  return varint(number * 8 + wireType);
}

/** Something preceded by its length. */
export function prefixed(content: string): string {
  const hex = compact(content);
  return varint(hex.length / 2) + hex;
}

/** A field of wire type LENGTH. */
export function lengthField(number: number, content: string): string {
  return tag(number, LENGTH) + prefixed(content);
}

/** A field as a group. */
export function groupField(number: number, content: string): string {
  return tag(number, GROUP) + compact(content) + tag(number, GROUP_END);
}
