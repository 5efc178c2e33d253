/**
 * What waits to be written to a stream socket, in order: frames, parts of fragments, and ranges of files.
 *
 * SOCKET-9  If borrowed memory is gone before all of it has left, only its message fails. A fragment of that message
 *           that has not begun to leave is taken back. What is missing of one that has begun is sent as zeros, which
 *           never complete a message: a fragment that does is begun only if all of its borrowed bytes are written or
 *           copied.
 */
import type { ReceiveMemory } from "../../memory/receive/receive-memory.js";
import { assertOwn } from "../../memory/shm/violation.js";
import type { FileRange, Part, Parts } from "../../wire/parts.js";
import { Borrowed, copyOf } from "../../wire/parts.js";
import type { FileOnItsWay } from "./file-sender.js";
import { zeroChunks } from "./zeros.js";

/** The frame of a fragment that may have to be taken back, with the part of the fragment that was copied behind it. */
export class QueuedHead {
  bytes: Uint8Array;
  readonly source: Parts;
  /** The fragment is the last of its message. */
  readonly isFinal: boolean;
  /** Some of it was written, or is with the socket. */
  begun = false;

  constructor(bytes: Uint8Array, source: Parts, isFinal: boolean) {
    this.bytes = bytes;
    this.source = source;
    this.isFinal = isFinal;
  }

  /** Its first `byteLength` bytes were written. */
  begin(byteLength: number): void {
    this.bytes = this.bytes.subarray(byteLength);
    this.begun = true;
  }
}

/** A range of a file. */
export class QueuedFile implements FileOnItsWay {
  readonly range: FileRange;
  readonly head: QueuedHead;
  /** It is the last of its fragment. */
  isLast = false;
  sentBytes = 0;

  constructor(range: FileRange, head: QueuedHead) {
    this.range = range;
    this.head = head;
  }

  get source(): Parts {
    return this.head.source;
  }
}

/** Bytes of a fragment that were not written yet. */
export class QueuedBytes {
  bytes: Uint8Array;
  readonly head: QueuedHead;
  /** The bytes are their user's memory (BORROW-1). */
  borrowed: boolean;
  /** How long `bytes` was when it was last looked at. If it is shorter now, its memory is gone. */
  byteLength: number;
  /** It is the last of its fragment. */
  isLast = false;
  /** The memory that holds a copy. */
  memory: ReceiveMemory | undefined;

  constructor(bytes: Uint8Array, head: QueuedHead, borrowed: boolean) {
    this.bytes = bytes;
    this.head = head;
    this.borrowed = borrowed;
    this.byteLength = bytes.length;
  }

  get source(): Parts {
    return this.head.source;
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

  /** Copies the rest of the bytes to `copy`, in `memory`. */
  moveTo(copy: Uint8Array, memory: ReceiveMemory): void {
    copy.set(this.bytes);
    this.bytes = copy;
    this.borrowed = false;
    this.memory = memory;
    memory.hold();
    this.source.bytesOnLoan -= this.byteLength;
  }
}

/** Frames from staging memory, or zeros; the frame of a fragment; or a part of a fragment, which follows its frame. */
export type Entry = Uint8Array | QueuedHead | QueuedBytes | QueuedFile;

/** Entries that leave in order. Those from `next` on have not left. Those before `given` are with the socket. */
export interface Batch {
  readonly entries: Entry[];
  next: number;
  given: number;
  bytesLeft: number;
}

/** A part of a fragment as an entry. */
export function queuedPart(part: Exclude<Part, FileRange>, head: QueuedHead): QueuedBytes {
  if (!(part instanceof Borrowed)) return new QueuedBytes(part, head, false);
  // Memory that may shrink could be too short for what is announced here.
  if ((part.bytes.buffer as { readonly resizable?: boolean }).resizable === true)
    return new QueuedBytes(copyOf(part.bytes), head, false);
  head.source.bytesOnLoan += part.length;
  return new QueuedBytes(part.bytes, head, true);
}

/** The parts that follow in the fragment of which the entry at `from` is the frame or a part, up to the next file. */
export function restOfFragment(entries: readonly Entry[], from: number): QueuedBytes[] {
  const parts: QueuedBytes[] = [];
  for (let i = entries[from] instanceof QueuedHead ? from + 1 : from; i < entries.length; i++) {
    const entry = entries[i];
    if (!(entry instanceof QueuedBytes)) break;
    parts.push(entry);
  }
  return parts;
}

/** How many bytes the entries borrow. */
export function borrowedBytes(entries: readonly Entry[]): number {
  let sum = 0;
  for (const entry of entries) if (entry instanceof QueuedBytes && entry.borrowed) sum += entry.byteLength;
  return sum;
}

/** SOCKET-9. Entries before `from` stay. @returns the bytes that leave no more: all, and those without frames */
export function takeBack(entries: Entry[], from: number, source: Parts): { all: number; ofFragments: number } {
  let all = 0;
  let ofFragments = 0;
  // The frame of parts that come first is before `from`.
  let begun = true;
  for (const entry of entries.splice(from)) {
    if (entry instanceof Uint8Array || entry.source !== source) {
      entries.push(entry);
    } else if (entry instanceof QueuedHead) {
      begun = entry.begun;
      if (begun) entries.push(entry);
      else all += entry.bytes.length;
    } else if (begun && entry instanceof QueuedFile) {
      // `FileSender` sends zeros, too, once its message has failed.
      entries.push(entry);
    } else {
      const byteLength = entry instanceof QueuedFile ? entry.range.length : entry.byteLength;
      if (begun) {
        assertOwn(!entry.head.isFinal, "SOCKET-9: zeros never complete a message");
        for (const zeros of zeroChunks(byteLength)) entries.push(zeros);
      } else {
        all += byteLength;
        ofFragments += byteLength;
        if (entry instanceof QueuedFile) source.filesUnderWay--;
      }
      discard(entry);
    }
  }
  return { all, ofFragments };
}

/** The entry will not be read any more. */
export function discard(entry: Entry): void {
  if (entry instanceof Uint8Array || entry instanceof QueuedHead) return;
  if (entry instanceof QueuedBytes) {
    entry.memory?.unhold();
    entry.memory = undefined;
  }
  if (entry.isLast) entry.source.owner.unuse();
}
