/** Wire bytes to messages: contiguous ones, and ropes. */
import type { BinaryReadOptions, DescMessage, MessageShape } from "@bufbuild/protobuf";
import { closureReader } from "./compile/closure-read.js";
import type { Values } from "./wire/fields.js";
import type { MessageType } from "./compile/message-type.js";
import { messageType } from "./compile/message-type.js";
import { R, setViews } from "./wire/read.js";
import type { Rope, Span } from "./rope/rope.js";
import { checkSpans, joinRope, RopeViolation } from "./rope/rope.js";
import { expectSpan } from "./wire/read-span.js";

export interface DecodeOptions extends Partial<BinaryReadOptions> {
  /**
   * Whether decoded bytes (`bytes` fields, and the data of unknown fields) are copies, or views of the input that share
   * its memory. Default: "copy". Small copies share an ArrayBuffer with other copies, so look at a value's `byteOffset`
   * before you use its `buffer`.
   */
  readonly bytes?: "copy" | "view";
}

/** `BinaryReadOptions.recursionLimit` of protobuf-es, where it is not given. */
const RECURSION_LIMIT_DEFAULT = 100;
const NO_SPANS: readonly Span[] = [];

/**
 * Decodes contiguous wire bytes to what protobuf-es's `fromBinary` returns.
 * The input must not change meanwhile: not be memory that another process writes to.
 * @throws Error or RangeError if the input is malformed
 */
export function decode<D extends DescMessage>(schema: D, input: Uint8Array, options?: DecodeOptions): MessageShape<D> {
  return decodeType(messageType(schema), input, 0, input.length, options?.bytes === "view", options) as MessageShape<D>;
}

/**
 * Decodes a rope. With `bytes: "view"`, a `bytes` field whose value is a span is that very array. A field that the
 * schema does not see as bytes or as packed fixed-width values gets a copy of its span.
 *
 * The inline part must not change meanwhile. Spans may, even by another process: they are only copied or handed on.
 * @throws Error or RangeError if the rope breaks one of the rules ROPE-1 to ROPE-3, or the message is malformed
 */
export function decodeRope<D extends DescMessage>(schema: D, rope: Rope, options?: DecodeOptions): MessageShape<D> {
  const views = options?.bytes === "view";
  return decodeRopeOfType(messageType(schema), rope, views, views, options) as MessageShape<D>;
}

/** For whoever has the type at hand already: decodes `input[offset, offset + byteLength)`. */
export function decodeType(
  type: MessageType,
  input: Uint8Array,
  offset: number,
  byteLength: number,
  views: boolean,
  options: Partial<BinaryReadOptions> | undefined,
): Values {
  const end = offset + byteLength;
  R.len = end;
  R.depth = 0;
  R.depthMax = options?.recursionLimit ?? RECURSION_LIMIT_DEFAULT;
  R.keepUnknown = options?.readUnknownFields ?? true;
  setViews(views);
  const message = type.create();
  type.read(message, input, offset, end);
  return message;
}

/**
 * For whoever has the type at hand already.
 * @param views whether decoded bytes are views of the inline part
 * @param spanViews whether bytes that are spans are those very arrays
 */
export function decodeRopeOfType(
  type: MessageType,
  rope: Rope,
  views: boolean,
  spanViews: boolean,
  options: Partial<BinaryReadOptions> | undefined,
): Values {
  const { inline, spans, byteLength } = rope;
  if (spans.length === 0 && inline.length === byteLength)
    return decodeType(type, inline, 0, inline.length, views, options);
  checkSpans(rope);
  R.len = inline.length;
  R.depth = 0;
  R.depthMax = options?.recursionLimit ?? RECURSION_LIMIT_DEFAULT;
  R.keepUnknown = options?.readUnknownFields ?? true;
  setViews(views);
  R.spanViews = spanViews;
  R.joinedLen = byteLength;
  R.spans = spans;
  R.nextSpan = 0;
  R.shift = 0;
  expectSpan();
  try {
    const message = type.create();
    closureReader(type.desc, messageType).read(message, inline, 0, byteLength);
    if (R.nextSpan < spans.length || R.pos > inline.length)
      throw new RopeViolation("ROPE-3", `${spans.length - R.nextSpan} spans are left over`);
    return message;
  } catch (error) {
    // A value that is read as something else than what was written may have run into the place of a span. Whatever else
    // is wrong is so in the joined message too: a text that is not UTF-8 (TypeError).
    if (error instanceof RopeViolation || error instanceof TypeError) throw error;
  } finally {
    R.spans = NO_SPANS;
    R.nextSpan = 0;
    R.shift = 0;
    R.spanAt = Infinity;
  }
  const joined = joinRope(rope);
  return decodeType(type, joined, 0, joined.length, views, options);
}
