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
 * V8 adds a buffer's length to its count when the buffer is made, and takes it off when it frees the buffer, perhaps in
 * the middle of a collection and long before anybody is told. So a lease is hidden by taking its length off right after
 * it was made, and the count sinks by that length again when V8 frees it. A count that sinks does no harm, as V8
 * collects by how far it is above its lowest value. But it must not become negative, so it is raised first, by a
 * reserve for what is hidden now and for what was freed. When half of the reserve is used up, it is filled again. That
 * looks like new memory, so V8 marks its heap once.
 *
 * SUBTLE: raising the count again at every buffer that was freed would look like new memory too (measured: with leases
 * of 1 MiB, three calls in a hundred took more than 10 ms; with leases of 16 MiB that nobody releases, V8 collected the
 * old generation at every third).
 */
const RESERVE_BYTES = 512 << 20;
const HIDDEN_BYTES_MAX = RESERVE_BYTES / 2;
let hiddenBytes: number | undefined;
/** Bytes of the reserve that are used up. */
let freedBytes = 0;

/**
 * Hides a new buffer over memory that is bounded elsewhere from V8's count.
 * @returns whether it is hidden; only then `hiddenWasFreed` has to follow
 */
export function hideFromCount(byteLength: number): boolean {
  if (meter === undefined) return false;
  if (hiddenBytes === undefined) {
    meter(RESERVE_BYTES);
    hiddenBytes = 0;
  }
  if (hiddenBytes + byteLength > HIDDEN_BYTES_MAX) return false;
  meter(-byteLength);
  hiddenBytes += byteLength;
  return true;
}

/** Call after V8 has freed a hidden buffer. */
export function hiddenWasFreed(byteLength: number): void {
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it was hidden
  hiddenBytes! -= byteLength;
  freedBytes += byteLength;
  if (freedBytes > RESERVE_BYTES / 2) fillReserve();
}

/** Call before a collection of all generations, which makes any count the lowest one. */
export function fillReserve(): void {
  if (freedBytes === 0) return;
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- something was hidden
  meter!(freedBytes);
  freedBytes = 0;
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
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- registered once there is one
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
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it was raised
  if (raised !== 0) meter!(-raised);
}
