/**
 * The large messages that one end of a connection has under way: each travels in fragments through arena blocks or
 * behind its frames, in turns with the others. The sendQueue owns them, and says when one may begin.
 *
 * OUTBOX-3  A message that is given up half-sent is not left behind without the peer being told.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Carrier } from "../carrier/carrier.js";
import type { Payload } from "./payload.js";
import { WAITS_FOR_FILE, WAITS_FOR_SOCKET } from "./payload.js";
import { Violation } from "../memory/shared/violation.js";
import { nowMs } from "../os/timers.js";
import type { Parts } from "../wire/parts.js";
import { BLOCK_REFERENCE_BYTES, FLAG, FRAME_HEADER_BYTES, INLINE_BYTES_MAX, KIND, tableOffset } from "../wire/frame.js";
import type { Outgoing } from "./frame-writer.js";
import { commitFrame } from "./frame-writer.js";

interface FragmentedSend {
  readonly first: Outgoing;
  readonly payload: Payload;
  /** The place of the last frame that was waiting when it came: those leave before it (OUTBOX-1). */
  readonly after: number;
  /** Its first frame is written. */
  started: boolean;
}

/** What the sendQueue is told. */
export interface BulkEvents {
  /** The first frame behind which messages wait, as a place in the sendQueue's queue; undefined: nothing waits. */
  readonly firstWaiting: () => number | undefined;
  /** All of it is with the carrier, which may still read what it has borrowed. */
  readonly onPlaced: (first: Outgoing, parts: Parts, messageLength: number) => void;
  /** @param wasStarted the peer has a part of it */
  readonly onFailed: (first: Outgoing, thrown: unknown, wasStarted: boolean) => void;
}

/** What `Carrier.placeFragment` answers if a fragment has to go into the ring itself. */
const RING_FRAGMENT = -2;
/** Payload bytes copied in one go before the clock is looked at, … */
export const PUMP_BYTES = 1 << 20;
/** … and for how long it goes on before others get their turn; each such turn costs what is no longer in the caches. */
const PUMP_MICROS = 100;
/**
 * A peer that sleeps is rung when this is left to copy: what takes about as long as it takes to wake up, and as it then
 * looks for more.
 */
const PREWAKE_BYTES = 2 << 20;
/** It is not this message's turn, for whatever reason: others may go on. */
const NOT_NOW = WAITS_FOR_FILE;

export class FragmentedSends {
  private readonly carrier: Carrier;
  private readonly events: BulkEvents;
  /** The first is next. */
  private readonly fragmented: FragmentedSend[] = [];
  /** How many of them wait for something else than memory, if all do. */
  private idle = 0;
  /** Whether the last attempt to send failed for want of room in the ring. */
  ringIsFull = false;

  constructor(carrier: Carrier, events: BulkEvents) {
    this.carrier = carrier;
    this.events = events;
  }

  get size(): number {
    return this.fragmented.length;
  }

  /** Who waits for a file only, or for its turn, is not helped by memory. */
  get awaitBlocks(): boolean {
    return this.fragmented.length > this.idle;
  }

  has(streamId: number): boolean {
    return this.fragmented.some((fragmentedSend) => fragmentedSend.first.streamId === streamId);
  }

  add(first: Outgoing, payload: Payload, after: number): void {
    this.fragmented.push({ first, payload, after, started: false });
  }

  /** Whether none waits for the frames in the queue. */
  get allStarted(): boolean {
    return this.fragmented.every(({ started }) => started);
  }

  /** Gives a stream's message up, if there is one. */
  drop(streamId: number): "none" | "unsent" | "sent" {
    const at = this.fragmented.findIndex((fragmentedSend) => fragmentedSend.first.streamId === streamId);
    if (at < 0) return "none";
    const [fragmentedSend] = this.fragmented.splice(at, 1);
    this.cancel(fragmentedSend);
    return fragmentedSend.started ? "sent" : "unsent";
  }

  /** A stream's message is its user's again: what of it was not sent yet is copied. */
  keep(streamId: number): void {
    const at = this.fragmented.findIndex((fragmentedSend) => fragmentedSend.first.streamId === streamId);
    if (at < 0) return;
    const fragmentedSend = this.fragmented[at];
    try {
      fragmentedSend.payload.keep(this.carrier.spanSource?.receiving);
      if (fragmentedSend.started) this.carrier.keep(fragmentedSend.payload.inline);
    } catch (error) {
      this.fragmented.splice(at, 1);
      this.fail(fragmentedSend, ConnectError.from(error, Code.Internal));
    }
  }

  private cancel({ payload, started }: FragmentedSend): void {
    payload.cancel();
    if (started) this.carrier.keep(payload.inline);
  }

  close(): void {
    for (const { payload } of this.fragmented.splice(0)) payload.cancel();
  }

  /** Moves them on, as far as there is room, and up to a bounded amount of copying. True if anything was sent. */
  pump(): boolean {
    this.idle = 0;
    this.ringIsFull = false;
    if (this.fragmented.length === 0) return false;
    const until = nowMs() + PUMP_MICROS / 1000;
    let progress = false;
    let moved = 0;
    let idle = 0;
    while (this.fragmented.length > 0 && !this.carrier.closed) {
      if (moved >= PUMP_BYTES) {
        if (nowMs() >= until) break;
        moved = 0;
      }
      const fragmentedSend = this.fragmented.shift()!;
      let step: number;
      try {
        step = this.advance(fragmentedSend, PUMP_BYTES - moved);
      } catch (error) {
        if (error instanceof Violation) {
          fragmentedSend.payload.cancel();
          throw error;
        }
        this.fail(fragmentedSend, error);
        continue;
      }
      if (step === NOT_NOW) {
        // Others get their turn; when the read is done there will be room.
        this.fragmented.push(fragmentedSend);
        if (++idle >= this.fragmented.length) {
          this.idle = idle;
          break;
        }
        continue;
      }
      idle = 0;
      if (step < 0) {
        this.fragmented.unshift(fragmentedSend);
        if (this.ringIsFull || this.carrier.exhausted === undefined) break;
        this.fragmented.shift();
        this.fail(
          fragmentedSend,
          new ConnectError(`no shared memory for the message: ${this.carrier.exhausted}`, Code.ResourceExhausted),
        );
        continue;
      }
      moved += step;
      progress = true;
      if (!fragmentedSend.started || fragmentedSend.payload.inline.leftBytes > 0) {
        this.fragmented.push(fragmentedSend);
      } else {
        fragmentedSend.payload.done();
        this.events.onPlaced(fragmentedSend.first, fragmentedSend.payload.inline, fragmentedSend.payload.byteLength);
      }
    }
    return progress;
  }

  private fail(fragmentedSend: FragmentedSend, error: unknown): void {
    this.cancel(fragmentedSend);
    this.events.onFailed(fragmentedSend.first, error, fragmentedSend.started);
  }

  /** Moves a large message on by a step. Returns about the bytes moved, at least 1; −1: there is no room. */
  private advance(fragmentedSend: FragmentedSend, bytesMax: number): number {
    const { payload } = fragmentedSend;
    if (!fragmentedSend.started) {
      const waiting = this.events.firstWaiting();
      if (waiting !== undefined && waiting <= fragmentedSend.after) return NOT_NOW;
      const left = payload.bytesToCopy;
      if (left > 0 && left <= PREWAKE_BYTES) this.carrier.prewake();
      const placed = payload.place(bytesMax);
      if (placed === -2) return -1;
      if (placed === WAITS_FOR_FILE) return placed;
      // What was copied last is announced at once, not in the next step.
      if (placed >= 0 && payload.place(0) !== -1) return placed + 1;
      const sent = this.sendFirst(fragmentedSend);
      return sent < 0 && placed >= 0 ? placed + 1 : sent;
    }
    return this.sendFragment(fragmentedSend);
  }

  private sendFirst(fragmentedSend: FragmentedSend): number {
    const { spanCount, inline, tableBytes } = fragmentedSend.payload;
    if (spanCount === 0) return this.sendFragment(fragmentedSend);
    return this.sendWithSpans(fragmentedSend, inline.byteLength <= INLINE_BYTES_MAX - tableBytes);
  }

  private noRoom(): number {
    this.ringIsFull = true;
    return -1;
  }

  /** Writes the first frame of a message with spans, with all of its inline part or with the first fragment of it. */
  private sendWithSpans(fragmentedSend: FragmentedSend, isWhole: boolean): number {
    const carrier = this.carrier;
    const { first, payload } = fragmentedSend;
    const { metadata } = first;
    const { spanCount, inline } = payload;
    const metadataLength = metadata === undefined ? 0 : metadata.length;
    const start = carrier.index;
    const table = tableOffset(start + FRAME_HEADER_BYTES + metadataLength);
    const body = table + payload.tableBytes;
    let fragmentLength = isWhole ? inline.byteLength : Math.min(carrier.fragmentBytesMax, inline.byteLength);
    if (carrier.freeBytes() < body - start + (isWhole ? fragmentLength : BLOCK_REFERENCE_BYTES)) return this.noRoom();
    if (!payload.sendDescriptors()) return WAITS_FOR_SOCKET;
    let bodyLength = isWhole ? RING_FRAGMENT : carrier.placeFragment(inline, fragmentLength, body);
    if (bodyLength === -1) return -1;
    const inRing = bodyLength === RING_FRAGMENT;
    if (inRing) {
      bodyLength = fragmentLength = Math.min(fragmentLength, INLINE_BYTES_MAX - payload.tableBytes);
      if (carrier.freeBytes() < body - start + bodyLength) return this.noRoom();
      inline.copyTo(carrier.ringBytes, body, bodyLength);
    }
    if (metadataLength > 0) carrier.ringBytes.set(metadata!, start + FRAME_HEADER_BYTES);
    payload.writeTable(carrier.ringWords, table >> 2);
    payload.spansSent();
    const flags = first.flags | (inRing ? 0 : carrier.fragmentFlag) | (inline.leftBytes > 0 ? FLAG.more : 0);
    commitFrame(
      carrier,
      first.kind,
      flags,
      first.code,
      first.streamId,
      first.argument,
      metadataLength,
      payload.byteLength,
      fragmentLength,
      spanCount,
      body - start + bodyLength,
    );
    fragmentedSend.started = true;
    carrier.publish();
    return fragmentLength + 1;
  }

  /** Hands the next fragment to the carrier and announces it. */
  private sendFragment(fragmentedSend: FragmentedSend): number {
    const carrier = this.carrier;
    const { first, payload, started } = fragmentedSend;
    const parts = payload.inline;
    const metadata = started ? undefined : first.metadata;
    const metadataLength = metadata === undefined ? 0 : metadata.length;
    if (carrier.freeBytes() < FRAME_HEADER_BYTES + metadataLength + BLOCK_REFERENCE_BYTES) return this.noRoom();
    let length = parts.nextLength(carrier.fragmentBytesMax);
    const start = carrier.index + FRAME_HEADER_BYTES;
    let bodyLength = carrier.placeFragment(parts, length, start + metadataLength);
    if (bodyLength === -1) return -1;
    const inRing = bodyLength === RING_FRAGMENT;
    if (inRing) {
      bodyLength = length = Math.min(length, INLINE_BYTES_MAX);
      if (carrier.freeBytes() < FRAME_HEADER_BYTES + metadataLength + bodyLength) return this.noRoom();
      parts.copyTo(carrier.ringBytes, start + metadataLength, bodyLength);
    }
    if (metadataLength > 0) carrier.ringBytes.set(metadata!, start);
    const flags =
      (started ? 0 : first.flags) | (inRing ? 0 : carrier.fragmentFlag) | (parts.leftBytes > 0 ? FLAG.more : 0);
    commitFrame(
      carrier,
      started ? KIND.message : first.kind,
      flags,
      started ? 0 : first.code,
      first.streamId,
      started ? 0 : first.argument,
      metadataLength,
      payload.byteLength,
      length,
      0,
      FRAME_HEADER_BYTES + metadataLength + bodyLength,
    );
    fragmentedSend.started = true;
    // The peer can copy this fragment while the next one is being written.
    carrier.publish();
    return length;
  }
}
