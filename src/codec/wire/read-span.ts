/**
 * Finds a rope's spans while its inline part is decoded. The rules are in rope.ts. A peer wrote the positions, so
 * everything is checked before it is used.
 */
import { WIRE } from "./fields.js";
import { R, takeVarint32 } from "./read.js";
import { RopeViolation } from "../rope/rope.js";

/**
 * Thrown when a span lies where the reader's schema has something other than one contiguous value. The rope is then
 * copied to contiguous memory and decoded again.
 */
export const JOIN = new Error("the rope has to be joined");

/** All wire types except a group, which is skipped as a whole: bits, by wire type. */
export const ANY_BUT_GROUP = ~(1 << WIRE.startGroup);

/** Sets `R.spanAt` to the place of the next span. */
export function expectSpan(): void {
  R.spanAt = R.nextSpan < R.spans.length ? R.spans[R.nextSpan].position - R.shift : Infinity;
}

/**
 * Takes the span that is the payload after the tag just read, and moves on to the next span. Returns undefined, and
 * moves nothing, if the payload is inline.
 * @param wireTypes the wire types with which the value is read in the form in which it was written: bits, by wire type
 * @param nests whether the payload is itself read field by field, so that spans may lie within it
 * @throws RopeViolation if the span does not fit there (ROPE-2); JOIN
 */
export function takeSpan(b: Uint8Array, tag: number, wireTypes: number, nests: boolean): Uint8Array | undefined {
  if (R.pos >= R.spanAt)
    throw new RopeViolation("ROPE-2", `a span lies at ${R.spans[R.nextSpan].position}, where no payload starts`);
  // A value that is read in another form than it was written may take spans for its own bytes.
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
  // An empty span may lie at the very end of the payload.
  if (!nests && R.pos + n >= R.spanAt) throw JOIN;
  R.pos = start;
  return undefined;
}
