/**
 * V8's count of external memory: the memory outside its heap that ArrayBuffers keep. V8 collects garbage by how far the
 * count is above its lowest value since the last full collection. Two corrections keep shared memory from driving it:
 *
 * - Leased memory is hidden from the count, because an arena bounds it already.
 * - Moving a large buffer does not make the buffer count as new memory.
 *
 * The addon reaches the count. Without the addon, and with `ISTHMUS_V8=plain`, nothing is corrected; then there is more
 * garbage collection.
 */
import { isPlain } from "./policy.js";

/** Adds `change` bytes to what V8 counts as external memory, and returns the new count. */
type Meter = (change: number) => number;

let meter: Meter | undefined;

/** Provides access to V8's count. Only the first call counts. */
export function useExternalMemoryMeter(adjust: Meter): void {
  if (!isPlain) meter ??= adjust;
}

// Hiding leases.

/**
 * Most bytes of leases that are hidden from V8's count. Counted, they would make V8 mark its whole heap every 15 to 30
 * MiB (measured: 0.8 ms per lease of 1 MiB). The count is raised by this many bytes from the start, so that it never
 * becomes negative when V8 frees hidden buffers.
 */
const HIDDEN_BYTES_MAX = 128 << 20;
let hidden: number | undefined;
/**
 * Bytes of hidden leases that are counted again before V8 frees them. SUBTLE: V8 takes a buffer's length off its count
 * when it frees the buffer, and reports that only afterwards. In between, the count is lower than ever, and whatever is
 * added next looks like new memory, for which V8 marks: with leases of 1 MiB all the time (measured: three calls in a
 * hundred took more than 10 ms).
 */
let ahead = 0;

/**
 * Hides a new buffer over memory that is bounded elsewhere from V8's count.
 * @returns whether it is hidden; only then `showToCount` has to follow
 */
export function hideFromCount(byteLength: number): boolean {
  if (meter === undefined) return false;
  if (hidden === undefined) {
    meter(HIDDEN_BYTES_MAX);
    hidden = 0;
  }
  if (hidden + byteLength > HIDDEN_BYTES_MAX) return false;
  meter(-byteLength);
  hidden += byteLength;
  return true;
}

/* eslint-disable @typescript-eslint/no-non-null-assertion -- nothing is hidden or raised without a meter */

/** Call before a garbage collection that will free hidden buffers of about this many bytes. */
export function expectFreed(byteLength: number): void {
  const more = Math.min(byteLength, hidden ?? 0) - ahead;
  if (more <= 0) return;
  meter!(more);
  ahead += more;
}

/** Call after V8 has freed a hidden buffer. */
export function showToCount(byteLength: number): void {
  const expected = Math.min(byteLength, ahead);
  ahead -= expected;
  if (expected < byteLength) meter!(byteLength - expected);
  hidden! -= byteLength;
}

// Moving large buffers.

/**
 * SUBTLE: moving a buffer takes its length off the count and adds it again. The lowest value sinks, and the buffer
 * counts as new memory; with a buffer of 64 MiB, V8 marks all the time (measured: p50 of a call 14 ms). So the count is
 * raised by the buffer's length around the move, which keeps the lowest value where it was. It is raised by no more
 * than V8 tolerates without collecting, so a buffer of more than 64 MiB still costs collections.
 */
const LARGE_BYTES_MIN = 4 << 20;
const RAISED_BYTES_MAX = 64 << 20;
/** The lowest value, as far as known: the count when the last full collection was noticed, or less. */
let lowest: number | undefined;
/** Notices full collections: no other collection clears weak references. */
const canaries = new FinalizationRegistry<undefined>(() => {
  lowest = meter!(0);
  canaries.register({}, undefined);
});

/** Call before moving a buffer of `byteLength` bytes. @returns what to pass to `lowerAfterMove` afterwards */
export function raiseForMove(byteLength: number): number {
  if (byteLength < LARGE_BYTES_MIN || meter === undefined) return 0;
  const count = meter(0);
  if (lowest === undefined) canaries.register({}, undefined);
  if (lowest === undefined || count < lowest) lowest = count;
  const raised = Math.min(byteLength, RAISED_BYTES_MAX) - (count - lowest);
  if (raised <= 0) return 0;
  meter(raised);
  return raised;
}

export function lowerAfterMove(raised: number): void {
  if (raised !== 0) meter!(-raised);
}
