/** What the users of the model send, and what has to arrive. */
import assert from "node:assert/strict";
import type { ReceivedFrame } from "../../src/carrier/carrier.js";
import type { MessageCodec } from "../../src/codec/codec.js";
import { ARENA_UNIT_BYTES } from "../../src/memory/shm/layout.js";
import { FLAG } from "../../src/wire/frame.js";
import type { Send } from "./scenario.js";

/** A message is too large for the ring; half of it goes into each of two blocks of this many bytes. */
export const FRAGMENT_UNITS = 4;
export const FRAGMENT_BYTES = FRAGMENT_UNITS * ARENA_UNIT_BYTES;
export const MESSAGE_BYTES = FRAGMENT_BYTES + 8;
export const PIECES = 2;

/** What arrived, held against what the peer's user sends: whole, in order, once, unmodified. */
export class Received {
  private readonly sends: readonly Send[];
  private readonly fragments: number[];
  private lastFrame = 0;

  constructor(sends: readonly Send[]) {
    this.sends = sends;
    this.fragments = sends.map(() => 0);
  }

  get whole(): boolean {
    return this.sends.every((what, i) => this.fragments[i] === (what === "frame" ? 1 : PIECES));
  }

  take(frame: ReceivedFrame, mark: number): void {
    const { streamId } = frame;
    const at = streamId - 1;
    const isMessage = this.sends[at] === "message";
    const fragment = this.fragments[at]++;
    const more = isMessage && fragment + 1 < PIECES;
    assert.ok(fragment < (isMessage ? PIECES : 1), `frame ${streamId} arrived again`);
    assert.equal(mark, markOf(streamId, fragment), `frame ${streamId}, fragment ${fragment} was modified`);
    assert.equal((frame.flags & FLAG.more) !== 0, more);
    if (isMessage) assert.equal(frame.fragmentLength, fragment === 0 ? FRAGMENT_BYTES : MESSAGE_BYTES - FRAGMENT_BYTES);
    // Small frames pass large messages, but not each other.
    if (isMessage) return;
    assert.ok(streamId > this.lastFrame, `frame ${streamId} arrived after frame ${this.lastFrame}`);
    this.lastFrame = streamId;
  }
}

export function markOf(streamId: number, fragment: number): number {
  return streamId * 8 + fragment + 1;
}

export function blockOf(unit: number): number {
  return (unit - 1) / FRAGMENT_UNITS;
}

const messages = new Map<number, Uint8Array>();

export function bulkCodec(streamId: number): MessageCodec {
  let inline = messages.get(streamId);
  if (inline === undefined) {
    inline = new Uint8Array(MESSAGE_BYTES).fill(markOf(streamId, 1)).fill(markOf(streamId, 0), 0, FRAGMENT_BYTES);
    messages.set(streamId, inline);
  }
  const rope = { inline, spans: [], byteLength: MESSAGE_BYTES };
  return { encodeInto: () => -1 - MESSAGE_BYTES, encode: () => rope } as unknown as MessageCodec;
}
