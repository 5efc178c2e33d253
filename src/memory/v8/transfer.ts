/**
 * `ArrayBuffer.prototype.transfer`: detaches an ArrayBuffer and hands its memory to a new one, without touching the
 * memory.
 *
 * Node 20's V8 has it behind a flag that counts when a realm is made. So there it is taken from a realm of its own; it
 * works on ArrayBuffers of any realm. Without it every lease costs a new ArrayBuffer, and V8 collects garbage for each
 * of 64 MiB: 290 µs instead of 1 µs.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { markAsUntransferable } from "node:worker_threads";

type Transfer = (this: ArrayBuffer) => ArrayBuffer;

const FLAG = "harmony-rab-gsab-transfer";

let found: Transfer | false | undefined;

function find(): Transfer | false {
  if ("transfer" in ArrayBuffer.prototype) return ArrayBuffer.prototype.transfer as Transfer;
  try {
    setFlagsFromString(`--${FLAG}`);
    const transfer = runInNewContext("ArrayBuffer.prototype.transfer") as Transfer | undefined;
    setFlagsFromString(`--no-${FLAG}`);
    return transfer ?? false;
  } catch {
    return false;
  }
}

/**
 * Buffers over mapped memory stay in their thread: its mappings go when it ends, and another thread that a buffer had
 * been posted to would read unmapped pages, or somebody else's. So what user code gets to see is marked, and posting it
 * is an error (on Node 20 it is copied).
 *
 * From Node 24 on a marked buffer is also locked: nothing can detach it, `transfer()` neither. There `letMove` takes
 * the lock away before it is moved or detached here. SUBTLE: Node itself detaches buffers that an addon made when a
 * thread ends, and aborts if one is locked; so such a one is moved first, and what is locked is the buffer that it was
 * moved to.
 */
interface Keeper {
  /** Whether `markAsUntransferable` also locks. */
  readonly locks: boolean;
  /** Takes the lock away. */
  readonly unlock: (buffer: ArrayBuffer) => void;
}

let keeper: Keeper | false | undefined;

/** Keeps a buffer that `transferBuffer` made in this thread. */
export function keepInThread(buffer: ArrayBuffer): void {
  keeper ??= findKeeper();
  if (keeper !== false) markAsUntransferable(buffer);
}

/** Keeps a buffer that the addon has just made in this thread; returns the one to be used in its place. */
export function keepNewInThread(buffer: ArrayBuffer): ArrayBuffer {
  keeper ??= findKeeper();
  if (keeper === false) return buffer;
  const kept = keeper.locks ? transferBuffer(buffer)! : buffer;
  markAsUntransferable(kept);
  return kept;
}

/** A buffer that was kept in this thread is about to be moved or detached by its owner. */
export function letMove(buffer: ArrayBuffer): void {
  if (keeper) keeper.unlock(buffer);
}

/** False: what is marked could not be moved any more. */
function findKeeper(): Keeper | false {
  if (canMoveMarked(() => undefined)) return { locks: false, unlock: () => undefined };
  try {
    const unlock = makeUnlock();
    return canMoveMarked(unlock) && { locks: true, unlock };
  } catch {
    return false;
  }
}

function canMoveMarked(unlock: (buffer: ArrayBuffer) => void): boolean {
  const probe = new ArrayBuffer(8);
  markAsUntransferable(probe);
  unlock(probe);
  try {
    // Where it cannot be moved at all, the mark is not what hinders.
    transferBuffer(probe);
    return true;
  } catch {
    return false;
  }
}

const NATIVES_FLAG = "allow-natives-syntax";
/**
 * What V8 offers to scripts that are compiled while the flag is set. SUBTLE: of an ordinary function V8 forgets the
 * code when it was not called for long, and cannot compile it again without the flag; of a generator it does not.
 */
const UNLOCK =
  "(function* () { for (;;) { let buffer = yield; %ArrayBufferSetDetachKey(buffer, undefined); buffer = undefined; } })()";

/** @throws Error where V8 does not offer it */
function makeUnlock(): (buffer: ArrayBuffer) => void {
  let unlocker: Generator<undefined, undefined, ArrayBuffer | undefined>;
  const make = () => {
    const made = runInNewContext(UNLOCK) as typeof unlocker;
    made.next();
    made.next(new ArrayBuffer(1));
    return made;
  };
  try {
    // The process may have been started with the flag.
    unlocker = make();
  } catch {
    setFlagsFromString(`--${NATIVES_FLAG}`);
    try {
      unlocker = make();
    } finally {
      setFlagsFromString(`--no-${NATIVES_FLAG}`);
    }
  }
  return (buffer) => {
    // Moving it regardless would end the process.
    if (unlocker.next(buffer).done === true) throw new Error("a buffer over mapped memory cannot be unlocked");
  };
}

/** Changes what V8 counts as memory outside its heap by so many bytes, and returns the sum. */
type Meter = (change: number) => number;

let meter: Meter | undefined;

/**
 * Gives the way to V8's count of external memory; without it large buffers move too, but with more garbage collection.
 */
export function useExternalMemoryMeter(adjust: Meter): void {
  meter ??= adjust;
}

/**
 * SUBTLE: V8 collects by how far external memory is above its lowest point since the last full collection. Moving a
 * buffer takes its length off the count and adds it again: the lowest point sinks, the buffer counts as new memory, and
 * with one of 64 MiB V8 marks all the time (measured: p50 of a call 14 ms). So the count is raised by that length
 * around the move, and the lowest point stays where it was. It is not raised further than V8 allows without collecting,
 * so a buffer of more than 64 MiB still costs collections.
 */
const LARGE_BYTES_MIN = 4 << 20;
const RAISED_BYTES_MAX = 64 << 20;
/** The lowest point, as far as is known: the count when the last full collection was noticed, or less. */
let lowest: number | undefined;
/** Weak references are only looked at by full collections. */
const canaries = new FinalizationRegistry<undefined>(() => {
  lowest = meter!(0);
  canaries.register({}, undefined);
});

/**
 * Bytes of leases that V8 does not count. An arena bounds them already, and counted they make V8 mark all the heap
 * every 15 to 30 MiB (measured: 0.8 ms per lease of 1 MiB). So that V8 never comes to count less than nothing when it
 * frees them, it counts this many more from the start.
 */
const HIDDEN_BYTES_MAX = 128 << 20;
let hidden: number | undefined;
/**
 * Bytes of hidden leases that V8 counts again ahead of their end. SUBTLE: it takes a buffer's length off its count when
 * it frees it, and only then do we hear of that. Meanwhile the count is lower than ever, and what is added afterwards
 * looks like new memory, for which V8 marks: with leases of 1 MiB all the time (measured: three calls in a hundred took
 * more than 10 ms).
 */
let ahead = 0;

/**
 * A buffer was made over memory that others bound: V8 is told not to count it. False: it counts, and is not to be shown
 * again.
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

/** V8 is about to free hidden buffers of about so many bytes. */
export function expectFreed(byteLength: number): void {
  const more = Math.min(byteLength, hidden ?? 0) - ahead;
  if (more <= 0) return;
  meter!(more);
  ahead += more;
}

/** V8 has freed a buffer that was hidden. */
export function showToCount(byteLength: number): void {
  const expected = Math.min(byteLength, ahead);
  ahead -= expected;
  if (expected < byteLength) meter!(byteLength - expected);
  hidden! -= byteLength;
}

/**
 * Moves the memory to a new ArrayBuffer; `buffer` is detached. Undefined, and nothing happens, where V8 cannot do that.
 */
export function transferBuffer(buffer: ArrayBuffer): ArrayBuffer | undefined {
  found ??= find();
  if (found === false) return undefined;
  const { byteLength } = buffer;
  const raised = byteLength < LARGE_BYTES_MIN || meter === undefined ? 0 : raise(meter, byteLength);
  const moved = found.call(buffer);
  if (raised !== 0) meter!(-raised);
  if (!(moved instanceof ArrayBuffer)) Object.setPrototypeOf(moved, ArrayBuffer.prototype);
  return moved;
}

/** Raises the count before a move, and returns by how much. */
function raise(adjust: Meter, byteLength: number): number {
  const count = adjust(0);
  if (lowest === undefined) canaries.register({}, undefined);
  if (lowest === undefined || count < lowest) lowest = count;
  const raised = Math.min(byteLength, RAISED_BYTES_MAX) - (count - lowest);
  if (raised <= 0) return 0;
  adjust(raised);
  return raised;
}
