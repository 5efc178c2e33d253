/** What waits to be written to a stream socket: bytes, and ranges of files, in order. */
import type { ReceiveMemory } from "../../memory/receive/receive-memory.js";
import type { FileRange, Part, Parts } from "../../wire/parts.js";
import { Borrowed, copyOf } from "../../wire/parts.js";
import type { FileOnItsWay } from "./file-sender.js";

/** A range of a file. */
export class QueuedFile implements FileOnItsWay {
  readonly range: FileRange;
  readonly source: Parts;
  /** It is the last of its fragment. */
  isLast = false;
  sentBytes = 0;

  constructor(range: FileRange, source: Parts) {
    this.range = range;
    this.source = source;
  }
}

/** Bytes of a fragment that were not written yet. */
export class QueuedBytes {
  bytes: Uint8Array;
  readonly source: Parts;
  /** The bytes are their user's memory (BORROW-1). */
  borrowed: boolean;
  /** How long `bytes` was when it was last looked at. If it is shorter now, its memory is gone. */
  byteLength: number;
  /** It is the last of its fragment. */
  isLast = false;
  /** The memory that holds a copy. */
  memory: ReceiveMemory | undefined;

  constructor(bytes: Uint8Array, source: Parts, borrowed: boolean) {
    this.bytes = bytes;
    this.source = source;
    this.borrowed = borrowed;
    this.byteLength = bytes.length;
  }

  /** The memory of the bytes has been detached or has become shorter. */
  get isGone(): boolean {
    return this.bytes.length !== this.byteLength;
  }

  /** The first `byteLength` bytes were written or copied. True: the source's user has all of the memory back. */
  advance(byteLength: number): boolean {
    this.bytes = this.bytes.subarray(byteLength);
    this.byteLength -= byteLength;
    if (!this.borrowed) return false;
    this.source.bytesOnLoan -= byteLength;
    return this.source.bytesOnLoan === 0;
  }
}

/** Frames from staging memory, or a part of a fragment. */
export type Entry = Uint8Array | QueuedBytes | QueuedFile;

/** Entries that leave in order. Those from `next` on have not left. Those before `given` are with the socket. */
export interface Batch {
  readonly entries: Entry[];
  next: number;
  given: number;
  bytesLeft: number;
}

/** A part of a fragment as an entry. */
export function queuedPart(part: Exclude<Part, FileRange>, source: Parts): QueuedBytes {
  if (!(part instanceof Borrowed)) return new QueuedBytes(part, source, false);
  // Memory that may shrink could be too short for what is announced here.
  if ((part.bytes.buffer as { readonly resizable?: boolean }).resizable === true)
    return new QueuedBytes(copyOf(part.bytes), source, false);
  source.bytesOnLoan += part.length;
  return new QueuedBytes(part.bytes, source, true);
}

/** The entry will not be read any more. */
export function discard(entry: Entry): void {
  if (entry instanceof Uint8Array) return;
  if (entry instanceof QueuedBytes) {
    entry.memory?.unhold();
    entry.memory = undefined;
  }
  if (entry.isLast) entry.source.owner.unuse();
}
