/** Turns the pieces of a message that arrive into the message. */
import type { ReceivedFrame } from "../carrier/carrier.js";
import type { MessageCodec } from "../codec/codec.js";
import { Violation } from "../memory/violation.js";
import { FLAG } from "../wire/frame.js";

/** A message that comes in several pieces: private memory that fills up. */
export class Assembly {
  readonly bytes: Uint8Array;
  private filled = 0;

  /** @throws RangeError if the memory cannot be had */
  constructor(messageLength: number) {
    // Not zero-filled: every byte is written before anyone reads it.
    this.bytes = Buffer.allocUnsafeSlow(messageLength);
  }

  /** Takes a piece. True once the message is whole. @throws Violation */
  add(frame: ReceivedFrame): boolean {
    const { pieceLength, messageLength, pieceSource, pieceOffset } = frame;
    if (messageLength !== this.bytes.length || pieceLength > messageLength - this.filled) {
      throw new Violation("PIECE-1", `a piece of ${pieceLength} bytes for a message of ${this.bytes.length} that has ${this.filled}`);
    }
    this.bytes.set(pieceSource.subarray(pieceOffset, pieceOffset + pieceLength), this.filled);
    this.filled += pieceLength;
    const more = (frame.flags & FLAG.more) !== 0;
    if (more && pieceLength === 0) throw new Violation("PIECE-3", "an empty piece of a message that goes on");
    if (more === (this.filled === messageLength)) {
      throw new Violation("PIECE-2", `${this.filled} of ${messageLength} bytes came, and ${more ? "more" : "no more"} are announced`);
    }
    return !more;
  }
}

/**
 * Memory for small messages whose decoded form may refer to it: handed out piece by piece and never twice. Making an
 * ArrayBuffer per message costs more than decoding it; a message that is kept holds at most this much memory alive.
 */
const SLAB_BYTES = 16384;
const SLAB_SHARE_MAX = 2048;
let slab = new Uint8Array(0);
let slabUsed = 0;

/** Decodes a message that a single frame brings whole. @throws what the codec throws; Violation if it is not whole */
export function decodeWhole(codec: MessageCodec, frame: ReceivedFrame): unknown {
  const { pieceSource, pieceOffset, pieceLength } = frame;
  if (pieceLength !== frame.messageLength) throw new Violation("PIECE-2", `${pieceLength} of ${frame.messageLength} bytes came, and no more are announced`);
  // A block is still the peer's memory; and a codec that keeps views must not be shown the reused scratch.
  const isPrivate = pieceSource === frame.scratch;
  if (isPrivate && !codec.aliasesInput) return codec.decode(pieceSource, pieceOffset, pieceLength);
  if (!isPrivate || pieceLength > SLAB_SHARE_MAX) {
    return codec.decode(pieceSource.slice(pieceOffset, pieceOffset + pieceLength), 0, pieceLength);
  }
  if (slabUsed + pieceLength > slab.length) {
    slab = new Uint8Array(SLAB_BYTES);
    slabUsed = 0;
  }
  const offset = slabUsed;
  slabUsed += pieceLength;
  if (pieceLength > LOOP_BYTES_MAX) slab.set(pieceSource.subarray(pieceOffset, pieceOffset + pieceLength), offset);
  else for (let i = 0; i < pieceLength; i++) slab[offset + i] = pieceSource[pieceOffset + i];
  return codec.decode(slab, offset, pieceLength);
}

/** Below this size a loop is faster than `set`. */
const LOOP_BYTES_MAX = 96;

/** The frame's metadata, copied out of the reused scratch. */
export function takeMetadata(frame: ReceivedFrame): Uint8Array | undefined {
  if (frame.metadataLength === 0) return undefined;
  return frame.scratch.slice(frame.metadataOffset, frame.metadataOffset + frame.metadataLength);
}
