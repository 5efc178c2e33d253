/**
 * Takes what a message refers to, and decides for each large value how it is sent: from where it lies (loans, leases,
 * regions), from a copy in a block of its own, or with the inline part. Every hold that is taken here is in one of the
 * lists of `Adoption`, so that its `Payload` can pass it on or end it (PAYLOAD-1).
 */
import type { ReadAgain, SpanMemory, SpanPlace } from "../carrier/span-memory.js";
import { Lease } from "../memory/payload/lease.js";
import { isEphemeral } from "../memory/payload/message-leases.js";
import { Loan } from "../memory/payload/loan.js";
import { MappedFile } from "../memory/payload/mapped-file.js";
import { originOf } from "../memory/payload/origin.js";
import { Region } from "../memory/payload/region.js";
import { SPANS_MAX } from "../wire/frame.js";
import { copyOf } from "../wire/parts.js";
import type { FileRead } from "./file-read.js";
import type { Value } from "./placement.js";
import { BlockPlace, CopyPlace, RegionPlace, SPAN_COPY_BYTES_MIN } from "./placement.js";

/** A value that lies in a file. It is read to a block or to the heap, or sent by a carrier without blocks. */
export interface FileValue {
  readonly value: Value;
  readonly file: MappedFile;
  read: FileRead | undefined;
}

/** A loan that its user can still see. */
interface TakenLoan {
  readonly loan: Loan;
  readonly buffer: ArrayBuffer;
}

export class Adoption {
  readonly values: readonly Value[];
  readonly files: FileValue[] = [];
  readonly regions: RegionPlace[] = [];
  readonly loans: TakenLoan[] = [];
  /** What ends when all of the message is sent, or canceled. */
  readonly cleanUps: (() => void)[] = [];
  /** Number of values that are sent as spans. */
  places = 0;
  private readonly blocks: SpanMemory | undefined;
  private readonly why: string;
  private readonly sharesLeases: boolean;
  /** How memory is read that was taken for one field, if another field refers to it too. */
  private readonly taken: Map<ArrayBufferLike, ReadAgain> | undefined;

  /**
   * @param blocks undefined: all of the message is inline
   * @param why the reason that values are gone, to be read after "its memory is gone: "
   * @param sharesLeases whether leases that stay with their user are sent from where they lie. The user must not write to
   *   them any more. Otherwise they are sent like any other memory of the user
   */
  constructor(values: readonly Value[], blocks: SpanMemory | undefined, why: string, sharesLeases: boolean) {
    this.values = values;
    this.blocks = blocks;
    this.why = why;
    this.sharesLeases = sharesLeases;
    this.taken = values.length > 1 ? new Map() : undefined;
  }

  /** @throws Error if bytes are gone; then some values may have been taken already */
  takeAll(): void {
    for (const value of this.values) this.take(value);
  }

  private get hasPlace(): boolean {
    return this.places < SPANS_MAX;
  }

  place(value: Value, place: SpanPlace): void {
    value.place = place;
    this.places++;
  }

  /** The value is sent with the inline part after all. */
  unplace(value: Value): void {
    value.place = undefined;
    this.places--;
  }

  /** The block to read a file's value to; negative: it is read to the heap. */
  blockForFile(blocks: SpanMemory, byteLength: number): number {
    return byteLength < SPAN_COPY_BYTES_MIN || !this.hasPlace ? -1 : blocks.allocate(byteLength);
  }

  private take(value: Value): void {
    const { bytes } = value;
    const again = this.taken?.get(bytes.buffer);
    if (again !== undefined) return this.takeAgain(value, again);
    const origin = originOf(bytes);
    if (origin instanceof Loan) return this.takeLoan(value, origin);
    if (origin instanceof Lease && this.takeLease(value, origin)) return;
    if (origin instanceof Region && this.takeRegion(value, origin)) return;
    if (origin instanceof MappedFile && value.byteLength > 0 && this.takeFile(value, origin)) return;
    if (origin instanceof Lease && this.takeReceived(value, origin)) {
      // It is sent from where it was received.
    } else if (isEphemeral(bytes)) {
      // It may end before all is sent.
      value.bytes = copyOf(bytes);
      value.borrowed = false;
    }
    this.copyIfLarge(value);
  }

  private copyIfLarge(value: Value): void {
    if (value.byteLength >= SPAN_COPY_BYTES_MIN) this.copyToBlock(value, () => value.bytes);
  }

  /** The memory was taken for another field of this message. It arrives a second time, as bytes of its own. */
  private takeAgain(value: Value, read: ReadAgain): void {
    const { byteOffset, byteLength } = value;
    if (byteLength >= SPAN_COPY_BYTES_MIN && this.hasPlace) this.copyToBlock(value, () => read(byteOffset, byteLength));
    else value.own(read(byteOffset, byteLength));
  }

  /** From now on the loan no longer belongs to its user. */
  private takeLoan(value: Value, loan: Loan): void {
    const { blocks } = this;
    const buffer = value.bytes.buffer as ArrayBuffer;
    if (blocks === undefined || !blocks.isOwnLoan(loan) || !this.hasPlace) return this.copyLoan(value, loan, buffer);
    const { unit } = loan;
    loan.take(buffer, this.why);
    this.loans.push({ loan, buffer });
    blocks.loanSent(unit);
    this.place(value, new BlockPlace(blocks, unit, value.byteOffset));
    this.taken?.set(buffer, (offset, length) => blocks.bytesOf(unit, offset + length).subarray(offset));
  }

  private copyLoan(value: Value, loan: Loan, buffer: ArrayBuffer): void {
    const { byteOffset, byteLength } = value;
    const taken = loan.takeToCopy(buffer, this.why);
    // A carrier without blocks keeps what it is given until it is written, however long that takes.
    const bytes = this.blocks === undefined && loan.home !== undefined ? taken.bytes.slice() : taken.bytes;
    if (bytes === taken.bytes) this.cleanUps.push(taken.done);
    else taken.done();
    value.bytes = bytes.subarray(byteOffset, byteOffset + byteLength);
    value.borrowed = false;
    this.copyIfLarge(value);
    this.taken?.set(buffer, (offset, length) => bytes.subarray(offset, offset + length));
  }

  /** Sends a lease of this connection, from where it lies if possible. False: it is another one, or has to be copied. */
  private takeLease(value: Value, lease: Lease): boolean {
    const { blocks } = this;
    if (blocks === undefined || !this.hasPlace) return false;
    // Before the bytes are gone.
    const read = blocks.reader(lease);
    if (read === undefined) return false;
    const { bytes } = value;
    if (!this.sharesLeases && !isEphemeral(bytes)) {
      this.copyLease(value, lease, read);
      return true;
    }
    const sent = blocks.placeLease(lease, bytes, this.why);
    if (sent === undefined) return false;
    this.place(value, sent.place);
    if (sent.isTaken) this.taken?.set(bytes.buffer, read);
    return true;
  }

  /** Copies a lease's bytes, because its user may end it, or write to it, once the message is released. */
  private copyLease(value: Value, lease: Lease, read: ReadAgain): void {
    const { byteOffset, byteLength } = value;
    if (byteLength < SPAN_COPY_BYTES_MIN) return value.own(value.bytes);
    this.pin(lease);
    this.copyToBlock(value, () => read(byteOffset, byteLength));
  }

  /** Sends received bytes from where they were received, whenever their user's right ends. */
  private takeReceived(value: Value, lease: Lease): boolean {
    const pinned = lease.gone === undefined ? lease.home.readPinned?.(lease, value.bytes) : undefined;
    if (pinned === undefined) return false;
    this.pin(lease);
    const lentBuffer = value.bytes.buffer;
    value.bytes = pinned;
    // A lease on the heap shows its user the ArrayBuffer itself, which can be detached.
    value.borrowed = !this.sharesLeases || pinned.buffer === lentBuffer;
    return true;
  }

  private pin(lease: Lease): void {
    lease.pin();
    this.cleanUps.push(() => lease.unpin());
  }

  /** Seals the region, so that its descriptor can be sent. False: its bytes have to be copied. */
  private takeRegion(value: Value, region: Region): boolean {
    const { blocks } = this;
    if (blocks?.regions?.canSend !== true || value.byteLength < SPAN_COPY_BYTES_MIN || !this.hasPlace) return false;
    // The peer can map all of the memory that a descriptor refers to.
    if (blocks.isIsolated && value.byteLength < region.byteLength) return false;
    const descriptor = region.use(value.bytes.buffer as ArrayBuffer);
    if (descriptor === undefined) return false;
    blocks.counts.spansSentInPlace++;
    const place = new RegionPlace(region, descriptor, value.byteOffset);
    this.place(value, place);
    this.regions.push(place);
    return true;
  }

  /** Has a file read in the background. False: it was read now, and its bytes are on the heap. */
  private takeFile(value: Value, file: MappedFile): boolean {
    value.borrowed = false;
    if (this.blocks?.isBlocking === true) {
      // A read in the background would end in a turn of the event loop that does not come.
      value.bytes = file.readNow(value.byteOffset, value.byteLength);
      return false;
    }
    file.hold();
    this.cleanUps.push(() => file.unhold());
    this.files.push({ value, file, read: undefined });
    return true;
  }

  private copyToBlock(value: Value, source: () => Uint8Array): void {
    const { blocks } = this;
    if (blocks !== undefined && this.hasPlace) this.place(value, new CopyPlace(blocks, value.byteLength, source));
    else if (value.bytes.length !== value.byteLength) value.own(source());
  }
}
