/**
 * Sends on a stream socket. Small frames are gathered in staging memory, fragments of large messages are sent from
 * where they lie, and everything that was committed in one tick leaves with one `write` or `writev`. Ranges of files go
 * between two of these (`FileSender`).
 *
 * SOCKET-4  One batch is with the socket at a time. Memory of a batch is not written to before the socket has taken it.
 * SOCKET-5  The bytes that wait are bounded: two staging buffers, and `FRAGMENT_BYTES_MAX` of fragments, of which the
 *           last may reach past it.
 * SOCKET-8  Node and the kernel are given only memory of ours to write later. Borrowed bytes (BORROW-1) are written at
 *           once or not at all. So a user can have them back at any time, at the price of copying what is left.
 */
import type { Socket } from "node:net";
import type { ReceiveMemory } from "../../memory/receive/receive-memory.js";
import type { Receiving } from "../../memory/receive/receiving.js";
import { FRAME_BYTES_MAX } from "../../wire/frame.js";
import type { Borrowed, Part, Parts } from "../../wire/parts.js";
import { FileRange } from "../../wire/parts.js";
import { inRootContext } from "../poll/root-context.js";
import { FileSender } from "./file-sender.js";
import type { Batch, Entry } from "./queued.js";
import { discard, QueuedBytes, QueuedFile, queuedPart } from "./queued.js";
import { Staging } from "./staging.js";
import { writeAtOnce, writesAtOnce } from "./write-at-once.js";

/** Bytes of large messages that wait for the socket. */
const FRAGMENT_BYTES_MAX = 1 << 20;
/**
 * Up to this size, in bytes, the beginning of a fragment is copied behind its frame. That costs less than an entry of
 * its own.
 */
const JOINED_BYTES_MAX = 512;
/** Up to this size, in bytes, a whole fragment is copied. Then nobody has to wait until the socket has taken it. */
const COPIED_BYTES_MAX = 32 << 10;
/**
 * When the socket is full, this many borrowed bytes are copied for Node to write. When Node has written them, there is
 * room for the others.
 */
const BOUNCE_BYTES = 64;
/** Where nothing can be written at once, all borrowed bytes go that way, in portions of this size. */
const PORTION_BYTES = 256 << 10;

export class WriteQueue {
  readonly staging = new Staging();
  framesSent = 0;
  /** The batch that is with the socket. */
  private batch: Batch | undefined;
  /** The socket has not taken all that it was given last. */
  private awaitsSocket = false;
  private readonly socket: Socket;
  private readonly receiving: Receiving;
  private readonly onWritten: () => void;
  private readonly onFailed: (error: Error) => void;
  /** The entries of the next batch. */
  private queue: Entry[] = [];
  private queuedBytes = 0;
  /** The fragment of the frame that is about to be committed. */
  private placing: Parts | undefined;
  private readonly placed: Part[] = [];
  private placedBytes = 0;
  private readonly fileSender: FileSender;
  /** Bytes of fragments that wait where they lie. */
  private fragmentBytes = 0;
  private fragmentBytesInBatch = 0;
  private bounce: Buffer | undefined;
  /** The message whose borrowed bytes are copied if they cannot leave now. */
  private keeping: Parts | undefined;
  /** Messages of which no byte is borrowed any more. Their users are not told yet. */
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
   * @param receiving memory for copies
   * @param onWritten called when there is room again: the socket has taken a batch that it could not take at once
   * @param onFailed called when a batch cannot be sent
   */
  constructor(socket: Socket, receiving: Receiving, onWritten: () => void, onFailed: (error: Error) => void) {
    this.socket = socket;
    this.receiving = receiving;
    this.onWritten = onWritten;
    this.onFailed = onFailed;
    this.fileSender = new FileSender(socket, this.goOn);
  }

  freeBytes(): number {
    return this.staging.isFull ? 0 : FRAME_BYTES_MAX;
  }

  /** Whether a batch is with the socket. */
  get writing(): boolean {
    return this.batch !== undefined;
  }

  /** Bytes that were committed and that the socket has not taken. */
  get unsentBytes(): number {
    return (
      this.queuedBytes +
      this.staging.untakenBytes +
      (this.batch === undefined ? 0 : this.batch.bytesLeft + this.socket.writableLength)
    );
  }

  /**
   * Takes the next fragment of a message, by reference unless it is small. False: too much waits already, or a file
   * before it has not been sent.
   * @throws Error as `Parts`
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
    const { staging } = this;
    staging.commit(byteLength);
    this.framesSent++;
    if (this.placing !== undefined) this.queueFragment(this.placing);
    if (staging.isUsedUp) this.turnStaging();
  }

  private queueFragment(source: Parts): void {
    const { staging, placed } = this;
    const copied = this.partsToCopy();
    for (let i = 0; i < copied; i++) {
      const part = placed[i] as Uint8Array | Borrowed;
      staging.append(part instanceof Uint8Array ? part : part.bytes);
    }
    this.queueStaged();
    staging.align();
    let last: QueuedBytes | QueuedFile | undefined;
    for (let i = copied; i < placed.length; i++) {
      const part = placed[i];
      last = part instanceof FileRange ? new QueuedFile(part, source) : queuedPart(part, source);
      this.queue.push(last);
      this.queuedBytes += part.length;
      this.fragmentBytes += part.length;
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
    const { staging, placed, placedBytes } = this;
    if (
      placedBytes <= COPIED_BYTES_MAX &&
      staging.hasRoomToCopy(placedBytes) &&
      !placed.some((part) => part instanceof FileRange)
    )
      return placed.length;
    const [first] = placed;
    const joins = !(first instanceof FileRange) && first.length <= JOINED_BYTES_MAX && staging.hasRoomFor(first.length);
    return joins ? 1 : 0;
  }

  private queueStaged(): void {
    const bytes = this.staging.take();
    if (bytes === undefined) return;
    this.queue.push(bytes);
    this.queuedBytes += bytes.length;
  }

  private turnStaging(): void {
    this.queueStaged();
    this.staging.turn();
  }

  /** Gives the socket what was committed, unless it is still busy with the last batch. */
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
    this.staging.queueGiven();
    this.handOn(batch);
  }

  /** Gives the socket as much of the batch as it takes. It has taken all that it was given before. */
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

  /** Gives the socket the memory up to the next file. False: the socket has not taken all of it. */
  private handOnBytes(batch: Batch): boolean {
    const { entries, next } = batch;
    const chunks: Uint8Array[] = [];
    let borrows = false;
    let byteLength = 0;
    for (let i = next; i < entries.length; i++) {
      const entry = entries[i];
      if (entry instanceof QueuedFile) break;
      const bytes = entry instanceof QueuedBytes ? entry.bytes : entry;
      // Otherwise the peer would take the next bytes for the rest of the fragment.
      if (entry instanceof QueuedBytes && entry.isGone) return this.failDetached(bytes.length, entry.byteLength);
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
   * The socket is full. It is given the bytes that it may keep, and a copy of the first borrowed ones. When they are
   * written, there is room.
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
        this.advance(entry, copied);
      }
      chunks.push(chunk);
      byteLength += chunk.length;
      if (entry instanceof QueuedBytes && entry.borrowed && entry.byteLength > 0) break;
    }
    return this.give(batch, given, chunks, byteLength);
  }

  /** Memory for copies of borrowed bytes; in use until the socket has taken it. */
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

  /**
   * Gives chunks to the socket, which complete the entries before `end`. False: the socket has not taken all of them.
   */
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
      if (entry instanceof QueuedBytes) this.advance(entry, length);
      if (entry instanceof QueuedBytes ? entry.byteLength === 0 : length === entry.length)
        this.taken(batch, batch.next + 1);
      else if (!(entry instanceof QueuedBytes)) batch.entries[batch.next] = entry.subarray(length);
    }
  }

  private advance(entry: QueuedBytes, byteLength: number): void {
    if (entry.advance(byteLength)) this.returned.push(entry.source);
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

  /** Releases a message to its user: sends its borrowed bytes, and copies those that cannot leave. */
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
      // An entry whose memory is gone fails when its turn comes.
      (entry): entry is QueuedBytes =>
        entry instanceof QueuedBytes && entry.borrowed && entry.source === source && !entry.isGone,
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
    this.staging.socketHasTaken(this.queue.length === 0);
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
