/**
 * A message's large values on their way through shared memory: which of them stay where they are, which are copied to a
 * block first, and which travel with the rest of the message after all.
 *
 * PAYLOAD-1  Every hold that a payload takes (on a block of ours, on a lease of the peer's) passes on when its first
 *            frame is committed, or ends when the payload is canceled: exactly once.
 */
import type { Rope } from "../codec/rope/rope.js";
import { Lease } from "../memory/payload/lease.js";
import { isEphemeral } from "../memory/payload/message-leases.js";
import { Loan } from "../memory/payload/loan.js";
import { MappedFile } from "../memory/payload/mapped-file.js";
import { explainGone, originOf } from "../memory/payload/origin.js";
import type { Receiving } from "../memory/receive/receiving.js";
import { Region } from "../memory/payload/region.js";
import { SPAN, SPAN_ENTRY_BYTES, SPANS_MAX } from "../wire/frame.js";
import type { Part, PartsOwner } from "../wire/parts.js";
import { Borrowed, copyOf, goneMeanwhile, Parts } from "../wire/parts.js";
import type { Blocks } from "../carrier/shm/blocks.js";
import type { SendableFile } from "../carrier/socket/file-read.js";
import { FileRead } from "../carrier/socket/file-read.js";
import type { RegionSender } from "../carrier/shm/region-exchange.js";

/**
 * From this size on, in bytes, a value on the heap gets a block of its own; smaller ones are copied together with the
 * rest of the message, which costs the receiver a copy but no lease.
 */
export const SPAN_COPY_BYTES_MIN = 32 << 10;

/** A value as the rope had it; its own array may be empty by now. */
interface Value {
  readonly position: number;
  readonly byteOffset: number;
  readonly byteLength: number;
  /** Where it is now. */
  bytes: Uint8Array;
  /** That is memory which its user may change once the message is his again. */
  borrowed: boolean;
  /** How it is sent; undefined: with the inline part. */
  place: Place | undefined;
  /** The carrier sends it from a file. */
  file: SendableFile | undefined;
}

/** A value that is a file's: read to a block of ours, or to the heap; or sent by a carrier without blocks. */
interface FileValue {
  readonly value: Value;
  readonly file: MappedFile;
  read: FileRead | undefined;
}

interface Place {
  unit: number;
  generation: number;
  offset: number;
  flags: number;
  /** Still to be copied to a block: from where, and how far that is. */
  source: (() => Uint8Array) | undefined;
  copiedBytes: number;
  /** The frame that names it is about to be published. */
  readonly onSent: () => void;
  /** It is not sent after all. */
  readonly onCanceled: () => void;
}

/** `place` has nothing to do before a file was read, … */
export const WAITS_FOR_FILE = -3;
/** … or the payload cannot go on before the control socket has room. */
export const WAITS_FOR_SOCKET = WAITS_FOR_FILE;

type ReadAgain = (byteOffset: number, byteLength: number) => Uint8Array;

export class Payload implements RegionSender, PartsOwner {
  /** Length of the joined message. */
  readonly byteLength: number;
  private readonly blocks: Blocks | undefined;
  private readonly rope: Rope;
  private readonly values: readonly Value[];
  private places = 0;
  /** Loans whose users still see them. */
  private readonly taken: { readonly loan: Loan; readonly buffer: ArrayBuffer }[] = [];
  private readonly files: FileValue[] = [];
  private readonly cleanUps: (() => void)[] = [];
  /** Bytes of received messages go on where they lie. */
  private readonly sharesLeases: boolean;
  private over = false;
  /** Batches of the carrier's that have parts of the message. */
  private uses = 0;
  private sent = false;
  readonly onReady: () => void;
  /** Of the values that are sent by descriptor. */
  private readonly regions: { readonly region: Region; readonly descriptor: number; readonly place: Place }[] = [];
  private inlineMade: Parts | undefined;

  /**
   * Takes what the rope refers to: loans are their user's no more from now on.
   * @param blocks where large values are placed; undefined: all of the message is inline
   * @param why what becomes of them, to be read after "its memory is gone: "
   * @param sharesLeases whether bytes of received messages that stay their user's go on where they lie: he must not
   *   write to them any more. Else they are sent like any other memory of his
   * @param onReady called in a later turn when a file was read, so that `place` is worth calling again
   * @throws Error if bytes are not there any more; then nothing is held
   */
  constructor(blocks: Blocks | undefined, rope: Rope, why: string, sharesLeases: boolean, onReady: () => void) {
    this.blocks = blocks;
    this.sharesLeases = sharesLeases;
    this.onReady = onReady;
    this.rope = rope;
    this.byteLength = rope.byteLength;
    checkWhole(rope);
    this.values = rope.spans.map(({ position, bytes }) => ({
      position,
      byteOffset: bytes.byteOffset,
      byteLength: bytes.length,
      bytes,
      borrowed: true,
      place: undefined,
      file: undefined,
    }));
    const taken = this.values.length > 1 ? new Map<ArrayBufferLike, ReadAgain>() : undefined;
    try {
      for (const value of this.values) this.adopt(value, taken, why);
    } catch (error) {
      this.cancel();
      throw error;
    }
  }

  /**
   * Empties what users see of the loans. To be called before their code runs again; after the first frame is out, if it
   * can be: that is worth microseconds to the peer.
   */
  emptyTaken(): void {
    for (const { loan, buffer } of this.taken.splice(0)) loan.emptyViews(buffer);
  }

  get spanCount(): number {
    return this.places;
  }

  get tableBytes(): number {
    return this.places * SPAN_ENTRY_BYTES;
  }

  /** What of the message travels in fragments, once `place` has come to an end. */
  get inline(): Parts {
    return (this.inlineMade ??= new Parts(this.inlineParts(), this));
  }

  private adopt(value: Value, taken: Map<ArrayBufferLike, ReadAgain> | undefined, why: string): void {
    const { bytes, byteLength } = value;
    const again = taken?.get(bytes.buffer);
    if (again !== undefined) return this.adoptAgain(value, again);
    const origin = originOf(bytes);
    if (origin instanceof Loan) {
      const { buffer } = bytes;
      const readAgain = this.adoptLoan(value, origin, why);
      taken?.set(buffer, readAgain);
      return;
    }
    const { blocks } = this;
    const owner =
      blocks !== undefined && origin instanceof Lease && this.places < SPANS_MAX ? blocks.ownerOf(origin) : undefined;
    if (blocks !== undefined && owner !== undefined && !this.sharesLeases && !isEphemeral(bytes))
      return this.copyLease(blocks, value, origin as Lease, owner);
    const mayGoBack = owner !== "own" || blocks!.promiseLend();
    if (blocks !== undefined && owner !== undefined && mayGoBack) {
      const lease = origin as Lease;
      const endsWhenSent = lease.endsWhenSent && !lease.retained;
      // Read before the bytes are gone.
      const readAgain = blocks.reader(lease, owner);
      if (this.adoptLease(blocks, value, lease, owner, endsWhenSent, why)) taken?.set(bytes.buffer, readAgain);
      return;
    }
    if (origin instanceof Region && this.adoptRegion(value, origin)) return;
    if (origin instanceof MappedFile && byteLength > 0 && blocks?.isBlocking === true) {
      // A read in the background would end in a turn of the loop that does not come.
      value.bytes = origin.readNow(value.byteOffset, byteLength);
      value.borrowed = false;
    } else if (origin instanceof MappedFile && byteLength > 0) {
      origin.hold();
      this.cleanUps.push(() => origin.unhold());
      this.files.push({ value, file: origin, read: undefined });
      value.borrowed = false;
      return;
    }
    const pinned =
      origin instanceof Lease && origin.gone === undefined ? origin.home.readPinned?.(origin, bytes) : undefined;
    if (pinned !== undefined) {
      // It is sent from where it was received, whenever its user's right ends.
      const lease = origin as Lease;
      lease.pin();
      this.cleanUps.push(() => lease.unpin());
      value.bytes = pinned;
      value.borrowed = !this.sharesLeases;
    } else if (isEphemeral(bytes)) {
      // They may end before all is sent.
      value.bytes = copyOf(bytes);
      value.borrowed = false;
    }
    if (byteLength >= SPAN_COPY_BYTES_MIN) this.copyToBlock(value, () => value.bytes);
  }

  /** Takes a loan, and tells how the same memory is read again for another field. */
  private adoptLoan(value: Value, loan: Loan, why: string): ReadAgain {
    const { blocks } = this;
    const { byteOffset, byteLength } = value;
    const buffer = value.bytes.buffer as ArrayBuffer;
    if (blocks?.isOwnLoan(loan) !== true || this.places === SPANS_MAX) {
      const taken = loan.takeToCopy(buffer, why);
      // A carrier without blocks keeps what it is given until it is written, however long that takes.
      const bytes = blocks === undefined && loan.home !== undefined ? taken.bytes.slice() : taken.bytes;
      if (bytes === taken.bytes) this.cleanUps.push(taken.done);
      else taken.done();
      value.bytes = bytes.subarray(byteOffset, byteOffset + byteLength);
      value.borrowed = false;
      if (byteLength >= SPAN_COPY_BYTES_MIN) this.copyToBlock(value, () => value.bytes);
      return (offset, length) => bytes.subarray(offset, offset + length);
    }
    loan.take(buffer, why);
    this.taken.push({ loan, buffer });
    blocks.loanSent(loan.unit);
    this.setBlock(blocks, value, loan.unit, byteOffset);
    return (offset, length) => blocks.bytesOf(loan.unit, offset + length).subarray(offset);
  }

  /** Memory that was taken for another field of this message: it arrives a second time, as bytes of its own. */
  private adoptAgain(value: Value, read: ReadAgain): void {
    const { byteOffset, byteLength } = value;
    if (byteLength >= SPAN_COPY_BYTES_MIN && this.places < SPANS_MAX)
      this.copyToBlock(value, () => read(byteOffset, byteLength));
    else this.own(value, read(byteOffset, byteLength));
  }

  /** Sends a copy of a lease's bytes, which its user may end or write to once the message is his again. */
  private copyLease(blocks: Blocks, value: Value, lease: Lease, owner: "own" | "peer"): void {
    const { byteOffset, byteLength } = value;
    if (byteLength < SPAN_COPY_BYTES_MIN) return this.own(value, value.bytes);
    const read = blocks.reader(lease, owner);
    lease.pin();
    this.cleanUps.push(() => lease.unpin());
    this.copyToBlock(value, () => read(byteOffset, byteLength));
  }

  /** Sends a lease's bytes where they are. True if they are their user's no more. */
  private adoptLease(
    blocks: Blocks,
    value: Value,
    lease: Lease,
    owner: "own" | "peer",
    endsWhenSent: boolean,
    why: string,
  ): boolean {
    const { unit, generation } = lease;
    blocks.copies.spansSentInPlace++;
    const offset = lease.offset + value.byteOffset;
    if (endsWhenSent && lease.endByReturning(value.bytes.buffer as ArrayBuffer, why)) {
      if (owner === "own") {
        blocks.ownLeaseEnded(lease);
        this.set(value, {
          ...still,
          unit,
          generation,
          offset,
          flags: 0,
          onSent: () => blocks.handOverPromised(unit),
          onCanceled: () => unlend(blocks, unit),
        });
      } else {
        blocks.leaseEnded(lease);
        const flags = SPAN.returned | SPAN.given;
        this.set(value, {
          ...still,
          unit,
          generation,
          offset,
          flags,
          onSent: nothing,
          onCanceled: () => blocks.releaseToPeer(unit, generation),
        });
      }
      return true;
    }
    lease.pin();
    const onSent = () => {
      if (owner === "own") blocks.lendPromised(unit);
      else lease.markReturned();
      lease.unpin();
    };
    const onCanceled = () => {
      if (owner === "own") blocks.breakPromise();
      lease.unpin();
    };
    const flags = owner === "own" ? 0 : SPAN.returned;
    this.set(value, { ...still, unit, generation, offset, flags, onSent, onCanceled });
    return false;
  }

  /** Seals the region and lets its descriptor be sent; false: its bytes have to be copied. */
  private adoptRegion(value: Value, region: Region): boolean {
    const { blocks } = this;
    if (blocks?.regions?.canSend !== true || value.byteLength < SPAN_COPY_BYTES_MIN || this.places === SPANS_MAX)
      return false;
    const descriptor = region.use(value.bytes.buffer as ArrayBuffer);
    if (descriptor === undefined) return false;
    blocks.copies.spansSentInPlace++;
    const done = () => region.unuse();
    const place = {
      unit: 0,
      generation: 0,
      offset: value.byteOffset,
      flags: SPAN.region,
      source: undefined,
      copiedBytes: 0,
      onSent: done,
      onCanceled: done,
    };
    this.set(value, place);
    this.regions.push({ region, descriptor, place });
    return true;
  }

  /**
   * Sends the descriptors of regions, right before the frame that names them. False: not all could be sent yet, and
   * `onReady` follows.
   */
  sendDescriptors(): boolean {
    for (const { descriptor, place } of this.regions) {
      if (place.unit === 0) place.unit = this.blocks!.regions!.send(this, descriptor);
      if (place.unit === 0) return false;
    }
    return true;
  }

  /** The value lies in a block of ours, which the payload holds. */
  private setBlock(
    blocks: Blocks,
    value: Value,
    unit: number,
    offset: number,
    how: "in place" | "copied" = "in place",
  ): void {
    const { arena } = blocks;
    if (how === "copied") blocks.copies.spansCopiedIn++;
    else blocks.copies.spansSentInPlace++;
    this.set(value, {
      unit,
      generation: arena.generationOf(unit),
      offset,
      flags: 0,
      source: undefined,
      copiedBytes: 0,
      onSent: () => arena.handOver(unit),
      onCanceled: () => blocks.freeOwn(unit),
    });
  }

  private copyToBlock(value: Value, source: () => Uint8Array): void {
    const { blocks } = this;
    if (blocks === undefined || this.places === SPANS_MAX) {
      if (value.bytes.length !== value.byteLength) this.own(value, source());
      return;
    }
    const place: Place = {
      unit: 0,
      generation: 0,
      offset: 0,
      flags: 0,
      source,
      copiedBytes: 0,
      onSent: () => blocks.arena.handOver(place.unit),
      onCanceled: () => {
        if (place.unit !== 0) blocks.freeOwn(place.unit);
      },
    };
    this.set(value, place);
  }

  private set(value: Value, place: Place): void {
    value.place = place;
    this.places++;
  }

  /**
   * Copies what has to be copied, up to about `bytesMax` bytes.
   * @returns bytes copied; −1: everything is in its place; −2: it has to wait for room
   * @throws Error if bytes that were to be sent are gone
   */
  place(bytesMax: number): number {
    const files = this.placeFiles();
    if (files !== -1) return files;
    const { blocks } = this;
    if (blocks === undefined) return -1;
    let copied = 0;
    for (const value of this.values) {
      const { place } = value;
      if (place?.source === undefined) continue;
      if (place.unit === 0 && !this.findBlock(blocks, value, place)) {
        if (value.place === undefined) continue;
        return copied > 0 ? copied : -2;
      }
      const from = place.source();
      if (from.length !== value.byteLength) throw goneMeanwhile();
      const to = Math.min(value.byteLength, place.copiedBytes + bytesMax - copied);
      blocks.bytesOf(place.unit, value.byteLength).set(from.subarray(place.copiedBytes, to), place.copiedBytes);
      copied += to - place.copiedBytes;
      place.copiedBytes = to;
      if (to < value.byteLength) return copied;
      place.source = undefined;
      blocks.copies.spansCopiedIn++;
      if (copied >= bytesMax) return copied;
    }
    return copied > 0 ? copied : -1;
  }

  /** The value is sent from a copy, which is the payload's own. */
  private own(value: Value, bytes: Uint8Array): void {
    value.bytes = copyOf(bytes);
    value.borrowed = false;
  }

  /**
   * The message is its user's again: what was not sent yet is copied, to where it goes anyway if there is room
   * (BORROW-1).
   * @param receiving memory for large copies, which is used again
   * @throws Error like `place`
   */
  keep(receiving: Receiving | undefined): void {
    while (this.place(Infinity) >= 0);
    const copy = (bytes: Uint8Array): Uint8Array => {
      if (receiving === undefined || bytes.length < SPAN_COPY_BYTES_MIN) return copyOf(bytes);
      const memory = receiving.take(bytes.length);
      memory.bytes.set(bytes);
      this.cleanUps.push(() => memory.unhold());
      return memory.bytes;
    };
    for (const value of this.values) {
      const { place, byteLength } = value;
      const isInline = place === undefined && this.inlineMade === undefined;
      if (!value.borrowed || !(isInline || place?.source !== undefined)) continue;
      const bytes = place?.source?.() ?? value.bytes;
      if (bytes.length !== byteLength) throw goneMeanwhile();
      value.bytes = copy(bytes);
      value.borrowed = false;
      if (place !== undefined) place.source = () => value.bytes;
    }
    this.inlineMade?.keep(copy);
  }

  /** What `place` has yet to copy. */
  get bytesToCopy(): number {
    let sum = 0;
    for (const { place, byteLength } of this.values) {
      if (place?.source !== undefined) sum += byteLength - place.copiedBytes;
    }
    return sum;
  }

  /** Lets files be read, one after the other. Like `place`. */
  private placeFiles(): number {
    for (const entry of this.files) {
      entry.read ??= this.startRead(entry);
      if (entry.read.error !== undefined) throw entry.read.error;
      if (!entry.read.done) return WAITS_FOR_FILE;
    }
    return -1;
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
    const unit = byteLength < SPAN_COPY_BYTES_MIN || this.places === SPANS_MAX ? -1 : blocks.allocate(byteLength);
    return FileRead.toMemory(blocks, part, unit, (read, bytes) => {
      if (read.done && bytes === undefined) this.setBlock(blocks, value, unit, 0, "copied");
      else if (read.done) value.bytes = bytes!;
      this.onReady();
    });
  }

  /**
   * A block to copy a value to. If none can be had but by waiting for the peer, the value travels with the inline part
   * instead.
   */
  private findBlock(blocks: Blocks, value: Value, place: Place): boolean {
    const unit = blocks.allocate(value.byteLength);
    if (unit >= 0) {
      place.unit = unit;
      place.generation = blocks.arena.generationOf(unit);
      return true;
    }
    if (blocks.mayGrow && value.byteLength < blocks.arena.byteLength / 2) return false;
    // A lease may end before it is sent.
    if (value.bytes.length !== value.byteLength || originOf(value.bytes) instanceof Lease)
      this.own(value, place.source!());
    value.place = undefined;
    this.places--;
    return false;
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
    this.sent = true;
    if (this.regions.length > 0) this.blocks!.regions!.finish(this, []);
    this.regions.length = 0;
    for (const value of this.values) {
      value.place?.onSent();
      value.place = undefined;
    }
    this.places = 0;
  }

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
    this.over = true;
    this.cleanUpIfDone();
  }

  private cleanUpIfDone(): void {
    if (!this.over || this.uses > 0) return;
    for (const cleanUp of this.cleanUps.splice(0)) cleanUp();
  }

  /** What is not sent yet will not be. */
  cancel(): void {
    this.emptyTaken();
    for (const { value, read } of this.files) {
      // Its block is not ours to give back before nothing writes to it any more.
      const drop = read !== undefined && read.unit !== 0 && value.place === undefined && !this.sent;
      read?.cancel(drop ? () => this.blocks?.freeOwn(read.unit) : nothing);
    }
    this.files.length = 0;
    const numbers = this.regions.splice(0).map(({ place }) => place.unit);
    if (numbers.length > 0)
      this.blocks!.regions!.finish(
        this,
        numbers.filter((number) => number !== 0),
      );
    for (const value of this.values) {
      value.place?.onCanceled();
      value.place = undefined;
    }
    this.done();
  }

  private inlineParts(): Part[] {
    const { inline } = this.rope;
    const parts: Part[] = [];
    let from = 0;
    let spanBytes = 0;
    for (const value of this.values) {
      const { position, byteLength, bytes, place, file } = value;
      const to = position - spanBytes;
      parts.push(inline.subarray(from, to));
      if (file !== undefined) {
        parts.push(file.range, file.last);
      } else if (place === undefined) {
        if (bytes.length !== byteLength) throw goneMeanwhile();
        parts.push(value.borrowed ? new Borrowed(bytes) : bytes);
      }
      from = to;
      spanBytes += byteLength;
    }
    parts.push(inline.subarray(from));
    return parts;
  }
}

const nothing = () => undefined;
/** Of a value that is in its place already. */
const still = { source: undefined, copiedBytes: 0 };

function unlend(blocks: Blocks, unit: number): void {
  blocks.breakPromise();
  blocks.freeOwn(unit);
}

/** A getter of the message may have released, or resized, what the encoder had met before. @throws Error */
function checkWhole({ inline, spans, byteLength }: Rope): void {
  let sum = inline.length;
  for (const { bytes } of spans) {
    if (bytes.length === 0) throw new Error(`bytes of the message went while it was encoded: ${explainGone(bytes)}`);
    sum += bytes.length;
  }
  if (sum !== byteLength) throw new Error("the message changed while it was encoded");
}
