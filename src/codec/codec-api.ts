import type { BinaryReadOptions, BinaryWriteOptions, DescMessage, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { joinRope, type Rope } from "./rope.js";

export type EncodeOptions = Partial<BinaryWriteOptions>;

export interface RopeOptions extends EncodeOptions {
  /** From this size on, in bytes, `bytes` and packed fixed-width fields become spans. */
  readonly spanBytesMin?: number;
}

export interface DecodeOptions extends Partial<BinaryReadOptions> {
  /** Whether decoded `bytes` fields are copies (default), or views of the input. */
  readonly bytes?: "copy" | "view";
}

/** Exact number of bytes of the message's wire form. */
export function sizeOf<D extends DescMessage>(schema: D, message: MessageShape<D> | MessageInitShape<D>, options?: EncodeOptions): number {
  return toBinary(schema, create(schema, message as MessageInitShape<D>), options).length;
}

/**
 * Writes the message into `target` from `offset`, never at or past `limit`.
 * @returns the bytes written, or −1 − n if it does not fit and needs n bytes
 */
export function encodeInto<D extends DescMessage>(
  schema: D,
  message: MessageShape<D> | MessageInitShape<D>,
  target: Uint8Array,
  offset = 0,
  limit = target.length,
  options?: EncodeOptions,
): number {
  const bytes = toBinary(schema, create(schema, message as MessageInitShape<D>), options);
  if (bytes.length > limit - offset) return -1 - bytes.length;
  target.set(bytes, offset);
  return bytes.length;
}

/** Encodes to a rope whose inline part is new memory. */
export function encodeRope<D extends DescMessage>(schema: D, message: MessageShape<D> | MessageInitShape<D>, options?: RopeOptions): Rope {
  const inline = toBinary(schema, create(schema, message as MessageInitShape<D>), options);
  return { inline, spans: [], byteLength: inline.length };
}

/** Decodes contiguous wire bytes. */
export function decode<D extends DescMessage>(schema: D, input: Uint8Array, options?: DecodeOptions): MessageShape<D> {
  return fromBinary(schema, options?.bytes === "view" ? input : input.slice(), options);
}

/** Decodes a rope. @throws if malformed, or if the spans break one of the rules ROPE-1 to ROPE-3 */
export function decodeRope<D extends DescMessage>(schema: D, rope: Rope, options?: DecodeOptions): MessageShape<D> {
  return decode(schema, joinRope(rope), options);
}
