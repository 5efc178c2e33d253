/** What the users of the model send, and what has to arrive. */
import assert from "node:assert/strict";
import type { ReceivedFrame } from "../../src/carrier/carrier.js";
import type { MessageCodec } from "../../src/codec/codec.js";
import { ARENA_UNIT_BYTES } from "../../src/memory/shared/layout.js";
import { FLAG } from "../../src/wire/frame.js";
import type { Send } from "./scenario.js";

/** A message is too large for the ring; half of it goes into each of two blocks of this many bytes. */
export const PIECE_UNITS = 4;
export const PIECE_BYTES = PIECE_UNITS * ARENA_UNIT_BYTES;
export const MESSAGE_BYTES = PIECE_BYTES + 8;
export const PIECES = 2;

/** What arrived, held against what the peer's user sends: whole, in order, once, unmodified. */
export class Received {
  private readonly sends: readonly Send[];
  private readonly pieces: number[];
  private lastFrame = 0;

  constructor(sends: readonly Send[]) {
    this.sends = sends;
    this.pieces = sends.map(() => 0);
  }

  get whole(): boolean {
    return this.sends.every((what, i) => this.pieces[i] === (what === "frame" ? 1 : PIECES));
  }

  take(frame: ReceivedFrame, mark: number): void {
    const { streamId } = frame;
    const at = streamId - 1;
    const isMessage = this.sends[at] === "message";
    const piece = this.pieces[at]++;
    const more = isMessage && piece + 1 < PIECES;
    assert.ok(piece < (isMessage ? PIECES : 1), `frame ${streamId} arrived again`);
    assert.equal(mark, markOf(streamId, piece), `frame ${streamId}, piece ${piece} was modified`);
    assert.equal((frame.flags & FLAG.more) !== 0, more);
    if (isMessage) assert.equal(frame.pieceLength, piece === 0 ? PIECE_BYTES : MESSAGE_BYTES - PIECE_BYTES);
    // Small frames pass large messages, but not each other.
    if (isMessage) return;
    assert.ok(streamId > this.lastFrame, `frame ${streamId} arrived after frame ${this.lastFrame}`);
    this.lastFrame = streamId;
  }
}

export function markOf(streamId: number, piece: number): number {
  return streamId * 8 + piece + 1;
}

export function blockOf(unit: number): number {
  return (unit - 1) / PIECE_UNITS;
}

const messages = new Map<number, Uint8Array>();

export function bulkCodec(streamId: number): MessageCodec {
  let inline = messages.get(streamId);
  if (inline === undefined) {
    inline = new Uint8Array(MESSAGE_BYTES).fill(markOf(streamId, 1)).fill(markOf(streamId, 0), 0, PIECE_BYTES);
    messages.set(streamId, inline);
  }
  const rope = { inline, spans: [], byteLength: MESSAGE_BYTES };
  return { encodeInto: () => -1 - MESSAGE_BYTES, encode: () => rope } as unknown as MessageCodec;
}
