/**
 * Reads a stream socket: takes whole frames from a private buffer, and has the fragments that follow them read straight
 * into their destination. Counterpart of `FrameReader` for shared memory, whose checks it shares (`frame-header.ts`).
 *
 * SOCKET-1  Nothing is allocated here for lengths that the peer announces. A frame fits the read buffer, and a
 *           fragment's destination comes from the receiver, which has checked the message's length against its limits.
 * SOCKET-2  A frame's memory is valid until the receiver returns. Until then nothing is read or moved.
 * SOCKET-3  One turn of the event loop delivers frames for a bounded time. The rest waits for the next turn, and the
 *           socket is not read meanwhile.
 */
import type { ReceiveMemory } from "../../memory/receive/receive-memory.js";
import { assertOwn } from "../../memory/shm/violation.js";
import { nowMs } from "../../os/timers.js";
import { FLAG, FRAME_HEADER_BYTES } from "../../wire/frame.js";
import type { FrameReceiver } from "../carrier.js";
import type { FrameRules } from "../frame-header.js";
import { newReceivedFrame, openHeader, paddedLength } from "../frame-header.js";
import { inRootContext } from "../poll/root-context.js";
import type { StreamReader } from "./stream-reader.js";

/** A turn of the event loop delivers frames for at most about this long. */
const TURN_MILLIS_MAX = 1;
/** A turn of the event loop fills the buffer at most this many times, since the answers take time too. */
const TURN_FULL_READS_MAX = 4;
/** Frames between two looks at the clock. */
const FRAMES_PER_LOOK = 16;
/**
 * Smallest number of missing bytes of a fragment that are read straight into its destination. Fewer are read together
 * with the frames behind them.
 */
const DIRECT_BYTES_MIN = 16 << 10;
/** There is no arena for blocks and spans to lie in. */
const RULES: FrameRules = { foreignFlag: FLAG.inBlock, spansAgreed: false };

/** What the frame reader needs of the carrier. */
export interface FrameReaderOwner {
  isClosed(): boolean;
  /** The connection has to be closed: the peer broke a rule, or something of ours failed. */
  onError(error: unknown): void;
  /** The time of this turn is used up, and more is to be done: call `goOn` in another turn. */
  onPause(): void;
}

export class SocketFrameReader implements StreamReader {
  framesReceived = 0;
  private readonly owner: FrameReaderOwner;
  private readonly receiver: FrameReceiver;
  private readonly chunk: Buffer;
  private readonly words: Int32Array;
  private readonly frame;
  /** A copy of a header that does not start at a multiple of four. */
  private readonly header = new Int32Array(FRAME_HEADER_BYTES / 4);
  // Bytes of the chunk that were received but not taken yet.
  private start = 0;
  private end = 0;
  /** Missing bytes of the fragment that is being read, or skipped if it has no destination. */
  private missing = 0;
  private destination: Uint8Array | undefined;
  /** The memory that contains `destination`, held until the fragment has arrived (RECEIVE-1). */
  private memory: ReceiveMemory | undefined;
  private streamId = 0;
  /** The last target was the destination. */
  private direct = false;
  private lastTargetBytes = 0;
  private paused = false;
  /** Work since the socket was last read empty, or since the last pause. */
  private spentMillis = 0;
  private fullReads = 0;
  private delivering = false;

  /** @param chunk what it reads into; at least twice as long as the longest frame */
  constructor(owner: FrameReaderOwner, receiver: FrameReceiver, chunk: Buffer) {
    this.owner = owner;
    this.receiver = receiver;
    this.chunk = chunk;
    this.words = new Int32Array(chunk.buffer, chunk.byteOffset, chunk.length >> 2);
    // SUBTLE: not the Buffer, whose `slice` is a view. Bytes that receivers copy out of a frame would be overwritten by
    // later frames.
    this.frame = newReceivedFrame(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.length));
    this.lastTargetBytes = chunk.length;
  }

  target(): Uint8Array {
    const target = this.nextTarget();
    this.lastTargetBytes = target.length;
    return target;
  }

  private nextTarget(): Uint8Array {
    const { destination } = this;
    // During a pause the next bytes may come to be due elsewhere (STREAM-SOCKET-1).
    const direct = destination !== undefined && this.missing >= DIRECT_BYTES_MIN && !this.paused;
    this.direct = direct;
    if (direct) return destination.subarray(destination.length - this.missing);
    if (this.start === this.end) {
      this.start = this.end = 0;
      return this.chunk;
    }
    if (this.start > 0) {
      this.chunk.copyWithin(0, this.start, this.end);
      this.end -= this.start;
      this.start = 0;
    }
    return this.chunk.subarray(this.end);
  }

  received(byteLength: number): boolean {
    if (this.owner.isClosed()) return false;
    // The socket reads again in this turn only if all the room was used.
    const full = byteLength === this.lastTargetBytes;
    if (!full) this.spentMillis = this.fullReads = 0;
    if (this.direct) {
      this.missing -= byteLength;
      if (this.missing > 0) return true;
    } else {
      this.end += byteLength;
      if (full) this.fullReads++;
    }
    inRootContext(this.deliver);
    if (!this.paused && this.fullReads >= TURN_FULL_READS_MAX) this.pause();
    return !this.paused && !this.owner.isClosed();
  }

  /** Delivers what a pause left over. False: there is more to deliver; call it again in another turn. */
  goOn(): boolean {
    this.paused = false;
    if (!this.owner.isClosed()) inRootContext(this.deliver);
    return !this.paused;
  }

  /** No more comes: delivers everything that has arrived. */
  finish(): void {
    if (this.delivering) return;
    for (this.paused = false; !this.owner.isClosed(); ) if (this.goOn()) return;
  }

  private readonly deliver = (): void => {
    this.delivering = true;
    const from = nowMs() - this.spentMillis;
    try {
      let frames = 0;
      while (!this.owner.isClosed() && this.takeFragment() && this.takeFrame()) {
        if (++frames % FRAMES_PER_LOOK === 0 && nowMs() - from > TURN_MILLIS_MAX) return this.pause();
      }
      this.spentMillis = nowMs() - from;
      if (this.spentMillis > TURN_MILLIS_MAX) this.pause();
    } catch (error) {
      this.owner.onError(error);
    } finally {
      this.delivering = false;
    }
  };

  private pause(): void {
    this.paused = true;
    this.spentMillis = this.fullReads = 0;
    this.owner.onPause();
  }

  /** Copies bytes of the fragment that is being read out of the chunk. False: some are missing. */
  private takeFragment(): boolean {
    if (this.missing > 0) {
      const taken = Math.min(this.missing, this.end - this.start);
      if (this.destination !== undefined && taken > 0) {
        this.chunk.copy(this.destination, this.destination.length - this.missing, this.start, this.start + taken);
      }
      this.start += taken;
      this.missing -= taken;
      if (this.missing > 0) return false;
    }
    if (this.destination !== undefined) {
      this.destination = undefined;
      this.releaseMemory();
      this.receiver.onFilled(this.streamId);
    }
    return !this.owner.isClosed();
  }

  /** Delivers the next frame. False: it has not arrived as a whole. */
  private takeFrame(): boolean {
    const { start, frame, chunk } = this;
    const available = this.end - start;
    if (available < FRAME_HEADER_BYTES) return false;
    let words = this.words;
    let word = start >> 2;
    if ((start & 3) !== 0) {
      words = this.header;
      word = 0;
      new Uint8Array(words.buffer).set(chunk.subarray(start, start + FRAME_HEADER_BYTES));
    }
    const byteLength = paddedLength(words, word);
    openHeader(frame, words, word, start, RULES);
    if (available < byteLength) return false;
    this.start = start + byteLength;
    this.framesReceived++;
    if ((frame.flags & FLAG.follows) === 0) {
      this.receiver.onFrame(frame);
      return true;
    }
    frame.following = true;
    this.streamId = frame.streamId;
    this.missing = frame.fragmentLength;
    this.receiver.onFrame(frame);
    const { destination, destinationMemory } = frame;
    frame.destination = undefined;
    frame.destinationMemory = undefined;
    assertOwn(
      destination === undefined || destination.length === this.missing,
      "a fragment's destination is as long as the fragment",
    );
    if (this.owner.isClosed()) return false;
    this.destination = destination;
    this.memory = destinationMemory;
    destinationMemory?.hold();
    return true;
  }

  private releaseMemory(): void {
    this.memory?.unhold();
    this.memory = undefined;
  }

  /** The socket is closed. */
  close(): void {
    this.destination = undefined;
    this.releaseMemory();
  }
}
