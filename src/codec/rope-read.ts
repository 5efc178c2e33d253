/**
 * Meeting a rope's spans while its inline part is decoded. The rules are those of rope.ts; a peer wrote the positions, so
 * everything here is checked before it is used.
 */
import { R, takeVarint32 } from "./read.js";
import { RopeViolation } from "./rope.js";

/**
 * Thrown when a span lies where the reader's schema wants something else than bytes in one piece: the rope is then joined
 * by a copy and decoded anew.
 */
export const JOIN = new Error("the rope has to be joined");

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
