/**
 * Reads the peer's ring. Frames are copied to private scratch memory (SHM-1), checked, and opened one by one. The peer
 * chose every number in them, so each is read once, and checked before it is used.
 */
import { ARENA_UNIT_BYTES, RING_DATA_OFFSET } from "../../memory/shm/layout.js";
import type { ConnectionMemory } from "../../memory/shm/segment.js";
import { Violation } from "../../memory/shm/violation.js";
import { BLOCK_FRAGMENT_BYTES_MAX, FIELD, FLAG, FRAME_BYTES_MAX, readUint32, SPAN } from "../../wire/frame.js";
import type { ReceivedFrame } from "../carrier.js";
import type { FrameRules } from "../frame-header.js";
import { newReceivedFrame, openHeader, paddedLength } from "../frame-header.js";

/** Holds the frames that one step takes from the ring. The drain does not re-enter, so all connections share it. */
const scratch = new Uint8Array(FRAME_BYTES_MAX);
const scratchWords = new Int32Array(scratch.buffer);
/**
 * Bytes of frames that one step takes, unless the first frame is longer. Small, so that answers to the first frames
 * leave while the rest is still being handled. With a whole batch per step, both ends would take turns. On one core they
 * do so anyway, and larger steps are less work.
 */
const STEP_FRAME_BYTES = 1024;
const STEP_FRAME_BYTES_SHARED = 8 * STEP_FRAME_BYTES;
/** Payload bytes that one step copies out of blocks before the poller looks at the clock again. */
const STEP_COPY_BYTES = 1 << 20;
const COPY_LOOP_BYTES_MAX = 512;

export class FrameReader {
  /** The frame that was opened last. The object and its memory are reused for the next one. */
  readonly frame: ReceivedFrame = newReceivedFrame(scratch);
  /** The arena block that holds the frame's fragment; 0: none. */
  unit = 0;
  /** The generation to release `unit` with. */
  generation = 0;
  private readonly ringBytes: Uint8Array;
  private readonly ringWords: Int32Array;
  private readonly arena: ConnectionMemory["peerArena"];
  private readonly rules: FrameRules;

  /** @param spansAgreed whether frames may have a splice table */
  constructor(peerRing: ArrayBuffer, peerArena: ConnectionMemory["peerArena"], spansAgreed: boolean) {
    this.rules = { foreignFlag: FLAG.follows, spansAgreed };
    this.ringBytes = new Uint8Array(peerRing, RING_DATA_OFFSET);
    this.ringWords = new Int32Array(peerRing, RING_DATA_OFFSET);
    this.arena = peerArena;
  }

  /**
   * Copies whole frames to the scratch, as many as one step works on, and returns their bytes.
   * @param index where the first one starts in the ring
   * @param available bytes that the peer has published from there on
   * @param sharesCore whether the peer cannot run at the same time
   * @throws Violation if they are not whole frames
   */
  take(index: number, available: number, sharesCore: boolean): number {
    const copied = Math.min(available, sharesCore ? STEP_FRAME_BYTES_SHARED : STEP_FRAME_BYTES);
    this.snapshot(index, 0, copied);
    let at = 0;
    let payload = 0;
    while (at < copied) {
      const word = at >> 2;
      const end = at + paddedLength(scratchWords, word);
      if (end > available) throw new Violation("FRAME-1", "a frame reaches past what was published");
      if (end > copied) {
        // The first frame is taken as a whole, whatever its length. A later one waits for the next step.
        if (at > 0) break;
        this.snapshot(index + copied, copied, end - copied);
        return end;
      }
      if (((scratchWords[word + FIELD.kindFlagsCode] >>> 8) & FLAG.inBlock) !== 0) {
        payload += scratchWords[word + FIELD.fragmentLength] >>> 0;
        if (payload > STEP_COPY_BYTES && at > 0) break;
      }
      at = end;
    }
    return at;
  }

  private snapshot(index: number, to: number, byteLength: number): void {
    if (byteLength > COPY_LOOP_BYTES_MAX) {
      scratch.set(this.ringBytes.subarray(index, index + byteLength), to);
      return;
    }
    const from = this.ringWords;
    for (let i = index >> 2, j = to >> 2, end = j + (byteLength >> 2); j < end; i++, j++) scratchWords[j] = from[i];
  }

  /** Opens the frame at `at` of the scratch, and returns where the next one is. @throws Violation */
  open(at: number): number {
    const word = at >> 2;
    const { frame } = this;
    openHeader(frame, scratchWords, word, at, this.rules);
    if (frame.spanCount > 0) this.checkSpans(frame);
    this.unit = 0;
    if ((frame.flags & FLAG.inBlock) !== 0) this.openBlock(frame);
    return at + paddedLength(scratchWords, word);
  }

  /** @throws Violation if a span lies outside of the arena, or its flags make no sense */
  private checkSpans({ spans, spanCount }: ReceivedFrame): void {
    for (let i = 0; i < spanCount; i++) {
      const { unit, offset, byteLength, flags } = spans[i];
      if (flags === SPAN.region) {
        if (unit === 0) throw new Violation("SPAN-2", "a span in region 0");
      } else if ((flags & SPAN.returned) === 0) {
        if (flags !== 0 || unit === 0 || unit * ARENA_UNIT_BYTES + offset + byteLength > this.arena.byteLength) {
          throw new Violation("SPAN-2", `a span of ${byteLength} bytes at ${offset} of block ${unit}, flags ${flags}`);
        }
      } else if ((flags & ~(SPAN.returned | SPAN.given)) !== 0) {
        throw new Violation("SPAN-2", `a span with flags ${flags}`);
      }
    }
  }

  private openBlock(frame: ReceivedFrame): void {
    this.unit = readUint32(scratch, frame.fragmentOffset);
    this.generation = readUint32(scratch, frame.fragmentOffset + 4);
    const offset = this.unit * ARENA_UNIT_BYTES;
    if (
      this.unit === 0 ||
      frame.fragmentLength > BLOCK_FRAGMENT_BYTES_MAX ||
      offset + frame.fragmentLength > this.arena.byteLength
    ) {
      throw new Violation(
        "FRAME-5",
        `${frame.fragmentLength} bytes at unit ${this.unit} are too many, or reach past the arena`,
      );
    }
    frame.fragmentSource = this.arena.upTo(offset + frame.fragmentLength);
    frame.fragmentOffset = offset;
  }
}
