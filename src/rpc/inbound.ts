/** Assembles messages from received fragments, and decodes them. */
import type { ReceivedFrame, SpanSource } from "../carrier/carrier.js";
import type { MessageCodec } from "../codec/codec.js";
import { collectingBytes, lending } from "../codec/wire/read.js";
import { work } from "../codec/wire/work.js";
import type { Span } from "../codec/rope/rope.js";
import type { KeptBytes } from "../memory/kept/kept-bytes.js";
import { countCopied, memoryToFill } from "../memory/v8/gc.js";
import type { LeaseHandle, LeaseLifetime } from "../memory/payload/lease.js";
import { MessageLeases } from "../memory/payload/message-leases.js";
import type { ReceiveMemory } from "../memory/receive/receive-memory.js";
import type { Receiving } from "../memory/receive/receiving.js";
import { KEPT_BYTES_MIN } from "../memory/receive/receive-memory.js";
import { Violation } from "../memory/shm/violation.js";
import { FLAG, KIND, MESSAGE_COST_BYTES } from "../wire/frame.js";

export const NO_SPANS: readonly Span[] = [];

/** A message that arrives in several fragments, in private memory that fills up. The memory belongs to `received`. */
export class Reassembler {
  readonly bytes: Uint8Array;
  /** Number of bytes that have arrived or are on their way. */
  private announced = 0;
  /** Number of fragments that the carrier is still reading. */
  private following = 0;

  private readonly messageLength: number;
  readonly received: ReceivedParts;

  /**
   * @param kept counts the memory until the message is decoded or dropped (KEPT-1)
   * @throws RangeError if there is no memory, then nothing is leased; Violation
   */
  static start(
    frame: ReceivedFrame,
    source: SpanSource | undefined,
    receivePolicy: ReceivePolicy,
    kept?: KeptBytes,
  ): Reassembler {
    const received = ReceivedParts.of(frame, source, receivePolicy);
    try {
      received.takeMemory(frame, source?.receiving);
      const reassembler = new Reassembler(frame, received);
      received.count(kept, frame.inlineLength + MESSAGE_COST_BYTES);
      return reassembler;
    } catch (error) {
      received.drop();
      throw error;
    }
  }

  /** @throws RangeError if there is no memory */
  constructor(frame: ReceivedFrame, received: ReceivedParts) {
    this.bytes = received.memory?.bytes ?? memoryToFill(frame.inlineLength);
    this.messageLength = frame.messageLength;
    this.received = received;
  }

  /**
   * Takes a fragment, or tells the carrier where to write a fragment that follows its frame.
   * @returns whether the message is complete
   * @throws Violation
   */
  add(frame: ReceivedFrame): boolean {
    const { fragmentLength, messageLength, fragmentSource, fragmentOffset } = frame;
    const inlineLength = this.bytes.length;
    if (messageLength !== this.messageLength || fragmentLength > inlineLength - this.announced) {
      throw new Violation(
        "PIECE-1",
        `a fragment of ${fragmentLength} bytes for a message of ${this.messageLength} that has ${this.announced}`,
      );
    }
    const from = this.announced;
    this.announced += fragmentLength;
    const more = (frame.flags & FLAG.more) !== 0;
    if (more && fragmentLength === 0) throw new Violation("PIECE-3", "an empty fragment in the middle of a message");
    if (more === (this.announced === inlineLength)) {
      throw new Violation(
        "PIECE-2",
        `${this.announced} of ${inlineLength} bytes arrived, and ${more ? "more" : "no more"} are announced`,
      );
    }
    if (frame.following) {
      this.following++;
      frame.destination = this.bytes.subarray(from, this.announced);
      frame.destinationMemory = this.received.memory;
      return false;
    }
    this.bytes.set(fragmentSource.subarray(fragmentOffset, fragmentOffset + fragmentLength), from);
    return !more;
  }

  /** A fragment that followed its frame has arrived. @returns whether the message is complete */
  filledUp(): boolean {
    this.following--;
    return this.following === 0 && this.announced === this.bytes.length;
  }
}

/** How long the bytes of received messages live, and for which call they were taken. */
export interface ReceivePolicy {
  readonly lifetime: LeaseLifetime;
  /** The method's path, for messages of errors. */
  readonly callLabel: string;
}

/** Bytes of a unit of decoding, about (WORK-1). A user's codec counts none. */
const UNIT_BYTES = 4;

/** Private memory of the message that was decoded last, in bytes. To be read right after decoding. */
export const lastDecoded = { bytes: 0 };

/** The memory and the spans of a received message. */
export class ReceivedParts {
  readonly spans: readonly Span[];
  /** Memory for its inline bytes, if that is reused for other messages. */
  memory: ReceiveMemory | undefined;
  private readonly handles: LeaseHandle[];
  private readonly receivePolicy: ReceivePolicy;
  /** Bytes of spans that were copied. */
  copiedBytes = 0;
  private kept: KeptBytes | undefined;
  private keptBytes = 0;

  private constructor(spans: readonly Span[], handles: LeaseHandle[], receivePolicy: ReceivePolicy) {
    this.spans = spans;
    this.handles = handles;
    this.receivePolicy = receivePolicy;
  }

  /** Takes the spans named by a message's first frame. @throws Violation */
  static of(frame: ReceivedFrame, source: SpanSource | undefined, receivePolicy: ReceivePolicy): ReceivedParts {
    const handles: LeaseHandle[] = [];
    const spans: Span[] = [];
    const received = new ReceivedParts(spans, handles, receivePolicy);
    try {
      for (let i = 0; i < frame.spanCount; i++) {
        const { position } = frame.spans[i];
        const leases = handles.length;
        // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- only carriers with spans deliver them
        const bytes = source!.takeSpan(i, receivePolicy.lifetime, receivePolicy.callLabel, handles);
        if (handles.length === leases) received.copiedBytes += bytes.length;
        spans.push({ position, bytes });
      }
    } catch (error) {
      received.drop();
      throw error;
    }
    return received;
  }

  /** Counts the message's private memory until it is decoded or dropped. */
  count(kept: KeptBytes | undefined, inlineBytes: number): void {
    this.kept = kept;
    this.keptBytes = inlineBytes + this.copiedBytes;
    kept?.take(this.keptBytes);
  }

  private uncount(): void {
    this.kept?.give(this.keptBytes);
    this.kept = undefined;
  }

  /** @throws RangeError if there is no memory */
  takeMemory(frame: ReceivedFrame, receiving: Receiving | undefined): void {
    // The bytes of an error, and bytes that outlive the call, get memory of their own.
    const isError = frame.kind === KIND.response && frame.code !== 0;
    if (isError || this.receivePolicy.lifetime === "copied" || frame.inlineLength < KEPT_BYTES_MIN) return;
    this.memory = receiving?.take(frame.inlineLength);
  }

  /**
   * Decodes the message. `leasesOf` returns its leases.
   * @param isOwned whether the inline bytes belong to the message from now on
   * @throws what the codec throws; then nothing is leased any more
   */
  decode(codec: MessageCodec, input: Uint8Array, offset: number, byteLength: number, isOwned: boolean): unknown {
    const { lifetime, callLabel } = this.receivePolicy;
    const strict: Uint8Array[] | undefined = lifetime === "strict" ? [] : undefined;
    this.uncount();
    work.units = 0;
    try {
      const message = collectingBytes(strict, () =>
        this.memory === undefined
          ? codec.decode(input, offset, byteLength, isOwned && strict === undefined, this.spans)
          : this.decodeLent(this.memory, codec),
      );
      lastDecoded.bytes = byteLength + this.copiedBytes + work.units * UNIT_BYTES;
      strict?.push(...this.spans.map(({ bytes }) => bytes));
      if (this.handles.length > 0 || strict !== undefined)
        MessageLeases.of(message as object, this.handles, strict ?? [], callLabel);
      return message;
    } catch (error) {
      this.drop();
      throw error;
    }
  }

  /**
   * Decodes a message in memory that is reused: large values stay there until their leases end, smaller ones are
   * copied.
   */
  private decodeLent(memory: ReceiveMemory, codec: MessageCodec): unknown {
    const { bytes } = memory;
    const { lifetime, callLabel } = this.receivePolicy;
    const lend = (input: Uint8Array, at: number, byteLength: number) =>
      input.buffer === bytes.buffer
        ? memory.lend(input.byteOffset + at - bytes.byteOffset, byteLength, lifetime, callLabel, this.handles)
        : undefined;
    const message = lending(KEPT_BYTES_MIN, lend, () => codec.decode(bytes, 0, bytes.length, false, this.spans));
    memory.lent(lifetime, callLabel, this.handles);
    this.releaseMemory();
    return message;
  }

  private releaseMemory(): void {
    this.memory?.unhold();
    this.memory = undefined;
  }

  /** Drops the message and ends its leases. */
  drop(): void {
    this.uncount();
    this.releaseMemory();
    for (const { lease, buffer } of this.handles) lease.end(buffer, "its message was not delivered");
  }
}

/**
 * Decodes a message that a single frame brings completely. `leasesOf` returns its leases.
 * @throws what the codec throws; Violation if the message is incomplete
 */
export function decodeWhole(
  codec: MessageCodec,
  frame: ReceivedFrame,
  source: SpanSource | undefined,
  receivePolicy: ReceivePolicy,
): unknown {
  const { fragmentSource, fragmentOffset, fragmentLength, spanCount } = frame;
  if (fragmentLength !== frame.inlineLength)
    throw new Violation(
      "PIECE-2",
      `${fragmentLength} of ${frame.inlineLength} bytes arrived, and no more are announced`,
    );
  const isPrivate = fragmentSource === frame.scratch;
  // The codec copies whatever outlives the call.
  if (isPrivate) countCopied(fragmentLength);
  if (spanCount > 0 || receivePolicy.lifetime === "strict") {
    const received = ReceivedParts.of(frame, source, receivePolicy);
    if (isPrivate) return received.decode(codec, fragmentSource, fragmentOffset, fragmentLength, false);
    return received.decode(codec, copyOf(fragmentSource, fragmentOffset, fragmentLength), 0, fragmentLength, true);
  }
  // A block is the peer's memory, which the peer can change while it is read.
  work.units = 0;
  const message = isPrivate
    ? codec.decode(fragmentSource, fragmentOffset, fragmentLength, false, NO_SPANS)
    : codec.decode(copyOf(fragmentSource, fragmentOffset, fragmentLength), 0, fragmentLength, true, NO_SPANS);
  lastDecoded.bytes = fragmentLength + work.units * UNIT_BYTES;
  return message;
}

/** A copy of the frame's fragment. */
export function takeFragment({ fragmentSource, fragmentOffset, fragmentLength }: ReceivedFrame): Uint8Array {
  return copyOf(fragmentSource, fragmentOffset, fragmentLength);
}

/** Below this size, in bytes, zero-filling an array costs nothing measurable. */
const FILL_BYTES_MIN = 1024;

function copyOf(bytes: Uint8Array, offset: number, byteLength: number): Uint8Array {
  // SUBTLE: a Buffer's own `slice` is a view.
  if (byteLength < FILL_BYTES_MIN) return Uint8Array.prototype.slice.call(bytes, offset, offset + byteLength);
  const copy = memoryToFill(byteLength);
  copy.set(bytes.subarray(offset, offset + byteLength));
  return copy;
}

/** A copy of the frame's metadata, outside of the reused scratch memory. */
export function takeMetadata(frame: ReceivedFrame): Uint8Array | undefined {
  if (frame.metadataLength === 0) return undefined;
  return copyOf(frame.scratch, frame.metadataOffset, frame.metadataLength);
}
