/**
 * Ordinary memory that messages are received into, where there are no blocks: without the addon, and for what is too
 * large for them. What was not kept by its message, or was released, or has ended with its scope, waits here for the
 * next message (RECEIVE-1, RECEIVE-2).
 *
 * An ArrayBuffer has one end, so it is leased only if a single value was kept; several live until they are garbage.
 */
import { clearInterval, setInterval } from "../../os/timers.js";
import type { BlockUser } from "../payload/block-views.js";
import { moveBuffer } from "../payload/block-views.js";
import type { LeaseHandle, LeaseHome, LeaseLifetime, LeaseViews } from "../payload/lease.js";
import { Lease } from "../payload/lease.js";
import type { ReceiveMemory, Receiving } from "./receive-memory.js";

/** Of one thread. */
const IDLE_BYTES_MAX = 64 << 20;
const IDLE_MS = 10_000;
const STEP_BYTES_MIN = 64 << 10;

export class HeapMemory implements ReceiveMemory {
  readonly bytes: Uint8Array;
  private readonly receiving: Receiving;
  private holds = 1;
  private kept = 0;

  /** @throws RangeError if there is no memory */
  constructor(receiving: Receiving, byteLength: number) {
    this.receiving = receiving;
    const buffer = takeIdle(byteLength);
    this.bytes = new Uint8Array(buffer, 0, byteLength);
    // Whoever is handed a value can look at all of its ArrayBuffer: what an earlier message left there is nobody's
    // business.
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
    Lease.open(new HeapHome(this.receiving, buffer), 0, 0, 0, buffer.byteLength, lifetime, callLabel, handles);
    this.receiving.opened(buffer.byteLength);
  }
}

/**
 * Of one lease. It has the ArrayBuffer only before the lease is open, and after it has ended: else it would never be
 * garbage.
 */
class HeapHome implements LeaseHome, LeaseViews {
  readonly views = this;
  private readonly receiving: Receiving;
  private buffer: ArrayBuffer | undefined;

  constructor(receiving: Receiving, buffer: ArrayBuffer) {
    this.receiving = receiving;
    this.buffer = buffer;
  }

  open(_unit: number, _offset: number, _byteLength: number, user: BlockUser): ArrayBuffer {
    const buffer = this.buffer!;
    this.buffer = undefined;
    collected.register(buffer, user);
    return buffer;
  }

  /**
   * SUBTLE: bytes that are just being sent are read from this very ArrayBuffer, so it is not emptied before that is
   * done.
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
    this.receiving.ended(lease);
    const buffer = this.buffer === undefined || this.buffer.byteLength === 0 ? undefined : moved(this.buffer);
    this.buffer = undefined;
    if (buffer !== undefined) putIdle(buffer);
  }
}

const collected = new FinalizationRegistry<BlockUser>((user) => user.onCollected());

/** Undefined if somebody has forbidden it to be moved. */
function moved(buffer: ArrayBuffer): ArrayBuffer | undefined {
  try {
    return moveBuffer(buffer);
  } catch {
    return undefined;
  }
}

/** By length; those put last are taken first. */
const idle = new Map<number, ArrayBuffer[]>();
let idleBytes = 0;
let used = false;
let clearing: NodeJS.Timeout | undefined;

/** Lengths that differ little share memory: at most an eighth is left over. */
function roundUp(byteLength: number): number {
  const step = Math.max(STEP_BYTES_MIN, 2 ** Math.floor(Math.log2(byteLength)) / 8);
  return Math.ceil(byteLength / step) * step;
}

function takeIdle(byteLength: number): ArrayBuffer {
  used = true;
  const rounded = roundUp(byteLength);
  const waiting = idle.get(rounded);
  const buffer = waiting?.pop();
  // Not zero-filled: every byte is written before anyone reads it.
  if (buffer === undefined) return Buffer.allocUnsafeSlow(rounded).buffer;
  idleBytes -= rounded;
  if (waiting!.length === 0) idle.delete(rounded);
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
