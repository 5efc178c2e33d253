/** Writes a frame's header at the carrier's index, in front of what was written before, and commits the frame. */
import type { FrameSpace } from "../carrier/carrier.js";
import { FIELD, FRAME_HEADER_BYTES, packKindFlagsCode } from "../wire/frame.js";

/** What the header of a frame says besides lengths. */
export interface FrameHead {
  readonly kind: number;
  readonly flags: number;
  readonly code: number;
  readonly streamId: number;
  readonly argument: number;
}

/** The lengths in a frame's header, in bytes. */
export interface FrameLengths {
  readonly metadata: number;
  /** Of the whole message. */
  readonly message: number;
  /** Of the part of the message that this frame brings. */
  readonly fragment: number;
  /** Entries of the splice table. */
  readonly spanCount: number;
  /** Of the whole frame. */
  readonly frame: number;
}

/** Commits a frame with a whole message, which lies behind its metadata. */
export function commitWhole(space: FrameSpace, head: FrameHead, metadataLength: number, messageLength: number): void {
  const words = space.ringWords;
  const at = space.index >> 2;
  const byteLength = FRAME_HEADER_BYTES + metadataLength + messageLength;
  writeHead(words, at, head, byteLength);
  words[at + FIELD.metadataLength] = metadataLength;
  words[at + FIELD.messageLength] = messageLength;
  words[at + FIELD.fragmentLength] = messageLength;
  words[at + FIELD.spanCount] = 0;
  space.commit(byteLength);
}

/** Commits a frame with one fragment of a large message. */
export function commitFragment(space: FrameSpace, head: FrameHead, lengths: FrameLengths): void {
  const words = space.ringWords;
  const at = space.index >> 2;
  writeHead(words, at, head, lengths.frame);
  words[at + FIELD.metadataLength] = lengths.metadata;
  words[at + FIELD.messageLength] = lengths.message;
  words[at + FIELD.fragmentLength] = lengths.fragment;
  words[at + FIELD.spanCount] = lengths.spanCount;
  space.commit(lengths.frame);
}

function writeHead(words: Int32Array, at: number, head: FrameHead, byteLength: number): void {
  words[at + FIELD.byteLength] = byteLength;
  words[at + FIELD.kindFlagsCode] = packKindFlagsCode(head.kind, head.flags, head.code);
  words[at + FIELD.streamId] = head.streamId;
  words[at + FIELD.argument] = head.argument;
}
