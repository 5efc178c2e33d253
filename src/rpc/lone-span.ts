/**
 * The short way for a message whose one large value is in its place already: a loan, or bytes of the peer's that go back to it. Does at
 * once what `Payload` and `Bulks` do in steps for all others. Code that has not run for a while costs a hundred times what
 * it costs hot, and who has just filled a large loan has little else left in the caches; so less of it is worth having.
 */
import type { Blocks } from "../carrier/blocks.js";
import type { Carrier } from "../carrier/carrier.js";
import type { Rope } from "../codec/rope.js";
import { Lease } from "../memory/lease.js";
import { Loan } from "../memory/loan.js";
import { originOf } from "../memory/origin.js";
import { FRAME_HEADER_BYTES, INLINE_BYTES_MAX, SPAN, SPAN_ENTRY_BYTES, tableOffset } from "../wire/frame.js";
import type { Outgoing } from "./frame-writer.js";
import { commitFrame } from "./frame-writer.js";
import { sentBy } from "./noting.js";

/**
 * Sends such a message, if it is one, if nothing waits before it, and if there is room; then what it refers to is taken from its user.
 * @returns false: nothing was done
 */
export function sendLoneSpan(carrier: Carrier, first: Outgoing, { inline, spans, byteLength }: Rope): boolean {
  const { blocks } = carrier;
  if (blocks === undefined || spans.length !== 1) return false;
  const { position, bytes } = spans[0];
  const spanBytes = bytes.length;
  // A getter of the message may have changed it meanwhile: that is said by who does it in steps.
  if (spanBytes === 0 || inline.length + spanBytes !== byteLength || inline.length > INLINE_BYTES_MAX - SPAN_ENTRY_BYTES) return false;
  const { metadata } = first;
  const metadataLength = metadata === undefined ? 0 : metadata.length;
  const start = carrier.index;
  const table = tableOffset(start + FRAME_HEADER_BYTES + metadataLength);
  const body = table + SPAN_ENTRY_BYTES;
  const frameLength = body - start + inline.length;
  if (carrier.freeBytes() < frameLength) return false;
  const { byteOffset } = bytes;
  const buffer = bytes.buffer as ArrayBuffer;
  const origin = originOf(bytes);
  const loan = origin instanceof Loan && blocks.isOwnLoan(origin) ? origin : undefined;
  if (loan !== undefined) takeLoan(blocks, loan, buffer, first.label);
  else if (!(origin instanceof Lease) || !takeBack(blocks, origin, buffer, first.label)) return false;
  const { unit } = loan ?? (origin as Lease);
  const words = carrier.ringWords;
  let at = table >> 2;
  words[at++] = position;
  words[at++] = spanBytes;
  words[at++] = unit;
  words[at++] = loan !== undefined ? blocks.arena.generationOf(unit) : (origin as Lease).generation;
  words[at++] = loan !== undefined ? byteOffset : (origin as Lease).offset + byteOffset;
  words[at] = loan !== undefined ? 0 : SPAN.returned | SPAN.given;
  if (metadataLength > 0) carrier.ringBytes.set(metadata!, start + FRAME_HEADER_BYTES);
  carrier.ringBytes.set(inline, body);
  if (loan !== undefined) blocks.arena.handOver(unit);
  blocks.copies.spansSentInPlace++;
  commitFrame(carrier, first.kind, first.flags, first.code, first.streamId, first.argument, metadataLength, byteLength, inline.length, 1, frameLength);
  carrier.publish();
  // After the frame is out: that is worth microseconds to the peer.
  loan?.emptyViews(buffer);
  return true;
}

/** @throws Error if the user has moved the memory away */
function takeLoan(blocks: Blocks, loan: Loan, buffer: ArrayBuffer, label: string): void {
  loan.take(buffer, sentBy(label));
  blocks.loanSent(loan.unit);
}

/** Takes a lease of the peer's block that ends when it is sent. False: it does not, or something else still needs it. */
function takeBack(blocks: Blocks, lease: Lease, buffer: ArrayBuffer, label: string): boolean {
  if (!lease.endsWhenSent || lease.retained || blocks.ownerOf(lease) !== "peer" || !lease.endByReturning(buffer, sentBy(label))) return false;
  blocks.leaseEnded(lease);
  return true;
}
