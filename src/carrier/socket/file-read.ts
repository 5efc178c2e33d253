/**
 * A file as a value of a message, read before the message is sent: to a block of ours, or to the heap; or only its end,
 * where the carrier sends files itself.
 */
import type { MappedFile } from "../../memory/payload/mapped-file.js";
import { FileRange } from "../../wire/parts.js";
import type { Blocks } from "../shm/blocks.js";

/** What of the file is read. */
export interface FilePart {
  readonly file: MappedFile;
  readonly byteOffset: number;
  /** At least 1. */
  readonly byteLength: number;
}

/** A file that the carrier sends: all but its last byte by descriptor. */
export interface SendableFile {
  readonly range: FileRange;
  readonly last: Uint8Array;
}

export class FileRead {
  /** It is there. */
  done = false;
  error: Error | undefined;
  /** The block that it is read to; 0: none. */
  readonly unit: number;
  private wanted = true;
  private onEnd: (() => void) | undefined;

  private constructor(unit: number) {
    this.unit = unit;
  }

  /**
   * Reads it to the block `unit`, or to the heap.
   * @param unit negative: none
   * @param onEnd told in a later turn, with what was read to the heap, if that is it; not if it was given up
   */
  static toMemory(
    blocks: Blocks,
    { file, byteOffset, byteLength }: FilePart,
    unit: number,
    onEnd: (read: FileRead, bytes: Uint8Array | undefined) => void,
  ): FileRead {
    const read = new FileRead(Math.max(unit, 0));
    // A view of its own: the carrier's own moves when the arena grows, and ends with the connection.
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
   * Where the carrier sends files itself, only the last byte is read before: it says that all of the file is there, and
   * travels in a last fragment of its own when the rest was sent. So of a file that becomes shorter meanwhile nobody
   * gets to see a message (PARTS-1).
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

  /** Nobody wants it any more. @param onEnd called when nothing is read any more, at once if it has ended */
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
