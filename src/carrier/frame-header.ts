/**
 * The checks of a frame that arrived, the same for every carrier, before anything else looks at it. The peer chose every
 * number in a header, so each is read once, from private memory, and checked before it is used.
 */
import { FRAME_ALIGNMENT } from "../memory/shm/layout.js";
import { Violation } from "../memory/shm/violation.js";
import type { SpanEntry } from "../wire/frame.js";
import {
  BLOCK_REFERENCE_BYTES,
  FIELD,
  FLAG,
  FRAME_BYTES_MAX,
  FRAME_HEADER_BYTES,
  MESSAGE_BYTES_MAX,
  SPAN_ENTRY_BYTES,
  SPANS_MAX,
  tableOffset,
} from "../wire/frame.js";
import type { ReceivedFrame } from "./carrier.js";

/** A frame that is filled in again for each header in `scratch`. */
export function newReceivedFrame(scratch: Uint8Array): ReceivedFrame {
  return {
    kind: 0,
    flags: 0,
    code: 0,
    streamId: 0,
    argument: 0,
    messageLength: 0,
    fragmentLength: 0,
    scratch,
    metadataOffset: 0,
    metadataLength: 0,
    inlineLength: 0,
    spans: Array.from({ length: SPANS_MAX }, () => ({
      position: 0,
      byteLength: 0,
      unit: 0,
      generation: 0,
      offset: 0,
      flags: 0,
    })),
    spanCount: 0,
    fragmentSource: scratch,
    fragmentOffset: 0,
    following: false,
    destination: undefined,
    destinationMemory: undefined,
  };
}

/** What frames may contain on one connection. */
export interface FrameRules {
  /** The flag of fragments that are placed in a way that this carrier does not support. */
  readonly foreignFlag: number;
  /** Whether frames may have a splice table. */
  readonly spansAgreed: boolean;
}

/** The bytes that the frame at `word` takes up, its padding included. @throws Violation */
export function paddedLength(words: Int32Array, word: number): number {
  const byteLength = words[word + FIELD.byteLength] >>> 0;
  if (byteLength < FRAME_HEADER_BYTES || byteLength > FRAME_BYTES_MAX) {
    throw new Violation("FRAME-1", `a frame of ${byteLength} bytes`);
  }
  return (byteLength + (FRAME_ALIGNMENT - 1)) & -FRAME_ALIGNMENT;
}

/**
 * Fills `frame` in from the header at `word` of `words`; the frame itself starts at `at` of the frame's scratch.
 * @throws Violation
 */
export function openHeader(
  frame: ReceivedFrame,
  words: Int32Array,
  word: number,
  at: number,
  { foreignFlag, spansAgreed }: FrameRules,
): void {
  const kindFlagsCode = words[word + FIELD.kindFlagsCode];
  frame.kind = kindFlagsCode & 0xff;
  frame.flags = (kindFlagsCode >>> 8) & 0xff;
  frame.code = kindFlagsCode >>> 16;
  frame.streamId = words[word + FIELD.streamId] >>> 0;
  frame.argument = words[word + FIELD.argument] >>> 0;
  frame.metadataOffset = at + FRAME_HEADER_BYTES;
  frame.metadataLength = words[word + FIELD.metadataLength] >>> 0;
  frame.messageLength = words[word + FIELD.messageLength] >>> 0;
  frame.fragmentLength = words[word + FIELD.fragmentLength] >>> 0;
  const { flags } = frame;
  if ((flags & foreignFlag) !== 0)
    throw new Violation("FRAME-8", `a fragment placed with flag ${foreignFlag}, which this carrier does not support`);
  const byteLength = words[word + FIELD.byteLength] >>> 0;
  const spanCount = words[word + FIELD.spanCount] >>> 0;
  let bodyOffset = frame.metadataOffset + frame.metadataLength;
  let spanBytes = 0;
  if (spanCount > 0) {
    if (!spansAgreed || spanCount > SPANS_MAX) throw new Violation("FRAME-4", `${spanCount} spans`);
    bodyOffset = tableOffset(bodyOffset);
    if (bodyOffset + spanCount * SPAN_ENTRY_BYTES > at + byteLength)
      throw new Violation("FRAME-2", "the splice table reaches past the frame");
    spanBytes = openTable(frame.spans, words, word + ((bodyOffset - at) >> 2), spanCount, frame.messageLength);
    bodyOffset += spanCount * SPAN_ENTRY_BYTES;
  }
  frame.spanCount = spanCount;
  frame.inlineLength = frame.messageLength - spanBytes;
  const bodyLength = at + byteLength - bodyOffset;
  const expected =
    (flags & FLAG.inBlock) !== 0 ? BLOCK_REFERENCE_BYTES : (flags & FLAG.follows) !== 0 ? 0 : frame.fragmentLength;
  if (bodyLength !== expected) {
    throw new Violation(
      "FRAME-2",
      `${bodyLength} bytes after the metadata where ${frame.fragmentLength} were announced`,
    );
  }
  if (frame.messageLength > MESSAGE_BYTES_MAX || frame.fragmentLength > frame.inlineLength) {
    throw new Violation(
      "FRAME-3",
      `a fragment of ${frame.fragmentLength} bytes in a message of ${frame.messageLength}`,
    );
  }
  frame.fragmentSource = frame.scratch;
  frame.fragmentOffset = bodyOffset;
  frame.following = false;
  frame.destination = undefined;
}

/** Reads the splice table, and returns the number of bytes in all spans. @throws Violation */
function openTable(
  entries: readonly SpanEntry[],
  words: Int32Array,
  word: number,
  count: number,
  messageLength: number,
): number {
  let spanBytes = 0;
  let end = 0;
  for (let i = 0; i < count; i++) {
    const entry = entries[i];
    entry.position = words[word++] >>> 0;
    entry.byteLength = words[word++] >>> 0;
    entry.unit = words[word++] >>> 0;
    entry.generation = words[word++] >>> 0;
    entry.offset = words[word++] >>> 0;
    entry.flags = words[word++] >>> 0;
    if (entry.position < end || entry.position + entry.byteLength > messageLength) {
      throw new Violation(
        "SPAN-1",
        `a span of ${entry.byteLength} bytes at ${entry.position} of a message of ${messageLength}`,
      );
    }
    end = entry.position + entry.byteLength;
    spanBytes += entry.byteLength;
  }
  return spanBytes;
}
