/**
 * Everything that one end of a connection sends: writes frames into the carrier's ring, and keeps what does not fit
 * yet. Small messages are encoded straight into the ring; a large one is encoded once and travels in fragments
 * (`FragmentedSends`), round robin with other large ones, while small ones keep flowing past it.
 *
 * OUTBOX-1  Frames of one stream leave in the order they were given. At most one of a stream is kept here: who has more
 *           to send for it waits for `onSent`. So streams take turns: the next message of one goes behind what waits of
 *           the others.
 * OUTBOX-2  Nothing waits inside a send: what does not fit is kept, bounded by the number of open streams.
 *
 * A message belongs to its user again (BORROW-1) when `send` returns for an answer, when a message of a stream is out,
 * and when `drop` or `release` was called for a request.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Carrier } from "../carrier/carrier.js";
import { closedBy } from "../carrier/carrier.js";
import { Payload } from "./payload.js";
import type { MessageCodec } from "../codec/codec.js";
import type { Rope } from "../codec/rope/rope.js";
import { joinRope } from "../codec/rope/rope.js";
import { BitSet } from "../memory/shared/bit-set.js";
import { originOf, ephemeral } from "../memory/payload/origin.js";
import { Violation } from "../memory/shared/violation.js";
import { FRAME_HEADER_BYTES, INLINE_BYTES_MAX, KIND, MESSAGE_BYTES_MAX, SLOTS_MAX } from "../wire/frame.js";
import type { Parts } from "../wire/parts.js";
import { copyOf } from "../wire/parts.js";
import { FragmentedSends, PUMP_BYTES } from "./fragments.js";
import type { Outgoing } from "./frame-writer.js";
import { commitFrame } from "./frame-writer.js";
import type { TrackedLoans } from "./loan-tracker.js";
import { endTracking, releaseTracked, sentBy, startTracking } from "./loan-tracker.js";
import { sendAtOnce } from "./direct.js";

/** What `send` returns for a message that is not out yet. */
export const KEPT = -1;
/** Most messages that are encoded before they are sent fit. */
const ENCODED_BYTES = 512;
/** The ring has no room for a frame. */
const NO_ROOM = -2;

/** What becomes of messages that were kept. */
export interface OutboxEvents {
  /** It is out: its stream may send its next one. */
  readonly onSent: (streamId: number, messageLength: number) => void;
  /**
   * It cannot be sent after all. @param thrown by whatever is wrong with it @param wasStarted the peer has a part of it
   */
  readonly onFailed: (first: Outgoing, thrown: unknown, wasStarted: boolean) => void;
}

interface Waiting extends Outgoing {
  /** Counts up along the queue. */
  readonly place: number;
}

export class SendQueue {
  private readonly carrier: Carrier;
  private readonly events: OutboxEvents;
  /**
   * Waiting for room in the ring, in order of arrival; by stream, or, for frames of the connection itself, by a
   * negative number.
   */
  private readonly waiting = new Map<number, Waiting>();
  private lastPlace = 0;
  private connectionFrames = 0;
  /** Credit that is to be granted, by stream: it needs no order, so it goes before everything else. */
  private readonly grants = new Map<number, number>();
  /** Slots of the streams that have something in `waiting` or `fragmented`. */
  private readonly heldSlots = new BitSet();
  private encoding = false;
  /** Whether the last attempt to send failed for want of room in the ring, which then is worth waiting for. */
  private ringIsFull = false;
  private readonly fragmented: FragmentedSends;
  /** The ring was full when it was their turn. */
  private bulksGoFirst = false;
  /** A message that is not out yet, but may be before `send` returns: its sender learns it from that. */
  private sending: Outgoing | undefined;
  private sentLength = 0;
  /** By stream: messages that are with the carrier, which still reads their users' memory. */
  private readonly borrowed = new Map<number, Parts>();

  constructor(carrier: Carrier, events: OutboxEvents) {
    this.carrier = carrier;
    this.events = events;
    this.fragmented = new FragmentedSends(carrier, {
      firstWaiting: () => this.firstPlace(),
      onPlaced: (first, parts, messageLength) => this.onBulkPlaced(first, parts, messageLength),
      onFailed: (first, error, wasStarted) => this.onBulkFailed(first, error, wasStarted),
    });
  }

  /**
   * Sends a message, now or when there is room.
   * @returns the message's length if it is out; else `KEPT`, and `onSent` or `onFailed` follow unless it is dropped
   * @throws whatever the codec throws; ConnectError `ResourceExhausted` if it is too large. If the peer is found to
   * have broken a rule, the connection is closed instead
   */
  send(
    kind: number,
    flags: number,
    code: number,
    streamId: number,
    argument: number,
    metadata: Uint8Array | undefined,
    codec: MessageCodec | undefined,
    message: unknown,
    writeMaxBytes: number,
    label: string,
  ): number {
    try {
      // SUBTLE: encoding can run user code (a getter, a codec of theirs) that makes a call of its own; its frame would
      // be written over the one under way.
      if (this.waiting.size === 0 && !this.encoding) {
        const written = this.tryWrite(
          kind,
          flags,
          code,
          streamId,
          argument,
          metadata,
          codec,
          message,
          writeMaxBytes,
          label,
        );
        if (written !== NO_ROOM) return written;
      }
      if (this.carrier.closed) return KEPT;
      // Later some of its bytes may be gone, or be others.
      if (codec !== undefined && (ephemeral.count > 0 || kind === KIND.response)) {
        return this.startBulk(
          { kind, flags, code, streamId, argument, metadata, codec, message: undefined, writeMaxBytes, label },
          message,
          this.lastPlace,
        );
      }
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
      // What the peer wrote was looked at for room. It is the connection's end, not this message's fault.
      this.carrier.close(closedBy(error));
      return KEPT;
    }
    this.wait({ kind, flags, code, streamId, argument, metadata, codec, message, writeMaxBytes, label });
    return KEPT;
  }

  private wait(first: Outgoing): void {
    const { streamId } = first;
    if (streamId !== 0) this.heldSlots.add(streamId & (SLOTS_MAX - 1));
    this.waiting.set(streamId === 0 ? --this.connectionFrames : streamId, { ...first, place: ++this.lastPlace });
    this.ringIsFull = true;
    this.declare();
  }

  /**
   * A message as bytes, to be sent with `encodedBytes`. Undefined: it is large, or may refer to memory that is taken
   * when it is sent. @throws what the codec throws
   */
  encodeSmall(codec: MessageCodec, message: unknown): Uint8Array | undefined {
    if (ephemeral.count > 0) return undefined;
    const target = Buffer.allocUnsafe(ENCODED_BYTES);
    const outer = startTracking();
    try {
      const length = codec.encodeInto(message, target, 0, target.length, true);
      if (length >= 0) return target.subarray(0, length);
      if (-1 - length > INLINE_BYTES_MAX) return undefined;
      const larger = Buffer.allocUnsafe(-1 - length);
      return codec.encodeInto(message, larger, 0, larger.length, true) === larger.length ? larger : undefined;
    } finally {
      endTracking(outer);
    }
  }

  /** Sends a frame without a message. */
  sendControl(kind: number, code: number, streamId: number, argument: number, metadata?: Uint8Array): void {
    this.send(kind, 0, code, streamId, argument, metadata, undefined, undefined, 0, "");
  }

  /** Grants a stream's sender more bytes; what could not be sent yet adds up. */
  grant(streamId: number, bytes: number): void {
    if (this.carrier.closed) return;
    if (
      !this.encoding &&
      this.grants.size === 0 &&
      this.tryWrite(KIND.credit, 0, 0, streamId, bytes, undefined, undefined, undefined, 0, "") !== NO_ROOM
    )
      return;
    this.grants.set(streamId, (this.grants.get(streamId) ?? 0) + bytes);
    this.ringIsFull = true;
    this.declare();
  }

  /** Forgets what is left to send for a stream. Tells whether the peer has seen any of that stream's last message. */
  drop(streamId: number): "unsent" | "sent" {
    this.heldSlots.delete(streamId & (SLOTS_MAX - 1));
    this.grants.delete(streamId);
    if (this.borrowed.size > 0) this.release(streamId);
    if (this.waiting.delete(streamId)) return "unsent";
    return this.fragmented.drop(streamId) === "unsent" ? "unsent" : "sent";
  }

  /** Whether the carrier reads any user's memory. */
  get borrows(): boolean {
    return this.borrowed.size > 0;
  }

  /** A request is its user's again. */
  release(streamId: number): void {
    const parts = this.borrowed.get(streamId);
    if (parts === undefined) return;
    this.borrowed.delete(streamId);
    parts.onReturned = undefined;
    this.carrier.keep(parts);
    this.releaseSlot(streamId);
  }

  /** The connection is over: nothing more is sent. */
  close(): void {
    this.borrowed.clear();
    this.fragmented.close();
    this.waiting.clear();
    this.grants.clear();
  }

  /** Whether anything is left to send for the stream in this slot. */
  holds(slot: number): boolean {
    return this.heldSlots.size > 0 && this.heldSlots.has(slot);
  }

  /** Nothing waits to be sent, here or in the carrier. */
  get idle(): boolean {
    return this.waiting.size === 0 && this.fragmented.size === 0 && this.carrier.idle;
  }

  /** Messages and frames that wait for room. */
  get backlog(): number {
    return this.waiting.size + this.fragmented.size;
  }

  /**
   * Sends what waits, as far as there is room, and up to a bounded amount of copying. True if anything was sent.
   * @throws Violation
   */
  pump(): boolean {
    let progress = false;
    this.ringIsFull = false;
    if (this.grants.size > 0 && this.pumpGrants()) progress = true;
    const bulksFirst = this.bulksGoFirst;
    if (bulksFirst && this.fragmented.pump()) progress = true;
    if (this.pumpWaiting()) progress = true;
    // SUBTLE: also those that went first, if one of them was behind frames that have left only now: nothing else would
    // call for it.
    if ((!bulksFirst || (!this.fragmented.ringIsFull && !this.fragmented.allStarted)) && this.fragmented.pump())
      progress = true;
    this.bulksGoFirst = this.fragmented.ringIsFull && !bulksFirst;
    this.ringIsFull ||= this.fragmented.ringIsFull || this.waiting.size > 0 || this.grants.size > 0;
    if (this.waiting.size === 0 && this.fragmented.allStarted) this.lastPlace = 0;
    this.declare();
    return progress;
  }

  private pumpGrants(): boolean {
    let progress = false;
    for (const [streamId, bytes] of this.grants) {
      if (this.tryWrite(KIND.credit, 0, 0, streamId, bytes, undefined, undefined, undefined, 0, "") === NO_ROOM) break;
      this.grants.delete(streamId);
      progress = true;
    }
    return progress;
  }

  private pumpWaiting(): boolean {
    let progress = false;
    for (const [key, { kind, flags, code, streamId, argument, metadata, codec, message, writeMaxBytes, label }] of this
      .waiting) {
      let written: number;
      try {
        written = this.tryWrite(kind, flags, code, streamId, argument, metadata, codec, message, writeMaxBytes, label);
      } catch (error) {
        if (error instanceof Violation) throw error;
        const first = this.waiting.get(key)!;
        this.waiting.delete(key);
        this.releaseSlot(streamId);
        this.events.onFailed(first, error, false);
        continue;
      }
      if (written === NO_ROOM) break;
      this.waiting.delete(key);
      progress = true;
      if (written === KEPT) continue;
      this.releaseSlot(streamId);
      if (streamId !== 0) this.events.onSent(streamId, written);
    }
    return progress;
  }

  /** The stream's slot is free again, unless more is to be sent for it. */
  private releaseSlot(streamId: number): void {
    if (this.waiting.has(streamId) || this.fragmented.has(streamId)) return;
    this.heldSlots.delete(streamId & (SLOTS_MAX - 1));
  }

  /** Tells the carrier what this side waits for. */
  private declare(): void {
    this.carrier.setWaitFor(this.ringIsFull, this.fragmented.awaitBlocks);
  }

  private firstPlace(): number | undefined {
    if (this.waiting.size === 0) return undefined;
    for (const { place } of this.waiting.values()) return place;
    return undefined;
  }

  /** Writes one frame with a whole small message, or starts a large one. Returns as `send` does, or `NO_ROOM`. */
  private tryWrite(
    kind: number,
    flags: number,
    code: number,
    streamId: number,
    argument: number,
    metadata: Uint8Array | undefined,
    codec: MessageCodec | undefined,
    message: unknown,
    writeMaxBytes: number,
    label: string,
  ): number {
    const carrier = this.carrier;
    const metadataLength = metadata === undefined ? 0 : metadata.length;
    const start = carrier.index;
    const bodyStart = start + FRAME_HEADER_BYTES + metadataLength;
    const room = carrier.freeBytes() - FRAME_HEADER_BYTES - metadataLength;
    if (room < 0) return NO_ROOM;
    let length = 0;
    let loans: TrackedLoans | undefined;
    if (codec !== undefined) {
      // A loan or lease is most of a large message: what is not in place is measured when the rope is made.
      const measures = room < INLINE_BYTES_MAX || ephemeral.count === 0;
      const outer = startTracking();
      this.encoding = true;
      try {
        length = codec.encodeInto(
          message,
          carrier.ringBytes,
          bodyStart,
          bodyStart + Math.min(room, INLINE_BYTES_MAX),
          measures,
        );
      } finally {
        this.encoding = false;
        loans = endTracking(outer);
      }
      if (length < 0) {
        const needed = -1 - length;
        if (needed > 0) checkSize(needed, writeMaxBytes);
        if (measures && needed <= INLINE_BYTES_MAX) return NO_ROOM;
        // What waited before it has left.
        return this.startBulk(
          { kind, flags, code, streamId, argument, metadata, codec, message: undefined, writeMaxBytes, label },
          message,
          0,
        );
      }
      if (length > writeMaxBytes) checkSize(length, writeMaxBytes);
    }
    if (metadataLength > 0) carrier.ringBytes.set(metadata!, start + FRAME_HEADER_BYTES);
    commitFrame(
      carrier,
      kind,
      flags,
      code,
      streamId,
      argument,
      metadataLength,
      length,
      length,
      0,
      FRAME_HEADER_BYTES + metadataLength + length,
    );
    if (loans !== undefined) releaseTracked(loans, sentBy(label));
    return length;
  }

  /**
   * Encodes a message that is not copied into the ring as a whole, takes what it refers to, and sends what there is
   * room for.
   * @param after the place of the last frame that is to leave before it
   */
  private startBulk(first: Outgoing, message: unknown, after: number): number {
    // A peer that sleeps wakes up meanwhile. Without loans there is something to copy first, and it is rung during
    // that.
    if (ephemeral.count > 0 && this.fragmented.size === 0) this.carrier.prewake();
    const outer = startTracking();
    let loans: TrackedLoans | undefined;
    let rope: Rope;
    try {
      rope = first.codec!.encode(message);
    } finally {
      loans = endTracking(outer);
    }
    // Encoding may have run user code, and that may have closed the connection.
    if (this.carrier.closed) return KEPT;
    checkSize(rope.byteLength, first.writeMaxBytes);
    const isAnswer = first.kind === KIND.response;
    // A codec of somebody else's may use its memory again.
    if (first.codec!.ownsInline !== true) rope = { ...rope, inline: copyOf(rope.inline) };
    if (isAnswer && this.mustWait(first, rope)) {
      this.wait({ ...first, codec: encodedBytes, message: joinRope(rope) });
      return KEPT;
    }
    if (this.waiting.size === 0 && this.fragmented.size === 0 && !this.encoding) {
      const sent = sendAtOnce(this.carrier, first, rope, PUMP_BYTES);
      if (sent !== undefined) {
        if (loans !== undefined) releaseTracked(loans, sentBy(first.label));
        return this.placed(first, sent, rope.byteLength);
      }
    }
    // It may have found the connection broken.
    if (this.carrier.closed) return KEPT;
    const payload = new Payload(this.carrier.blocks, rope, sentBy(first.label), first.kind !== KIND.message, () =>
      this.carrier.requestPump(),
    );
    // Those of which only small parts are in the message, copied.
    if (loans !== undefined) releaseTracked(loans, sentBy(first.label));
    this.heldSlots.add(first.streamId & (SLOTS_MAX - 1));
    this.fragmented.add(first, payload, after);
    this.ringIsFull = this.waiting.size > 0 || this.grants.size > 0;
    const around = this.sending;
    this.sending = first;
    this.sentLength = KEPT;
    try {
      // SUBTLE: a call made by a getter of a message that is being written at the ring's tail; then later.
      if (!this.encoding) this.fragmented.pump();
      if (isAnswer) this.fragmented.keep(first.streamId);
      this.ringIsFull ||= this.fragmented.ringIsFull;
    } finally {
      this.sending = around;
      payload.emptyTaken();
    }
    this.declare();
    return this.sentLength;
  }

  /** Whether a small message of ordinary memory has to wait for room in the ring. */
  private mustWait({ metadata }: Outgoing, { byteLength, spans }: Rope): boolean {
    if (
      byteLength > INLINE_BYTES_MAX ||
      ephemeral.count > 0 ||
      spans.some(({ bytes }) => originOf(bytes) !== undefined)
    )
      return false;
    return (
      this.encoding ||
      this.waiting.size > 0 ||
      this.carrier.freeBytes() < FRAME_HEADER_BYTES + (metadata?.length ?? 0) + byteLength
    );
  }

  private onBulkPlaced(first: Outgoing, parts: Parts, messageLength: number): void {
    const { streamId } = first;
    this.releaseSlot(streamId);
    const sent = this.placed(first, parts, messageLength);
    if (this.sending?.streamId === streamId) this.sentLength = sent;
    else if (sent !== KEPT) this.events.onSent(streamId, sent);
  }

  /**
   * The carrier has all of a message. Returns as `send`: a message of which it still reads borrowed bytes is not out
   * yet.
   */
  private placed({ kind, streamId }: Outgoing, parts: Parts, messageLength: number): number {
    if (parts.bytesOnLoan === 0) return messageLength;
    if (kind === KIND.response) this.carrier.keep(parts);
    // Requests have time until they are answered.
    else if (kind === KIND.message) this.carrier.hurry();
    if (parts.bytesOnLoan === 0 || this.carrier.closed) return messageLength;
    this.borrowed.set(streamId, parts);
    parts.onReturned = () => {
      this.borrowed.delete(streamId);
      this.releaseSlot(streamId);
      this.events.onSent(streamId, messageLength);
    };
    return KEPT;
  }

  private onBulkFailed(first: Outgoing, thrown: unknown, wasStarted: boolean): void {
    const { streamId, kind } = first;
    this.releaseSlot(streamId);
    // OUTBOX-3. A stream's owner tells the peer what is wrong.
    if (wasStarted && kind !== KIND.message) this.sendControl(KIND.reset, Code.Internal, streamId, 0);
    this.events.onFailed(first, thrown, wasStarted);
  }
}

/** For messages that were encoded before. */
export const encodedBytes: MessageCodec = {
  ownsInline: true,
  encodeInto(message, target, offset, limit) {
    const bytes = message as Uint8Array;
    if (bytes.length > limit - offset) return -1 - bytes.length;
    target.set(bytes, offset);
    return bytes.length;
  },
  encode: (message) => ({ inline: message as Uint8Array, spans: [], byteLength: (message as Uint8Array).length }),
  decode: (input, offset, byteLength) => input.slice(offset, offset + byteLength),
};

function checkSize(byteLength: number, writeMaxBytes: number): void {
  if (byteLength <= writeMaxBytes) return;
  const limit =
    writeMaxBytes === MESSAGE_BYTES_MAX
      ? `the limit of ${MESSAGE_BYTES_MAX} bytes (2 GiB − 1)`
      : `configured writeMaxBytes ${writeMaxBytes}`;
  throw new ConnectError(`message size ${byteLength} is larger than ${limit}`, Code.ResourceExhausted);
}
