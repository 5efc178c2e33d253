/**
 * Sends on a stream socket. Small frames are gathered in staging memory, fragments of large messages are sent from
 * where they lie, and everything that was committed in one tick leaves with one `write` or `writev`. Ranges of files go
 * between two of these (`FileSender`).
 *
 * SOCKET-4  One batch is with the socket at a time. Memory of a batch is not written to before the socket has taken it.
 * SOCKET-5  The bytes that wait are bounded: two staging buffers, and `FRAGMENT_BYTES_MAX` of fragments, of which the
 *           last may reach past it.
 * SOCKET-8  Node and the kernel are given only memory of ours to write later. Borrowed bytes (BORROW-1) are written at
 *           once or not at all. So a user can have them back at any time, at the price of copying what is left. If a
 *           user takes them away before they have left, their message fails (SOCKET-9, in `queued.ts`).
 */
import type { Socket } from "node:net";
import type { ReceiveMemory } from "../../memory/receive/receive-memory.js";
import type { Receiving } from "../../memory/receive/receiving.js";
import { FRAME_BYTES_MAX } from "../../wire/frame.js";
import type { Parts } from "../../wire/parts.js";
import { FileRange, goneMeanwhile } from "../../wire/parts.js";
import { inRootContext } from "../poll/root-context.js";
import { Bounce } from "./bounce.js";
import { FileSender } from "./file-sender.js";
import type { Batch, Entry } from "./queued.js";
import { borrowedBytes, discard, QueuedBytes, QueuedFile, QueuedHead, queuedPart, takeBack } from "./queued.js";
import { JOINED_BYTES_MAX, PlacedFragment } from "./placed-fragment.js";
import { Staging } from "./staging.js";
import { writeAtOnce, writesAtOnce } from "./write-at-once.js";

/** Bytes of large messages that wait for the socket. */
const FRAGMENT_BYTES_MAX = 1 << 20;
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
  private readonly placed = new PlacedFragment();
  private readonly fileSender: FileSender;
  /** Bytes of fragments that wait where they lie. */
  private fragmentBytes = 0;
  private fragmentBytesInBatch = 0;
  private readonly bounce = new Bounce();
  /** The message whose borrowed bytes are copied if they cannot leave now. */
  private keeping: Parts | undefined;
  /** Messages of which no byte is borrowed any more, because all have left or some are gone. Nobody is told yet. */
  private returned: Parts[] = [];
  private closed = false;
  private readonly advance = (entry: QueuedBytes, byteLength: number) => {
    if (entry.advance(byteLength)) this.returned.push(entry.source);
  };
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
    if (!source.mayTake(byteLength)) return false;
    if (this.fragmentBytes >= FRAGMENT_BYTES_MAX && !this.isShortEnd(source, byteLength)) return false;
    // An error concerns only this message, because nothing of the fragment is announced yet.
    this.placed.place(source, byteLength);
    return true;
  }

  /** The last bytes of a message, which are copied. They need not wait for the fragment before them. */
  private isShortEnd({ leftBytes }: Parts, byteLength: number): boolean {
    return byteLength === leftBytes && byteLength <= JOINED_BYTES_MAX && this.staging.hasRoomToCopy(byteLength);
  }

  commit(byteLength: number): void {
    const { staging } = this;
    const frameStart = staging.current.index;
    staging.commit(byteLength);
    this.framesSent++;
    if (this.placed.source !== undefined) this.queueFragment(this.placed.source, frameStart);
    if (staging.isUsedUp) this.turnStaging();
  }

  private queueFragment(source: Parts, frameStart: number): void {
    const { staging, placed } = this;
    const copied = placed.partsToCopy(staging);
    // A fragment that was copied need not be taken back, unless it is of no use without others of its message.
    const isSafe = copied === placed.parts.length && source.bytesOnLoan === 0;
    if (!isSafe) this.queueStaged(frameStart);
    placed.copy(staging, copied);
    if (isSafe) this.queueStaged();
    else this.queueParts(source, copied);
    staging.align();
    placed.clear();
  }

  /** Queues the frame that was staged last, and the parts of its fragment from `from` on. */
  private queueParts(source: Parts, from: number): void {
    const { parts } = this.placed;
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- a frame was staged right before
    const head = new QueuedHead(this.staging.take()!, source, source.leftBytes === 0);
    this.queue.push(head);
    this.queuedBytes += head.bytes.length;
    let last: QueuedBytes | QueuedFile | undefined;
    for (let i = from; i < parts.length; i++) {
      const part = parts[i];
      last = part instanceof FileRange ? new QueuedFile(part, head) : queuedPart(part, head);
      this.queue.push(last);
      this.queuedBytes += part.length;
      this.fragmentBytes += part.length;
    }
    if (last === undefined) return;
    last.isLast = true;
    source.owner.use();
  }

  private queueStaged(end?: number): void {
    const bytes = this.staging.take(end);
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
    this.bounce.taken();
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
      if (entry instanceof QueuedBytes && entry.borrowed) {
        // Otherwise the peer would take the next bytes for the rest of the fragment.
        if (entry.isGone) return this.fail(batch, entry.source);
        borrows = true;
      }
      const bytes = entry instanceof Uint8Array ? entry : entry.bytes;
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

  /** Some memory of a message is gone (SOCKET-9). True: the rest of the batch can go on. */
  private fail(batch: Batch, source: Parts): true {
    source.failure ??= goneMeanwhile();
    batch.bytesLeft -= takeBack(batch.entries, batch.given, source).all;
    const { all, ofFragments } = takeBack(this.queue, 0, source);
    this.queuedBytes -= all;
    this.fragmentBytes -= ofFragments;
    source.bytesOnLoan = 0;
    this.returned.push(source);
    return true;
  }

  /** The socket is full: it is given what it may keep. */
  private giveRest(batch: Batch, end: number): boolean {
    const given = this.bounce.take(batch, end, writesAtOnce(this.socket), this.advance);
    return this.give(batch, given.end, given.chunks, given.byteLength);
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
      const entry = batch.entries[batch.next] as Uint8Array | QueuedHead | QueuedBytes;
      const bytes = entry instanceof Uint8Array ? entry : entry.bytes;
      const length = Math.min(bytes.length, left);
      left -= length;
      if (entry instanceof QueuedBytes) this.advance(entry, length);
      if (length === bytes.length) this.taken(batch, batch.next + 1);
      else if (entry instanceof Uint8Array) batch.entries[batch.next] = entry.subarray(length);
      else if (entry instanceof QueuedHead) entry.begin(length);
    }
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
      if (source.failure === undefined) onReturned();
      // Code of the user's may learn of it.
      else inRootContext(onReturned);
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
      // An entry whose memory is gone fails its message when its turn comes.
      (entry): entry is QueuedBytes =>
        entry instanceof QueuedBytes && entry.borrowed && entry.source === source && !entry.isGone,
    );
    const byteLength = borrowedBytes(waiting);
    if (byteLength === 0) return;
    let memory: ReceiveMemory;
    try {
      memory = this.receiving.take(byteLength);
    } catch (error) {
      return this.onFailed(error as Error);
    }
    let at = 0;
    for (const entry of waiting) entry.moveTo(memory.bytes.subarray(at, (at += entry.byteLength)), memory);
    memory.unhold();
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
    this.placed.clear();
    waiting.forEach(discard);
  }
}
