/**
 * Shortcuts for large messages that need no waiting: one with a single large value (a loan, a lease that goes back to
 * the peer, or bytes on the heap that are copied in one go), and one of ordinary memory that leaves in one fragment.
 * They do at once what `Payload` and `FragmentedSends` do in steps for all others. Code that has not run for a while
 * costs a hundred times what it costs hot, and a user who has just filled a large value has left little else in the
 * caches. So a shorter path is worth having.
 */
import type { SendingCarrier } from "../carrier/carrier.js";
import type { SpanMemory } from "../carrier/span-memory.js";
import type { Rope } from "../codec/rope/rope.js";
import { Lease } from "../memory/payload/lease.js";
import { isEphemeral } from "../memory/payload/message-leases.js";
import { Loan } from "../memory/payload/loan.js";
import { originOf } from "../memory/payload/origin.js";
import {
  BLOCK_REFERENCE_BYTES,
  FRAME_HEADER_BYTES,
  INLINE_BYTES_MAX,
  KIND,
  SPAN,
  SPAN_ENTRY_BYTES,
  tableOffset,
} from "../wire/frame.js";
import type { Part } from "../wire/parts.js";
import { Borrowed, Parts } from "../wire/parts.js";
import { commitFragment } from "./frame-writer.js";
import { sentBy } from "./loan-tracker.js";
import type { Outgoing } from "./outgoing.js";
import { SPAN_COPY_BYTES_MIN } from "./placement.js";

const ALL_SENT = new Parts([]);

/**
 * Sends a message by a shortcut, if it is of such a kind and there is room. What it refers to is then taken from its
 * user. The caller has made sure that no other message waits.
 * @param copyBytesMax how much may be copied in one go
 * @returns the parts that the carrier has; undefined: nothing was done
 */
export function sendAtOnce(
  carrier: SendingCarrier,
  first: Outgoing,
  rope: Rope,
  copyBytesMax: number,
): Parts | undefined {
  return sendLoneSpan(carrier, first, rope, copyBytesMax)
    ? ALL_SENT
    : sendInOneFragment(carrier, first, rope, copyBytesMax);
}

/**
 * Sends a message that consists of its own bytes and values on the heap: in one block, or over the socket from where
 * they lie.
 */
function sendInOneFragment(
  carrier: SendingCarrier,
  first: Outgoing,
  rope: Rope,
  copyBytesMax: number,
): Parts | undefined {
  const { blocks } = carrier;
  const { byteLength, spans } = rope;
  // Without blocks nothing is copied.
  if (byteLength > carrier.fragmentBytesMax || (blocks !== undefined && byteLength > copyBytesMax)) return undefined;
  // Borrowed bytes of a response have left, or are copied, when `SendQueue.send` returns.
  if (spans.length > 0 && byteLength > carrier.borrowedEndBytesMax && first.kind !== KIND.response) return undefined;
  const spanBytesMax = blocks === undefined ? byteLength : SPAN_COPY_BYTES_MIN - 1;
  for (const { bytes } of spans) {
    if (bytes.length > spanBytesMax || originOf(bytes) !== undefined || isEphemeral(bytes)) return undefined;
  }
  const parts = new Parts(borrowedParts(rope));
  // A getter may have changed the message while it was encoded. `Payload` reports that.
  if (parts.byteLength !== byteLength) return undefined;
  const { metadata } = first;
  const metadataLength = metadata === undefined ? 0 : metadata.length;
  if (carrier.freeBytes() < FRAME_HEADER_BYTES + metadataLength + BLOCK_REFERENCE_BYTES) return undefined;
  carrier.prewake();
  const start = carrier.index + FRAME_HEADER_BYTES;
  const bodyLength = carrier.placeFragment(parts, byteLength, start + metadataLength);
  if (bodyLength < 0) return undefined;
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- `metadataLength` is its length
  if (metadataLength > 0) carrier.ringBytes.set(metadata!, start);
  const { kind, code, streamId, argument } = first;
  const head = { kind, flags: first.flags | carrier.fragmentFlag, code, streamId, argument };
  commitFragment(carrier, head, {
    metadata: metadataLength,
    message: byteLength,
    fragment: byteLength,
    spanCount: 0,
    frame: FRAME_HEADER_BYTES + metadataLength + bodyLength,
  });
  carrier.publish();
  return parts;
}

/** The rope's parts; its spans are borrowed from its user. */
function borrowedParts({ inline, spans }: Rope): readonly Part[] {
  const parts: Part[] = [];
  let from = 0;
  let spanBytes = 0;
  for (const { position, bytes } of spans) {
    const to = position - spanBytes;
    parts.push(inline.subarray(from, to), new Borrowed(bytes));
    from = to;
    spanBytes += bytes.length;
  }
  parts.push(inline.subarray(from));
  return parts;
}

/** Sends a message with one large value: a loan or lease from where it lies, a value on the heap in a block. */
function sendLoneSpan(
  carrier: SendingCarrier,
  first: Outgoing,
  { inline, spans, byteLength }: Rope,
  copyBytesMax: number,
): boolean {
  const { blocks } = carrier;
  if (blocks === undefined || spans.length !== 1) return false;
  const { position, bytes } = spans[0];
  const spanBytes = bytes.length;
  // A getter may have changed the message while it was encoded. `Payload` reports that.
  if (
    spanBytes === 0 ||
    inline.length + spanBytes !== byteLength ||
    inline.length > INLINE_BYTES_MAX - SPAN_ENTRY_BYTES
  )
    return false;
  const { metadata } = first;
  const metadataLength = metadata === undefined ? 0 : metadata.length;
  const start = carrier.index;
  const table = tableOffset(start + FRAME_HEADER_BYTES + metadataLength);
  const body = table + SPAN_ENTRY_BYTES;
  const frameLength = body - start + inline.length;
  if (carrier.freeBytes() < frameLength) return false;
  const buffer = bytes.buffer as ArrayBuffer;
  const origin = originOf(bytes);
  let loan: Loan | undefined;
  let unit: number;
  let { byteOffset } = bytes;
  let flags = 0;
  if (origin === undefined) {
    if (spanBytes < SPAN_COPY_BYTES_MIN || spanBytes > copyBytesMax) return false;
    unit = copyToBlock(carrier, blocks, bytes);
    if (unit < 0) return false;
    byteOffset = 0;
  } else if (origin instanceof Loan && blocks.isOwnLoan(origin)) {
    loan = origin;
    ({ unit } = loan);
    loan.take(buffer, sentBy(first.label));
    blocks.loanSent(unit);
  } else if (origin instanceof Lease && blocks.takeBack(origin, buffer, sentBy(first.label))) {
    ({ unit } = origin);
    byteOffset += origin.offset;
    flags = SPAN.returned | SPAN.given;
  } else {
    return false;
  }
  const words = carrier.ringWords;
  let at = table >> 2;
  words[at++] = position;
  words[at++] = spanBytes;
  words[at++] = unit;
  words[at++] = flags === 0 ? blocks.generationOf(unit) : (origin as Lease).generation;
  words[at++] = byteOffset;
  words[at] = flags;
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- `metadataLength` is its length
  if (metadataLength > 0) carrier.ringBytes.set(metadata!, start + FRAME_HEADER_BYTES);
  carrier.ringBytes.set(inline, body);
  // PAYLOAD-1: our hold on the block passes on with the frame.
  if (flags === 0) blocks.handOver(unit);
  commitFragment(carrier, first, {
    metadata: metadataLength,
    message: byteLength,
    fragment: inline.length,
    spanCount: 1,
    frame: frameLength,
  });
  carrier.publish();
  // After the frame has left, which saves the peer microseconds.
  loan?.emptyViews(buffer);
  return true;
}

/** Copies bytes to a block of ours, and returns its unit; negative: there is none now. */
function copyToBlock(carrier: SendingCarrier, blocks: SpanMemory, bytes: Uint8Array): number {
  const unit = blocks.allocate(bytes.length);
  if (unit < 0) return unit;
  carrier.prewake();
  blocks.bytesOf(unit, bytes.length).set(bytes);
  blocks.counts.spansCopiedIn++;
  return unit;
}
