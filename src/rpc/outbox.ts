/**
 * Everything that one end of a connection sends: writes frames into the carrier's ring, and keeps what does not fit
 * yet. Small messages are encoded straight into the ring; a large one is encoded once and travels in pieces through
 * arena blocks, round robin with other large ones, while small ones keep flowing past it.
 *
 * OUTBOX-1  Frames of one stream leave in the order they were given.
 * OUTBOX-2  Nothing waits inside a send: what does not fit is kept, bounded by the number of open streams.
 * OUTBOX-3  A stream that is dropped leaves no half-sent message behind without the peer being told.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Carrier } from "../carrier/carrier.js";
import type { MessageCodec } from "../codec/codec.js";
import { partsOf } from "../codec/rope.js";
import {
  BLOCK_REFERENCE_BYTES,
  FIELD,
  FLAG,
  FRAME_HEADER_BYTES,
  INLINE_BYTES_MAX,
  KIND,
  MESSAGE_BYTES_MAX,
  packKindFlagsCode,
  SLOTS_MAX,
} from "../wire/frame.js";
import { Parts } from "../wire/parts.js";

/** A message on its way: all that its first frame says. */
export interface Outgoing {
  readonly kind: number;
  readonly flags: number;
  readonly code: number;
  readonly streamId: number;
  readonly argument: number;
  readonly metadata: Uint8Array | undefined;
  readonly codec: MessageCodec | undefined;
  readonly message: unknown;
  readonly writeMaxBytes: number;
}

/** A large message on its way. */
interface Bulk {
  readonly first: Outgoing;
  readonly parts: Parts;
}

/** Payload bytes copied in one go before others get their turn. */
const PUMP_BYTES = 1 << 20;

export class Outbox {
  private readonly carrier: Carrier;
  private readonly onFailed: (streamId: number, error: ConnectError) => void;
  /** Waiting for room in the ring, in order of arrival; by stream, or, for frames of the connection itself, by a negative number. */
  private readonly waiting = new Map<number, Outgoing>();
  private connectionFrames = 0;
  /** Slots of the streams that have something in `waiting` or `bulks`. */
  private readonly heldSlots = new Set<number>();
  private encoding = false;
  /** Whether the last attempt to send failed for want of room in the ring, which then is worth waiting for. */
  private ringIsFull = false;
  /** Large messages under way; the first is next. */
  private readonly bulks: Bulk[] = [];

  /** @param onFailed told when a message that was kept cannot be sent after all */
  constructor(carrier: Carrier, onFailed: (streamId: number, error: ConnectError) => void) {
    this.carrier = carrier;
    this.onFailed = onFailed;
  }

  /**
   * Sends a message, now or when there is room.
   * @throws whatever the codec throws; ConnectError `ResourceExhausted` if it is too large
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
  ): void {
    // SUBTLE: encoding can run user code (a getter, a codec of theirs) that makes a call of its own; its frame would
    // be written over the one under way.
    if (this.waiting.size === 0 && !this.encoding && this.tryWrite(kind, flags, code, streamId, argument, metadata, codec, message, writeMaxBytes)) return;
    if (this.carrier.closed) return;
    if (streamId !== 0) this.heldSlots.add(streamId & (SLOTS_MAX - 1));
    this.waiting.set(streamId === 0 ? --this.connectionFrames : streamId, { kind, flags, code, streamId, argument, metadata, codec, message, writeMaxBytes });
    this.ringIsFull = true;
    this.declare();
  }

  /** Sends a frame without a message. */
  sendControl(kind: number, code: number, streamId: number, argument: number, metadata?: Uint8Array): void {
    this.send(kind, 0, code, streamId, argument, metadata, undefined, undefined, 0);
  }

  /** Forgets what is left to send for a stream. Tells whether the peer has seen any of that stream's message. */
  drop(streamId: number): "unsent" | "sent" {
    this.heldSlots.delete(streamId & (SLOTS_MAX - 1));
    if (this.waiting.delete(streamId)) return "unsent";
    const at = this.bulks.findIndex((bulk) => bulk.first.streamId === streamId);
    if (at < 0) return "sent";
    return this.bulks.splice(at, 1)[0].parts.takenBytes === 0 ? "unsent" : "sent";
  }

  /** Whether anything is left to send for the stream in this slot. */
  holds(slot: number): boolean {
    return this.heldSlots.size > 0 && this.heldSlots.has(slot);
  }

  /** Nothing waits to be sent, here or in the carrier. */
  get idle(): boolean {
    return this.waiting.size === 0 && this.bulks.length === 0 && this.carrier.idle;
  }

  /** Messages and frames that wait for room. */
  get backlog(): number {
    return this.waiting.size + this.bulks.length;
  }

  /** Sends what waits, as far as there is room, and up to a bounded amount of copying. True if anything was sent. */
  pump(): boolean {
    let progress = false;
    this.ringIsFull = false;
    for (const [key, outgoing] of this.waiting) {
      const { kind, flags, code, streamId, argument, metadata, codec, message, writeMaxBytes } = outgoing;
      try {
        if (!this.tryWrite(kind, flags, code, streamId, argument, metadata, codec, message, writeMaxBytes)) break;
      } catch (error) {
        this.waiting.delete(key);
        this.letGo(streamId);
        this.onFailed(streamId, ConnectError.from(error, Code.Internal));
        continue;
      }
      this.waiting.delete(key);
      this.letGo(streamId);
      progress = true;
    }
    if (this.pumpBulks()) progress = true;
    this.ringIsFull ||= this.waiting.size > 0;
    this.declare();
    return progress;
  }

  /** The stream's slot is free again, unless more is to be sent for it. */
  private letGo(streamId: number): void {
    if (this.waiting.has(streamId) || this.bulks.some((bulk) => bulk.first.streamId === streamId)) return;
    this.heldSlots.delete(streamId & (SLOTS_MAX - 1));
  }

  /** Tells the carrier what this side waits for. */
  private declare(): void {
    this.carrier.await(this.ringIsFull, this.bulks.length > 0);
  }

  /** Writes one frame with a whole small message, or starts a large one. False if the ring has no room for it. */
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
  ): boolean {
    const carrier = this.carrier;
    const metadataLength = metadata === undefined ? 0 : metadata.length;
    const start = carrier.index;
    const bodyStart = start + FRAME_HEADER_BYTES + metadataLength;
    const room = carrier.freeBytes() - FRAME_HEADER_BYTES - metadataLength;
    if (room < 0) return false;
    let length = 0;
    if (codec !== undefined) {
      this.encoding = true;
      try {
        length = codec.encodeInto(message, carrier.ringBytes, bodyStart, bodyStart + Math.min(room, INLINE_BYTES_MAX));
      } finally {
        this.encoding = false;
      }
      if (length < 0) {
        const needed = -1 - length;
        checkSize(needed, writeMaxBytes);
        if (needed <= INLINE_BYTES_MAX) return false;
        const first = { kind, flags, code, streamId, argument, metadata, codec, message: undefined, writeMaxBytes };
        this.heldSlots.add(streamId & (SLOTS_MAX - 1));
        this.bulks.push({ first, parts: new Parts(partsOf(codec.encode(message))) });
        this.ringIsFull = false;
        this.pumpBulks();
        this.declare();
        return true;
      }
      if (length > writeMaxBytes) checkSize(length, writeMaxBytes);
    }
    if (metadataLength > 0) carrier.ringBytes.set(metadata!, start + FRAME_HEADER_BYTES);
    this.writeHeader(kind, flags, code, streamId, argument, metadataLength, length, length, length);
    return true;
  }

  private writeHeader(
    kind: number,
    flags: number,
    code: number,
    streamId: number,
    argument: number,
    metadataLength: number,
    messageLength: number,
    pieceLength: number,
    bodyLength: number,
  ): void {
    const carrier = this.carrier;
    const words = carrier.ringWords;
    const at = carrier.index >> 2;
    const byteLength = FRAME_HEADER_BYTES + metadataLength + bodyLength;
    words[at + FIELD.byteLength] = byteLength;
    words[at + FIELD.kindFlagsCode] = packKindFlagsCode(kind, flags, code);
    words[at + FIELD.streamId] = streamId;
    words[at + FIELD.argument] = argument;
    words[at + FIELD.metadataLength] = metadataLength;
    words[at + FIELD.messageLength] = messageLength;
    words[at + FIELD.pieceLength] = pieceLength;
    words[at + FIELD.spanCount] = 0;
    carrier.commit(byteLength);
  }

  private pumpBulks(): boolean {
    let copied = 0;
    while (this.bulks.length > 0 && copied < PUMP_BYTES && !this.carrier.closed) {
      const bulk = this.bulks.shift()!;
      const sent = this.sendPiece(bulk);
      if (sent === 0) {
        this.bulks.unshift(bulk);
        if (this.ringIsFull || this.carrier.exhausted === undefined) break;
        this.bulks.shift();
        this.letGo(bulk.first.streamId);
        this.onFailed(bulk.first.streamId, new ConnectError(`no shared memory for the message: ${this.carrier.exhausted}`, Code.ResourceExhausted));
        continue;
      }
      copied += sent;
      if (bulk.parts.leftBytes > 0) this.bulks.push(bulk);
      else this.letGo(bulk.first.streamId);
    }
    return copied > 0;
  }

  /** Hands the next piece to the carrier and announces it. Returns its bytes, or 0 if there is no room for it. */
  private sendPiece({ first, parts }: Bulk): number {
    const carrier = this.carrier;
    const { takenBytes, byteLength } = parts;
    const isFirst = takenBytes === 0;
    const metadata = isFirst ? first.metadata : undefined;
    const metadataLength = metadata === undefined ? 0 : metadata.length;
    if (carrier.freeBytes() < FRAME_HEADER_BYTES + metadataLength + BLOCK_REFERENCE_BYTES) {
      this.ringIsFull = true;
      return 0;
    }
    const length = Math.min(carrier.pieceBytesMax, parts.leftBytes);
    const start = carrier.index + FRAME_HEADER_BYTES;
    const bodyLength = carrier.placePiece(parts, length, start + metadataLength);
    if (bodyLength < 0) return 0;
    if (metadataLength > 0) carrier.ringBytes.set(metadata!, start);
    const more = parts.leftBytes > 0 ? FLAG.more : 0;
    const flags = (isFirst ? first.flags : 0) | carrier.pieceFlag | more;
    this.writeHeader(
      isFirst ? first.kind : KIND.message,
      flags,
      isFirst ? first.code : 0,
      first.streamId,
      isFirst ? first.argument : 0,
      metadataLength,
      byteLength,
      length,
      bodyLength,
    );
    // The peer can copy this piece while the next one is being written.
    carrier.publish();
    return length;
  }
}

function checkSize(byteLength: number, writeMaxBytes: number): void {
  if (byteLength <= writeMaxBytes) return;
  const limit = writeMaxBytes === MESSAGE_BYTES_MAX ? `the limit of ${MESSAGE_BYTES_MAX} bytes (2 GiB − 64 KiB)` : `configured writeMaxBytes ${writeMaxBytes}`;
  throw new ConnectError(`message size ${byteLength} is larger than ${limit}`, Code.ResourceExhausted);
}
