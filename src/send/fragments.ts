/**
 * The large messages that one end of a connection is sending. Each travels in fragments through arena blocks or behind
 * its frames, in turns with the others. The send queue owns them, and decides when one may begin.
 *
 * OUTBOX-3  If a message is canceled when part of it was sent, the peer is told.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { SendingCarrier } from "../carrier/carrier.js";
import type { KeptBytes } from "../memory/kept/kept-bytes.js";
import { FRAGMENT_INTO_RING, FRAGMENT_WAITS } from "../carrier/carrier.js";
import { Violation } from "../memory/shm/violation.js";
import { nowMs } from "../os/timers.js";
import { BLOCK_REFERENCE_BYTES, FLAG, FRAME_HEADER_BYTES, INLINE_BYTES_MAX, KIND, tableOffset } from "../wire/frame.js";
import type { Parts } from "../wire/parts.js";
import type { FrameHead } from "./frame-writer.js";
import { commitFragment } from "./frame-writer.js";
import type { Outgoing } from "./outgoing.js";
import type { Payload } from "./payload.js";
import { PLACED, WAITS_FOR_OTHER, WAITS_FOR_ROOM } from "./payload.js";

interface FragmentedSend {
  readonly first: Outgoing;
  readonly payload: Payload;
  /** The place of the last frame that waited when this message came. Frames up to it leave first (OUTBOX-1). */
  readonly after: number;
  /** Its first frame is written. */
  started: boolean;
  /** Counted in `kept`. */
  readonly keptBytes: number;
}

/** What the send queue is told. */
export interface FragmentedSendEvents {
  /** The place of the first frame in the send queue that messages have to wait for; undefined: none waits. */
  readonly firstWaiting: () => number | undefined;
  /** All of the message is with the carrier, which may still read what it has borrowed. */
  readonly onPlaced: (first: Outgoing, parts: Parts, messageLength: number) => void;
  /** @param wasStarted the peer has a part of it */
  readonly onFailed: (first: Outgoing, thrown: unknown, wasStarted: boolean) => void;
}

/** Payload bytes that are copied before the clock is looked at. */
export const PUMP_BYTES = 1 << 20;
/** How long sending goes on before others get their turn. Each turn costs what is no longer in the caches. */
const PUMP_MICROS = 100;
/**
 * A peer that sleeps is rung when this much is left to copy. Copying it takes about as long as waking up, and as the
 * peer then looks for work.
 */
const PREWAKE_BYTES = 2 << 20;
/** A step found no room. */
const NO_ROOM = -1;
/** A step found that the message waits for something other than room, such as a file or its turn. Others may go on. */
const NOT_NOW = -2;

export class FragmentedSends {
  private readonly carrier: SendingCarrier;
  private readonly events: FragmentedSendEvents;
  private readonly kept: KeptBytes;
  /** By stream, in the order of their turns. */
  private readonly sends = new Map<number, FragmentedSend>();
  private unstarted = 0;
  /** Number of sends that wait for something other than memory, if all of them do; otherwise 0. */
  private notForMemory = 0;
  /** Whether the last attempt to send failed for lack of room in the ring. */
  ringIsFull = false;

  /** @param kept counts what waits to be sent (KEPT-1) */
  constructor(carrier: SendingCarrier, kept: KeptBytes, events: FragmentedSendEvents) {
    this.carrier = carrier;
    this.kept = kept;
    this.events = events;
  }

  get size(): number {
    return this.sends.size;
  }

  /** Whether more memory would help. It does not help a message that waits for a file or for its turn. */
  get awaitBlocks(): boolean {
    return this.sends.size > this.notForMemory;
  }

  has(streamId: number): boolean {
    return this.sends.has(streamId);
  }

  /** At most one message of a stream is sent at a time (OUTBOX-1). @param privateBytes its bytes in private memory */
  add(first: Outgoing, payload: Payload, after: number, privateBytes: number): void {
    const keptBytes = (first.metadata?.length ?? 0) + privateBytes;
    this.kept.take(keptBytes);
    this.sends.set(first.streamId, { first, payload, after, started: false, keptBytes });
    this.unstarted++;
  }

  /** Whether no message waits for the frames in the send queue. */
  get allStarted(): boolean {
    return this.unstarted === 0;
  }

  /** False: it is gone already, because the connection was closed meanwhile. */
  private remove(send: FragmentedSend): boolean {
    if (!this.sends.delete(send.first.streamId)) return false;
    this.kept.give(send.keptBytes);
    if (!send.started) this.unstarted--;
    return true;
  }

  /** The message's turn is over. */
  private goBehind(send: FragmentedSend): void {
    const { streamId } = send.first;
    if (this.sends.delete(streamId)) this.sends.set(streamId, send);
  }

  private hasStarted(send: FragmentedSend): void {
    if (send.started) return;
    send.started = true;
    this.unstarted--;
  }

  /** Cancels a stream's message, if there is one. */
  drop(streamId: number): "none" | "unsent" | "sent" {
    const send = this.sends.get(streamId);
    if (send === undefined) return "none";
    this.remove(send);
    this.cancel(send);
    return send.started ? "sent" : "unsent";
  }

  /** A stream's message is released to its user: bytes that were not sent yet are copied. */
  keep(streamId: number): void {
    const send = this.sends.get(streamId);
    if (send === undefined) return;
    try {
      send.payload.keep(this.carrier.receiving);
      if (send.started) this.carrier.keep(send.payload.inline);
    } catch (error) {
      this.fail(send, ConnectError.from(error, Code.Internal));
    }
  }

  private cancel({ payload, started }: FragmentedSend): void {
    payload.cancel();
    if (started) this.carrier.keep(payload.inline);
  }

  close(): void {
    for (const { payload, keptBytes } of this.sends.values()) {
      this.kept.give(keptBytes);
      payload.cancel();
    }
    this.sends.clear();
    this.unstarted = 0;
  }

  /** Sends on, as far as there is room, and up to a bounded amount of copying. True if anything was sent. */
  pump(): boolean {
    this.notForMemory = 0;
    this.ringIsFull = false;
    if (this.sends.size === 0) return false;
    const until = nowMs() + PUMP_MICROS / 1000;
    let progress = false;
    let moved = 0;
    let skipped = 0;
    for (let send = this.next(); send !== undefined && !this.carrier.closed; send = this.next()) {
      if (moved >= PUMP_BYTES) {
        if (nowMs() >= until) break;
        moved = 0;
      }
      const step = this.tryAdvance(send, PUMP_BYTES - moved);
      if (step === undefined) continue;
      if (step === NOT_NOW) {
        this.goBehind(send);
        if (++skipped < this.sends.size) continue;
        this.notForMemory = skipped;
        break;
      }
      skipped = 0;
      if (step === NO_ROOM) break;
      moved += step;
      progress = true;
      if (!send.started || send.payload.inline.leftBytes > 0) this.goBehind(send);
      else this.placed(send);
    }
    return progress;
  }

  private next(): FragmentedSend | undefined {
    for (const send of this.sends.values()) return send;
    return undefined;
  }

  private placed(send: FragmentedSend): void {
    const { first, payload } = send;
    if (!this.remove(send)) return;
    payload.done();
    this.events.onPlaced(first, payload.inline, payload.byteLength);
  }

  private fail(send: FragmentedSend, error: unknown): void {
    this.remove(send);
    this.cancel(send);
    this.events.onFailed(send.first, error, send.started);
  }

  /** As `advance`; undefined: the message has failed. @throws Violation */
  private tryAdvance(send: FragmentedSend, bytesMax: number): number | undefined {
    try {
      return this.advance(send, bytesMax);
    } catch (error) {
      if (error instanceof Violation) {
        this.remove(send);
        send.payload.cancel();
        throw error;
      }
      this.fail(send, error);
      return undefined;
    }
  }

  /** Takes one step with a message. Returns about the bytes moved, at least 1; or `NO_ROOM` or `NOT_NOW`. */
  private advance(send: FragmentedSend, bytesMax: number): number {
    if (send.started) return this.sendFragment(send);
    const { payload } = send;
    const waiting = this.events.firstWaiting();
    if (waiting !== undefined && waiting <= send.after) return NOT_NOW;
    const left = payload.bytesToCopy;
    if (left > 0 && left <= PREWAKE_BYTES) this.carrier.prewake();
    const placed = payload.place(bytesMax);
    if (placed === WAITS_FOR_ROOM) return NO_ROOM;
    if (placed === WAITS_FOR_OTHER) return NOT_NOW;
    // If the last bytes were copied now, they are announced now, not in the next step.
    if (placed >= 0 && payload.place(0) !== PLACED) return placed + 1;
    const sent = this.sendFirst(send);
    return sent < 0 && placed >= 0 ? placed + 1 : sent;
  }

  private sendFirst(send: FragmentedSend): number {
    const { spanCount, inline, tableBytes } = send.payload;
    if (spanCount === 0) return this.sendFragment(send);
    return this.sendWithSpans(send, inline.byteLength <= INLINE_BYTES_MAX - tableBytes);
  }

  private noRoomInRing(): number {
    this.ringIsFull = true;
    return NO_ROOM;
  }

  /** Writes the first frame of a message with spans, with all of its inline part or with the first fragment of it. */
  private sendWithSpans(send: FragmentedSend, isWhole: boolean): number {
    const { carrier } = this;
    const { first, payload } = send;
    const { metadata } = first;
    const { inline } = payload;
    const metadataLength = metadata === undefined ? 0 : metadata.length;
    const start = carrier.index;
    const table = tableOffset(start + FRAME_HEADER_BYTES + metadataLength);
    const body = table + payload.tableBytes;
    let fragmentLength = isWhole ? inline.byteLength : Math.min(carrier.fragmentBytesMax, inline.byteLength);
    if (carrier.freeBytes() < body - start + (isWhole ? fragmentLength : BLOCK_REFERENCE_BYTES))
      return this.noRoomInRing();
    if (!payload.sendDescriptors()) return NOT_NOW;
    let bodyLength = isWhole ? FRAGMENT_INTO_RING : carrier.placeFragment(inline, fragmentLength, body);
    if (bodyLength === FRAGMENT_WAITS) return NO_ROOM;
    const inRing = bodyLength === FRAGMENT_INTO_RING;
    if (inRing) {
      bodyLength = fragmentLength = Math.min(fragmentLength, INLINE_BYTES_MAX - payload.tableBytes);
      if (carrier.freeBytes() < body - start + bodyLength) return this.noRoomInRing();
      inline.copyTo(carrier.ringBytes, body, bodyLength);
    }
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- `metadataLength` is its length
    if (metadataLength > 0) carrier.ringBytes.set(metadata!, start + FRAME_HEADER_BYTES);
    payload.writeTable(carrier.ringWords, table >> 2);
    const { spanCount } = payload;
    payload.spansSent();
    commitFragment(carrier, this.headOf(send, inRing), {
      metadata: metadataLength,
      message: payload.byteLength,
      fragment: fragmentLength,
      spanCount,
      frame: body - start + bodyLength,
    });
    this.hasStarted(send);
    carrier.publish();
    return fragmentLength + 1;
  }

  /** Hands the next fragment to the carrier and announces it. */
  private sendFragment(send: FragmentedSend): number {
    const { carrier } = this;
    const { first, payload, started } = send;
    const parts = payload.inline;
    const metadata = started ? undefined : first.metadata;
    const metadataLength = metadata === undefined ? 0 : metadata.length;
    if (carrier.freeBytes() < FRAME_HEADER_BYTES + metadataLength + BLOCK_REFERENCE_BYTES) return this.noRoomInRing();
    let length = parts.nextLength(carrier.fragmentBytesMax, carrier.borrowedEndBytesMax);
    const start = carrier.index + FRAME_HEADER_BYTES;
    let bodyLength = carrier.placeFragment(parts, length, start + metadataLength);
    if (bodyLength === FRAGMENT_WAITS) return NO_ROOM;
    const inRing = bodyLength === FRAGMENT_INTO_RING;
    if (inRing) {
      bodyLength = length = Math.min(length, INLINE_BYTES_MAX);
      if (carrier.freeBytes() < FRAME_HEADER_BYTES + metadataLength + bodyLength) return this.noRoomInRing();
      parts.copyTo(carrier.ringBytes, start + metadataLength, bodyLength);
    }
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- `metadataLength` is its length
    if (metadataLength > 0) carrier.ringBytes.set(metadata!, start);
    commitFragment(carrier, this.headOf(send, inRing), {
      metadata: metadataLength,
      message: payload.byteLength,
      fragment: length,
      spanCount: 0,
      frame: FRAME_HEADER_BYTES + metadataLength + bodyLength,
    });
    this.hasStarted(send);
    // The peer can copy this fragment while the next one is being written.
    carrier.publish();
    return length;
  }

  /** The head of the frame with the fragment that was just placed. */
  private headOf({ first, payload, started }: FragmentedSend, inRing: boolean): FrameHead {
    const { streamId } = first;
    const flags = (inRing ? 0 : this.carrier.fragmentFlag) | (payload.inline.leftBytes > 0 ? FLAG.more : 0);
    if (started) return { kind: KIND.message, flags, code: 0, streamId, argument: 0 };
    return { kind: first.kind, flags: first.flags | flags, code: first.code, streamId, argument: first.argument };
  }
}
