/**
 * Garbage collections on request, for when a peer waits for memory that perhaps only garbage here still holds. A full
 * collection stops this thread for milliseconds, for longer with a large heap, so it is requested rarely. With
 * `ISTHMUS_V8=plain` none is requested.
 */
import { getHeapStatistics, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { otherRuntime } from "../../os/runtime.js";
import { nowMs } from "../../os/timers.js";
import { fillReserve } from "./external-memory.js";
import { isPlain } from "./policy.js";

/** Collections take at most about this share of the time. */
const SHARE_MAX = 0.1;
/** The longest pause: on a busy machine a collection seems long that only waits for a core. */
const PAUSE_MILLIS_MAX = 500;

type Collect = (options?: { type: "minor" }) => void;

let collect: Collect | false | undefined;
let notBefore = 0;

/**
 * Collects garbage of all generations, which blocks for milliseconds, longer with a large heap.
 * @returns false if nothing was done, because the last collection was a moment ago or V8 offers none
 */
export function collectSoon(): boolean {
  const start = nowMs();
  if (start < notBefore) return false;
  collect ??= find();
  if (collect === false) return false;
  fillReserve();
  collect();
  const end = nowMs();
  notBefore = end + Math.min((end - start) / SHARE_MAX, PAUSE_MILLIS_MAX);
  return true;
}

/**
 * Collects the young generation: objects that were made lately and are garbage by now. Takes tenths of a millisecond.
 *
 * SUBTLE: V8 takes ArrayBuffers off its count of external memory when it sweeps them, which it does in another thread.
 * Before that is done, it compares the count with its limits, concludes that much memory was made, and collects the old
 * generation too: with leases of 4 MiB at almost every call. So the buffers are swept at once.
 */
export function collectYoung(): void {
  collect ??= find();
  if (collect === false) return;
  if (sweepsAside) setFlagsFromString("--no-concurrent-array-buffer-sweeping");
  collect({ type: "minor" });
  if (sweepsAside) setFlagsFromString("--concurrent-array-buffer-sweeping");
}

/**
 * Whether V8 sweeps in another thread and has these flags, as far as known. V8 complains on stderr about a flag that it
 * does not have.
 */
const sweepsAside =
  Number(process.versions.node.split(".")[0]) <= 26 &&
  !/--(no-?)?(concurrent.array.buffer.sweeping|single.threaded)/.test(
    [...process.execArgv, process.env.NODE_OPTIONS].join(" "),
  );

const forIdleTime: (() => void)[] = [];

/** Has `act` called once when this thread would otherwise wait. It is never called if nothing reports idle time. */
export function whenIdle(act: () => void): void {
  forIdleTime.push(act);
}

/** Cancels a `whenIdle`. */
export function notWhenIdle(act: () => void): void {
  const at = forIdleTime.indexOf(act);
  if (at >= 0) forIdleTime.splice(at, 1);
}

/** Whether `useIdleTime` would do something. */
export function isIdleTimeWanted(): boolean {
  return forIdleTime.length > 0;
}

/** Call when this thread would wait now. Returns whether there was something to do. */
export function useIdleTime(): boolean {
  if (forIdleTime.length === 0) return false;
  for (const act of forIdleTime.splice(0)) act();
  return true;
}

/**
 * The young generation is collected after this many bytes of received messages were copied to the heap, unless V8 has
 * collected it meanwhile. V8 would do so after 32 MiB of ArrayBuffers, but keeps counting what that frees until the
 * next collection. After as much again it finds that it grew by 64 MiB, and collects the old generation, which takes
 * milliseconds every time.
 */
const COPIED_BYTES_MAX = 20 << 20;
const COPIED_BYTES_PER_LOOK = 4 << 20;
let copiedBytes = 0;
let copiedBeforeLook = 0;
let heapBytesAtLook = 0;

/** Call before bytes of messages are copied to the heap. */
export function countCopied(byteLength: number): void {
  if (isPlain) return;
  copiedBytes += byteLength;
  if (copiedBytes >= COPIED_BYTES_PER_LOOK) lookAtHeap();
}

/** A heap that has shrunk was collected: it only grows otherwise. */
function lookAtHeap(): void {
  const heapBytes = getHeapStatistics().used_heap_size;
  copiedBeforeLook = heapBytes < heapBytesAtLook ? copiedBytes : copiedBeforeLook + copiedBytes;
  copiedBytes = 0;
  heapBytesAtLook = heapBytes;
  if (copiedBeforeLook < COPIED_BYTES_MAX) return;
  collectYoung();
  copiedBeforeLook = 0;
  heapBytesAtLook = 0;
}

/**
 * Memory for a copy. It is not filled with zeros, so the caller has to write every byte.
 * @throws RangeError if there is none
 */
export function memoryToFill(byteLength: number): Uint8Array<ArrayBuffer> {
  countCopied(byteLength);
  return new Uint8Array(Buffer.allocUnsafeSlow(byteLength).buffer);
}

/**
 * V8 gives its `gc` to realms that are made while the flag is set. Bun has another engine, and Deno handles flags in a
 * way of its own.
 */
function find(): Collect | false {
  if (isPlain || otherRuntime !== undefined) return false;
  try {
    setFlagsFromString("--expose-gc");
    const gc = runInNewContext("gc") as Collect | undefined;
    if (globalThis.gc === undefined) setFlagsFromString("--no-expose-gc");
    return gc ?? false;
  } catch {
    return false;
  }
}
