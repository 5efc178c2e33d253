/**
 * Meeting a rope's spans while its inline part is decoded. The rules are those of rope.ts; a peer wrote the positions,
 * so everything here is checked before it is used.
 */
import { WIRE } from "./fields.js";
import { R, takeVarint32 } from "./read.js";
import { RopeViolation } from "../rope/rope.js";

/**
 * Thrown when a span lies where the reader's schema wants something else than bytes in one fragment: the rope is then
 * joined by a copy and decoded anew.
 */
export const JOIN = new Error("the rope has to be joined");

/** What is read in any form but as a group, which is skipped whole. */
export const ANY_BUT_GROUP = ~(1 << WIRE.startGroup);

/** Says where the next span is to be met. */
export function expectSpan(): void {
  R.spanAt = R.nextSpan < R.spans.length ? R.spans[R.nextSpan].position - R.shift : Infinity;
}

/**
 * The span that is the payload after the tag just read, and moves on to the next; undefined, and moves nothing, if the
 * payload is inline.
 * @param wireTypes those with which the value is read as what was written: bits, by wire type
 * @param nests whether the payload is itself read field by field, so that spans may lie within
 * @throws RopeViolation if the span does not fit there (ROPE-2); JOIN
 */
export function takeSpan(b: Uint8Array, tag: number, wireTypes: number, nests: boolean): Uint8Array | undefined {
  if (R.pos >= R.spanAt)
    throw new RopeViolation("ROPE-2", `a span lies at ${R.spans[R.nextSpan].position}, where no payload starts`);
  // What is read as something else than what was written may take spans for its own bytes.
  if ((wireTypes & (1 << (tag & 7))) === 0) throw JOIN;
  if ((tag & 7) !== WIRE.lengthDelimited) return undefined;
  const start = R.pos;
  const n = takeVarint32(b);
  if (R.pos === R.spanAt) {
    const { position, bytes } = R.spans[R.nextSpan];
    if (bytes.length !== n)
      throw new RopeViolation(
        "ROPE-2",
        `a span of ${bytes.length} bytes at ${position}, where a payload of ${n} bytes starts`,
      );
    R.nextSpan++;
    R.shift += n;
    expectSpan();
    return bytes;
  }
  // A span that is empty may lie at the payload's very end.
  if (!nests && R.pos + n >= R.spanAt) throw JOIN;
  R.pos = start;
  return undefined;
}
