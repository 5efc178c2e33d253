/**
 * A rope is a message's wire bytes in two parts. The *inline* part is contiguous and has everything except large
 * values; these stay where they are, as *spans*. Joined, inline part and spans are canonical protobuf.
 *
 * ROPE-1  Positions refer to the joined message and lie within it. At least two bytes lie between a span and the span
 *         before it, or the start: the tag and the length of its payload.
 * ROPE-2  A span stands exactly where a length-delimited payload starts, and is exactly as long as that payload.
 * ROPE-3  Every enclosing length counts its spans. Every span is used.
 */

/** A value that stays where it is. */
export interface Span {
  /** Where the span's first byte belongs in the joined message. */
  readonly position: number;
  readonly bytes: Uint8Array;
}

export interface Rope {
  /** The message without its spans. */
  readonly inline: Uint8Array;
  /** In order of position. */
  readonly spans: readonly Span[];
  /** Length of the joined message. */
  readonly byteLength: number;
}

export class RopeViolation extends Error {
  override readonly name = "RopeViolation";

  constructor(rule: string, detail: string) {
    super(`invalid rope (${rule}): ${detail}`);
  }
}

/** A payload is preceded by a tag and a length. */
const HEAD_BYTES_MIN = 2;

/** @throws RopeViolation if the spans do not fit into the message (ROPE-1) */
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
  if (inline.length + spanBytes !== byteLength)
    throw new RopeViolation("ROPE-1", `${inline.length + spanBytes} bytes instead of the announced ${byteLength}`);
}

/**
 * Copies a rope to new memory, as contiguous wire bytes.
 * @throws RopeViolation if the spans do not fit into the message (ROPE-1)
 */
export function joinRope(rope: Rope): Uint8Array {
  checkSpans(rope);
  const { inline, spans, byteLength } = rope;
  const joined = new Uint8Array(byteLength);
  let at = 0;
  let from = 0;
  for (const { position, bytes } of spans) {
    joined.set(inline.subarray(from, from + position - at), at);
    joined.set(bytes, position);
    from += position - at;
    at = position + bytes.length;
  }
  joined.set(inline.subarray(from), at);
  return joined;
}
