/**
 * What the RPC core asks of a codec, and the codec that it uses. A codec knows bytes and messages; not where the bytes
 * lie.
 */
import type { BinaryReadOptions, BinaryWriteOptions, DescMessage } from "@bufbuild/protobuf";
import { decodeRopeOfType, decodeType } from "./decode.js";
import { encodeType, ropeOfType, SPAN_BYTES_MIN_DEFAULT } from "./encode.js";
import type { Values } from "./wire/fields.js";
import { messageType } from "./compile/message-type.js";
import type { Rope, Span } from "./rope/rope.js";

/** Encodes and decodes messages of one type. */
export interface MessageCodec {
  /**
   * Whether the inline part of each rope is memory that nobody writes to any more; else it is copied before the codec
   * is called again.
   */
  readonly ownsInline?: boolean;
  /**
   * Writes `message` (a message or what `create` accepts for it) into `target` from `offset`, and never at or past
   * `limit`.
   * @param measures whether the caller asks how much is needed; if not, −1 may be returned for whatever does not fit
   * @returns the bytes written, or −1 − n if it does not fit and needs n bytes; then bytes up to `limit` may have
   * changed
   */
  encodeInto(message: unknown, target: Uint8Array, offset: number, limit: number, measures: boolean): number;
  /**
   * Encodes to a rope. Its spans may be the message's own bytes: they are read until the message is its user's again.
   * Called for a message that `encodeInto` could not fit, right after it.
   */
  encode(message: unknown): Rope;
  /**
   * Reads the message whose inline part is `input[offset, offset + byteLength)`, which is private memory.
   * @param isOwned whether that memory is the message's own from now on, so that its bytes may be views of it; else it
   *   is used again as soon as this returns
   * @param spans what the peer's codec left out of the inline part, where it did: bytes that the message may keep as
   *   they are. Another process may be able to change them meanwhile
   * @throws if malformed, or if the spans do not fit
   */
  decode(input: Uint8Array, offset: number, byteLength: number, isOwned: boolean, spans: readonly Span[]): unknown;
}

/** Makes the codec of a message type; called twice per method and connection end. */
export type MessageCodecFactory = (schema: DescMessage) => MessageCodec;

/**
 * What `create` makes of nothing: a handler that returns nothing answers with an empty message, as everywhere in
 * Connect.
 */
const NOTHING_SET: unknown = Object.freeze({});

/** Protobuf, with functions compiled from the descriptors of protobuf-es. */
export function createProtobufCodec(options?: Partial<BinaryReadOptions & BinaryWriteOptions>): MessageCodecFactory {
  const writeUnknown = options?.writeUnknownFields ?? true;
  return (schema) => {
    const type = messageType(schema);
    return {
      ownsInline: true,
      encodeInto: (message, target, offset, limit, measures) =>
        encodeType(type, (message ?? NOTHING_SET) as Values, target, offset, limit, writeUnknown, measures),
      encode: (message) => ropeOfType(type, (message ?? NOTHING_SET) as Values, writeUnknown, SPAN_BYTES_MIN_DEFAULT),
      decode(input, offset, byteLength, isOwned, spans) {
        if (spans.length === 0) return decodeType(type, input, offset, byteLength, isOwned, options);
        const joinedLength = spans.reduce((sum, { bytes }) => sum + bytes.length, byteLength);
        const rope = { inline: input.subarray(offset, offset + byteLength), spans, byteLength: joinedLength };
        return decodeRopeOfType(type, rope, isOwned, true, options);
      },
    };
  };
}
