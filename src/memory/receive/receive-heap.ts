/**
 * Receive memory in ordinary ArrayBuffers, used without the addon and for messages that are too large for a block: see
 * receive-memory.ts. A buffer is reused when its message kept no value of it, or when the lease on it was released or
 * ended with its scope (RECEIVE-1, RECEIVE-2).
 *
 * An ArrayBuffer can only be detached as a whole. So it is leased only if the message kept a single value; several
 * values live until they are garbage.
 */
import { clearInterval, setInterval } from "../../os/timers.js";
import type { BlockUser } from "../payload/block-views.js";
import type { LeaseHandle, LeaseHome, LeaseLifetime, LeaseViews } from "../payload/lease.js";
import { Lease } from "../payload/lease.js";
import { moveBuffer } from "../v8/array-buffer-transfer.js";
import type { LeaseTally, ReceiveMemory } from "./receive-memory.js";

/** Bytes that one thread keeps for reuse. */
const IDLE_BYTES_MAX = 64 << 20;
const IDLE_MS = 10_000;
const STEP_BYTES_MIN = 64 << 10;

export class HeapMemory implements ReceiveMemory {
  readonly bytes: Uint8Array;
  private readonly tally: LeaseTally;
  private holds = 1;
  private kept = 0;

  /** @throws RangeError if there is no memory */
  constructor(tally: LeaseTally, byteLength: number) {
    this.tally = tally;
    const buffer = takeIdle(byteLength);
    this.bytes = new Uint8Array(buffer, 0, byteLength);
    // A user who gets a value can read all of its ArrayBuffer, so remains of an earlier message must not be there.
    new Uint8Array(buffer, byteLength).fill(0);
  }

  hold(): void {
    this.holds++;
  }

  unhold(): void {
    if (--this.holds === 0 && this.kept === 0) putIdle(this.bytes.buffer as ArrayBuffer);
  }

  lend(at: number, byteLength: number): Uint8Array {
    this.kept++;
    return new Uint8Array(this.bytes.buffer, at, byteLength);
  }

  lent(lifetime: LeaseLifetime, callLabel: string, handles: LeaseHandle[]): void {
    if (this.kept !== 1) return;
    const buffer = this.bytes.buffer as ArrayBuffer;
    const range = { unit: 0, generation: 0, offset: 0, byteLength: buffer.byteLength };
    Lease.open(new HeapHome(this.tally, buffer), range, lifetime, callLabel, handles);
    this.tally.opened(buffer.byteLength);
  }
}

/**
 * The home of one lease. It refers to the ArrayBuffer only before the lease is opened and after it has ended; otherwise
 * the buffer could never become garbage.
 */
class HeapHome implements LeaseHome, LeaseViews {
  readonly views = this;
  private readonly tally: LeaseTally;
  private buffer: ArrayBuffer | undefined;

  constructor(tally: LeaseTally, buffer: ArrayBuffer) {
    this.tally = tally;
    this.buffer = buffer;
  }

  open(_unit: number, _offset: number, _byteLength: number, user: BlockUser): ArrayBuffer {
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- a lease is opened only once
    const buffer = this.buffer!;
    this.buffer = undefined;
    collected.register(buffer, user);
    return buffer;
  }

  /**
   * SUBTLE: while the lease is pinned, its bytes are being sent from this ArrayBuffer, so it is detached only later.
   */
  detach(buffer: ArrayBuffer, user: BlockUser): boolean {
    if (buffer.byteLength === 0) return false;
    this.buffer = (user as Lease).isPinned ? buffer : moved(buffer);
    return true;
  }

  readPinned(_lease: Lease, bytes: Uint8Array): Uint8Array {
    return bytes;
  }

  release(lease: Lease): void {
    this.tally.ended(lease);
    const buffer = this.buffer === undefined || this.buffer.byteLength === 0 ? undefined : moved(this.buffer);
    this.buffer = undefined;
    if (buffer !== undefined) putIdle(buffer);
  }
}

const collected = new FinalizationRegistry<BlockUser>((user) => user.onCollected());

/** Moves the memory to a new ArrayBuffer; undefined if user code made that impossible. */
function moved(buffer: ArrayBuffer): ArrayBuffer | undefined {
  try {
    return moveBuffer(buffer);
  } catch {
    return undefined;
  }
}

/** Buffers for reuse, by length. The one added last is taken first. */
const idle = new Map<number, ArrayBuffer[]>();
let idleBytes = 0;
let used = false;
let clearing: NodeJS.Timeout | undefined;

/** Rounds up, so that messages of similar length can reuse the same buffer. At most an eighth is left over. */
function roundUp(byteLength: number): number {
  const step = Math.max(STEP_BYTES_MIN, 2 ** Math.floor(Math.log2(byteLength)) / 8);
  return Math.ceil(byteLength / step) * step;
}

function takeIdle(byteLength: number): ArrayBuffer {
  used = true;
  const rounded = roundUp(byteLength);
  const waiting = idle.get(rounded);
  const buffer = waiting?.pop();
  // Not filled with zeros: every byte is written before it is read.
  if (buffer === undefined) return Buffer.allocUnsafeSlow(rounded).buffer;
  idleBytes -= rounded;
  if (waiting?.length === 0) idle.delete(rounded);
  return buffer;
}

function putIdle(buffer: ArrayBuffer): void {
  const { byteLength } = buffer;
  if (idleBytes + byteLength > IDLE_BYTES_MAX) return;
  idleBytes += byteLength;
  const waiting = idle.get(byteLength);
  if (waiting === undefined) idle.set(byteLength, [buffer]);
  else waiting.push(buffer);
  clearing ??= setInterval(clearUnused, IDLE_MS).unref();
}

function clearUnused(): void {
  if (used) {
    used = false;
    return;
  }
  idle.clear();
  idleBytes = 0;
  clearInterval(clearing);
  clearing = undefined;
}
