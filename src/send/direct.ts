/**
 * The short ways for large messages that need no waiting: one with a single large value (a loan, bytes of the peer's
 * that go back to it, or bytes on the heap that are copied in one go), and one of ordinary memory that leaves in one
 * fragment. Does at once what `Payload` and `FragmentedSends` do in steps for all others. Code that has not run for a
 * while costs a hundred times what it costs hot, and who has just filled a large value has little else left in the
 * caches; so less of it is worth having.
 */
import type { Blocks } from "../carrier/shm/blocks.js";
import type { Carrier } from "../carrier/carrier.js";
import { SPAN_COPY_BYTES_MIN } from "./payload.js";
import type { Rope } from "../codec/rope/rope.js";
import { Lease } from "../memory/payload/lease.js";
import { isEphemeral } from "../memory/payload/message-leases.js";
import { Loan } from "../memory/payload/loan.js";
import { originOf } from "../memory/payload/origin.js";
import {
  BLOCK_REFERENCE_BYTES,
  FRAME_HEADER_BYTES,
  INLINE_BYTES_MAX,
  SPAN,
  SPAN_ENTRY_BYTES,
  tableOffset,
} from "../wire/frame.js";
import type { Part } from "../wire/parts.js";
import { Borrowed, Parts } from "../wire/parts.js";
import type { Outgoing } from "./frame-writer.js";
import { commitFrame } from "./frame-writer.js";
import { sentBy } from "./loan-tracker.js";

const ALL_SENT = new Parts([]);

/**
 * Sends such a message, if it is one and there is room; then what it refers to is taken from its user. Nothing may wait
 * to be sent.
 * @param copyBytesMax how much may be copied in one go
 * @returns what the carrier has of it; undefined: nothing was done
 */
export function sendAtOnce(carrier: Carrier, first: Outgoing, rope: Rope, copyBytesMax: number): Parts | undefined {
  return sendLoneSpan(carrier, first, rope, copyBytesMax)
    ? ALL_SENT
    : sendInOneFragment(carrier, first, rope, copyBytesMax);
}

/**
 * Nothing but the message's own bytes and values on the heap: they go into one block, or with the socket as they lie.
 */
function sendInOneFragment(carrier: Carrier, first: Outgoing, rope: Rope, copyBytesMax: number): Parts | undefined {
  const { blocks } = carrier;
  const { byteLength, spans } = rope;
  // Without blocks nothing is copied.
  if (byteLength > carrier.fragmentBytesMax || (blocks !== undefined && byteLength > copyBytesMax)) return undefined;
  const spanBytesMax = blocks === undefined ? byteLength : SPAN_COPY_BYTES_MIN - 1;
  for (const { bytes } of spans) {
    if (bytes.length > spanBytesMax || originOf(bytes) !== undefined || isEphemeral(bytes)) return undefined;
  }
  const parts = new Parts(lent(rope));
  // A getter of the message may have changed it meanwhile: that is said by who does it in steps.
  if (parts.byteLength !== byteLength) return undefined;
  const { metadata } = first;
  const metadataLength = metadata === undefined ? 0 : metadata.length;
  if (carrier.freeBytes() < FRAME_HEADER_BYTES + metadataLength + BLOCK_REFERENCE_BYTES) return undefined;
  carrier.prewake();
  const start = carrier.index + FRAME_HEADER_BYTES;
  const bodyLength = carrier.placeFragment(parts, byteLength, start + metadataLength);
  if (bodyLength < 0) return undefined;
  if (metadataLength > 0) carrier.ringBytes.set(metadata!, start);
  const { kind, code, streamId, argument } = first;
  const frameLength = FRAME_HEADER_BYTES + metadataLength + bodyLength;
  commitFrame(
    carrier,
    kind,
    first.flags | carrier.fragmentFlag,
    code,
    streamId,
    argument,
    metadataLength,
    byteLength,
    byteLength,
    0,
    frameLength,
  );
  carrier.publish();
  return parts;
}

/** The rope's fragments, of which the spans are its user's. */
function lent({ inline, spans }: Rope): readonly Part[] {
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

/** A loan or lease stays where it is, a value on the heap gets a block of its own. */
function sendLoneSpan(
  carrier: Carrier,
  first: Outgoing,
  { inline, spans, byteLength }: Rope,
  copyBytesMax: number,
): boolean {
  const { blocks } = carrier;
  if (blocks === undefined || spans.length !== 1) return false;
  const { position, bytes } = spans[0];
  const spanBytes = bytes.length;
  // A getter of the message may have changed it meanwhile: that is said by who does it in steps.
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
    blocks.copies.spansSentInPlace++;
  } else if (origin instanceof Lease && takeBack(blocks, origin, buffer, first.label)) {
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
  words[at++] = flags === 0 ? blocks.arena.generationOf(unit) : (origin as Lease).generation;
  words[at++] = byteOffset;
  words[at] = flags;
  if (metadataLength > 0) carrier.ringBytes.set(metadata!, start + FRAME_HEADER_BYTES);
  carrier.ringBytes.set(inline, body);
  // PAYLOAD-1: our hold on the block passes on with the frame.
  if (flags === 0) blocks.arena.handOver(unit);
  commitFrame(
    carrier,
    first.kind,
    first.flags,
    first.code,
    first.streamId,
    first.argument,
    metadataLength,
    byteLength,
    inline.length,
    1,
    frameLength,
  );
  carrier.publish();
  // After the frame is out: that is worth microseconds to the peer.
  loan?.emptyViews(buffer);
  return true;
}

/** The unit of a block that holds a copy from now on; negative: there is none at the moment. */
function copyToBlock(carrier: Carrier, blocks: Blocks, bytes: Uint8Array): number {
  const unit = blocks.allocate(bytes.length);
  if (unit < 0) return unit;
  carrier.prewake();
  blocks.bytesOf(unit, bytes.length).set(bytes);
  blocks.copies.spansCopiedIn++;
  return unit;
}

/**
 * Takes a lease of the peer's block that ends when it is sent. False: it does not, or something else still needs it.
 */
function takeBack(blocks: Blocks, lease: Lease, buffer: ArrayBuffer, label: string): boolean {
  if (
    !lease.endsWhenSent ||
    lease.retained ||
    blocks.ownerOf(lease) !== "peer" ||
    !lease.endByReturning(buffer, sentBy(label))
  )
    return false;
  blocks.leaseEnded(lease);
  blocks.copies.spansSentInPlace++;
  return true;
}
