/**
 * Files as bytes: a private mapping that the user reads, and a descriptor for sending them.
 *
 * FILE-1  Neither this code nor the code that sends reads the mapped pages: if the file was truncated meanwhile, that
 *         would raise SIGBUS. Bytes to send are read through the descriptor, and a file that has become shorter is an
 *         error.
 */
import { read, readSync } from "node:fs";
import { setImmediate } from "../../os/timers.js";
import { collectSoon } from "../v8/gc.js";
import type { Origin } from "./origin.js";
import { ephemeral, setOrigin } from "./origin.js";

/** Most bytes of one read, so that a canceled transfer ends promptly. */
const READ_BYTES_MAX = 1 << 20;

/**
 * From this many open files on, garbage is collected, because it may hold some of them. V8 does not do so by itself:
 * the files take little memory.
 */
const FILES_MAX_AT_FIRST = 256;

let files = 0;
let filesMax = FILES_MAX_AT_FIRST;

export function tooManyFiles(): boolean {
  return files >= filesMax;
}

/** Collects garbage, which may hold open files. @returns false if that was done a moment ago */
export async function collectFiles(): Promise<boolean> {
  const isDone = collectSoon();
  // Finalizers run in a later turn, at most a few turns later.
  for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
  // The remaining files are in use, so the next collection is worth it after as many more. If it was too early for this
  // one, try again soon.
  filesMax = isDone ? Math.max(FILES_MAX_AT_FIRST, files * 2) : files + FILES_MAX_AT_FIRST / 8;
  return isDone;
}

/** Owns the descriptor of a mapped file. It must not refer to the ArrayBuffer. */
class Descriptor {
  private readonly descriptor: number;
  private readonly closeDescriptor: (descriptor: number) => void;
  private reads = 0;
  private closed = false;

  constructor(descriptor: number, closeDescriptor: (descriptor: number) => void) {
    this.descriptor = descriptor;
    this.closeDescriptor = closeDescriptor;
    ephemeral.count++;
    files++;
  }

  /** Keeps the descriptor open for a read. The number of a closed descriptor may soon belong to another file. */
  use(): number {
    this.reads++;
    return this.descriptor;
  }

  unuse(): void {
    this.reads--;
    this.closeIfDone();
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    ephemeral.count--;
    this.closeIfDone();
  }

  private closeIfDone(): void {
    if (!this.closed || this.reads > 0) return;
    files--;
    this.closeDescriptor(this.descriptor);
  }
}

const descriptors = new FinalizationRegistry<Descriptor>((descriptor) => descriptor.close());

export class MappedFile implements Origin {
  readonly kind = "file";
  gone: string | undefined;
  readonly path: string;
  /** The position in the file of the ArrayBuffer's first byte. */
  readonly offset: number;
  private readonly descriptor: Descriptor;

  private constructor(path: string, offset: number, descriptor: Descriptor) {
    this.path = path;
    this.offset = offset;
    this.descriptor = descriptor;
  }

  /**
   * @param buffer the bytes of the file from `offset` on
   * @param descriptor belongs to the mapped file from now on, which closes it with `close`
   */
  static of(
    buffer: ArrayBuffer,
    path: string,
    offset: number,
    descriptor: number,
    close: (descriptor: number) => void,
  ): Uint8Array {
    const owner = new Descriptor(descriptor, close);
    setOrigin(buffer, new MappedFile(path, offset, owner));
    descriptors.register(buffer, owner);
    return new Uint8Array(buffer);
  }

  /** Ends the user's access. The caller detaches the buffer. */
  release(why: string): void {
    this.gone = why;
    this.descriptor.close();
  }

  /** Keeps the file open for a message that will read it: until `unhold`, `release` does not close it. */
  hold(): void {
    this.descriptor.use();
  }

  unhold(): void {
    this.descriptor.unuse();
  }

  /** Reads a small part of the file as it is now. @throws Error if the file is too short, or cannot be read */
  readNow(byteOffset: number, byteLength: number): Uint8Array {
    const bytes = new Uint8Array(byteLength);
    const descriptor = this.descriptor.use();
    try {
      for (let at = 0; at < byteLength; ) {
        const got = readSync(descriptor, bytes, at, byteLength - at, this.offset + byteOffset + at);
        if (got === 0) throw this.tooShort(byteOffset + at, byteOffset + byteLength);
        at += got;
      }
      return bytes;
    } finally {
      this.descriptor.unuse();
    }
  }

  /**
   * Calls `act` with the descriptor and the position in the file of byte `byteOffset` of the array. The caller holds
   * the file.
   */
  through<T>(byteOffset: number, act: (descriptor: number, fileOffset: number) => T): T {
    const descriptor = this.descriptor.use();
    try {
      return act(descriptor, this.offset + byteOffset);
    } finally {
      this.descriptor.unuse();
    }
  }

  /**
   * Reads a part of the file as it is now, off the event loop, to the beginning of `target`.
   * @param goOn called before each read; if it returns false, reading ends and `onEnd` follows
   * @param onEnd called once, in a later turn, when nothing writes to `target` any more
   */
  readTo(
    target: Uint8Array,
    byteOffset: number,
    byteLength: number,
    goOn: () => boolean,
    onEnd: (error: Error | undefined) => void,
  ): void {
    const descriptor = this.descriptor.use();
    const end = (error: Error | undefined) => {
      this.descriptor.unuse();
      onEnd(error);
    };
    const next = (at: number) => {
      if (at === byteLength || !goOn()) return end(undefined);
      read(
        descriptor,
        target,
        at,
        Math.min(READ_BYTES_MAX, byteLength - at),
        this.offset + byteOffset + at,
        (error, got) => {
          if (error !== null) return end(error);
          if (got === 0) return end(this.tooShort(byteOffset + at, byteOffset + byteLength));
          next(at + got);
        },
      );
    };
    next(0);
  }

  /**
   * @param found where the file ends, as a position in the array
   * @param expected how far it was to be sent, as a position in the array
   */
  tooShort(found: number, expected: number): FileTooShort {
    return new FileTooShort(
      `file ${this.path} has become shorter: it ends at byte ${this.offset + found}, and was to be sent up to byte ${this.offset + expected}`,
    );
  }
}

export class FileTooShort extends Error {
  override readonly name = "FileTooShort";
}
