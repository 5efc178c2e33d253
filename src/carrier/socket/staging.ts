/**
 * The memory that small frames are gathered in: two buffers, of which one is written to while the socket may still have
 * bytes of the other.
 */
import { FRAME_ALIGNMENT } from "../../memory/shm/layout.js";
import { FRAME_BYTES_MAX } from "../../wire/frame.js";

const STAGING_BYTES = 128 << 10;
/** Bytes that must stay free for frames when a whole fragment is copied into a buffer. */
const COPIES_ROOM_BYTES = 2 * FRAME_BYTES_MAX;

class StagingBuffer {
  readonly bytes = Buffer.allocUnsafeSlow(STAGING_BYTES);
  readonly words = new Int32Array(this.bytes.buffer);
  /** Bytes from here on are not in a batch or the queue yet. */
  start = 0;
  /** The next frame goes here. */
  index = 0;

  reset(): void {
    this.start = this.index = 0;
  }
}

export class Staging {
  /** The buffer that is written to. */
  current = new StagingBuffer();
  /** Both buffers are used up. */
  isFull = false;
  private other: StagingBuffer | undefined;
  /** Where bytes of `other` are. */
  private otherIs: "free" | "queued" | "with the socket" = "free";

  /** A frame of `byteLength` bytes was written at the index. */
  commit(byteLength: number): void {
    this.current.index += (byteLength + (FRAME_ALIGNMENT - 1)) & -FRAME_ALIGNMENT;
  }

  /** Whether the current buffer has no room for another frame of any length. */
  get isUsedUp(): boolean {
    return STAGING_BYTES - this.current.index < FRAME_BYTES_MAX;
  }

  /** Whether `byteLength` bytes fit behind the last frame, before the next one. */
  hasRoomFor(byteLength: number): boolean {
    return byteLength <= STAGING_BYTES - FRAME_ALIGNMENT - this.current.index;
  }

  /** Whether `byteLength` bytes fit behind the last frame, and leave enough room for further frames. */
  hasRoomToCopy(byteLength: number): boolean {
    return this.hasRoomFor(byteLength + COPIES_ROOM_BYTES);
  }

  /** Copies bytes behind the last frame. */
  append(bytes: Uint8Array): void {
    const { current } = this;
    current.bytes.set(bytes, current.index);
    current.index += bytes.length;
  }

  /** Bytes that were written and not taken yet. */
  get untakenBytes(): number {
    return this.current.index - this.current.start;
  }

  /**
   * Takes the bytes before `end` that were written since the last call; undefined: none were. They are in the queue from
   * now on.
   */
  take(end = this.current.index): Uint8Array | undefined {
    const { current } = this;
    const { start } = current;
    if (start === end) return undefined;
    current.start = end;
    return current.bytes.subarray(start, end);
  }

  /** The next frame starts at the next multiple of `FRAME_ALIGNMENT`. All bytes before it were taken. */
  align(): void {
    const { current } = this;
    current.start = current.index = (current.index + (FRAME_ALIGNMENT - 1)) & -FRAME_ALIGNMENT;
  }

  /** The current buffer is used up, and its bytes were taken. The other one is next, if it is free. */
  turn(): void {
    this.isFull = this.otherIs !== "free";
    if (this.isFull) return;
    const used = this.current;
    this.current = this.other ?? new StagingBuffer();
    this.other = used;
    this.otherIs = "queued";
  }

  /** All bytes in the queue are with the socket from now on. */
  queueGiven(): void {
    if (this.otherIs === "queued") this.otherIs = "with the socket";
  }

  /** The socket has taken all that it was given. @param isQueueEmpty whether no taken bytes wait in the queue */
  socketHasTaken(isQueueEmpty: boolean): void {
    const { current } = this;
    if (this.otherIs === "with the socket") {
      this.otherIs = "free";
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- `turn` set it before its bytes left
      this.other!.reset();
    }
    if (this.isFull && this.otherIs === "free") {
      this.isFull = false;
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- `turn` set it before both were used up
      this.current = this.other!;
      this.other = current;
      this.otherIs = isQueueEmpty ? "free" : "queued";
      if (isQueueEmpty) current.reset();
    } else if (!this.isFull && current.start === current.index && isQueueEmpty) {
      current.reset();
    }
  }
}
