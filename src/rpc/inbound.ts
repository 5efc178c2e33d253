/** Turns the pieces of a message that arrive into the message. */
import type { ReceivedFrame } from "../carrier/carrier.js";
import type { MessageCodec } from "../codec/codec.js";
import type { Span } from "../codec/rope.js";
import { Violation } from "../memory/violation.js";
import { FLAG } from "../wire/frame.js";

export const NO_SPANS: readonly Span[] = [];

/** A message that comes in several pieces: private memory that fills up. */
export class Assembly {
  readonly bytes: Uint8Array;
  /** Bytes that are there or on their way. */
  private announced = 0;
  /** Pieces that the carrier is still reading. */
  private following = 0;

  /** @throws RangeError if the memory cannot be had */
  constructor(messageLength: number) {
    // Not zero-filled: every byte is written before anyone reads it.
    this.bytes = Buffer.allocUnsafeSlow(messageLength);
  }

  /** Takes a piece, or says where one that follows is to be read to. True once the message is whole. @throws Violation */
  add(frame: ReceivedFrame): boolean {
    const { pieceLength, messageLength, pieceSource, pieceOffset } = frame;
    if (messageLength !== this.bytes.length || pieceLength > messageLength - this.announced) {
      throw new Violation("PIECE-1", `a piece of ${pieceLength} bytes for a message of ${this.bytes.length} that has ${this.announced}`);
    }
    const from = this.announced;
    this.announced += pieceLength;
    const more = (frame.flags & FLAG.more) !== 0;
    if (more && pieceLength === 0) throw new Violation("PIECE-3", "an empty piece of a message that goes on");
    if (more === (this.announced === messageLength)) {
      throw new Violation("PIECE-2", `${this.announced} of ${messageLength} bytes came, and ${more ? "more" : "no more"} are announced`);
    }
    if (frame.following) {
      this.following++;
      frame.destination = this.bytes.subarray(from, this.announced);
      return false;
    }
    this.bytes.set(pieceSource.subarray(pieceOffset, pieceOffset + pieceLength), from);
    return !more;
  }

  /** A piece that followed is there. True once the message is whole. */
  filledUp(): boolean {
    this.following--;
    return this.following === 0 && this.announced === this.bytes.length;
  }
}

/** Decodes a message that a single frame brings whole. @throws what the codec throws; Violation if it is not whole */
export function decodeWhole(codec: MessageCodec, frame: ReceivedFrame): unknown {
  const { pieceSource, pieceOffset, pieceLength } = frame;
  if (pieceLength !== frame.messageLength) throw new Violation("PIECE-2", `${pieceLength} of ${frame.messageLength} bytes came, and no more are announced`);
  if (pieceSource === frame.scratch) return codec.decode(pieceSource, pieceOffset, pieceLength, false, NO_SPANS);
  // A block is the peer's memory, which it can change while it is read.
  return codec.decode(pieceSource.slice(pieceOffset, pieceOffset + pieceLength), 0, pieceLength, true, NO_SPANS);
}

/** The frame's metadata, copied out of the reused scratch. */
export function takeMetadata(frame: ReceivedFrame): Uint8Array | undefined {
  if (frame.metadataLength === 0) return undefined;
  return frame.scratch.slice(frame.metadataOffset, frame.metadataOffset + frame.metadataLength);
}
