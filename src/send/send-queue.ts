/**
 * Everything that one end of a connection sends. Writes frames into the carrier's ring, and keeps those that do not fit
 * yet. A small message is encoded straight into the ring. A large one is encoded once and travels in fragments
 * (`FragmentedSends`), round robin with other large ones, while small ones keep flowing past it.
 *
 * OUTBOX-1  Frames of one stream leave in the order in which they were given. At most one of a stream is kept here; a
 *           caller with more to send for that stream waits for `onSent`. So streams take turns: the next message of one
 *           goes behind those that wait of the others.
 * OUTBOX-2  A send never waits. Frames that do not fit are kept, bounded by the number of open streams, and by that of
 *           calls that were given up and had left before.
 *
 * A message is released to its user (BORROW-1) when `send` returns for an answer, when a message of a stream has left,
 * and when `drop` or `release` was called for a request.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { SendingCarrier } from "../carrier/carrier.js";
import { closedBy } from "../carrier/carrier.js";
import type { Rope } from "../codec/rope/rope.js";
import { joinRope } from "../codec/rope/rope.js";
import type { KeptBytes } from "../memory/kept/kept-bytes.js";
import { UNBOUNDED } from "../memory/kept/kept-bytes.js";
import { BitSet } from "../memory/shm/bit-set.js";
import { originOf } from "../memory/payload/origin.js";
import { Violation } from "../memory/shm/violation.js";
import { FRAME_HEADER_BYTES, INLINE_BYTES_MAX, KIND, SLOTS_MAX } from "../wire/frame.js";
import type { Parts } from "../wire/parts.js";
import { sendAtOnce } from "./direct.js";
import { encodedBytes } from "./encoded-bytes.js";
import { FragmentedSends, PUMP_BYTES } from "./fragments.js";
import { releaseTracked, sentBy } from "./loan-tracker.js";
import { LARGE, MessageEncoder, NO_ROOM } from "./message-encoder.js";
import type { Outgoing } from "./outgoing.js";
import { checkSize, frameOnly } from "./outgoing.js";
import { Payload } from "./payload.js";

/** What `send` returns for a message that has not left yet. */
export const KEPT = -1;

/** What happens to messages that were kept. */
export interface SendEvents {
  /** The message has left: its stream may send the next one. */
  readonly onSent: (streamId: number, messageLength: number) => void;
  /**
   * The message cannot be sent.
   * @param thrown what is wrong with it
   * @param wasStarted the peer has a part of it
   */
  readonly onFailed: (first: Outgoing, thrown: unknown, wasStarted: boolean) => void;
}

interface Waiting extends Outgoing {
  /** Counted in `kept`. */
  readonly keptBytes: number;
  /** Counts up along the queue. */
  readonly place: number;
}

export class SendQueue {
  private readonly carrier: SendingCarrier;
  private readonly events: SendEvents;
  private readonly encoder: MessageEncoder;
  private readonly kept: KeptBytes;
  /**
   * Frames that wait for room in the ring, in order of arrival. The key is the stream, or a negative number for frames
   * of the connection itself and for resets.
   */
  private readonly waiting = new Map<number, Waiting>();
  private lastPlace = 0;
  private connectionFrames = 0;
  /** Credit that is to be granted, by stream. It goes before everything else, since it needs no order. */
  private readonly grants = new Map<number, number>();
  /** Slots of the streams that have something in `waiting` or `fragmented`. */
  private readonly heldSlots = new BitSet();
  /** The last attempt to send failed for lack of room in the ring. Then room is worth waiting for. */
  private ringIsFull = false;
  private readonly fragmented: FragmentedSends;
  /** The ring was full when it was the large messages' turn. */
  private fragmentedGoFirst = false;
  /** A message that may leave before `send` returns. Its sender then learns that from the return value. */
  private sending: Outgoing | undefined;
  private sentLength = 0;
  /** Messages that are with the carrier, which still reads their users' memory, by stream. */
  private readonly borrowed = new Map<number, Parts>();

  /** @param kept counts what waits to be sent (KEPT-1) */
  constructor(carrier: SendingCarrier, events: SendEvents, kept = UNBOUNDED) {
    this.carrier = carrier;
    this.events = events;
    this.kept = kept;
    this.encoder = new MessageEncoder(carrier);
    this.fragmented = new FragmentedSends(carrier, kept, {
      firstWaiting: () => this.firstPlace(),
      onPlaced: (first, parts, messageLength) => this.onFragmentedPlaced(first, parts, messageLength),
      onFailed: (first, error, wasStarted) => this.onFragmentedFailed(first, error, wasStarted),
    });
  }

  /**
   * Sends a message, now or when there is room.
   * @returns the message's length if it has left. Otherwise `KEPT`, and `onSent` or `onFailed` follow unless it is
   *   dropped
   * @throws what the codec throws; ConnectError `ResourceExhausted` if it is too large. If the peer is found to have
   *   broken a rule, the connection is closed instead
   */
  send(first: Outgoing): number {
    try {
      if (this.waiting.size === 0 && !this.encoder.isEncoding) {
        const written = this.tryWrite(first);
        if (written !== NO_ROOM) return written;
      }
      if (this.carrier.closed) return KEPT;
      // Later, some of its bytes may be gone or changed.
      if (first.codec !== undefined) return this.encodeNow(first, this.lastPlace);
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
      // Looking for room reads what the peer wrote. A violation there ends the connection, but is no fault of the
      // message.
      this.carrier.close(closedBy(error));
      return KEPT;
    }
    this.wait(first);
    return KEPT;
  }

  private wait(first: Outgoing): void {
    const { streamId } = first;
    // SUBTLE: a reset belongs to the connection. Its stream is over, what is dropped of that stream must leave it, and
    // the slot may soon hold something of the next stream.
    const isOfStream = streamId !== 0 && first.kind !== KIND.reset;
    if (isOfStream) this.heldSlots.add(streamId & (SLOTS_MAX - 1));
    const keptBytes = (first.metadata?.length ?? 0) + (first.message instanceof Uint8Array ? first.message.length : 0);
    this.kept.take(keptBytes);
    this.waiting.set(isOfStream ? streamId : --this.connectionFrames, {
      ...first,
      keptBytes,
      place: ++this.lastPlace,
    });
    this.ringIsFull = true;
    this.declare();
  }

  /** Sends a frame without a message. */
  sendControl(kind: number, code: number, streamId: number, argument: number, metadata?: Uint8Array): void {
    this.send(frameOnly(kind, code, streamId, argument, metadata));
  }

  /** Grants a stream's sender more bytes. Grants that could not be sent yet add up. */
  grant(streamId: number, bytes: number): void {
    if (this.carrier.closed) return;
    if (!this.encoder.isEncoding && this.grants.size === 0 && this.tryGrant(streamId, bytes)) return;
    this.grants.set(streamId, (this.grants.get(streamId) ?? 0) + bytes);
    this.ringIsFull = true;
    this.declare();
  }

  private tryGrant(streamId: number, bytes: number): boolean {
    return this.tryWrite(frameOnly(KIND.credit, 0, streamId, bytes, undefined)) !== NO_ROOM;
  }

  /** Discards what is left to send for a stream. Tells whether the peer has any part of that stream's last message. */
  drop(streamId: number): "unsent" | "sent" {
    this.heldSlots.delete(streamId & (SLOTS_MAX - 1));
    this.grants.delete(streamId);
    if (this.borrowed.size > 0) this.release(streamId);
    if (this.unwait(streamId)) return "unsent";
    return this.fragmented.drop(streamId) === "unsent" ? "unsent" : "sent";
  }

  /** @returns whether anything waited under this key */
  private unwait(key: number): boolean {
    const waiting = this.waiting.get(key);
    if (waiting === undefined) return false;
    this.waiting.delete(key);
    this.kept.give(waiting.keptBytes);
    return true;
  }

  /** Whether the carrier reads any user's memory. */
  get borrows(): boolean {
    return this.borrowed.size > 0;
  }

  /** Releases a request to its user: what the carrier still borrows of it is copied. */
  release(streamId: number): void {
    const parts = this.borrowed.get(streamId);
    if (parts === undefined) return;
    this.borrowed.delete(streamId);
    parts.onReturned = undefined;
    this.carrier.keep(parts);
    this.releaseSlot(streamId);
  }

  /** The connection is over. */
  close(): void {
    this.borrowed.clear();
    this.fragmented.close();
    for (const key of this.waiting.keys()) this.unwait(key);
    this.grants.clear();
  }

  /** Whether anything is left to send for the stream in this slot. */
  holds(slot: number): boolean {
    return this.heldSlots.size > 0 && this.heldSlots.has(slot);
  }

  /** Whether nothing waits to be sent, here or in the carrier. */
  get idle(): boolean {
    return this.waiting.size === 0 && this.fragmented.size === 0 && this.carrier.idle;
  }

  /** Number of messages and frames that wait for room. */
  get backlog(): number {
    return this.waiting.size + this.fragmented.size;
  }

  /**
   * Sends messages that wait, as far as there is room, and up to a bounded amount of copying. True if anything was
   * sent.
   * @throws Violation
   */
  pump(): boolean {
    let progress = false;
    this.ringIsFull = false;
    if (this.grants.size > 0 && this.pumpGrants()) progress = true;
    const fragmentedFirst = this.fragmentedGoFirst;
    if (fragmentedFirst && this.fragmented.pump()) progress = true;
    if (this.pumpWaiting()) progress = true;
    // SUBTLE: large messages that went first get another turn if one of them waited for frames that have left only now.
    // Nothing else would give it one.
    if ((!fragmentedFirst || (!this.fragmented.ringIsFull && !this.fragmented.allStarted)) && this.fragmented.pump())
      progress = true;
    this.fragmentedGoFirst = this.fragmented.ringIsFull && !fragmentedFirst;
    this.ringIsFull ||= this.fragmented.ringIsFull || this.waiting.size > 0 || this.grants.size > 0;
    if (this.waiting.size === 0 && this.fragmented.allStarted) this.lastPlace = 0;
    this.declare();
    return progress;
  }

  private pumpGrants(): boolean {
    let progress = false;
    for (const [streamId, bytes] of this.grants) {
      if (!this.tryGrant(streamId, bytes)) break;
      this.grants.delete(streamId);
      progress = true;
    }
    return progress;
  }

  private pumpWaiting(): boolean {
    let progress = false;
    for (const [key, first] of this.waiting) {
      const { streamId } = first;
      let written: number;
      try {
        written = this.tryWrite(first);
      } catch (error) {
        if (error instanceof Violation) throw error;
        this.unwait(key);
        this.releaseSlot(streamId);
        this.events.onFailed(first, error, false);
        continue;
      }
      if (written === NO_ROOM) break;
      this.unwait(key);
      progress = true;
      if (written === KEPT || key < 0) continue;
      this.releaseSlot(streamId);
      this.events.onSent(streamId, written);
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

  /** Writes one frame with a whole small message, or encodes a large one. Returns as `send` does, or `NO_ROOM`. */
  private tryWrite(first: Outgoing): number {
    const written = this.encoder.intoRing(first);
    // Frames that waited before it have left.
    return written === LARGE ? this.encodeNow(first, 0) : written;
  }

  private firstPlace(): number | undefined {
    if (this.waiting.size === 0) return undefined;
    for (const { place } of this.waiting.values()) return place;
    return undefined;
  }

  /**
   * Encodes a message that cannot be encoded straight into the ring, takes what it refers to, and sends what there is
   * room for.
   * @param after the place of the last frame that has to leave before it
   */
  private encodeNow(outgoing: Outgoing, after: number): number {
    const { rope, loans } = this.encoder.toRope(outgoing);
    // Encoding may have run user code, and that may have closed the connection.
    if (this.carrier.closed) return KEPT;
    // The rope is all that is needed of the message, which is not to be kept alive.
    const first = { ...outgoing, message: undefined };
    checkSize(rope.byteLength, first.writeMaxBytes);
    if (this.mustWait(first, rope)) {
      this.checkKept(outgoing);
      this.wait({ ...first, codec: encodedBytes, message: joinRope(rope) });
      if (loans !== undefined) releaseTracked(loans, sentBy(first.label));
      return KEPT;
    }
    if (this.waiting.size === 0 && this.fragmented.size === 0 && !this.encoder.isEncoding) {
      const sent = sendAtOnce(this.carrier, first, rope, PUMP_BYTES);
      if (sent !== undefined) {
        if (loans !== undefined) releaseTracked(loans, sentBy(first.label));
        return this.placed(first, sent, rope.byteLength);
      }
    }
    // The attempt may have found that the connection is broken.
    if (this.carrier.closed) return KEPT;
    this.checkKept(outgoing);
    const payload = new Payload({
      blocks: this.carrier.blocks,
      rope,
      why: sentBy(first.label),
      sharesLeases: first.kind !== KIND.message,
      onReady: () => this.carrier.requestPump(),
    });
    // Loans of which the message contains copies of small parts only.
    if (loans !== undefined) releaseTracked(loans, sentBy(first.label));
    this.heldSlots.add(first.streamId & (SLOTS_MAX - 1));
    this.fragmented.add(first, payload, after, privateBytesOf(rope));
    this.ringIsFull = this.waiting.size > 0 || this.grants.size > 0;
    const around = this.sending;
    this.sending = first;
    this.sentLength = KEPT;
    try {
      // SUBTLE: not if a getter of a message that is being written at the ring's tail has made this call.
      if (!this.encoder.isEncoding) this.fragmented.pump();
      if (first.kind === KIND.response) this.fragmented.keep(first.streamId);
      this.ringIsFull ||= this.fragmented.ringIsFull;
    } finally {
      this.sending = around;
      payload.emptyTaken();
    }
    this.declare();
    return this.sentLength;
  }

  /** @throws ConnectError `ResourceExhausted` if no further message may wait (KEPT-1). Errors always may. */
  private checkKept({ codec }: Outgoing): void {
    if (codec !== encodedBytes && this.kept.isFull) throw new ConnectError(this.kept.explain(), Code.ResourceExhausted);
  }

  /** Whether a small message of ordinary memory has to wait for room in the ring. */
  private mustWait({ metadata }: Outgoing, { byteLength, spans }: Rope): boolean {
    if (byteLength > INLINE_BYTES_MAX || spans.some(({ bytes }) => originOf(bytes) !== undefined)) return false;
    return (
      this.encoder.isEncoding ||
      this.waiting.size > 0 ||
      this.carrier.freeBytes() < FRAME_HEADER_BYTES + (metadata?.length ?? 0) + byteLength
    );
  }

  private onFragmentedPlaced(first: Outgoing, parts: Parts, messageLength: number): void {
    const { streamId } = first;
    this.releaseSlot(streamId);
    const sent = this.placed(first, parts, messageLength);
    if (this.sending?.streamId === streamId) this.sentLength = sent;
    else if (sent !== KEPT) this.events.onSent(streamId, sent);
  }

  /**
   * The carrier has all of a message. Returns as `send`: while the carrier still reads borrowed bytes of it, the
   * message has not left.
   */
  private placed(first: Outgoing, parts: Parts, messageLength: number): number {
    if (parts.bytesOnLoan === 0) return messageLength;
    const { kind, streamId } = first;
    if (kind === KIND.response) this.carrier.keep(parts);
    // Requests have time until they are answered.
    else if (kind === KIND.message) this.carrier.hurry();
    if (this.carrier.closed) return messageLength;
    if (parts.failure !== undefined) {
      this.onFragmentedFailed(first, parts.failure, true);
      return KEPT;
    }
    if (parts.bytesOnLoan === 0) return messageLength;
    this.borrowed.set(streamId, parts);
    parts.onReturned = () => {
      this.borrowed.delete(streamId);
      if (parts.failure !== undefined) return this.onFragmentedFailed(first, parts.failure, true);
      this.releaseSlot(streamId);
      this.events.onSent(streamId, messageLength);
    };
    return KEPT;
  }

  private onFragmentedFailed(first: Outgoing, thrown: unknown, wasStarted: boolean): void {
    const { streamId, kind } = first;
    this.releaseSlot(streamId);
    // OUTBOX-3. The owner of a stream tells the peer itself.
    if (wasStarted && kind !== KIND.message) this.sendControl(KIND.reset, Code.Internal, streamId, 0);
    this.events.onFailed(first, thrown, wasStarted);
  }
}

/** Bytes that are not in memory that is shared, or counted elsewhere. */
function privateBytesOf({ inline, spans }: Rope): number {
  let sum = inline.length;
  for (const { bytes } of spans) if (originOf(bytes) === undefined) sum += bytes.length;
  return sum;
}
