/**
 * Special memory that an encoding meets. Loans of which it copies a small part are tracked, so that they can be taken
 * from their users. Mapped files are read.
 */
import { bytesHooks } from "../codec/rope/bytes-hooks.js";
import { Loan } from "../memory/payload/loan.js";
import { MappedFile } from "../memory/payload/mapped-file.js";
import { explainGone, originOf, ephemeral } from "../memory/payload/origin.js";
import { INLINE_BYTES_MAX } from "../wire/frame.js";

export function sentBy(label: string): string {
  return `it was sent by an earlier call of ${label}`;
}

export type TrackedLoans = Map<ArrayBufferLike, Loan>;

/** No loan so far. */
const NONE: TrackedLoans = new Map();
/** Loans of which the current encoding wrote bytes; undefined while there can be none. */
let tracked: TrackedLoans | undefined;

bytesHooks.explainGone = explainGone;
bytesHooks.note = (bytes) => {
  const origin = originOf(bytes);
  if (origin instanceof Loan && tracked !== undefined) {
    if (tracked === NONE) tracked = new Map();
    tracked.set(bytes.buffer, origin);
  }
  // FILE-1: a small file would be read where it is mapped. A larger one is not copied here.
  if (origin instanceof MappedFile && bytes.length <= INLINE_BYTES_MAX)
    return origin.readNow(bytes.byteOffset, bytes.length);
  return bytes;
};

bytesHooks.readable = (bytes) => {
  const origin = originOf(bytes);
  return origin instanceof MappedFile ? origin.readNow(bytes.byteOffset, bytes.length) : bytes;
};

/** Returns the loans of the encoding around this one, since a getter of a message may send another message. */
export function startTracking(): TrackedLoans | undefined {
  const outer = tracked;
  tracked = ephemeral.count > 0 ? NONE : undefined;
  bytesHooks.tracking = tracked !== undefined;
  return outer;
}

/** Returns the loans that were tracked, if there are any. */
export function endTracking(outer: TrackedLoans | undefined): TrackedLoans | undefined {
  const loans = tracked === NONE ? undefined : tracked;
  tracked = outer;
  bytesHooks.tracking = false;
  return loans;
}

/** Takes tracked loans from their users: sending a part of a loan takes all of it. */
export function releaseTracked(loans: TrackedLoans, why: string): void {
  for (const [buffer, loan] of loans) loan.release(buffer as ArrayBuffer, why);
}
