/**
 * What arrives in the peer's ring: frames, copied to private scratch memory (SHM-1), checked, and opened one by one.
 * Every number in them is the peer's: it is read once, and checked before it is used.
 */
import { ARENA_UNIT_BYTES, FRAME_ALIGNMENT, RING_DATA_OFFSET } from "../memory/layout.js";
import type { ConnectionMemory } from "../memory/segment.js";
import { Violation } from "../memory/violation.js";
import type { SpanEntry } from "../wire/frame.js";
import {
  BLOCK_PIECE_BYTES_MAX,
  BLOCK_REFERENCE_BYTES,
  FIELD,
  FLAG,
  FRAME_BYTES_MAX,
  FRAME_HEADER_BYTES,
  MESSAGE_BYTES_MAX,
  readUint32,
  SPAN,
  SPAN_ENTRY_BYTES,
  SPANS_MAX,
  tableOffset,
} from "../wire/frame.js";
import type { ReceivedFrame } from "./carrier.js";

/** The scratch holds what one step takes from the ring. The drain does not re-enter, so all connections share it. */
const scratch = new Uint8Array(FRAME_BYTES_MAX);
const scratchWords = new Int32Array(scratch.buffer);
/**
 * Bytes of frames that one step takes, if the first is not longer. Small, so that answers to the first frames are on
 * their way while the rest is still being worked on: with a whole batch per step both ends would take turns.
 */
const STEP_FRAME_BYTES = 1024;
/** Payload bytes that one step copies out of blocks before the poller looks at the clock again. */
const STEP_COPY_BYTES = 1 << 20;
const COPY_LOOP_BYTES_MAX = 512;

/** Of the frame that was opened last. */
const entries: SpanEntry[] = Array.from({ length: SPANS_MAX }, () => ({ position: 0, byteLength: 0, unit: 0, generation: 0, offset: 0, flags: 0 }));

export class Intake {
  /** The frame that was opened last; it and its memory are used again for the next. */
  readonly frame: ReceivedFrame = {
    kind: 0,
    flags: 0,
    code: 0,
    streamId: 0,
    argument: 0,
    messageLength: 0,
    pieceLength: 0,
    scratch,
    metadataOffset: 0,
    metadataLength: 0,
    inlineLength: 0,
    spans: entries,
    spanCount: 0,
    pieceSource: scratch,
    pieceOffset: 0,
    following: false,
    destination: undefined,
  };
  /** The arena block that holds the frame's piece, or 0, which is never one, … */
  unit = 0;
  /** … and the generation to release it with. */
  generation = 0;
  private readonly ringBytes: Uint8Array;
  private readonly ringWords: Int32Array;
  private readonly arena: ConnectionMemory["peerArena"];
  private readonly spansAgreed: boolean;

  /** @param spansAgreed whether frames may have a splice table */
  constructor(peerRing: ArrayBuffer, peerArena: ConnectionMemory["peerArena"], spansAgreed: boolean) {
    this.spansAgreed = spansAgreed;
    this.ringBytes = new Uint8Array(peerRing, RING_DATA_OFFSET);
    this.ringWords = new Int32Array(peerRing, RING_DATA_OFFSET);
    this.arena = peerArena;
  }

  /**
   * Copies whole frames to the scratch, as many as one step works on, and returns their bytes.
   * @param index where the first one starts in the ring
   * @param available bytes that the peer has published from there on
   * @throws Violation if they are no whole frames
   */
  take(index: number, available: number): number {
    const copied = Math.min(available, STEP_FRAME_BYTES);
    this.snapshot(index, 0, copied);
    let at = 0;
    let payload = 0;
    while (at < copied) {
      const word = at >> 2;
      const byteLength = scratchWords[word + FIELD.byteLength] >>> 0;
      if (byteLength < FRAME_HEADER_BYTES || byteLength > FRAME_BYTES_MAX) {
        throw new Violation("FRAME-1", `a frame of ${byteLength} bytes`);
      }
      const end = at + ((byteLength + (FRAME_ALIGNMENT - 1)) & -FRAME_ALIGNMENT);
      if (end > available) throw new Violation("FRAME-1", "a frame reaches past what was published");
      if (end > copied) {
        // The first frame is taken whole, whatever its length; a later one waits for the next step.
        if (at > 0) break;
        this.snapshot(index + copied, copied, end - copied);
        return end;
      }
      if (((scratchWords[word + FIELD.kindFlagsCode] >>> 8) & FLAG.inBlock) !== 0) {
        payload += scratchWords[word + FIELD.pieceLength] >>> 0;
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

  /** Makes the frame at `at` of the scratch the current one, and returns where the next one is. @throws Violation */
  open(at: number): number {
    const word = at >> 2;
    const { frame } = this;
    const byteLength = scratchWords[word + FIELD.byteLength];
    const kindFlagsCode = scratchWords[word + FIELD.kindFlagsCode];
    frame.kind = kindFlagsCode & 0xff;
    frame.flags = (kindFlagsCode >>> 8) & 0xff;
    frame.code = kindFlagsCode >>> 16;
    frame.streamId = scratchWords[word + FIELD.streamId] >>> 0;
    frame.argument = scratchWords[word + FIELD.argument] >>> 0;
    frame.metadataOffset = at + FRAME_HEADER_BYTES;
    frame.metadataLength = scratchWords[word + FIELD.metadataLength] >>> 0;
    frame.messageLength = scratchWords[word + FIELD.messageLength] >>> 0;
    frame.pieceLength = scratchWords[word + FIELD.pieceLength] >>> 0;
    const inBlock = (frame.flags & FLAG.inBlock) !== 0;
    const spanCount = scratchWords[word + FIELD.spanCount] >>> 0;
    let bodyOffset = frame.metadataOffset + frame.metadataLength;
    let spanBytes = 0;
    if (spanCount > 0) {
      if (!this.spansAgreed || spanCount > SPANS_MAX) throw new Violation("FRAME-4", `${spanCount} spans`);
      bodyOffset = tableOffset(bodyOffset);
      if (bodyOffset + spanCount * SPAN_ENTRY_BYTES > at + byteLength) throw new Violation("FRAME-2", "the splice table reaches past the frame");
      spanBytes = this.openTable(bodyOffset >> 2, spanCount, frame.messageLength);
      bodyOffset += spanCount * SPAN_ENTRY_BYTES;
    }
    frame.spanCount = spanCount;
    frame.inlineLength = frame.messageLength - spanBytes;
    const rest = at + byteLength - bodyOffset;
    if (rest !== (inBlock ? BLOCK_REFERENCE_BYTES : frame.pieceLength)) {
      throw new Violation("FRAME-2", `${rest} bytes after the metadata where ${frame.pieceLength} were announced`);
    }
    if (frame.messageLength > MESSAGE_BYTES_MAX || frame.pieceLength > frame.inlineLength) {
      throw new Violation("FRAME-3", `a piece of ${frame.pieceLength} bytes in a message of ${frame.messageLength}`);
    }
    frame.pieceSource = scratch;
    frame.pieceOffset = bodyOffset;
    this.unit = 0;
    if (inBlock) this.openBlock(frame);
    return at + ((byteLength + (FRAME_ALIGNMENT - 1)) & -FRAME_ALIGNMENT);
  }

  /** Reads the splice table, and returns the bytes of all spans. @throws Violation */
  private openTable(word: number, count: number, messageLength: number): number {
    let spanBytes = 0;
    let end = 0;
    for (let i = 0; i < count; i++) {
      const entry = entries[i];
      entry.position = scratchWords[word++] >>> 0;
      entry.byteLength = scratchWords[word++] >>> 0;
      entry.unit = scratchWords[word++] >>> 0;
      entry.generation = scratchWords[word++] >>> 0;
      entry.offset = scratchWords[word++] >>> 0;
      entry.flags = scratchWords[word++] >>> 0;
      if (entry.position < end || entry.position + entry.byteLength > messageLength) {
        throw new Violation("SPAN-1", `a span of ${entry.byteLength} bytes at ${entry.position} of a message of ${messageLength}`);
      }
      if ((entry.flags & SPAN.returned) === 0) {
        const start = entry.unit * ARENA_UNIT_BYTES + entry.offset;
        if (entry.flags !== 0 || entry.unit === 0 || start + entry.byteLength > this.arena.byteLength) {
          throw new Violation("SPAN-2", `a span of ${entry.byteLength} bytes at ${entry.offset} of block ${entry.unit}, flags ${entry.flags}`);
        }
      } else if ((entry.flags & ~(SPAN.returned | SPAN.given)) !== 0) {
        throw new Violation("SPAN-2", `a span with flags ${entry.flags}`);
      }
      end = entry.position + entry.byteLength;
      spanBytes += entry.byteLength;
    }
    return spanBytes;
  }

  private openBlock(frame: ReceivedFrame): void {
    this.unit = readUint32(scratch, frame.pieceOffset);
    this.generation = readUint32(scratch, frame.pieceOffset + 4);
    const offset = this.unit * ARENA_UNIT_BYTES;
    if (this.unit === 0 || frame.pieceLength > BLOCK_PIECE_BYTES_MAX || offset + frame.pieceLength > this.arena.byteLength) {
      throw new Violation("FRAME-5", `${frame.pieceLength} bytes at unit ${this.unit} are too many, or reach past the arena`);
    }
    frame.pieceSource = this.arena.upTo(offset + frame.pieceLength);
    frame.pieceOffset = offset;
  }
}
