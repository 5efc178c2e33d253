/**
 * A large message that is being sent: parts that, joined, are the message, and how much of them was taken.
 *
 * PARTS-1  A file may turn out to be shorter after its bytes were announced. So no message ends with bytes of a file,
 *          and the last fragment of a message has none. The last fragment is taken only when all bytes of files were
 *          sent, and without it the receiver has no message. It borrows no more than a carrier may have to copy
 *          (SOCKET-9).
 * BORROW-1  A user's memory is read only until its user may change it again: for a request, until its call has settled;
 *           for a message of a stream, until the next message is pulled or the iterable ends; for an answer, until
 *           `send` returns. Bytes that were not sent by then are copied. Memory that the kernel is given to write later
 *           is never borrowed.
 */
import { memoryToFill } from "../memory/v8/gc.js";
import type { MappedFile } from "../memory/payload/mapped-file.js";
import { assertOwn } from "../memory/shm/violation.js";

/** What is left of a message, in bytes, when its last fragment would be too long for borrowed bytes. */
const END_BYTES = 64;

/** Bytes that are sent from a file. */
export class FileRange {
  readonly file: MappedFile;
  /** The offset of the bytes in the file's array. */
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

/** Bytes in a user's memory, which the carrier borrows. The user may change them later (BORROW-1). */
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

/** Owns the memory that parts lie in. */
export interface PartsOwner {
  /** Call for taken parts that are read later: all memory stays valid until `unuse`. */
  use(): void;
  unuse(): void;
}

const nobody: PartsOwner = { use: () => undefined, unuse: () => undefined };

export class Parts {
  readonly byteLength: number;
  readonly owner: PartsOwner;
  private readonly parts: Part[];
  /** The initial lengths of the parts. A view of a resizable ArrayBuffer may become shorter. */
  private readonly lengths: readonly number[];
  private taken = 0;
  // The next byte: the index of its part, and its offset there.
  private part = 0;
  private partOffset = 0;
  /** The position after the last byte that comes from a file. At least one more byte follows. */
  private readonly filesEnd: number;
  /** Number of file ranges that were taken and are not sent yet. */
  filesUnderWay = 0;
  /** Why a file range, or borrowed memory that is gone, could not be sent. Then the rest need not be sent. */
  failure: Error | undefined;
  /** Number of borrowed bytes that the carrier has taken and still reads (BORROW-1). */
  bytesOnLoan = 0;
  /** Called once, in a later turn, when `bytesOnLoan` has reached 0, or when `failure` is set because memory is gone. */
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

  /**
   * The length of the next fragment, at most `bytesMax`. The last one has no bytes of a file (PARTS-1), and no borrowed
   * bytes if it is longer than `borrowedEndMax`.
   */
  nextLength(bytesMax: number, borrowedEndMax: number): number {
    const length = Math.min(bytesMax, this.taken < this.filesEnd ? this.filesEnd - this.taken : this.leftBytes);
    if (length <= borrowedEndMax || length < this.leftBytes || !this.borrows) return length;
    return length - END_BYTES;
  }

  /** Whether any part is borrowed that was not taken completely. */
  private get borrows(): boolean {
    return this.parts.some((part, i) => i >= this.part && part instanceof Borrowed);
  }

  /**
   * Whether the next `byteLength` bytes may be taken now. The last bytes may be taken only when all file ranges before
   * them were sent.
   * @throws Error if a file range could not be sent, or borrowed memory is gone
   */
  mayTake(byteLength: number): boolean {
    if (this.failure !== undefined) throw this.failure;
    return this.filesUnderWay === 0 || byteLength < this.leftBytes;
  }

  /**
   * Copies the next `byteLength` bytes to `target` at `offset`. At least that many must be left.
   * @throws Error if their memory is gone
   */
  copyTo(target: Uint8Array, offset: number, byteLength: number): void {
    for (let at = offset; at < offset + byteLength; ) {
      const slice = this.next(offset + byteLength - at);
      assertOwn(!(slice instanceof FileRange), "files are read before they are copied");
      target.set(slice instanceof Borrowed ? slice.bytes : slice, at);
      at += slice.length;
    }
  }

  /** Copies borrowed bytes that were not taken, so that their user may change them. @throws Error like `copyTo` */
  keep(copy: (bytes: Uint8Array) => Uint8Array): void {
    for (let i = this.part; i < this.parts.length; i++) {
      const part = this.parts[i];
      if (!(part instanceof Borrowed)) continue;
      if (part.length !== this.lengths[i]) throw goneMeanwhile();
      this.parts[i] = copy(part.bytes);
    }
  }

  /**
   * Takes the next `byteLength` bytes without copying them, and appends them to `target`. At least that many must be
   * left.
   * @throws Error like `copyTo`
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

/** SUBTLE: not `bytes.slice()`, which makes a view of a Buffer, and can be anything in a subclass of a user's. */
export function copyOf(bytes: Uint8Array): Uint8Array {
  const copy = memoryToFill(bytes.length);
  copy.set(bytes);
  return copy;
}

/** The error for bytes that were detached before they were sent. */
export function goneMeanwhile(): Error {
  return new Error(
    "bytes that were being sent lost their memory: their ArrayBuffer was detached or became shorter before they had left (a transfer, a resize, or a lease that ended); send a copy, or keep it until the call has settled or, in a stream, the next message is asked for",
  );
}
