/**
 * Meeting a rope's spans while its inline part is decoded. The rules are those of rope.ts; a peer wrote the positions, so
 * everything here is checked before it is used.
 */
import { R, takeVarint32 } from "./read.js";
import type { Rope } from "./rope.js";

/**
 * Thrown when a span lies where the reader's schema wants something else than bytes in one piece: the rope is then joined
 * by a copy and decoded anew.
 */
export const JOIN = new Error("the rope has to be joined");

export class RopeViolation extends Error {
  override readonly name = "RopeViolation";

  constructor(rule: string, detail: string) {
    super(`invalid rope (${rule}): ${detail}`);
  }
}

/** Before a payload stand a tag and a length. */
const HEAD_BYTES_MIN = 2;

/** @throws if positions or lengths are not those of spans in a message (ROPE-1) */
export function checkSpans({ inline, spans, byteLength }: Rope): void {
  let spanBytes = 0;
  let earliest = HEAD_BYTES_MIN;
  for (const { position, bytes } of spans) {
    if (!Number.isSafeInteger(position) || position < earliest || position - spanBytes > inline.length) {
      throw new RopeViolation("ROPE-1", `a span of ${bytes.length} bytes at ${position}`);
    }
    earliest = position + bytes.length + HEAD_BYTES_MIN;
    spanBytes += bytes.length;
  }
  if (inline.length + spanBytes !== byteLength) throw new RopeViolation("ROPE-1", `${inline.length + spanBytes} bytes where ${byteLength} were announced`);
}

/** Where the next span is to be met. */
export function expectSpan(offset: number): void {
  R.spanAt = R.nextSpan < R.spans.length ? offset + R.spans[R.nextSpan].position - R.shift : Infinity;
}

/**
 * The span that is the payload after the tag just read, and moves on to the next; undefined, and moves nothing, if the
 * payload is inline. @throws if the span is not the payload (ROPE-2)
 */
export function takeSpan(b: Uint8Array): Uint8Array | undefined {
  const start = R.pos;
  const n = takeVarint32(b);
  if (R.pos !== R.spanAt) {
    R.pos = start;
    return undefined;
  }
  const { position, bytes } = R.spans[R.nextSpan];
  if (bytes.length !== n) throw new RopeViolation("ROPE-2", `a span of ${bytes.length} bytes at ${position}, where a payload of ${n} bytes starts`);
  const offset = R.spanAt + R.shift - position;
  R.nextSpan++;
  R.shift += n;
  expectSpan(offset);
  return bytes;
}

/** Whether the next span lies within the payload after the tag just read. */
export function crossesSpan(b: Uint8Array): boolean {
  const start = R.pos;
  const n = takeVarint32(b);
  // One that is empty may lie at the payload's very end.
  const crosses = R.pos + n >= R.spanAt;
  R.pos = start;
  return crosses;
}
