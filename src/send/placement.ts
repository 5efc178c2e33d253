/** The values of a message, and where each of them is placed so that a frame can name it as a span. */
import type { SpanMemory, SpanPlace } from "../carrier/span-memory.js";
import type { Region } from "../memory/payload/region.js";
import { SPAN } from "../wire/frame.js";
import { copyOf, goneMeanwhile } from "../wire/parts.js";
import type { SendableFile } from "./file-read.js";

/**
 * Smallest value on the heap, in bytes, that gets a block of its own. Smaller ones are copied together with the rest of
 * the message, which costs the receiver a copy but no lease.
 */
export const SPAN_COPY_BYTES_MIN = 32 << 10;

/** A value that the encoder left out of the message's own bytes. */
export class Value {
  /** Where it belongs in the message. */
  readonly position: number;
  /** Where it lay in its ArrayBuffer when the message was encoded; its array may be empty by now. */
  readonly byteOffset: number;
  readonly byteLength: number;
  /** Where its bytes are now. */
  bytes: Uint8Array;
  /** `bytes` is memory that its user may change once the message is released (BORROW-1). */
  borrowed = true;
  /** How it is sent as a span; undefined: with the inline part. */
  place: SpanPlace | undefined;
  /** The carrier sends it from a file. */
  file: SendableFile | undefined;

  constructor(position: number, bytes: Uint8Array) {
    this.position = position;
    this.byteOffset = bytes.byteOffset;
    this.byteLength = bytes.length;
    this.bytes = bytes;
  }

  /** The value is sent from a copy, which belongs to the message. */
  own(bytes: Uint8Array): void {
    this.bytes = copyOf(bytes);
    this.borrowed = false;
  }

  /** A copy to a block that is not complete yet. */
  get copying(): CopyPlace | undefined {
    return this.place instanceof CopyPlace && !this.place.isComplete ? this.place : undefined;
  }
}

/** A value in a block of this side's arena, which the message holds: a loan, or a file that was read. */
export class BlockPlace implements SpanPlace {
  readonly unit: number;
  readonly generation: number;
  readonly offset: number;
  readonly flags = 0;
  private readonly blocks: SpanMemory;

  constructor(blocks: SpanMemory, unit: number, offset: number) {
    this.blocks = blocks;
    this.unit = unit;
    this.generation = blocks.generationOf(unit);
    this.offset = offset;
  }

  passOn(): void {
    this.blocks.handOver(this.unit);
  }

  release(): void {
    this.blocks.freeOwn(this.unit);
  }
}

/** A value that is copied to a block of its own, as soon as there is one. */
export class CopyPlace implements SpanPlace {
  unit = 0;
  generation = 0;
  readonly offset = 0;
  readonly flags = 0;
  /** Reads the value; undefined: all of it is copied. */
  source: (() => Uint8Array) | undefined;
  private readonly blocks: SpanMemory;
  private readonly byteLength: number;
  private copiedBytes = 0;

  constructor(blocks: SpanMemory, byteLength: number, source: () => Uint8Array) {
    this.blocks = blocks;
    this.byteLength = byteLength;
    this.source = source;
  }

  get isComplete(): boolean {
    return this.source === undefined;
  }

  get leftBytes(): number {
    return this.isComplete ? 0 : this.byteLength - this.copiedBytes;
  }

  /** False: there is no block now. */
  findBlock(): boolean {
    if (this.unit !== 0) return true;
    const unit = this.blocks.allocate(this.byteLength);
    if (unit < 0) return false;
    this.unit = unit;
    this.generation = this.blocks.generationOf(unit);
    return true;
  }

  /** Copies up to `bytesMax` bytes, and returns how many. @throws Error if the value's memory is gone */
  copy(bytesMax: number): number {
    const { unit, byteLength, copiedBytes: from } = this;
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it is there until the copy is complete
    const bytes = this.source!();
    if (bytes.length !== byteLength) throw goneMeanwhile();
    const to = Math.min(byteLength, from + bytesMax);
    this.blocks.bytesOf(unit, byteLength).set(bytes.subarray(from, to), from);
    this.copiedBytes = to;
    if (to === byteLength) {
      this.source = undefined;
      this.blocks.counts.spansCopiedIn++;
    }
    return to - from;
  }

  passOn(): void {
    this.blocks.handOver(this.unit);
  }

  release(): void {
    if (this.unit !== 0) this.blocks.freeOwn(this.unit);
  }
}

/** A value in a region, which is sent by descriptor. Its unit is the descriptor's number, once that was sent. */
export class RegionPlace implements SpanPlace {
  unit = 0;
  readonly generation = 0;
  readonly offset: number;
  readonly flags = SPAN.region;
  readonly descriptor: number;
  private readonly region: Region;

  constructor(region: Region, descriptor: number, offset: number) {
    this.region = region;
    this.descriptor = descriptor;
    this.offset = offset;
  }

  passOn(): void {
    this.region.unuse();
  }

  release(): void {
    this.region.unuse();
  }
}
