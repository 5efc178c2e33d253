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
import { Payload, WAITS_FOR_FILE, WAITS_FOR_SOCKET } from "../carrier/payload.js";
import { bytesHooks } from "../codec/bytes-hooks.js";
import type { Rope } from "../codec/rope.js";
import { Loan } from "../memory/loan.js";
import { FileTooShort, MappedFile } from "../memory/mapped-file.js";
import { explainGone, originOf, perishable } from "../memory/origin.js";
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
  tableOffset,
} from "../wire/frame.js";

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
  /** The call, for messages about bytes that it took. */
  readonly label: string;
}

/** A large message on its way. */
interface Bulk {
  readonly first: Outgoing;
  readonly payload: Payload;
  /** Its first frame is written. */
  started: boolean;
}

/** What `Carrier.placePiece` answers if a piece has to go into the ring itself. */
const RING_PIECE = -2;
/** Payload bytes copied in one go before others get their turn. */
const PUMP_BYTES = 1 << 20;

export class Outbox {
  private readonly carrier: Carrier;
  private readonly onFailed: (streamId: number, error: ConnectError, wasStarted: boolean) => void;
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
  /** How many of them wait for a file or for the control socket, if all do. */
  private reading = 0;

  /** @param onFailed told when a message that was kept cannot be sent after all; `wasStarted`: the peer has a part of it, and was told */
  constructor(carrier: Carrier, onFailed: (streamId: number, error: ConnectError, wasStarted: boolean) => void) {
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
    label: string,
  ): void {
    // SUBTLE: encoding can run user code (a getter, a codec of theirs) that makes a call of its own; its frame would
    // be written over the one under way.
    if (this.waiting.size === 0 && !this.encoding && this.tryWrite(kind, flags, code, streamId, argument, metadata, codec, message, writeMaxBytes, label)) return;
    if (this.carrier.closed) return;
    // Later some of its bytes may be gone.
    if (perishable.count > 0 && codec !== undefined) return this.startBulk({ kind, flags, code, streamId, argument, metadata, codec, message: undefined, writeMaxBytes, label }, message);
    if (streamId !== 0) this.heldSlots.add(streamId & (SLOTS_MAX - 1));
    this.waiting.set(streamId === 0 ? --this.connectionFrames : streamId, { kind, flags, code, streamId, argument, metadata, codec, message, writeMaxBytes, label });
    this.ringIsFull = true;
    this.declare();
  }

  /** Sends a frame without a message. */
  sendControl(kind: number, code: number, streamId: number, argument: number, metadata?: Uint8Array): void {
    this.send(kind, 0, code, streamId, argument, metadata, undefined, undefined, 0, "");
  }

  /** Forgets what is left to send for a stream. Tells whether the peer has seen any of that stream's message. */
  drop(streamId: number): "unsent" | "sent" {
    this.heldSlots.delete(streamId & (SLOTS_MAX - 1));
    if (this.waiting.delete(streamId)) return "unsent";
    const at = this.bulks.findIndex((bulk) => bulk.first.streamId === streamId);
    if (at < 0) return "sent";
    const [{ payload, started }] = this.bulks.splice(at, 1);
    payload.cancel();
    return started ? "sent" : "unsent";
  }

  /** The connection is over: nothing more is sent. */
  close(): void {
    for (const { payload } of this.bulks.splice(0)) payload.cancel();
    this.waiting.clear();
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
      const { kind, flags, code, streamId, argument, metadata, codec, message, writeMaxBytes, label } = outgoing;
      try {
        if (!this.tryWrite(kind, flags, code, streamId, argument, metadata, codec, message, writeMaxBytes, label)) break;
      } catch (error) {
        this.waiting.delete(key);
        this.letGo(streamId);
        this.onFailed(streamId, ConnectError.from(error, Code.Internal), false);
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
    // Who waits for a file only is not helped by memory.
    this.carrier.await(this.ringIsFull, this.bulks.length > this.reading);
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
    label: string,
  ): boolean {
    const carrier = this.carrier;
    const metadataLength = metadata === undefined ? 0 : metadata.length;
    const start = carrier.index;
    const bodyStart = start + FRAME_HEADER_BYTES + metadataLength;
    const room = carrier.freeBytes() - FRAME_HEADER_BYTES - metadataLength;
    if (room < 0) return false;
    let length = 0;
    let loans: Noted | undefined;
    if (codec !== undefined) {
      const outer = startNoting();
      this.encoding = true;
      try {
        length = codec.encodeInto(message, carrier.ringBytes, bodyStart, bodyStart + Math.min(room, INLINE_BYTES_MAX));
      } finally {
        this.encoding = false;
        loans = endNoting(outer);
      }
      if (length < 0) {
        const needed = -1 - length;
        checkSize(needed, writeMaxBytes);
        if (needed <= INLINE_BYTES_MAX) return false;
        this.startBulk({ kind, flags, code, streamId, argument, metadata, codec, message: undefined, writeMaxBytes, label }, message);
        return true;
      }
      if (length > writeMaxBytes) checkSize(length, writeMaxBytes);
    }
    if (metadataLength > 0) carrier.ringBytes.set(metadata!, start + FRAME_HEADER_BYTES);
    this.writeHeader(kind, flags, code, streamId, argument, metadataLength, length, length, 0, FRAME_HEADER_BYTES + metadataLength + length);
    if (loans !== undefined) giveBackNoted(loans, sentBy(label));
    return true;
  }

  /** Encodes a message that is not copied into the ring as a whole, takes what it refers to, and sends what there is room for. */
  private startBulk(first: Outgoing, message: unknown): void {
    const outer = startNoting();
    let loans: Noted | undefined;
    let rope: Rope;
    try {
      rope = first.codec!.encode(message);
    } finally {
      loans = endNoting(outer);
    }
    // Encoding may have run user code, and that may have closed the connection.
    if (this.carrier.closed) return;
    checkSize(rope.byteLength, first.writeMaxBytes);
    const payload = new Payload(this.carrier.blocks, rope, sentBy(first.label), () => this.carrier.lookAgain());
    // Those of which only small parts are in the message, copied.
    if (loans !== undefined) giveBackNoted(loans, sentBy(first.label));
    this.heldSlots.add(first.streamId & (SLOTS_MAX - 1));
    this.bulks.push({ first, payload, started: false });
    this.ringIsFull = this.waiting.size > 0;
    try {
      // SUBTLE: a call made by a getter of a message that is being written at the ring's tail; then later.
      if (!this.encoding) this.pumpBulks();
    } finally {
      payload.emptyTaken();
    }
    this.declare();
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
    spanCount: number,
    byteLength: number,
  ): void {
    const carrier = this.carrier;
    const words = carrier.ringWords;
    const at = carrier.index >> 2;
    words[at + FIELD.byteLength] = byteLength;
    words[at + FIELD.kindFlagsCode] = packKindFlagsCode(kind, flags, code);
    words[at + FIELD.streamId] = streamId;
    words[at + FIELD.argument] = argument;
    words[at + FIELD.metadataLength] = metadataLength;
    words[at + FIELD.messageLength] = messageLength;
    words[at + FIELD.pieceLength] = pieceLength;
    words[at + FIELD.spanCount] = spanCount;
    carrier.commit(byteLength);
  }

  private pumpBulks(): boolean {
    let moved = 0;
    let reading = 0;
    this.reading = 0;
    while (this.bulks.length > 0 && moved < PUMP_BYTES && !this.carrier.closed) {
      const bulk = this.bulks.shift()!;
      let step: number;
      try {
        step = this.advance(bulk, PUMP_BYTES - moved);
      } catch (error) {
        this.fail(bulk, ConnectError.from(error, error instanceof FileTooShort ? Code.DataLoss : Code.Internal));
        continue;
      }
      if (step === WAITS_FOR_FILE) {
        // Others get their turn; when the read is done there will be room.
        this.bulks.push(bulk);
        if (++reading >= this.bulks.length) {
          this.reading = reading;
          break;
        }
        continue;
      }
      reading = 0;
      if (step < 0) {
        this.bulks.unshift(bulk);
        if (this.ringIsFull || this.carrier.exhausted === undefined) break;
        this.bulks.shift();
        this.fail(bulk, new ConnectError(`no shared memory for the message: ${this.carrier.exhausted}`, Code.ResourceExhausted));
        continue;
      }
      moved += step;
      if (!bulk.started || bulk.payload.inline.leftBytes > 0) {
        this.bulks.push(bulk);
      } else {
        bulk.payload.done();
        this.letGo(bulk.first.streamId);
      }
    }
    return moved > 0;
  }

  private fail(bulk: Bulk, error: ConnectError): void {
    const { streamId } = bulk.first;
    bulk.payload.cancel();
    this.letGo(streamId);
    // OUTBOX-3
    if (bulk.started) this.sendControl(KIND.reset, Code.Internal, streamId, 0);
    this.onFailed(streamId, error, bulk.started);
  }

  /** Moves a large message on by a step. Returns about the bytes moved, at least 1; −1: there is no room. */
  private advance(bulk: Bulk, bytesMax: number): number {
    const { payload } = bulk;
    if (!bulk.started) {
      // OUTBOX-1, and the definition of its method goes before it.
      if (this.waiting.size > 0) return this.noRoom();
      const placed = payload.place(bytesMax);
      if (placed === -2) return -1;
      if (placed === WAITS_FOR_FILE) return placed;
      // What was copied last is announced at once, not in the next step.
      if (placed >= 0 && payload.place(0) !== -1) return placed + 1;
      const sent = this.sendFirst(bulk);
      return sent < 0 && placed >= 0 ? placed + 1 : sent;
    }
    return this.sendPiece(bulk);
  }

  private sendFirst(bulk: Bulk): number {
    const { spanCount, inline, tableBytes } = bulk.payload;
    if (spanCount === 0) return this.sendPiece(bulk);
    return this.sendWithSpans(bulk, inline.byteLength <= INLINE_BYTES_MAX - tableBytes);
  }

  private noRoom(): number {
    this.ringIsFull = true;
    return -1;
  }

  /** Writes the first frame of a message with spans, with all of its inline part or with the first piece of it. */
  private sendWithSpans(bulk: Bulk, isWhole: boolean): number {
    const carrier = this.carrier;
    const { first, payload } = bulk;
    const { metadata } = first;
    const { spanCount, inline } = payload;
    const metadataLength = metadata === undefined ? 0 : metadata.length;
    const start = carrier.index;
    const table = tableOffset(start + FRAME_HEADER_BYTES + metadataLength);
    const body = table + payload.tableBytes;
    let pieceLength = isWhole ? inline.byteLength : Math.min(carrier.pieceBytesMax, inline.byteLength);
    if (carrier.freeBytes() < body - start + (isWhole ? pieceLength : BLOCK_REFERENCE_BYTES)) return this.noRoom();
    if (!payload.sendDescriptors()) return WAITS_FOR_SOCKET;
    let bodyLength = isWhole ? RING_PIECE : carrier.placePiece(inline, pieceLength, body);
    if (bodyLength === -1) return -1;
    const inRing = bodyLength === RING_PIECE;
    if (inRing) {
      bodyLength = pieceLength = Math.min(pieceLength, INLINE_BYTES_MAX - payload.tableBytes);
      if (carrier.freeBytes() < body - start + bodyLength) return this.noRoom();
      inline.copyTo(carrier.ringBytes, body, bodyLength);
    }
    if (metadataLength > 0) carrier.ringBytes.set(metadata!, start + FRAME_HEADER_BYTES);
    payload.writeTable(carrier.ringWords, table >> 2);
    payload.spansSent();
    const flags = first.flags | (inRing ? 0 : carrier.pieceFlag) | (inline.leftBytes > 0 ? FLAG.more : 0);
    this.writeHeader(first.kind, flags, first.code, first.streamId, first.argument, metadataLength, payload.byteLength, pieceLength, spanCount, body - start + bodyLength);
    bulk.started = true;
    carrier.publish();
    return pieceLength + 1;
  }

  /** Hands the next piece to the carrier and announces it. */
  private sendPiece(bulk: Bulk): number {
    const carrier = this.carrier;
    const { first, payload, started } = bulk;
    const parts = payload.inline;
    const metadata = started ? undefined : first.metadata;
    const metadataLength = metadata === undefined ? 0 : metadata.length;
    if (carrier.freeBytes() < FRAME_HEADER_BYTES + metadataLength + BLOCK_REFERENCE_BYTES) return this.noRoom();
    let length = parts.nextLength(carrier.pieceBytesMax);
    const start = carrier.index + FRAME_HEADER_BYTES;
    let bodyLength = carrier.placePiece(parts, length, start + metadataLength);
    if (bodyLength === -1) return -1;
    const inRing = bodyLength === RING_PIECE;
    if (inRing) {
      bodyLength = length = Math.min(length, INLINE_BYTES_MAX);
      if (carrier.freeBytes() < FRAME_HEADER_BYTES + metadataLength + bodyLength) return this.noRoom();
      parts.copyTo(carrier.ringBytes, start + metadataLength, bodyLength);
    }
    if (metadataLength > 0) carrier.ringBytes.set(metadata!, start);
    const flags = (started ? 0 : first.flags) | (inRing ? 0 : carrier.pieceFlag) | (parts.leftBytes > 0 ? FLAG.more : 0);
    this.writeHeader(
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
    bulk.started = true;
    // The peer can copy this piece while the next one is being written.
    carrier.publish();
    return length;
  }
}

function sentBy(label: string): string {
  return `it was sent by an earlier call of ${label}`;
}

type Noted = Map<ArrayBufferLike, Loan>;

/** Loans of which the encoding under way wrote bytes; undefined while none can be. */
let noted: Noted | undefined;

bytesHooks.explainGone = explainGone;
bytesHooks.note = (bytes) => {
  const origin = originOf(bytes);
  if (origin instanceof Loan) noted?.set(bytes.buffer, origin);
  // FILE-1: it would be read where it is mapped. A larger one is not copied here.
  if (origin instanceof MappedFile && bytes.length <= INLINE_BYTES_MAX) return origin.readNow(bytes.byteOffset, bytes.length);
  return bytes;
};

bytesHooks.readable = (bytes) => {
  const origin = originOf(bytes);
  return origin instanceof MappedFile ? origin.readNow(bytes.byteOffset, bytes.length) : bytes;
};

/** Returns what is noted for the encoding around this one: a getter of a message may send one of its own. */
function startNoting(): Noted | undefined {
  const outer = noted;
  noted = perishable.count > 0 ? new Map() : undefined;
  bytesHooks.noting = noted !== undefined;
  return outer;
}

function endNoting(outer: Noted | undefined): Noted | undefined {
  const loans = noted;
  noted = outer;
  bytesHooks.noting = false;
  return loans;
}

/** Sending a part of a loan takes all of it. */
function giveBackNoted(loans: Noted, why: string): void {
  for (const [buffer, loan] of loans) loan.giveBack(buffer as ArrayBuffer, why);
}

function checkSize(byteLength: number, writeMaxBytes: number): void {
  if (byteLength <= writeMaxBytes) return;
  const limit = writeMaxBytes === MESSAGE_BYTES_MAX ? `the limit of ${MESSAGE_BYTES_MAX} bytes (2 GiB − 1)` : `configured writeMaxBytes ${writeMaxBytes}`;
  throw new ConnectError(`message size ${byteLength} is larger than ${limit}`, Code.ResourceExhausted);
}
