/**
 * Encodes messages: a small one straight into the ring, behind the last frame, a large one into a rope. What it refers
 * to stays its user's until the send queue takes it.
 */
import type { SendingCarrier } from "../carrier/carrier.js";
import type { MessageCodec } from "../codec/codec.js";
import type { Rope } from "../codec/rope/rope.js";
import { FRAME_HEADER_BYTES, INLINE_BYTES_MAX } from "../wire/frame.js";
import { copyOf } from "../wire/parts.js";
import { commitWhole } from "./frame-writer.js";
import type { TrackedLoans } from "./loan-tracker.js";
import { endTracking, releaseTracked, sentBy, startTracking } from "./loan-tracker.js";
import type { Outgoing } from "./outgoing.js";
import { checkSize } from "./outgoing.js";

/** The ring has no room for a frame. */
export const NO_ROOM = -2;
/** The message does not fit one frame. */
export const LARGE = -3;
/** Buffer size for messages that are encoded before they are sent. Most of them fit. */
const ENCODED_BYTES = 512;

export class MessageEncoder {
  /**
   * A message is being written at the ring's tail. SUBTLE: that can run user code (a getter, a user's codec), and what
   * it sends must not go there too.
   */
  isEncoding = false;
  private readonly carrier: SendingCarrier;
  /** The type of the last message, if that did not fit the ring as a whole. */
  private lastLarge: MessageCodec | undefined;

  constructor(carrier: SendingCarrier) {
    this.carrier = carrier;
  }

  /**
   * Encodes a message into the ring and commits its frame.
   * @returns the message's length; `NO_ROOM`, or `LARGE` if the message does not fit one frame, and then nothing is done
   * @throws what the codec throws; ConnectError `ResourceExhausted` if the message is too large
   */
  intoRing(first: Outgoing): number {
    const { metadata, codec, writeMaxBytes } = first;
    const carrier = this.carrier;
    const metadataLength = metadata === undefined ? 0 : metadata.length;
    const start = carrier.index;
    const bodyStart = start + FRAME_HEADER_BYTES + metadataLength;
    const room = carrier.freeBytes() - FRAME_HEADER_BYTES - metadataLength;
    if (room < 0) return NO_ROOM;
    let length = 0;
    let loans: TrackedLoans | undefined;
    if (codec !== undefined) {
      // A large message is measured once, when its rope is made. Most messages of a type are like the one before.
      const measures = room < INLINE_BYTES_MAX || codec !== this.lastLarge;
      const outer = startTracking();
      this.isEncoding = true;
      try {
        length = codec.encodeInto(
          first.message,
          carrier.ringBytes,
          bodyStart,
          bodyStart + Math.min(room, INLINE_BYTES_MAX),
          measures,
        );
      } finally {
        this.isEncoding = false;
        loans = endTracking(outer);
      }
      if (length < 0) {
        const needed = -1 - length;
        if (needed > 0) checkSize(needed, writeMaxBytes);
        if (measures && needed <= INLINE_BYTES_MAX) return NO_ROOM;
        this.lastLarge = codec;
        return LARGE;
      }
      if (codec === this.lastLarge) this.lastLarge = undefined;
      if (length > writeMaxBytes) checkSize(length, writeMaxBytes);
    }
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- `metadataLength` is its length
    if (metadataLength > 0) carrier.ringBytes.set(metadata!, start + FRAME_HEADER_BYTES);
    commitWhole(carrier, first, metadataLength, length);
    if (loans !== undefined) releaseTracked(loans, sentBy(first.label));
    return length;
  }

  /**
   * Encodes a message that cannot be encoded straight into the ring.
   * @returns the rope, whose inline bytes are its own, and the loans of which it has copies of small parts
   * @throws what the codec throws
   */
  toRope({ codec, message }: Outgoing): { rope: Rope; loans: TrackedLoans | undefined } {
    const outer = startTracking();
    let loans: TrackedLoans | undefined;
    let rope: Rope;
    try {
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- a frame without a codec is never large
      rope = codec!.encode(message);
    } finally {
      loans = endTracking(outer);
    }
    // A codec that is not ours may reuse its memory.
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- see above
    if (codec!.ownsInline !== true) rope = { ...rope, inline: copyOf(rope.inline) };
    return { rope, loans };
  }
}

/**
 * Encodes a message, to be sent with `encodedBytes`. Undefined: it is large, or refers to loans, which are taken when
 * it is sent.
 * @throws what the codec throws
 */
export function encodeSmall(codec: MessageCodec, message: unknown): Uint8Array | undefined {
  let encoded: Uint8Array | undefined = Buffer.allocUnsafe(ENCODED_BYTES);
  let loans: TrackedLoans | undefined;
  const outer = startTracking();
  try {
    const length = codec.encodeInto(message, encoded, 0, encoded.length, true);
    if (length >= 0) encoded = encoded.subarray(0, length);
    else if (-1 - length > INLINE_BYTES_MAX) encoded = undefined;
    else {
      encoded = Buffer.allocUnsafe(-1 - length);
      if (codec.encodeInto(message, encoded, 0, encoded.length, true) !== encoded.length) encoded = undefined;
    }
  } finally {
    loans = endTracking(outer);
  }
  return loans === undefined ? encoded : undefined;
}
