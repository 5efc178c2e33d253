/**
 * A large message on its way: parts that, joined up, are the message, and how far they are taken.
 *
 * PARTS-1  A file may turn out to be shorter when its bytes have been announced. So no message ends with a file's
 *          bytes, and its last fragment has none of them: it is taken only when all of them were sent, and without it
 *          the receiver has no message.
 * BORROW-1  A user's memory is read only until it is his again: until the call has settled that a request was given to,
 *           until the next message of a stream is asked for or its iterable is ended, until `send` returns for an
 *           answer. What has not left by then is copied. What the kernel is given to write later is never borrowed.
 */
import { memoryToFill } from "../memory/v8/gc.js";
import type { MappedFile } from "../memory/payload/mapped-file.js";
import { assertOwn } from "../memory/shared/violation.js";

/** Bytes that are sent from a file. */
export class FileRange {
  readonly file: MappedFile;
  /** Where in the file's array they start. */
  readonly byteOffset: number;
  readonly length: number;

  constructor(file: MappedFile, byteOffset: number, length: number) {
    this.file = file;
    this.byteOffset = byteOffset;
    this.length = length;
  }

  subarray(from: number, to: number): FileRange {
    return new FileRange(this.file, this.byteOffset + from, to - from);
  }
}

/**
 * Bytes in memory that its user may change once the message is his again: a message lends it, the carrier borrows it.
 */
export class Borrowed {
  readonly bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  get length(): number {
    return this.bytes.length;
  }

  subarray(from: number, to: number): Borrowed {
    return new Borrowed(this.bytes.subarray(from, to));
  }
}

export type Part = Uint8Array | Borrowed | FileRange;

/** Whoever owns what parts lie in. */
export interface PartsOwner {
  /** Parts that were taken are read later: nothing of all ends before `unuse`. */
  use(): void;
  unuse(): void;
}

const nobody: PartsOwner = { use: () => undefined, unuse: () => undefined };

export class Parts {
  readonly byteLength: number;
  readonly owner: PartsOwner;
  private readonly parts: Part[];
  /** How long they were at first: a view of a resizable ArrayBuffer may become shorter. */
  private readonly lengths: readonly number[];
  private taken = 0;
  // Where the next byte is: in which part, and at which offset there.
  private part = 0;
  private partOffset = 0;
  /** Behind the last byte that comes from a file. At least one more follows. */
  private readonly filesEnd: number;
  /** File ranges that were taken and are not sent yet. */
  filesUnderWay = 0;
  /** Why a file range could not be sent: the rest is not worth sending. */
  failure: Error | undefined;
  /** Borrowed bytes that the carrier has taken and still reads (BORROW-1). */
  bytesOnLoan = 0;
  /** Told in a later turn, once, when `bytesOnLoan` has come down to 0. */
  onReturned: (() => void) | undefined;

  constructor(parts: readonly Part[], owner: PartsOwner = nobody) {
    this.parts = parts.filter((part) => part.length > 0);
    this.lengths = this.parts.map((part) => part.length);
    this.owner = owner;
    let sum = 0;
    let filesEnd = 0;
    for (const part of this.parts) {
      sum += part.length;
      if (part instanceof FileRange) filesEnd = sum;
    }
    assertOwn(filesEnd === 0 || filesEnd < sum, "PARTS-1: a message does not end with a file");
    this.byteLength = sum;
    this.filesEnd = filesEnd;
  }

  get takenBytes(): number {
    return this.taken;
  }

  get leftBytes(): number {
    return this.byteLength - this.taken;
  }

  /** How long the next fragment is to be, at most `bytesMax`. The last one has nothing of a file (PARTS-1). */
  nextLength(bytesMax: number): number {
    return Math.min(bytesMax, this.taken < this.filesEnd ? this.filesEnd - this.taken : this.leftBytes);
  }

  /**
   * Whether the next `byteLength` bytes may be taken now: the last ones only when the file ranges before them were
   * sent. @throws Error if those could not be
   */
  mayTake(byteLength: number): boolean {
    if (this.failure !== undefined) throw this.failure;
    return this.filesUnderWay === 0 || byteLength < this.leftBytes;
  }

  /**
   * Copies the next `byteLength` bytes, which are there, to `target` at `offset`. @throws Error if their memory is gone
   * meanwhile
   */
  copyTo(target: Uint8Array, offset: number, byteLength: number): void {
    for (let at = offset; at < offset + byteLength; ) {
      const slice = this.next(offset + byteLength - at);
      assertOwn(!(slice instanceof FileRange), "files are read before they are copied");
      target.set(slice instanceof Borrowed ? slice.bytes : slice, at);
      at += slice.length;
    }
  }

  /** Has what is borrowed and was not taken copied: from now on its user may change it. @throws Error like `copyTo` */
  keep(copy: (bytes: Uint8Array) => Uint8Array): void {
    for (let i = this.part; i < this.parts.length; i++) {
      const part = this.parts[i];
      if (!(part instanceof Borrowed)) continue;
      if (part.length !== this.lengths[i]) throw goneMeanwhile();
      this.parts[i] = copy(part.bytes);
    }
  }

  /**
   * The next `byteLength` bytes, which are there, as they lie: appended to `target`, in order. @throws Error like
   * `copyTo`
   */
  takeTo(target: Part[], byteLength: number): void {
    for (let left = byteLength; left > 0; ) {
      const slice = this.next(left);
      if (slice instanceof FileRange) this.filesUnderWay++;
      target.push(slice);
      left -= slice.length;
    }
  }

  private next(bytesMax: number): Part {
    const part = this.parts[this.part];
    if (part.length !== this.lengths[this.part]) throw goneMeanwhile();
    const to = Math.min(part.length, this.partOffset + bytesMax);
    const slice = part.subarray(this.partOffset, to);
    this.taken += slice.length;
    this.partOffset = to;
    if (to === part.length) {
      this.part++;
      this.partOffset = 0;
    }
    return slice;
  }
}

/** SUBTLE: a Buffer's own `slice` is a view, and other arrays of a user's may have any. */
export function copyOf(bytes: Uint8Array): Uint8Array {
  const copy = memoryToFill(bytes.length);
  copy.set(bytes);
  return copy;
}

/** For bytes that were to be sent, and are detached. */
export function goneMeanwhile(): Error {
  return new Error(
    "bytes that were being sent lost their memory: their ArrayBuffer was detached or became shorter before the call was over (a lease that ended, a transfer, or a resize)",
  );
}
