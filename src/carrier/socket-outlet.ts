/**
 * What leaves on a stream socket: small frames are gathered in staging memory, pieces of large messages go from where they
 * lie, and everything that was committed in one tick leaves with one `write` or `writev`. Ranges of files go between two of these (`FileSender`).
 *
 * SOCKET-4  One batch is with the socket at a time. Memory of a batch is not written to before the socket has taken it.
 * SOCKET-5  What waits is bounded: two staging buffers, and `PIECES_BYTES_MAX` of pieces, of which the last may reach past it.
 */
import type { Socket } from "node:net";
import { FRAME_ALIGNMENT } from "../memory/layout.js";
import { FRAME_BYTES_MAX } from "../wire/frame.js";
import type { Part, Parts } from "../wire/parts.js";
import { FileRange } from "../wire/parts.js";
import type { FileOnItsWay } from "./file-sender.js";
import { FileSender } from "./file-sender.js";
import { inRootContext } from "./root-context.js";

const STAGING_BYTES = 128 << 10;
/** Bytes of large messages that wait for the socket. */
const PIECES_BYTES_MAX = 1 << 20;
/** Up to this size, in bytes, what a piece begins with is copied behind its frame: that costs less than an entry of its own. */
const JOINED_BYTES_MAX = 512;

class Staging {
  readonly bytes = Buffer.allocUnsafeSlow(STAGING_BYTES);
  readonly words = new Int32Array(this.bytes.buffer);
  /** From here on it is not in a batch or the queue yet, … */
  start = 0;
  /** … and this is where the next frame goes. */
  index = 0;
}

/** A range of a file in a batch, and the bytes of memory between the one before it and this. */
class QueuedFile implements FileOnItsWay {
  readonly range: FileRange;
  readonly source: Parts;
  readonly memoryBytes: number;
  sentBytes = 0;

  constructor(range: FileRange, source: Parts, memoryBytes: number) {
    this.range = range;
    this.source = source;
    this.memoryBytes = memoryBytes;
  }
}

/** What is handed over as a whole: entries from `next` on, of which `memoryBytes` bytes lie behind the last file. */
interface Batch {
  readonly entries: readonly (Uint8Array | QueuedFile)[];
  readonly files: number;
  readonly memoryBytes: number;
  /** Messages with parts in it. */
  readonly sources: readonly Parts[];
  next: number;
  bytesLeft: number;
}

export class SocketOutlet {
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
  private readonly onWritten: () => void;
  private readonly onFailed: (error: Error) => void;
  /** What the next batch is made of. */
  private queue: (Uint8Array | QueuedFile)[] = [];
  private queuedBytes = 0;
  private queuedFiles = 0;
  /** Behind the last file. */
  private queuedMemoryBytes = 0;
  private sources: Parts[] = [];
  /** Parts of the piece of the frame that is about to be committed. */
  private readonly placed: Part[] = [];
  private placedBytes = 0;
  private readonly fileSender: FileSender;
  private pieceBytes = 0;
  private pieceBytesInBatch = 0;
  private closed = false;
  private readonly onWrite = () => {
    if (this.awaitsSocket && !this.closed && this.socket.writableLength === 0) inRootContext(this.goOn);
  };
  private readonly goOn = () => {
    if (this.closed || this.batch === undefined) return;
    this.handOn(this.batch);
    if (this.batch !== undefined) return;
    this.flush();
    this.onWritten();
  };

  /**
   * @param onWritten told when the socket has taken a batch that it could not take at once: there is room again
   * @param onFailed told when a batch cannot be sent
   */
  constructor(socket: Socket, onWritten: () => void, onFailed: (error: Error) => void) {
    this.socket = socket;
    this.onWritten = onWritten;
    this.onFailed = onFailed;
    this.fileSender = new FileSender(socket, this.goOn);
  }

  freeBytes(): number {
    return this.full ? 0 : FRAME_BYTES_MAX;
  }

  /** Bytes that were committed and that the socket has not taken. */
  get unsentBytes(): number {
    return this.queuedBytes + (this.current.index - this.current.start) + (this.batch === undefined ? 0 : this.batch.bytesLeft + this.socket.writableLength);
  }

  /** Takes the next piece of a message by reference. False: too much waits already, or a file before it. @throws Error as `Parts` */
  place(source: Parts, byteLength: number): boolean {
    if (!source.mayTake(byteLength) || this.pieceBytes >= PIECES_BYTES_MAX) return false;
    source.takeTo(this.placed, byteLength);
    this.placedBytes += byteLength;
    this.sources.push(source);
    source.owner.use();
    return true;
  }

  commit(byteLength: number): void {
    const { current } = this;
    current.index += (byteLength + (FRAME_ALIGNMENT - 1)) & -FRAME_ALIGNMENT;
    this.framesSent++;
    if (this.placedBytes > 0) this.queuePiece();
    if (STAGING_BYTES - current.index < FRAME_BYTES_MAX) this.turnStaging();
  }

  private queuePiece(): void {
    const { current, placed } = this;
    const first = placed[0];
    const joins = first instanceof Uint8Array && first.length <= JOINED_BYTES_MAX && current.index + first.length <= STAGING_BYTES - FRAME_ALIGNMENT;
    if (joins) {
      current.bytes.set(first, current.index);
      current.index += first.length;
    }
    this.queueStaged();
    current.start = current.index = (current.index + (FRAME_ALIGNMENT - 1)) & -FRAME_ALIGNMENT;
    this.pieceBytes += this.placedBytes;
    if (joins) this.placedBytes -= first.length;
    const source = this.sources[this.sources.length - 1];
    for (let i = joins ? 1 : 0; i < placed.length; i++) {
      const part = placed[i];
      if (part instanceof FileRange) {
        this.queue.push(new QueuedFile(part, source, this.queuedMemoryBytes));
        this.queuedFiles++;
        this.queuedMemoryBytes = 0;
      } else {
        this.queue.push(part);
        this.queuedMemoryBytes += part.length;
      }
    }
    placed.length = 0;
    this.queuedBytes += this.placedBytes;
    this.placedBytes = 0;
  }

  private queueStaged(): void {
    const { current } = this;
    if (current.start === current.index) return;
    this.queue.push(current.bytes.subarray(current.start, current.index));
    this.queuedBytes += current.index - current.start;
    this.queuedMemoryBytes += current.index - current.start;
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
    if (this.writing || this.closed) return;
    this.queueStaged();
    if (this.queue.length === 0) return;
    const batch: Batch = { entries: this.queue, files: this.queuedFiles, memoryBytes: this.queuedMemoryBytes, sources: this.sources, next: 0, bytesLeft: this.queuedBytes };
    this.batch = batch;
    this.queue = [];
    if (this.sources.length > 0) this.sources = [];
    this.queuedBytes = this.queuedMemoryBytes = this.queuedFiles = 0;
    this.pieceBytesInBatch = this.pieceBytes;
    if (this.otherIs === "queued") this.otherIs = "with the socket";
    this.handOn(batch);
  }

  /** Hands over what the socket takes of the batch. */
  private handOn(batch: Batch): void {
    this.awaitsSocket = false;
    const { entries } = batch;
    while (batch.next < entries.length) {
      const entry = entries[batch.next];
      if (entry instanceof QueuedFile) {
        if (!this.handOnFile(batch, entry)) return;
        continue;
      }
      let end = batch.files === 0 ? entries.length : batch.next + 1;
      while (end < entries.length && !(entries[end] instanceof QueuedFile)) end++;
      const run = (batch.next === 0 && end === entries.length ? entries : entries.slice(batch.next, end)) as readonly Uint8Array[];
      batch.next = end;
      if (!this.write(batch, run, end === entries.length ? batch.memoryBytes : (entries[end] as QueuedFile).memoryBytes)) return;
    }
    if (!this.socket.destroyed) this.batchTaken(batch);
  }

  /** False: it waits. */
  private handOnFile(batch: Batch, file: QueuedFile): boolean {
    const before = file.sentBytes;
    const next = this.fileSender.send(file);
    const written = typeof next === "string" ? 0 : next.reduce((sum, { length }) => sum + length, 0);
    batch.bytesLeft -= file.sentBytes - before - written;
    if (typeof next !== "string") return this.write(batch, next, written);
    if (next === "waits") return false;
    file.source.filesUnderWay--;
    batch.next++;
    return true;
  }

  /** False: the socket has not taken all of it. */
  private write(batch: Batch, run: readonly Uint8Array[], byteLength: number): boolean {
    const { socket } = this;
    batch.bytesLeft -= byteLength;
    const last = run.length - 1;
    this.awaitsSocket = true;
    if (last > 0) socket.cork();
    for (let i = 0; i < last; i++) socket.write(run[i]);
    socket.write(run[last], this.onWrite);
    if (last > 0) {
      // Else the peer would take what comes next for the rest of the piece.
      const { writableLength } = socket;
      if (writableLength !== byteLength) {
        this.onFailed(new Error(`memory of a message was detached while it waited to be sent: ${writableLength} of ${byteLength} bytes are left`));
        return false;
      }
      socket.uncork();
    }
    if (socket.writableLength > 0 || socket.destroyed) return false;
    this.awaitsSocket = false;
    return true;
  }

  private batchTaken(batch: Batch): void {
    this.batch = undefined;
    for (const { owner } of batch.sources) owner.unuse();
    this.pieceBytes -= this.pieceBytesInBatch;
    this.pieceBytesInBatch = 0;
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
    for (const { owner } of [...(this.batch?.sources ?? []), ...this.sources]) owner.unuse();
    this.sources = [];
    this.queue = [];
    this.placed.length = 0;
  }
}
