/**
 * Files as bytes: a private mapping for the user to read, and the descriptor for whoever sends it.
 *
 * FILE-1  Nothing here, and nothing that sends, reads the mapped pages: a file that was truncated meanwhile would be
 *         SIGBUS. What is sent is read through the descriptor, and a file that is shorter than it was is an error.
 */
import { read, readSync } from "node:fs";
import { setImmediate } from "../../os/timers.js";
import { collectSoon } from "../v8/gc.js";
import type { Origin } from "./origin.js";
import { ephemeral, setOrigin } from "./origin.js";

/** Bytes that one read takes at most, so that giving up is prompt. */
const READ_BYTES_MAX = 1 << 20;

/**
 * Open files of mappings after which it is looked whether garbage holds them: little memory, so that V8 sees no reason
 * to.
 */
const FILES_MAX_AT_FIRST = 256;

let files = 0;
let filesMax = FILES_MAX_AT_FIRST;

export function tooManyFiles(): boolean {
  return files >= filesMax;
}

/** Collects garbage, which may hold open files. False if that was done a moment ago. */
export async function collectFiles(): Promise<boolean> {
  const isDone = collectSoon();
  // What was found is told in a later turn, at most a few turns later.
  for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
  // Those that are left are in use: the next look is worth it when there are as many more. If it was too early to look,
  // soon again.
  filesMax = isDone ? Math.max(FILES_MAX_AT_FIRST, files * 2) : files + FILES_MAX_AT_FIRST / 8;
  return isDone;
}

/** The descriptor's owner. It must not refer to the ArrayBuffer. */
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

  /** A read in flight, or to come, keeps it open: the number of one that is closed is soon another file's. */
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
  /** Where in the file the ArrayBuffer's first byte is. */
  readonly offset: number;
  private readonly descriptor: Descriptor;

  private constructor(path: string, offset: number, descriptor: Descriptor) {
    this.path = path;
    this.offset = offset;
    this.descriptor = descriptor;
  }

  /** Takes `descriptor` over, to be closed by `close`. `buffer`: the file's bytes from `offset` on. */
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

  /** The user is done with it; the caller detaches the buffer. */
  release(why: string): void {
    this.gone = why;
    this.descriptor.close();
  }

  /** A message is going to read it: until `unhold`, `release` does not close it. */
  hold(): void {
    this.descriptor.use();
  }

  unhold(): void {
    this.descriptor.unuse();
  }

  /** The bytes of a small part of the file as it is now. @throws Error if the file is too short, or cannot be read */
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
   * Lets `act` use the descriptor, with where in the file byte `byteOffset` of the array is. The caller holds the file.
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
   * @param goOn asked before each read; false gives up, and `onEnd` follows
   * @param onEnd called once, in a later turn: nothing writes to `target` any more
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

  /** @param found where it ends, and how far it was to be sent: positions in the array */
  tooShort(found: number, expected: number): FileTooShort {
    return new FileTooShort(
      `file ${this.path} has become shorter: it ends at byte ${this.offset + found}, and was to be sent up to byte ${this.offset + expected}`,
    );
  }
}

export class FileTooShort extends Error {
  override readonly name = "FileTooShort";
}
