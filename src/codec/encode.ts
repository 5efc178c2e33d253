/**
 * Encodes messages to wire bytes, straight into the target. A message is measured first only if writing it without
 * measuring did not work.
 */
import type { BinaryWriteOptions, DescMessage, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { bytesHooks } from "./rope/bytes-hooks.js";
import { beginPart } from "./compile/closure-write.js";
import type { Values } from "./wire/fields.js";
import type { MessageType } from "./compile/message-type.js";
import { messageType } from "./compile/message-type.js";
import type { Rope, Span } from "./rope/rope.js";
import { refuseView } from "./wire/view-mark.js";
import { W } from "./wire/write.js";

export type EncodeOptions = Partial<BinaryWriteOptions>;

export interface RopeOptions extends EncodeOptions {
  /**
   * From this size on, in bytes, the values of `bytes` fields and of packed fixed-width fields become spans instead of
   * being copied. Default: 4096.
   */
  readonly spanBytesMin?: number;
}

/** What can be encoded: a message, or what `create` accepts for one. */
export type Encodable<D extends DescMessage> = MessageShape<D> | MessageInitShape<D>;

/**
 * Measured (2-core VM, Node 20): encoding a value to a rope takes 0.3 µs as a span of any size; copied to new inline
 * memory it takes 0.9 µs at 1 KiB, 2.3 µs at 4 KiB and 5.6 µs at 16 KiB. Sending the rope costs more for each span (a
 * fragment of its own, later a lease), so a span has to have a few KiB.
 */
export const SPAN_BYTES_MIN_DEFAULT = 4096;

/** The largest message that protobuf allows, in bytes. */
const MESSAGE_BYTES_MAX = 2 ** 31 - 1;
/** The largest `W.memo` that is kept between messages. */
const MEMO_SLOTS_KEPT = 1 << 16;
const NO_SPANS: Span[] = [];
const INLINE_SLAB_BYTES = 16384;
const INLINE_SHARE_MAX = 1024;
let inlineSlab = new Uint8Array(INLINE_SLAB_BYTES);
let inlineUsed = 0;

/**
 * The exact number of bytes of the message's wire form.
 * @throws Error that names the field if a value is not of its field's type
 */
export function sizeOf<D extends DescMessage>(schema: D, message: Encodable<D>, options?: EncodeOptions): number {
  return sizeOfType(messageType(schema), message as Values, options?.writeUnknownFields ?? true);
}

/**
 * Writes the message's wire bytes into `target` from `offset` on, and never at or past `limit`. They are the bytes that
 * protobuf-es's `toBinary` returns.
 *
 * @param message a message, or a plain object that `create` accepts
 * @returns the number of bytes written, or −1 − n if the message does not fit and needs n bytes; then bytes between
 *   `offset` and `limit` may have changed
 * @throws RangeError if `offset` and `limit` are not within `target`
 * @throws Error that names the field if a value is not of its field's type, if a `bytes` value is a view of detached
 *   memory, or if a required field is missing
 */
// eslint-disable-next-line @typescript-eslint/max-params -- a public function
export function encodeInto<D extends DescMessage>(
  schema: D,
  message: Encodable<D>,
  target: Uint8Array,
  offset = 0,
  limit = target.length,
  options?: EncodeOptions,
): number {
  if (
    !(offset >= 0 && offset <= limit && limit <= target.length && Number.isInteger(offset) && Number.isInteger(limit))
  ) {
    throw new RangeError(`cannot write from ${offset} to ${limit} of ${target.length} bytes`);
  }
  const plan = { type: messageType(schema), writeUnknown: options?.writeUnknownFields ?? true, measures: true };
  return encodeType(plan, message as Values, target, offset, limit);
}

/**
 * Encodes to a rope: large values stay where they are, and the rest is written to new memory. The spans are the
 * message's own memory, so do not change the message while the rope is in use.
 */
export function encodeRope<D extends DescMessage>(schema: D, message: Encodable<D>, options?: RopeOptions): Rope {
  return ropeOfType(
    messageType(schema),
    message as Values,
    options?.writeUnknownFields ?? true,
    options?.spanBytesMin ?? SPAN_BYTES_MIN_DEFAULT,
  );
}

function sizeOfType(type: MessageType, message: Values, writeUnknown: boolean): number {
  const outer = enter(type, message, writeUnknown);
  try {
    return checkedLength(type.size(message));
  } finally {
    leave(outer);
  }
}

/** How messages of a type are encoded. One object for many messages. */
export interface EncodePlan {
  readonly type: MessageType;
  readonly writeUnknown: boolean;
  /** Whether a message that seems not to fit is measured. If not, −1 is returned for it. */
  readonly measures: boolean;
}

/** Like `encodeInto`, without its checks. */
export function encodeType(
  { type, writeUnknown, measures }: EncodePlan,
  message: Values,
  target: Uint8Array,
  offset: number,
  limit: number,
): number {
  const outer = enter(type, message, writeUnknown);
  try {
    let end = type.write(message, target, offset, limit);
    if (end >= 0) return end - offset;
    if (!measures) return -1;
    // The message is too large, or only seemed so because a length was expected to take more bytes than it does.
    W.sized = false;
    beginPart();
    const byteLength = checkedLength(type.size(message));
    if (byteLength > limit - offset) return -1 - byteLength;
    W.sized = true;
    end = type.write(message, target, offset, limit);
    if (end !== offset + byteLength) throw changedMeanwhile(type);
    return byteLength;
  } finally {
    leave(outer);
  }
}

export function ropeOfType(type: MessageType, message: Values, writeUnknown: boolean, spanBytesMin: number): Rope {
  const outer = enter(type, message, writeUnknown);
  const spans: Span[] = [];
  W.spanBytesMin = spanBytesMin;
  W.spanBytesSized = 0;
  W.spanBytes = 0;
  W.spans = spans;
  try {
    const byteLength = checkedLength(type.size(message));
    const inline = newInline(byteLength - W.spanBytesSized);
    W.sized = true;
    const end = type.write(message, inline, 0, inline.length);
    if (end !== inline.length || end + W.spanBytes !== byteLength) throw changedMeanwhile(type);
    return { inline, spans, byteLength };
  } finally {
    W.spanBytesMin = Infinity;
    W.spanBytes = 0;
    W.spans = NO_SPANS;
    leave(outer);
  }
}

/**
 * Memory for an inline part. Small ones share an ArrayBuffer: making one can start a collection of V8's young
 * generation if a large one, such as that of a leased payload, was made just before.
 */
function newInline(byteLength: number): Uint8Array {
  if (byteLength > INLINE_SHARE_MAX) return new Uint8Array(byteLength);
  if (inlineUsed + byteLength > inlineSlab.length) {
    inlineSlab = new Uint8Array(INLINE_SLAB_BYTES);
    inlineUsed = 0;
  }
  const from = inlineUsed;
  inlineUsed += byteLength;
  return inlineSlab.subarray(from, inlineUsed);
}

/** Starts an encoding. It may be within another one, because a getter of a message may encode another message. */
function enter(type: MessageType, message: Values, writeUnknown: boolean): typeof W | undefined {
  const isMessage = message.$typeName === type.desc.typeName;
  if (!isMessage) refuseView(message);
  const outer = W.busy ? { ...W } : undefined;
  W.busy = true;
  W.lenient = !isMessage;
  W.writeUnknown = writeUnknown;
  W.sized = false;
  W.spanBytesMin = Infinity;
  W.spanBytes = 0;
  W.next = W.top;
  W.keysNext = W.keysTop;
  // Only for this encoding, and not for those that getters start within it.
  W.tracking = bytesHooks.tracking;
  bytesHooks.tracking = false;
  return outer;
}

/** Ends an encoding. `W.memo` stays even if it has grown meanwhile: it still has the lengths of the outer encoding. */
function leave(outer: typeof W | undefined): void {
  bytesHooks.tracking = W.tracking;
  if (outer !== undefined) {
    const { memo } = W;
    Object.assign(W, outer, { memo });
    return;
  }
  W.busy = false;
  W.top = 0;
  W.keysTop = 0;
  if (W.keys.length > 0) W.keys.length = 0;
  if (W.memo.length > MEMO_SLOTS_KEPT) W.memo = new Int32Array(256);
}

function changedMeanwhile(type: MessageType): Error {
  return new Error(`cannot encode ${type.desc.typeName} to binary: the message changed while it was encoded`);
}

function checkedLength(byteLength: number): number {
  if (byteLength > MESSAGE_BYTES_MAX)
    throw new RangeError(`cannot encode a message of ${byteLength} bytes: protobuf's limit is ${MESSAGE_BYTES_MAX}`);
  return byteLength;
}
