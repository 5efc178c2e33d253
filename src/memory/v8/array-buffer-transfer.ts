/**
 * Moving the memory of an ArrayBuffer to a new one, which detaches the old one and touches none of the bytes; and
 * keeping ArrayBuffers over mapped memory in their thread, although they can be moved here.
 *
 * Node 22 and later have `ArrayBuffer.prototype.transfer`. Node 20's V8 has it behind a flag that takes effect when a
 * realm is made. There it is taken from a realm of its own, and it works on ArrayBuffers of any realm. Without it,
 * every lease costs a new ArrayBuffer, and V8 collects garbage for each one of 64 MiB: 290 µs instead of 1 µs.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { markAsUntransferable } from "node:worker_threads";
import { lowerAfterMove, raiseForMove } from "./external-memory.js";
import { isPlain } from "./policy.js";

type Transfer = (this: ArrayBuffer) => ArrayBuffer;

const FLAG = "harmony-rab-gsab-transfer";

let found: Transfer | false | undefined;

function find(): Transfer | false {
  if ("transfer" in ArrayBuffer.prototype) return ArrayBuffer.prototype.transfer as Transfer;
  if (isPlain) return false;
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
 * Moves the memory to a new ArrayBuffer and detaches `buffer`. Returns undefined, and does nothing, if V8 cannot do
 * that.
 */
export function transferBuffer(buffer: ArrayBuffer): ArrayBuffer | undefined {
  found ??= find();
  if (found === false) return undefined;
  const raised = raiseForMove(buffer.byteLength);
  const moved = found.call(buffer);
  lowerAfterMove(raised);
  if (!(moved instanceof ArrayBuffer)) Object.setPrototypeOf(moved, ArrayBuffer.prototype);
  return moved;
}

/** Detaches an ordinary ArrayBuffer and returns its memory in a new one. */
export function moveBuffer(buffer: ArrayBuffer): ArrayBuffer {
  return transferBuffer(buffer) ?? structuredClone(buffer, { transfer: [buffer] });
}

/**
 * Buffers over mapped memory stay in their thread. The mappings of a thread go when it ends, and another thread that a
 * buffer was posted to would then read unmapped pages, or memory mapped for something else. So the buffers that user
 * code sees are marked, and posting one is an error (on Node 20 it is copied).
 *
 * From Node 24 on, a marked buffer is also locked: nothing can detach it, not even `transfer()`. There `letMove`
 * unlocks it before it is moved or detached here. SUBTLE: when a thread ends, Node itself detaches the buffers that an
 * addon made, and aborts if one is locked. So such a buffer is moved first, and only the buffer it was moved to is
 * locked.
 */
interface Keeper {
  /** Whether `markAsUntransferable` also locks. */
  readonly locks: boolean;
  /** Makes a locked buffer movable again. */
  readonly unlock: (buffer: ArrayBuffer) => void;
}

let keeper: Keeper | false | undefined;

/** Keeps a buffer that `transferBuffer` made in this thread. */
export function keepInThread(buffer: ArrayBuffer): void {
  keeper ??= findKeeper();
  if (keeper !== false) markAsUntransferable(buffer);
}

/** Keeps a buffer that the addon has just made in this thread. Returns the buffer to use in its place. */
export function keepNewInThread(buffer: ArrayBuffer): ArrayBuffer {
  keeper ??= findKeeper();
  if (keeper === false) return buffer;
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it is new, so nothing keeps it in place
  const kept = keeper.locks ? transferBuffer(buffer)! : buffer;
  markAsUntransferable(kept);
  return kept;
}

/** Call before a buffer that was kept in this thread is moved or detached. */
export function letMove(buffer: ArrayBuffer): void {
  if (keeper) keeper.unlock(buffer);
}

/** Returns false where a marked buffer could never be moved again; then buffers are not marked. */
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
    // Where buffers cannot be moved at all, this does nothing, and the mark does no harm.
    transferBuffer(probe);
    return true;
  } catch {
    return false;
  }
}

const NATIVES_FLAG = "allow-natives-syntax";
/**
 * Uses a V8 function that is available to scripts compiled while the flag is set. SUBTLE: V8 discards the code of an
 * ordinary function that was not called for long, and cannot compile it again without the flag. It does not discard the
 * code of a generator that is suspended.
 */
const UNLOCK =
  "(function* () { for (;;) { let buffer = yield; %ArrayBufferSetDetachKey(buffer, undefined); buffer = undefined; } })()";

/** @throws Error if V8 does not offer the function */
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
  } catch (error) {
    if (isPlain) throw error;
    setFlagsFromString(`--${NATIVES_FLAG}`);
    try {
      unlocker = make();
    } finally {
      setFlagsFromString(`--no-${NATIVES_FLAG}`);
    }
  }
  return (buffer) => {
    // Moving it while it is locked would end the process.
    if (unlocker.next(buffer).done === true) throw new Error("a buffer over mapped memory cannot be unlocked");
  };
}
