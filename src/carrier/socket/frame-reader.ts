/**
 * What arrives on a stream socket: frames, taken whole from a private buffer, and fragments that follow them, read
 * straight into their destination. Counterpart of `FrameReader`, whose checks it shares (`frame-header.ts`).
 *
 * SOCKET-1  Of what the peer announces nothing is allocated here: a frame fits the read buffer, and a fragment's
 *           destination comes from the receiver, which has checked the message's length against its limits.
 * SOCKET-2  A frame's memory is valid until the receiver returns: nothing is read, and nothing moved, meanwhile.
 * SOCKET-3  One turn of the event loop delivers frames for a bounded time; what is left waits for the next one, and the
 *           socket is not read from meanwhile.
 */
import type { ReceiveMemory } from "../../memory/receive/receive-memory.js";
import { assertOwn } from "../../memory/shared/violation.js";
import { nowMs } from "../../os/timers.js";
import { FLAG, FRAME_HEADER_BYTES } from "../../wire/frame.js";
import type { FrameReceiver } from "../carrier.js";
import { newReceivedFrame, openHeader, paddedLength } from "../frame-header.js";
import { inRootContext } from "../poll/root-context.js";
import type { StreamReader } from "./stream-socket.js";

/** A turn of the event loop delivers frames for at most about this long, … */
const TURN_MILLIS_MAX = 1;
/** … and reads at most this many times all that there is room for: what the answers lead to takes time, too. */
const TURN_FULL_READS_MAX = 4;
/** Frames between two looks at the clock. */
const FRAMES_PER_LOOK = 16;
/**
 * From this many missing bytes on, a fragment is read straight into its destination; below, the frames behind it come
 * along.
 */
const DIRECT_BYTES_MIN = 16 << 10;
/** What the frameReader needs of the carrier. */
export interface IntakeOwner {
  isClosed(): boolean;
  /** The peer broke a rule, or something of ours failed: it is to be closed. */
  onError(error: unknown): void;
  /** The work of this turn is done, but not all of it: call `goOn` in another turn. */
  onPause(): void;
}

export class SocketFrameReader implements StreamReader {
  framesReceived = 0;
  private readonly owner: IntakeOwner;
  private readonly receiver: FrameReceiver;
  private readonly chunk: Buffer;
  private readonly words: Int32Array;
  private readonly frame;
  /** A header that does not lie at a multiple of four. */
  private readonly header = new Int32Array(FRAME_HEADER_BYTES / 4);
  // Bytes of the chunk that were received but not taken yet.
  private start = 0;
  private end = 0;
  /** Bytes that are missing of the fragment that is being read, or skipped if it has no destination. */
  private missing = 0;
  private destination: Uint8Array | undefined;
  /** What it lies in, held until the fragment is there (RECEIVE-1). */
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
  constructor(owner: IntakeOwner, receiver: FrameReceiver, chunk: Buffer) {
    this.owner = owner;
    this.receiver = receiver;
    this.chunk = chunk;
    this.words = new Int32Array(chunk.buffer, chunk.byteOffset, chunk.length >> 2);
    // SUBTLE: not the Buffer, whose `slice` is a view: what receivers copy out of a frame would be overwritten by later
    // ones.
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
    // After a pause something else may be due than what is known now (STREAM-SOCKET-1).
    this.direct = destination !== undefined && this.missing >= DIRECT_BYTES_MIN && !this.paused;
    if (this.direct) return destination!.subarray(destination!.length - this.missing);
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

  /** Delivers what a pause left over. False: there is more to deliver, call it again in another turn. */
  goOn(): boolean {
    this.paused = false;
    if (!this.owner.isClosed()) inRootContext(this.deliver);
    return !this.paused;
  }

  /** Delivers all that has arrived: no more comes. */
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

  /** Moves bytes of the fragment under way out of the chunk. False: some are missing. */
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

  /** Delivers the next frame. False: it is not here as a whole. */
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
    openHeader(frame, words, word, start, FLAG.inBlock, false);
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

  /** The socket is closed: nothing is read any more. */
  close(): void {
    this.destination = undefined;
    this.releaseMemory();
  }
}
