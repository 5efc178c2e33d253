/** Turns the pieces of a message that arrive into the message. */
import type { ReceivedFrame, SpanSource } from "../carrier/carrier.js";
import type { MessageCodec } from "../codec/codec.js";
import { collectingBytes, lending } from "../codec/wire/read.js";
import type { Span } from "../codec/rope/rope.js";
import { countCopied, memoryToFill } from "../memory/v8/gc.js";
import type { LeaseHandle, LeaseLifetime } from "../memory/payload/lease.js";
import { Holding } from "../memory/payload/lease.js";
import type { ReceiveMemory, Receiving } from "../memory/v8/receive-memory.js";
import { KEPT_BYTES_MIN } from "../memory/v8/receive-memory.js";
import { Violation } from "../memory/shared/violation.js";
import { FLAG, KIND } from "../wire/frame.js";

const NO_SPANS: readonly Span[] = [];

/** A message that comes in several pieces: private memory that fills up. The memory is `received`'s. */
export class Assembly {
  readonly bytes: Uint8Array;
  /** Bytes that are there or on their way. */
  private announced = 0;
  /** Pieces that the carrier is still reading. */
  private following = 0;

  private readonly messageLength: number;
  readonly received: Received;

  /** @throws RangeError if the memory cannot be had, then nothing is leased; Violation */
  static start(frame: ReceivedFrame, source: SpanSource | undefined, reception: Reception): Assembly {
    const received = Received.of(frame, source, reception);
    try {
      received.takeMemory(frame, source?.receiving);
      return new Assembly(frame, received);
    } catch (error) {
      received.drop();
      throw error;
    }
  }

  /** @throws RangeError if the memory cannot be had */
  constructor(frame: ReceivedFrame, received: Received) {
    this.bytes = received.memory?.bytes ?? memoryToFill(frame.inlineLength);
    this.messageLength = frame.messageLength;
    this.received = received;
  }

  /** Takes a piece, or says where one that follows is to be read to. True once the message is whole. @throws Violation */
  add(frame: ReceivedFrame): boolean {
    const { pieceLength, messageLength, pieceSource, pieceOffset } = frame;
    const inlineLength = this.bytes.length;
    if (messageLength !== this.messageLength || pieceLength > inlineLength - this.announced) {
      throw new Violation("PIECE-1", `a piece of ${pieceLength} bytes for a message of ${this.messageLength} that has ${this.announced}`);
    }
    const from = this.announced;
    this.announced += pieceLength;
    const more = (frame.flags & FLAG.more) !== 0;
    if (more && pieceLength === 0) throw new Violation("PIECE-3", "an empty piece of a message that goes on");
    if (more === (this.announced === inlineLength)) {
      throw new Violation("PIECE-2", `${this.announced} of ${inlineLength} bytes came, and ${more ? "more" : "no more"} are announced`);
    }
    if (frame.following) {
      this.following++;
      frame.destination = this.bytes.subarray(from, this.announced);
      frame.destinationMemory = this.received.memory;
      return false;
    }
    this.bytes.set(pieceSource.subarray(pieceOffset, pieceOffset + pieceLength), from);
    return !more;
  }

  /** A piece that followed is there. True once the message is whole. */
  filledUp(): boolean {
    this.following--;
    return this.following === 0 && this.announced === this.bytes.length;
  }
}

/** How the bytes of received messages live, and on whose behalf they were taken. */
export interface Reception {
  readonly lifetime: LeaseLifetime;
  /** The method's path. */
  readonly taker: string;
}

/** What came with a message besides its inline bytes. */
export class Received {
  readonly spans: readonly Span[];
  /** Where its inline bytes are received, if that is used again for other messages. */
  memory: ReceiveMemory | undefined;
  private readonly handles: LeaseHandle[];
  private readonly reception: Reception;

  private constructor(spans: readonly Span[], handles: LeaseHandle[], reception: Reception) {
    this.spans = spans;
    this.handles = handles;
    this.reception = reception;
  }

  /** Takes the spans of a message's first frame. @throws Violation */
  static of(frame: ReceivedFrame, source: SpanSource | undefined, reception: Reception): Received {
    const handles: LeaseHandle[] = [];
    const spans: Span[] = [];
    const received = new Received(spans, handles, reception);
    try {
      for (let i = 0; i < frame.spanCount; i++) {
        const { position } = frame.spans[i];
        spans.push({ position, bytes: source!.takeSpan(i, reception.lifetime, reception.taker, handles) });
      }
    } catch (error) {
      received.drop();
      throw error;
    }
    return received;
  }

  /** @throws RangeError if the memory cannot be had */
  takeMemory(frame: ReceivedFrame, receiving: Receiving | undefined): void {
    // An error's bytes, and those that are to last, are the message's own.
    const isError = frame.kind === KIND.response && frame.code !== 0;
    if (isError || this.reception.lifetime === "copied" || frame.inlineLength < KEPT_BYTES_MIN) return;
    this.memory = receiving?.take(frame.inlineLength);
  }

  /**
   * Decodes the message; `holdingOf` it are its leases.
   * @param isOwned whether the inline bytes are the message's own from now on
   * @throws what the codec throws; then nothing is leased any more
   */
  decode(codec: MessageCodec, input: Uint8Array, offset: number, byteLength: number, isOwned: boolean): unknown {
    const { lifetime, taker } = this.reception;
    const strict: Uint8Array[] | undefined = lifetime === "strict" ? [] : undefined;
    try {
      const message = collectingBytes(strict, () =>
        this.memory === undefined ? codec.decode(input, offset, byteLength, isOwned && strict === undefined, this.spans) : this.decodeLent(this.memory, codec),
      );
      strict?.push(...this.spans.map(({ bytes }) => bytes));
      if (this.handles.length > 0 || strict !== undefined) Holding.of(message as object, this.handles, strict ?? [], taker);
      return message;
    } catch (error) {
      this.drop();
      throw error;
    }
  }

  /** Decodes what lies in memory that is used again: large values stay there until their leases end, the rest is copied. */
  private decodeLent(memory: ReceiveMemory, codec: MessageCodec): unknown {
    const { bytes } = memory;
    const { lifetime, taker } = this.reception;
    const lend = (input: Uint8Array, at: number, byteLength: number) =>
      input.buffer === bytes.buffer ? memory.lend(input.byteOffset + at - bytes.byteOffset, byteLength, lifetime, taker, this.handles) : undefined;
    const message = lending(KEPT_BYTES_MIN, lend, () => codec.decode(bytes, 0, bytes.length, false, this.spans));
    memory.lent(lifetime, taker, this.handles);
    this.letGo();
    return message;
  }

  private letGo(): void {
    this.memory?.letGo();
    this.memory = undefined;
  }

  /** The message is not wanted any more. */
  drop(): void {
    this.letGo();
    for (const { lease, buffer } of this.handles) lease.end(buffer, "its message was not delivered");
  }
}

/** Decodes a message that a single frame brings whole; `holdingOf` it are its leases. @throws what the codec throws; Violation if it is not whole */
export function decodeWhole(codec: MessageCodec, frame: ReceivedFrame, source: SpanSource | undefined, reception: Reception): unknown {
  const { pieceSource, pieceOffset, pieceLength, spanCount } = frame;
  if (pieceLength !== frame.inlineLength) throw new Violation("PIECE-2", `${pieceLength} of ${frame.inlineLength} bytes came, and no more are announced`);
  const isPrivate = pieceSource === frame.scratch;
  // The codec copies what is to last.
  if (isPrivate) countCopied(pieceLength);
  if (spanCount > 0 || reception.lifetime === "strict") {
    const received = Received.of(frame, source, reception);
    if (isPrivate) return received.decode(codec, pieceSource, pieceOffset, pieceLength, false);
    return received.decode(codec, copyOf(pieceSource, pieceOffset, pieceLength), 0, pieceLength, true);
  }
  if (isPrivate) return codec.decode(pieceSource, pieceOffset, pieceLength, false, NO_SPANS);
  // A block is the peer's memory, which it can change while it is read.
  return codec.decode(copyOf(pieceSource, pieceOffset, pieceLength), 0, pieceLength, true, NO_SPANS);
}

/** The frame's piece, copied. */
export function takePiece({ pieceSource, pieceOffset, pieceLength }: ReceivedFrame): Uint8Array {
  return copyOf(pieceSource, pieceOffset, pieceLength);
}

/** Below, in bytes, an array of its own costs no more filled with zeros than not. */
const FILL_BYTES_MIN = 1024;

function copyOf(bytes: Uint8Array, offset: number, byteLength: number): Uint8Array {
  // SUBTLE: a Buffer's own `slice` is a view.
  if (byteLength < FILL_BYTES_MIN) return Uint8Array.prototype.slice.call(bytes, offset, offset + byteLength);
  const copy = memoryToFill(byteLength);
  copy.set(bytes.subarray(offset, offset + byteLength));
  return copy;
}

/** The frame's metadata, copied out of the reused scratch. */
export function takeMetadata(frame: ReceivedFrame): Uint8Array | undefined {
  if (frame.metadataLength === 0) return undefined;
  return copyOf(frame.scratch, frame.metadataOffset, frame.metadataLength);
}
