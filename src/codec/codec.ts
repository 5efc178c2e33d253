/**
 * The interface between the RPC core and a codec, and the default codec. A codec knows bytes and messages, but not
 * where the bytes lie.
 */
import type { BinaryReadOptions, BinaryWriteOptions, DescMessage } from "@bufbuild/protobuf";
import type { DecodeOptions } from "./decode.js";
import { decodeRopeOfType, decodeType } from "./decode.js";
import type { EncodePlan } from "./encode.js";
import { encodeType, ropeOfType, SPAN_BYTES_MIN_DEFAULT } from "./encode.js";
import type { Values } from "./wire/fields.js";
import { messageType } from "./compile/message-type.js";
import type { Rope, Span } from "./rope/rope.js";

/** Encodes and decodes messages of one type. */
export interface MessageCodec {
  /**
   * Whether the inline part of a rope is never written to again. If not, the caller copies it before it calls the codec
   * again.
   */
  readonly ownsInline?: boolean;
  /**
   * Writes `message` (a message, or what `create` accepts for it) into `target` from `offset` on, and never at or past
   * `limit`.
   * @param measures whether the caller needs to know the size of a message that does not fit; if not, −1 may be
   *   returned
   * @returns the number of bytes written, or −1 − n if the message does not fit and needs n bytes; then bytes between
   *   `offset` and `limit` may have changed
   */
  encodeInto(message: unknown, target: Uint8Array, offset: number, limit: number, measures: boolean): number;
  /**
   * Encodes to a rope. Its spans may be the message's own bytes, which are read until the message's user may change it
   * again. Called right after `encodeInto`, for a message that did not fit.
   */
  encode(message: unknown): Rope;
  /**
   * Reads the message whose inline part is `input[offset, offset + byteLength)`, which is private memory.
   * @param isOwned whether that memory belongs to the message from now on, so that decoded bytes may be views of it; if
   *   not, it is used again as soon as this returns
   * @param spans the values that the peer's codec left out of the inline part. The message may keep these arrays as
   *   they are. Another process may be able to change them meanwhile
   * @throws if the input is malformed, or if the spans do not fit
   */
  decode(input: Uint8Array, offset: number, byteLength: number, isOwned: boolean, spans: readonly Span[]): unknown;
}

/** Makes the codec of a message type. Called twice per method and connection end. */
export type MessageCodecFactory = (schema: DescMessage) => MessageCodec;

/** A handler that returns nothing answers with an empty message, as everywhere in Connect. */
const NOTHING_SET: unknown = Object.freeze({});

/** Protobuf, with functions compiled from the descriptors of protobuf-es. */
export function createProtobufCodec(
  options?: Partial<BinaryReadOptions & BinaryWriteOptions> & Pick<DecodeOptions, "valuesMax">,
): MessageCodecFactory {
  const writeUnknown = options?.writeUnknownFields ?? true;
  const copying: DecodeOptions = { ...options, bytes: "copy" };
  const viewing: DecodeOptions = { ...options, bytes: "view" };
  return (schema) => {
    const type = messageType(schema);
    const measured: EncodePlan = { type, writeUnknown, measures: true };
    const unmeasured: EncodePlan = { type, writeUnknown, measures: false };
    return {
      ownsInline: true,
      encodeInto: (message, target, offset, limit, measures) =>
        encodeType(measures ? measured : unmeasured, (message ?? NOTHING_SET) as Values, target, offset, limit),
      encode: (message) => ropeOfType(type, (message ?? NOTHING_SET) as Values, writeUnknown, SPAN_BYTES_MIN_DEFAULT),
      decode(input, offset, byteLength, isOwned, spans) {
        const how = isOwned ? viewing : copying;
        if (spans.length === 0) return decodeType(type, input, offset, byteLength, how);
        const joinedLength = spans.reduce((sum, { bytes }) => sum + bytes.length, byteLength);
        const rope = { inline: input.subarray(offset, offset + byteLength), spans, byteLength: joinedLength };
        return decodeRopeOfType(type, rope, true, how);
      },
    };
  };
}
