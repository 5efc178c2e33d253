/**
 * A file as a value of a message. It is read before the message is sent, to a block or to the heap. A carrier that
 * sends files itself needs only its last byte read.
 */
import type { SpanMemory } from "../carrier/span-memory.js";
import type { MappedFile } from "../memory/payload/mapped-file.js";
import { FileRange } from "../wire/parts.js";

/** The part of a file that is a value. */
export interface FilePart {
  readonly file: MappedFile;
  readonly byteOffset: number;
  /** At least 1. */
  readonly byteLength: number;
}

/** A file that the carrier sends: its last byte from memory, the bytes before it by descriptor. */
export interface SendableFile {
  readonly range: FileRange;
  readonly last: Uint8Array;
}

export class FileRead {
  /** It is read. */
  done = false;
  error: Error | undefined;
  /** The block that it is read to; 0: it is read to the heap. */
  readonly unit: number;
  private wanted = true;
  private onEnd: (() => void) | undefined;

  private constructor(unit: number) {
    this.unit = unit;
  }

  /**
   * Reads it to the block `unit`, or to the heap.
   * @param unit negative: to the heap
   * @param onEnd called in a later turn, with the bytes if they were read to the heap; not if the read was canceled
   */
  static toMemory(
    blocks: SpanMemory,
    { file, byteOffset, byteLength }: FilePart,
    unit: number,
    onEnd: (read: FileRead, bytes: Uint8Array | undefined) => void,
  ): FileRead {
    const read = new FileRead(Math.max(unit, 0));
    // A separate view: the carrier's own moves when the arena grows, and ends with the connection.
    const target = unit < 0 ? undefined : blocks.openForReading(unit, byteLength);
    const bytes = target?.bytes ?? new Uint8Array(byteLength);
    file.readTo(
      bytes,
      byteOffset,
      byteLength,
      () => read.wanted,
      (error) => {
        target?.close();
        read.end(error, () => onEnd(read, target === undefined ? bytes : undefined));
      },
    );
    return read;
  }

  /**
   * Reads only the last byte, which shows that the file is complete. It travels in a last fragment of its own, after
   * the rest was sent. So if a file becomes shorter meanwhile, its message is never completed (PARTS-1).
   */
  static lastByte({ file, byteOffset, byteLength }: FilePart, onEnd: (sendable: SendableFile) => void): FileRead {
    const read = new FileRead(0);
    const last = new Uint8Array(1);
    file.readTo(
      last,
      byteOffset + byteLength - 1,
      1,
      () => true,
      (error) => read.end(error, () => onEnd({ range: new FileRange(file, byteOffset, byteLength - 1), last })),
    );
    return read;
  }

  /** Stops reading. @param onEnd called when nothing is read any more; at once if the read has ended */
  cancel(onEnd: () => void): void {
    this.wanted = false;
    if (this.done || this.error !== undefined) onEnd();
    else this.onEnd = onEnd;
  }

  private end(error: Error | undefined, tell: () => void): void {
    this.error = error;
    this.done = error === undefined;
    if (this.onEnd !== undefined) this.onEnd();
    else tell();
  }
}
