/**
 * What leaves on a stream socket: small frames are gathered in staging memory, fragments of large messages go from
 * where they lie, and everything that was committed in one tick leaves with one `write` or `writev`. Ranges of files go
 * between two of these (`FileSender`).
 *
 * SOCKET-4  One batch is with the socket at a time. Memory of a batch is not written to before the socket has taken it.
 * SOCKET-5  What waits is bounded: two staging buffers, and `FRAGMENT_BYTES_MAX` of fragments, of which the last may
 *           reach past it.
 * SOCKET-8  What Node and the kernel are given to write later is memory of ours. Borrowed bytes (BORROW-1) are written
 *           at once or not at all: so whoever lent them can have them back at any time, at the price of a copy of what
 *           is left.
 */
import type { Socket } from "node:net";
import { FRAME_ALIGNMENT } from "../../memory/shared/layout.js";
import type { ReceiveMemory } from "../../memory/receive/receive-memory.js";
import type { Receiving } from "../../memory/receive/receiving.js";
import { FRAME_BYTES_MAX } from "../../wire/frame.js";
import type { Part, Parts } from "../../wire/parts.js";
import { Borrowed, copyOf, FileRange } from "../../wire/parts.js";
import type { FileOnItsWay } from "./file-sender.js";
import { FileSender } from "./file-sender.js";
import { inRootContext } from "../poll/root-context.js";
import { writeAtOnce, writesAtOnce } from "./write-at-once.js";

const STAGING_BYTES = 128 << 10;
/** Bytes of large messages that wait for the socket. */
const FRAGMENT_BYTES_MAX = 1 << 20;
/**
 * Up to this size, in bytes, what a fragment begins with is copied behind its frame: that costs less than an entry of
 * its own.
 */
const JOINED_BYTES_MAX = 512;
/** Up to this size, in bytes, a whole fragment is: then nobody has to wait until the socket has taken it. */
const COPIED_BYTES_MAX = 32 << 10;
/** As long as this much room is left for frames in the staging buffer. */
const COPIES_ROOM_BYTES = 2 * FRAME_BYTES_MAX;
/**
 * When the socket is full, a few borrowed bytes are copied for Node to write: that tells when there is room for the
 * others.
 */
const BOUNCE_BYTES = 64;
/** Where nothing can be written at once, all goes that way, in portions. */
const PORTION_BYTES = 256 << 10;

function canShrink(part: Part): boolean {
  return part instanceof Borrowed && (part.bytes.buffer as { readonly resizable?: boolean }).resizable === true;
}

class Staging {
  readonly bytes = Buffer.allocUnsafeSlow(STAGING_BYTES);
  readonly words = new Int32Array(this.bytes.buffer);
  /** From here on it is not in a batch or the queue yet, … */
  start = 0;
  /** … and this is where the next frame goes. */
  index = 0;
}

/** A range of a file. */
class QueuedFile implements FileOnItsWay {
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

/** Bytes of a fragment, as far as they are not written yet. */
class QueuedBytes {
  bytes: Uint8Array;
  readonly source: Parts;
  borrowed: boolean;
  /** What is left was this long when it was last looked at: less now means that its memory is gone. */
  byteLength: number;
  isLast = false;
  /** Where a copy lies. */
  memory: ReceiveMemory | undefined;

  constructor(bytes: Uint8Array, source: Parts, borrowed: boolean) {
    this.bytes = bytes;
    this.source = source;
    this.borrowed = borrowed;
    this.byteLength = bytes.length;
  }
}

type Entry = Uint8Array | QueuedBytes | QueuedFile;

/** What leaves in order: entries from `next` on. Those before `given` are with the socket. */
interface Batch {
  readonly entries: Entry[];
  next: number;
  given: number;
  bytesLeft: number;
}

export class WriteQueue {
  current = new Staging();
  framesSent = 0;
  /** The buffer that is not written to now. */
  private other: Staging | undefined;
  /** Bytes of `other` wait in the queue, or are with the socket. */
  private otherIs: "free" | "queued" | "with the socket" = "free";
  /** Both buffers are used up. */
  private full = false;
  /** A batch is with the socket. */
  get writing(): boolean {
    return this.batch !== undefined;
  }
  private batch: Batch | undefined;
  /** The socket has not taken yet what it was given last. */
  private awaitsSocket = false;
  private readonly socket: Socket;
  private readonly receiving: Receiving;
  private readonly onWritten: () => void;
  private readonly onFailed: (error: Error) => void;
  /** What the next batch is made of. */
  private queue: Entry[] = [];
  private queuedBytes = 0;
  /** The fragment of the frame that is about to be committed. */
  private placing: Parts | undefined;
  private readonly placed: Part[] = [];
  private placedBytes = 0;
  private readonly fileSender: FileSender;
  /** Bytes of fragments that wait as they lie. */
  private fragmentBytes = 0;
  private fragmentBytesInBatch = 0;
  private bounce: Buffer | undefined;
  /** What is left of this message's bytes is copied at once. */
  private keeping: Parts | undefined;
  /** Messages whose users can have their memory back. */
  private returned: Parts[] = [];
  private closed = false;
  private readonly onWrite = () => {
    if (this.awaitsSocket && !this.closed && this.socket.writableLength === 0) inRootContext(this.goOn);
  };
  private readonly goOn = () => {
    if (this.closed || this.batch === undefined) return;
    this.handOn(this.batch);
    if (this.batch === undefined) {
      this.flush();
      this.onWritten();
    }
    this.tellReturned();
  };

  /**
   * @param receiving where copies are kept
   * @param onWritten told when the socket has taken a batch that it could not take at once: there is room again
   * @param onFailed told when a batch cannot be sent
   */
  constructor(socket: Socket, receiving: Receiving, onWritten: () => void, onFailed: (error: Error) => void) {
    this.socket = socket;
    this.receiving = receiving;
    this.onWritten = onWritten;
    this.onFailed = onFailed;
    this.fileSender = new FileSender(socket, this.goOn);
  }

  freeBytes(): number {
    return this.full ? 0 : FRAME_BYTES_MAX;
  }

  /** Bytes that were committed and that the socket has not taken. */
  get unsentBytes(): number {
    return (
      this.queuedBytes +
      (this.current.index - this.current.start) +
      (this.batch === undefined ? 0 : this.batch.bytesLeft + this.socket.writableLength)
    );
  }

  /**
   * Takes the next fragment of a message, by reference unless it is small. False: too much waits already, or a file
   * before it. @throws Error as `Parts`
   */
  place(source: Parts, byteLength: number): boolean {
    if (!source.mayTake(byteLength) || this.fragmentBytes >= FRAGMENT_BYTES_MAX) return false;
    try {
      source.takeTo(this.placed, byteLength);
    } catch (error) {
      // Nothing of it is announced yet.
      this.placed.length = 0;
      throw error;
    }
    this.placedBytes += byteLength;
    this.placing = source;
    return true;
  }

  commit(byteLength: number): void {
    const { current } = this;
    current.index += (byteLength + (FRAME_ALIGNMENT - 1)) & -FRAME_ALIGNMENT;
    this.framesSent++;
    if (this.placing !== undefined) this.queueFragment(this.placing);
    if (STAGING_BYTES - current.index < FRAME_BYTES_MAX) this.turnStaging();
  }

  private queueFragment(source: Parts): void {
    const { current, placed } = this;
    const copied = this.partsToCopy();
    for (let i = 0; i < copied; i++) {
      const part = placed[i] as Uint8Array | Borrowed;
      current.bytes.set(part instanceof Borrowed ? part.bytes : part, current.index);
      current.index += part.length;
    }
    this.queueStaged();
    current.start = current.index = (current.index + (FRAME_ALIGNMENT - 1)) & -FRAME_ALIGNMENT;
    let last: QueuedBytes | QueuedFile | undefined;
    for (let i = copied; i < placed.length; i++) {
      // What may shrink could be too short for what is announced here.
      const part = canShrink(placed[i]) ? copyOf((placed[i] as Borrowed).bytes) : placed[i];
      const isBorrowed = part instanceof Borrowed;
      last =
        part instanceof FileRange
          ? new QueuedFile(part, source)
          : new QueuedBytes(isBorrowed ? part.bytes : part, source, isBorrowed);
      this.queue.push(last);
      this.queuedBytes += part.length;
      this.fragmentBytes += part.length;
      if (isBorrowed) source.bytesOnLoan += part.length;
    }
    if (last !== undefined) {
      last.isLast = true;
      source.owner.use();
    }
    placed.length = 0;
    this.placedBytes = 0;
    this.placing = undefined;
  }

  /** How many parts of the placed fragment are copied behind its frame: all of a small one, or a short beginning. */
  private partsToCopy(): number {
    const { current, placed, placedBytes } = this;
    const room = STAGING_BYTES - FRAME_ALIGNMENT - current.index;
    if (
      placedBytes <= COPIED_BYTES_MAX &&
      room - placedBytes >= COPIES_ROOM_BYTES &&
      !placed.some((part) => part instanceof FileRange)
    )
      return placed.length;
    const [first] = placed;
    return !(first instanceof FileRange) && first.length <= JOINED_BYTES_MAX && first.length <= room ? 1 : 0;
  }

  private queueStaged(): void {
    const { current } = this;
    if (current.start === current.index) return;
    this.queue.push(current.bytes.subarray(current.start, current.index));
    this.queuedBytes += current.index - current.start;
    current.start = current.index;
  }

  /** The current buffer is used up; the other one is next, if it is free. */
  private turnStaging(): void {
    this.queueStaged();
    this.full = this.otherIs !== "free";
    if (this.full) return;
    const used = this.current;
    this.current = this.other ?? new Staging();
    this.other = used;
    this.otherIs = "queued";
  }

  /** Hands over what was committed, unless the socket is still busy with the last batch. */
  flush(): void {
    this.handOver();
    this.tellReturned();
  }

  private handOver(): void {
    if (this.writing || this.closed) return;
    this.queueStaged();
    if (this.queue.length === 0) return;
    const batch: Batch = { entries: this.queue, next: 0, given: 0, bytesLeft: this.queuedBytes };
    this.batch = batch;
    this.queue = [];
    this.queuedBytes = 0;
    this.fragmentBytesInBatch = this.fragmentBytes;
    if (this.otherIs === "queued") this.otherIs = "with the socket";
    this.handOn(batch);
  }

  /** Hands over what the socket takes of the batch; it has taken all that it was given. */
  private handOn(batch: Batch): void {
    this.awaitsSocket = false;
    this.taken(batch, batch.given);
    while (batch.next < batch.entries.length) {
      const entry = batch.entries[batch.next];
      if (!(entry instanceof QueuedFile ? this.handOnFile(batch, entry) : this.handOnBytes(batch))) return;
    }
    if (!this.socket.destroyed) this.batchTaken();
  }

  /** False: it waits. */
  private handOnFile(batch: Batch, file: QueuedFile): boolean {
    const before = file.sentBytes;
    const next = this.fileSender.send(file);
    const written = typeof next === "string" ? 0 : next.reduce((sum, { length }) => sum + length, 0);
    batch.bytesLeft -= file.sentBytes - before - written;
    if (typeof next !== "string") return this.give(batch, batch.next, next, written);
    if (next === "waits") return false;
    file.source.filesUnderWay--;
    this.taken(batch, batch.next + 1);
    return true;
  }

  /** Hands over the memory up to the next file. False: the socket has not taken all of it. */
  private handOnBytes(batch: Batch): boolean {
    const { entries, next } = batch;
    const chunks: Uint8Array[] = [];
    let borrows = false;
    let byteLength = 0;
    for (let i = next; i < entries.length; i++) {
      const entry = entries[i];
      if (entry instanceof QueuedFile) break;
      const bytes = entry instanceof QueuedBytes ? entry.bytes : entry;
      // Else the peer would take what comes next for the rest of the fragment.
      if (entry instanceof QueuedBytes && bytes.length !== entry.byteLength)
        return this.failDetached(bytes.length, entry.byteLength);
      if (entry instanceof QueuedBytes && entry.borrowed) borrows = true;
      chunks.push(bytes);
      byteLength += bytes.length;
    }
    const end = next + chunks.length;
    if (!borrows) return this.give(batch, end, chunks, byteLength);
    this.written(batch, writeAtOnce(this.socket, chunks));
    if (batch.next === end) return true;
    if (this.keeping !== undefined) this.copyBorrowed(this.keeping);
    return this.giveRest(batch, end);
  }

  private failDetached(byteLength: number, expected: number): false {
    this.onFailed(
      new Error(
        `memory of a message was detached while it waited to be sent: ${byteLength} of ${expected} bytes are left`,
      ),
    );
    return false;
  }

  /**
   * The socket is full: it is given what it may keep, and a copy of the beginning of what is borrowed, which tells when
   * there is room.
   */
  private giveRest(batch: Batch, end: number): boolean {
    const { entries } = batch;
    const bounce = this.bounceFor(batch, end);
    const chunks: Uint8Array[] = [];
    let byteLength = 0;
    let bounced = 0;
    let given = batch.next;
    for (; given < end; given++) {
      const entry = entries[given] as Uint8Array | QueuedBytes;
      let chunk = entry instanceof QueuedBytes ? entry.bytes : entry;
      if (entry instanceof QueuedBytes && entry.borrowed) {
        const copied = Math.min(chunk.length, bounce.length - bounced);
        if (copied === 0) break;
        bounce.set(copied < chunk.length ? chunk.subarray(0, copied) : chunk, bounced);
        chunk = bounce.subarray(bounced, bounced + copied);
        bounced += copied;
        this.take(entry, copied);
      }
      chunks.push(chunk);
      byteLength += chunk.length;
      if (entry instanceof QueuedBytes && entry.borrowed && entry.byteLength > 0) break;
    }
    return this.give(batch, given, chunks, byteLength);
  }

  /** Memory for what is copied of borrowed bytes; in use until the socket has taken it. */
  private bounceFor({ entries, next }: Batch, end: number): Uint8Array {
    let borrowedBytes = 0;
    for (let i = next; i < end; i++) {
      const entry = entries[i];
      if (entry instanceof QueuedBytes && entry.borrowed) borrowedBytes += entry.byteLength;
    }
    const most = writesAtOnce(this.socket) ? BOUNCE_BYTES : PORTION_BYTES;
    const byteLength = Math.min(borrowedBytes, most);
    if (this.bounce === undefined || this.bounce.length < byteLength) this.bounce = Buffer.allocUnsafeSlow(most);
    return this.bounce.subarray(0, byteLength);
  }

  /** Gives chunks to the socket, with which all entries before `end` are given. False: it has not taken all of them. */
  private give(batch: Batch, end: number, chunks: readonly Uint8Array[], byteLength: number): boolean {
    const { socket } = this;
    batch.bytesLeft -= byteLength;
    batch.given = end;
    const last = chunks.length - 1;
    this.awaitsSocket = true;
    if (last > 0) socket.cork();
    for (let i = 0; i < last; i++) socket.write(chunks[i]);
    socket.write(chunks[last], this.onWrite);
    if (last > 0) socket.uncork();
    if (socket.writableLength > 0 || socket.destroyed) return false;
    this.awaitsSocket = false;
    this.taken(batch, end);
    return true;
  }

  /** The first `byteLength` bytes of the batch were written. */
  private written(batch: Batch, byteLength: number): void {
    batch.bytesLeft -= byteLength;
    for (let left = byteLength; left > 0; ) {
      const entry = batch.entries[batch.next] as Uint8Array | QueuedBytes;
      const length = Math.min(entry instanceof QueuedBytes ? entry.byteLength : entry.length, left);
      left -= length;
      if (entry instanceof QueuedBytes) this.take(entry, length);
      if (entry instanceof QueuedBytes ? entry.byteLength === 0 : length === entry.length)
        this.taken(batch, batch.next + 1);
      else if (!(entry instanceof QueuedBytes)) batch.entries[batch.next] = entry.subarray(length);
    }
  }

  private take(entry: QueuedBytes, byteLength: number): void {
    entry.bytes = entry.bytes.subarray(byteLength);
    entry.byteLength -= byteLength;
    if (!entry.borrowed) return;
    const { source } = entry;
    source.bytesOnLoan -= byteLength;
    if (source.bytesOnLoan === 0) this.returned.push(source);
  }

  /** Nothing reads the entries before `end` any more. */
  private taken(batch: Batch, end: number): void {
    while (batch.next < end) discard(batch.entries[batch.next++]);
    if (batch.given < end) batch.given = end;
  }

  private tellReturned(): void {
    if (this.returned.length === 0) return;
    const { returned } = this;
    this.returned = [];
    for (const source of returned) {
      const { onReturned } = source;
      if (source.bytesOnLoan > 0 || onReturned === undefined) continue;
      source.onReturned = undefined;
      onReturned();
    }
  }

  /** Sends a message's borrowed bytes, and copies what does not leave: its user's memory is his again. */
  keep(source: Parts): void {
    this.keeping = source;
    this.handOver();
    this.keeping = undefined;
    if (source.bytesOnLoan > 0) this.copyBorrowed(source);
    this.tellReturned();
  }

  private copyBorrowed(source: Parts): void {
    const { batch } = this;
    const waiting = [...(batch?.entries.slice(batch.given) ?? []), ...this.queue].filter(
      // Of one that is detached there is nothing to be had: it fails when its turn comes.
      (entry): entry is QueuedBytes =>
        entry instanceof QueuedBytes &&
        entry.borrowed &&
        entry.source === source &&
        entry.bytes.length === entry.byteLength,
    );
    const byteLength = waiting.reduce((sum, entry) => sum + entry.byteLength, 0);
    if (byteLength === 0) return;
    let memory: ReceiveMemory;
    try {
      memory = this.receiving.take(byteLength);
    } catch (error) {
      return this.onFailed(error as Error);
    }
    let at = 0;
    for (const entry of waiting) {
      const copy = memory.bytes.subarray(at, (at += entry.byteLength));
      copy.set(entry.bytes);
      entry.bytes = copy;
      entry.borrowed = false;
      entry.memory = memory;
      memory.hold();
    }
    memory.unhold();
    source.bytesOnLoan -= byteLength;
  }

  private batchTaken(): void {
    this.batch = undefined;
    this.fragmentBytes -= this.fragmentBytesInBatch;
    this.fragmentBytesInBatch = 0;
    if (this.otherIs === "with the socket") {
      this.otherIs = "free";
      this.other!.start = this.other!.index = 0;
    }
    const { current } = this;
    if (this.full && this.otherIs === "free") {
      this.full = false;
      this.current = this.other!;
      // Its last bytes may still be in the queue.
      this.other = current;
      this.otherIs = this.queue.length > 0 ? "queued" : "free";
      if (this.otherIs === "free") current.start = current.index = 0;
    } else if (!this.full && current.start === current.index && this.queue.length === 0) {
      current.start = current.index = 0;
    }
  }

  /** The socket is closed. */
  close(): void {
    this.closed = true;
    this.fileSender.close();
    const { batch } = this;
    const waiting = [...(batch?.entries.slice(batch.next) ?? []), ...this.queue];
    this.batch = undefined;
    this.queue = [];
    this.placed.length = 0;
    waiting.forEach(discard);
  }
}

/** It will not be read any more. */
function discard(entry: Entry): void {
  if (entry instanceof Uint8Array) return;
  if (entry instanceof QueuedBytes) {
    entry.memory?.unhold();
    entry.memory = undefined;
  }
  if (entry.isLast) entry.source.owner.unuse();
}
