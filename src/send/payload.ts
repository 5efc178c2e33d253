/**
 * A large message on its way. `Adoption` has decided where each of its large values is placed. A payload has values
 * copied and files read, describes the placed values to the peer, and ends or passes on every hold that the message
 * has.
 *
 * PAYLOAD-1  Every hold that a message takes (on a block of ours, on a lease of the peer's) passes on when its first
 *            frame is committed, or ends when the payload is canceled: exactly once.
 */
import type { RegionSender, SpanMemory } from "../carrier/span-memory.js";
import type { Rope } from "../codec/rope/rope.js";
import { Lease } from "../memory/payload/lease.js";
import { explainGone, originOf } from "../memory/payload/origin.js";
import type { Receiving } from "../memory/receive/receiving.js";
import { SPAN_ENTRY_BYTES } from "../wire/frame.js";
import type { Part, PartsOwner } from "../wire/parts.js";
import { Borrowed, copyOf, goneMeanwhile, Parts } from "../wire/parts.js";
import type { FileValue } from "./adoption.js";
import { Adoption } from "./adoption.js";
import { FileRead } from "./file-read.js";
import type { CopyPlace } from "./placement.js";
import { BlockPlace, SPAN_COPY_BYTES_MIN, Value } from "./placement.js";

/** `place` is done: every value is in its place. */
export const PLACED = -1;
/** `place` has to wait for room. */
export const WAITS_FOR_ROOM = -2;
/** `place` has to wait for a file to be read, or the frame for room in the control socket. `onReady` follows. */
export const WAITS_FOR_OTHER = -3;

export interface PayloadOptions {
  /** Where large values are placed; undefined: all of the message is inline. */
  readonly blocks: SpanMemory | undefined;
  readonly rope: Rope;
  /** The reason that values are gone, to be read after "its memory is gone: ". */
  readonly why: string;
  /** See `Adoption`. */
  readonly sharesLeases: boolean;
  /** Called in a later turn, when something other than room was waited for and has come. */
  readonly onReady: () => void;
}

export class Payload implements RegionSender, PartsOwner {
  /** Length of the joined message. */
  readonly byteLength: number;
  readonly onReady: () => void;
  private readonly blocks: SpanMemory | undefined;
  private readonly rope: Rope;
  private readonly adoption: Adoption;
  private readonly values: readonly Value[];
  private isSent = false;
  private isOver = false;
  /** Batches of the carrier that contain parts of the message. */
  private uses = 0;
  private inlineMade: Parts | undefined;

  /**
   * Takes what the rope refers to: from now on, loans no longer belong to their user.
   * @throws Error if bytes are gone; then nothing is held
   */
  constructor({ blocks, rope, why, sharesLeases, onReady }: PayloadOptions) {
    this.blocks = blocks;
    this.onReady = onReady;
    this.rope = rope;
    this.byteLength = rope.byteLength;
    checkWhole(rope);
    this.values = rope.spans.map(({ position, bytes }) => new Value(position, bytes));
    this.adoption = new Adoption(this.values, blocks, why, sharesLeases);
    try {
      this.adoption.takeAll();
    } catch (error) {
      this.cancel();
      throw error;
    }
  }

  /**
   * Empties what users see of the loans. Must be called before their code runs again. If possible it is called after
   * the first frame has left, which saves the peer microseconds.
   */
  emptyTaken(): void {
    for (const { loan, buffer } of this.adoption.loans.splice(0)) loan.emptyViews(buffer);
  }

  get spanCount(): number {
    return this.adoption.places;
  }

  get tableBytes(): number {
    return this.adoption.places * SPAN_ENTRY_BYTES;
  }

  /** The bytes that travel in fragments. To be used once `place` is done. */
  get inline(): Parts {
    return (this.inlineMade ??= new Parts(inlineParts(this.rope.inline, this.values), this));
  }

  // Before the first frame.

  /**
   * Copies values to their blocks, up to about `bytesMax` bytes.
   * @returns bytes copied, or `PLACED`, `WAITS_FOR_ROOM` or `WAITS_FOR_OTHER`
   * @throws Error if bytes that were to be sent are gone
   */
  place(bytesMax: number): number {
    if (!this.readFiles()) return WAITS_FOR_OTHER;
    const { blocks } = this;
    if (blocks === undefined) return PLACED;
    let copied = 0;
    for (const value of this.values) {
      const copy = value.copying;
      if (copy === undefined) continue;
      if (!copy.findBlock()) {
        if (this.sendInline(blocks, value, copy)) continue;
        return copied > 0 ? copied : WAITS_FOR_ROOM;
      }
      copied += copy.copy(bytesMax - copied);
      if (!copy.isComplete || copied >= bytesMax) return copied;
    }
    return copied > 0 ? copied : PLACED;
  }

  /** Bytes that `place` has yet to copy. */
  get bytesToCopy(): number {
    let sum = 0;
    for (const value of this.values) sum += value.copying?.leftBytes ?? 0;
    return sum;
  }

  /** There is no block to copy the value to. True: only the peer could provide one, so it travels with the inline part. */
  private sendInline(blocks: SpanMemory, value: Value, copy: CopyPlace): boolean {
    if (blocks.mayGrowFor(value.byteLength)) return false;
    // A lease may end before it is sent.
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- a copy that has not begun has it
    if (value.bytes.length !== value.byteLength || originOf(value.bytes) instanceof Lease) value.own(copy.source!());
    this.adoption.unplace(value);
    return true;
  }

  /** Has the files read, one after the other. True: all of them were. @throws Error if one could not be */
  private readFiles(): boolean {
    for (const entry of this.adoption.files) {
      entry.read ??= this.startRead(entry);
      if (entry.read.error !== undefined) throw entry.read.error;
      if (!entry.read.done) return false;
    }
    return true;
  }

  private startRead({ value, file }: FileValue): FileRead {
    const { blocks } = this;
    const { byteOffset, byteLength } = value;
    const part = { file, byteOffset, byteLength };
    if (blocks === undefined) {
      return FileRead.lastByte(part, (sendable) => {
        value.file = sendable;
        this.onReady();
      });
    }
    const unit = this.adoption.blockForFile(blocks, byteLength);
    return FileRead.toMemory(blocks, part, unit, (read, bytes) => {
      if (read.done && bytes !== undefined) {
        value.bytes = bytes;
      } else if (read.done) {
        this.adoption.place(value, new BlockPlace(blocks, unit, 0));
        blocks.counts.spansCopiedIn++;
      }
      this.onReady();
    });
  }

  /**
   * The message is released to its user. Bytes that were not sent yet are copied: to where they go anyway, if there is
   * room (BORROW-1).
   * @param receiving reusable memory for large copies
   * @throws Error like `place`
   */
  keep(receiving: Receiving | undefined): void {
    while (this.place(Infinity) >= 0);
    const copy = (bytes: Uint8Array): Uint8Array => {
      if (receiving === undefined || bytes.length < SPAN_COPY_BYTES_MIN) return copyOf(bytes);
      const memory = receiving.take(bytes.length);
      memory.bytes.set(bytes);
      this.adoption.cleanUps.push(() => memory.unhold());
      return memory.bytes;
    };
    for (const value of this.values) {
      const { copying } = value;
      const isInline = value.place === undefined && this.inlineMade === undefined;
      if (!value.borrowed || !(isInline || copying !== undefined)) continue;
      const bytes = copying?.source?.() ?? value.bytes;
      if (bytes.length !== value.byteLength) throw goneMeanwhile();
      value.bytes = copy(bytes);
      value.borrowed = false;
      if (copying !== undefined) copying.source = () => value.bytes;
    }
    this.inlineMade?.keep(copy);
  }

  // The first frame.

  /**
   * Sends the descriptors of regions, right before the frame that names them. False: not all could be sent yet, and
   * `onReady` follows.
   */
  sendDescriptors(): boolean {
    for (const place of this.adoption.regions) {
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- without them no region is adopted
      if (place.unit === 0) place.unit = this.blocks!.regions!.send(this, place.descriptor);
      if (place.unit === 0) return false;
    }
    return true;
  }

  /** Writes the splice table. */
  writeTable(words: Int32Array, at: number): void {
    for (const { position, byteLength, place } of this.values) {
      if (place === undefined) continue;
      words[at++] = position;
      words[at++] = byteLength;
      words[at++] = place.unit;
      words[at++] = place.generation;
      words[at++] = place.offset;
      words[at++] = place.flags;
    }
  }

  /** The frame with the table is about to be published. */
  spansSent(): void {
    this.isSent = true;
    const { adoption } = this;
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- without them no region is adopted
    if (adoption.regions.length > 0) this.blocks!.regions!.finish(this, []);
    adoption.regions.length = 0;
    for (const value of this.values) {
      value.place?.passOn();
      value.place = undefined;
    }
    adoption.places = 0;
  }

  // The end.

  /** The carrier has taken parts that it reads later. */
  use(): void {
    this.uses++;
  }

  unuse(): void {
    this.uses--;
    this.cleanUpIfDone();
  }

  /** All of the message is sent, or with the carrier. */
  done(): void {
    this.isOver = true;
    this.cleanUpIfDone();
  }

  private cleanUpIfDone(): void {
    if (!this.isOver || this.uses > 0) return;
    for (const cleanUp of this.adoption.cleanUps.splice(0)) cleanUp();
  }

  /** What was not sent yet is not sent any more. */
  cancel(): void {
    const { adoption } = this;
    this.emptyTaken();
    for (const { value, read } of adoption.files.splice(0)) {
      // A file's block is freed only when nothing is read into it any more.
      const freesBlock = read !== undefined && read.unit !== 0 && value.place === undefined && !this.isSent;
      read?.cancel(() => {
        if (freesBlock) this.blocks?.freeOwn(read.unit);
      });
    }
    const numbers = adoption.regions.splice(0).map(({ unit }) => unit);
    if (numbers.length > 0)
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- without them no region is adopted
      this.blocks!.regions!.finish(
        this,
        numbers.filter((number) => number !== 0),
      );
    for (const value of this.values) {
      value.place?.release();
      value.place = undefined;
    }
    this.done();
  }
}

/** The message's own bytes, with the values in between that are not sent as spans. @throws Error if bytes are gone */
function inlineParts(inline: Uint8Array, values: readonly Value[]): Part[] {
  const parts: Part[] = [];
  let from = 0;
  let spanBytes = 0;
  for (const { position, byteLength, bytes, borrowed, place, file } of values) {
    const to = position - spanBytes;
    parts.push(inline.subarray(from, to));
    if (file !== undefined) {
      parts.push(file.range, file.last);
    } else if (place === undefined) {
      if (bytes.length !== byteLength) throw goneMeanwhile();
      parts.push(borrowed ? new Borrowed(bytes) : bytes);
    }
    from = to;
    spanBytes += byteLength;
  }
  parts.push(inline.subarray(from));
  return parts;
}

/** A getter of the message may have released, or resized, what the encoder had met before. @throws Error */
function checkWhole({ inline, spans, byteLength }: Rope): void {
  let sum = inline.length;
  for (const { bytes } of spans) {
    if (bytes.length === 0)
      throw new Error(`bytes of the message were released while it was encoded: ${explainGone(bytes)}`);
    sum += bytes.length;
  }
  if (sum !== byteLength) throw new Error("the message changed while it was encoded");
}
