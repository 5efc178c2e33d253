/**
 * What leaves on a stream socket: small frames are gathered in staging memory, pieces of large messages go from where they
 * lie, and everything that was committed in one tick leaves with one `write` or `writev`.
 *
 * SOCKET-4  One batch is with the socket at a time. Memory of a batch is not written to before the socket has taken it.
 * SOCKET-5  What waits is bounded: two staging buffers, and `PIECES_BYTES_MAX` of pieces, of which the last may reach past it.
 */
import type { Socket } from "node:net";
import { FRAME_ALIGNMENT } from "../memory/layout.js";
import { FRAME_BYTES_MAX } from "../wire/frame.js";
import type { Parts } from "../wire/parts.js";
import { inRootContext } from "./root-context.js";

const STAGING_BYTES = 128 << 10;
/** Bytes of large messages that wait for the socket. */
const PIECES_BYTES_MAX = 1 << 20;

class Staging {
  readonly bytes = Buffer.allocUnsafeSlow(STAGING_BYTES);
  readonly words = new Int32Array(this.bytes.buffer);
  /** From here on it is not in a batch or the queue yet, … */
  start = 0;
  /** … and this is where the next frame goes. */
  index = 0;
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
  writing = false;
  private readonly socket: Socket;
  private readonly onWritten: () => void;
  private readonly onFailed: (error: Error) => void;
  /** What the next batch is made of. An entry may become something else than memory: a range of a file. */
  private queue: Uint8Array[] = [];
  private queuedBytes = 0;
  /** Parts of the piece of the frame that is about to be committed. */
  private readonly placed: Uint8Array[] = [];
  private placedBytes = 0;
  private pieceBytes = 0;
  private pieceBytesInBatch = 0;
  private closed = false;
  private readonly onWrite = () => {
    if (this.writing && !this.closed && this.socket.writableLength === 0) inRootContext(this.onBatchTaken);
  };
  private readonly onBatchTaken = () => {
    this.batchTaken();
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
  }

  freeBytes(): number {
    return this.full ? 0 : FRAME_BYTES_MAX;
  }

  /** Bytes that were committed and that the socket has not taken. */
  get unsentBytes(): number {
    return this.queuedBytes + (this.current.index - this.current.start) + (this.writing ? this.socket.writableLength : 0);
  }

  /** Takes the next piece of a message by reference. False: too much waits already. */
  place(source: Parts, byteLength: number): boolean {
    if (this.pieceBytes >= PIECES_BYTES_MAX) return false;
    source.takeTo(this.placed, byteLength);
    this.placedBytes += byteLength;
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
    this.queueStaged();
    for (const part of this.placed) this.queue.push(part);
    this.placed.length = 0;
    this.queuedBytes += this.placedBytes;
    this.pieceBytes += this.placedBytes;
    this.placedBytes = 0;
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
    if (this.writing || this.closed) return;
    this.queueStaged();
    const { queue, queuedBytes, socket } = this;
    if (queue.length === 0) return;
    this.queue = [];
    this.queuedBytes = 0;
    this.pieceBytesInBatch = this.pieceBytes;
    if (this.otherIs === "queued") this.otherIs = "with the socket";
    this.writing = true;
    const last = queue.length - 1;
    if (last > 0) socket.cork();
    for (let i = 0; i < last; i++) socket.write(queue[i]);
    socket.write(queue[last], this.onWrite);
    if (last > 0) {
      // Else the peer would take what comes next for the rest of the piece.
      const { writableLength } = socket;
      if (writableLength !== queuedBytes) {
        return this.onFailed(new Error(`memory of a message was detached while it waited to be sent: ${writableLength} of ${queuedBytes} bytes are left`));
      }
      socket.uncork();
    }
    if (socket.writableLength === 0 && !socket.destroyed) this.batchTaken();
  }

  private batchTaken(): void {
    this.writing = false;
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

  close(): void {
    this.closed = true;
    this.queue = [];
    this.placed.length = 0;
  }
}
