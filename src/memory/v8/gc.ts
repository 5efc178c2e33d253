/**
 * Garbage collections on request. A full one, for when a peer waits for memory that perhaps only garbage still holds
 * here. It stops this thread for milliseconds, for longer with a large heap: so only then, and rarely.
 */
import { getHeapStatistics, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { otherRuntime } from "../../os/runtime.js";
import { nowMs } from "../../os/timers.js";

/** A collection takes at most about this share of the time. */
const SHARE_MAX = 0.1;

type Collect = (options?: { type: "minor" }) => void;

let collect: Collect | false | undefined;
let notBefore = 0;

/**
 * Collects, unless the last time was only a moment ago; then false. It blocks for milliseconds, more with a large heap.
 */
export function collectSoon(): boolean {
  const start = nowMs();
  if (start < notBefore) return false;
  collect ??= find();
  if (collect === false) return false;
  collect();
  const end = nowMs();
  notBefore = end + (end - start) / SHARE_MAX;
  return true;
}

/**
 * Collects the young generation: what was made lately and is garbage by now. Takes tenths of a millisecond.
 *
 * SUBTLE: V8 takes ArrayBuffers off its count of external memory when they are swept, which it does in another thread.
 * Before that is done it compares the count with its limits, finds that much was made, and collects the old generation
 * too: with leases of 4 MiB at almost every call. So they are swept at once.
 */
export function collectYoung(): void {
  collect ??= find();
  if (collect === false) return;
  if (sweepsAside) setFlagsFromString("--no-concurrent-array-buffer-sweeping");
  collect({ type: "minor" });
  if (sweepsAside) setFlagsFromString("--concurrent-array-buffer-sweeping");
}

/** Whether V8 sweeps in another thread and has these flags, as far as is known: it says so on stderr if it has not. */
const sweepsAside =
  Number(process.versions.node.split(".")[0]) <= 26 &&
  !/--(no-?)?(concurrent.array.buffer.sweeping|single.threaded)/.test(
    [...process.execArgv, process.env.NODE_OPTIONS].join(" "),
  );

const forIdleTime: (() => void)[] = [];

/** Has `act` called once when this thread would otherwise wait; perhaps never, where nobody tells of that. */
export function whenIdle(act: () => void): void {
  forIdleTime.push(act);
}

/** Takes back what was asked of `whenIdle`. */
export function notWhenIdle(act: () => void): void {
  const at = forIdleTime.indexOf(act);
  if (at >= 0) forIdleTime.splice(at, 1);
}

/** This thread would wait now. True if there was something to do. */
export function useIdleTime(): boolean {
  if (forIdleTime.length === 0) return false;
  for (const act of forIdleTime.splice(0)) act();
  return true;
}

/**
 * Bytes of received messages that are copied to the heap before the young generation is collected, if V8 has not done
 * so itself. It would after 32 MiB of ArrayBuffers, but it goes on counting what that frees until the next time; with
 * as much again it finds that it grew by 64 MiB, and collects the old generation: milliseconds, every time.
 */
const COPIED_BYTES_MAX = 20 << 20;
const COPIED_BYTES_PER_LOOK = 4 << 20;
let copiedBytes = 0;
let copiedBeforeLook = 0;
let heapBytesAtLook = 0;

/** Bytes of messages are about to be copied to the heap. */
export function countCopied(byteLength: number): void {
  copiedBytes += byteLength;
  if (copiedBytes >= COPIED_BYTES_PER_LOOK) lookAtHeap();
}

/** The heap only grows until something is collected. */
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
 * Memory for a copy, of which every byte is to be written: it is not filled with zeros. @throws RangeError if there is
 * none
 */
export function memoryToFill(byteLength: number): Uint8Array<ArrayBuffer> {
  countCopied(byteLength);
  return new Uint8Array(Buffer.allocUnsafeSlow(byteLength).buffer);
}

/**
 * V8 hands its `gc` to realms that are made while the flag is set. Bun has another engine, and Deno its own way with
 * flags.
 */
function find(): Collect | false {
  if (otherRuntime !== undefined) return false;
  try {
    setFlagsFromString("--expose-gc");
    const gc = runInNewContext("gc") as Collect | undefined;
    if (globalThis.gc === undefined) setFlagsFromString("--no-expose-gc");
    return gc ?? false;
  } catch {
    return false;
  }
}
