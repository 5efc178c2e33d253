/** Decodes wire bytes, contiguous or as a rope, to messages. */
import type { BinaryReadOptions, DescMessage, MessageShape } from "@bufbuild/protobuf";
import { closureReader } from "./compile/closure-read.js";
import type { Values } from "./wire/fields.js";
import type { MessageType } from "./compile/message-type.js";
import { messageType } from "./compile/message-type.js";
import { R, setViews } from "./wire/read.js";
import type { Rope, Span } from "./rope/rope.js";
import { checkSpans, joinRope, RopeViolation } from "./rope/rope.js";
import { expectSpan } from "./wire/read-span.js";
import { startWork, TooManyValuesError } from "./wire/work.js";

export interface DecodeOptions extends Partial<BinaryReadOptions> {
  /**
   * Whether decoded bytes (`bytes` fields, and the data of unknown fields) are copies, or views that share the input's
   * memory. Default: "copy". Small copies share an ArrayBuffer, so use a value's `buffer` only together with its
   * `byteOffset`.
   */
  readonly bytes?: "copy" | "view";
  /**
   * Most values that the message may consist of: nested messages, and elements of lists and maps. Default: no limit. A
   * nested message with many fields counts more than once, and numbers of a list count a sixteenth. Decoding cannot be
   * interrupted, so this bounds how long input from others can keep the thread busy: about 100 ms for 262,144.
   */
  readonly valuesMax?: number;
}

/** The default of `BinaryReadOptions.recursionLimit` in protobuf-es. */
const RECURSION_LIMIT_DEFAULT = 100;
const NO_SPANS: readonly Span[] = [];

/**
 * Decodes contiguous wire bytes to what protobuf-es's `fromBinary` returns.
 * The input must not change meanwhile, so it must not be memory that another process writes to.
 * @throws Error or RangeError if the input is malformed; Error if it consists of more values than `valuesMax`
 */
export function decode<D extends DescMessage>(schema: D, input: Uint8Array, options?: DecodeOptions): MessageShape<D> {
  return decodeType(messageType(schema), input, 0, input.length, options) as MessageShape<D>;
}

/**
 * Decodes a rope. With `bytes: "view"`, a `bytes` field whose value is a span is that very array. A field that is
 * neither `bytes` nor packed fixed-width values in the schema gets a copy of its span.
 *
 * The inline part must not change meanwhile. Spans may change, even by another process: they are only copied or passed
 * on.
 * @throws Error or RangeError if the rope breaks one of the rules ROPE-1 to ROPE-3, or the message is malformed
 */
export function decodeRope<D extends DescMessage>(schema: D, rope: Rope, options?: DecodeOptions): MessageShape<D> {
  return decodeRopeOfType(messageType(schema), rope, options?.bytes === "view", options) as MessageShape<D>;
}

/** Decodes `input[offset, offset + byteLength)`. */
export function decodeType(
  type: MessageType,
  input: Uint8Array,
  offset: number,
  byteLength: number,
  options: DecodeOptions | undefined,
): Values {
  const end = offset + byteLength;
  startWork(options?.valuesMax);
  R.len = end;
  R.depth = 0;
  R.depthMax = options?.recursionLimit ?? RECURSION_LIMIT_DEFAULT;
  R.keepUnknown = options?.readUnknownFields ?? true;
  setViews(options?.bytes === "view");
  const message = type.create();
  type.read(message, input, offset, end);
  return message;
}

/** @param spanViews whether `bytes` values that are spans are those very arrays */
export function decodeRopeOfType(
  type: MessageType,
  rope: Rope,
  spanViews: boolean,
  options: DecodeOptions | undefined,
): Values {
  const { inline, spans, byteLength } = rope;
  if (spans.length === 0 && inline.length === byteLength) return decodeType(type, inline, 0, inline.length, options);
  checkSpans(rope);
  startWork(options?.valuesMax);
  R.len = inline.length;
  R.depth = 0;
  R.depthMax = options?.recursionLimit ?? RECURSION_LIMIT_DEFAULT;
  R.keepUnknown = options?.readUnknownFields ?? true;
  setViews(options?.bytes === "view");
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
    // These errors would come with the joined message too (TypeError: a text that is not UTF-8). Any other error may
    // come from a value that is read in another form than it was written and ran into the place of a span.
    if (error instanceof RopeViolation || error instanceof TypeError || error instanceof TooManyValuesError)
      throw error;
  } finally {
    R.spans = NO_SPANS;
    R.nextSpan = 0;
    R.shift = 0;
    R.spanAt = Infinity;
  }
  const joined = joinRope(rope);
  return decodeType(type, joined, 0, joined.length, options);
}
