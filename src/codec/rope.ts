/**
 * The rope: a message's wire bytes in two parts. Most of it, the *inline* part, lies in one piece; large values are left
 * out of it and stay where they are, as *spans*. Joined up, inline part and spans are canonical protobuf.
 *
 * ROPE-1  Positions count in the joined message, strictly increase, and lie within it.
 * ROPE-2  A span stands exactly where a length-delimited payload starts, and is exactly as long as that payload.
 * ROPE-3  Every enclosing length counts its spans. Every span is used.
 */

/** Bytes that stay where they are. */
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

/** The rope as contiguous wire bytes, in new memory. @throws if the spans do not fit the message (ROPE-1) */
export function joinRope(rope: Rope): Uint8Array {
  const { inline, spans, byteLength } = rope;
  let announced = inline.length;
  for (const { bytes } of spans) announced += bytes.length;
  // Before any memory is taken: a length that is not that of the parts may be any number.
  if (announced !== byteLength) throw new Error(`invalid rope: ${announced} bytes where ${byteLength} were announced`);
  const joined = new Uint8Array(byteLength);
  let last = -1;
  let at = 0;
  let from = 0;
  for (const { position, bytes } of spans) {
    const length = position - at;
    if (!Number.isInteger(position) || position <= last || length < 0 || from + length > inline.length) {
      throw new Error(`invalid rope: a span of ${bytes.length} bytes at ${position} of ${byteLength}`);
    }
    joined.set(inline.subarray(from, from + length), at);
    joined.set(bytes, position);
    from += length;
    last = position;
    at = position + bytes.length;
  }
  joined.set(inline.subarray(from), at);
  return joined;
}
