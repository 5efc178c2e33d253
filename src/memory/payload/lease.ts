/**
 * Leases: what a receiver has of blocks that the peer sent it, or of memory of its own that a message was received
 * into. A lease ends when nothing here can reach the block any more, and then the block goes back.
 *
 * LEASE-1  A block goes back once for each time it came, after its ArrayBuffer was detached or is garbage, and after
 *          all that was to be copied out of it is.
 */
import type { BlockUser, BlockView } from "./block-views.js";
import { moveBuffer } from "./block-views.js";
import type { Origin } from "./origin.js";
import { originOf, ephemeral, Returned, setOrigin } from "./origin.js";

/**
 * How long received bytes that were not copied stay valid.
 *
 * - "collected" (the default): as long as anybody refers to them, as ordinary memory; or until `release`.
 * - "scoped": in a handler, until it has settled; then they are detached. In a client, until `release`. Cheapest, since
 *   blocks are used again at once; what is to last longer has to be copied or kept with `retain`, and no operation in
 *   the background (`zlib`, `fs`, another call) may still be reading them at the end.
 * - "copied": nothing is leased; all bytes are copied to the heap.
 * - "strict": for tests. As "scoped", for `bytes` of every size, and any use after the end throws an error that names
 *   the call (except reading by index, which finds `undefined`, and native functions that look at the memory directly:
 *   they find none).
 */
export type LeaseLifetime = "collected" | "scoped" | "copied" | "strict";

export const LEASE_LIFETIMES: readonly LeaseLifetime[] = ["collected", "scoped", "copied", "strict"];

/** Whether leases end with the handler that they were given to. */
export function isScoped(lifetime: LeaseLifetime): boolean {
  return lifetime === "scoped" || lifetime === "strict";
}

/** What makes the ArrayBuffers of leases: as `BlockViews` does. */
export interface LeaseViews {
  open(unit: number, offset: number, byteLength: number, user: BlockUser): ArrayBuffer;
  detach(buffer: ArrayBuffer, user: BlockUser): boolean;
}

/** Where leased blocks go back to. */
export interface LeaseHome {
  readonly views: LeaseViews;
  /**
   * @param wasReturned the block was named in a message to its owner meanwhile, which has to arrive before this does
   */
  release(lease: Lease, wasReturned: boolean): void;
  /**
   * Of memory that a message was received into: the lease's bytes to be read for as long as it is pinned, although its
   * user may end it.
   */
  readPinned?(lease: Lease, bytes: Uint8Array): Uint8Array;
}

export class Lease implements Origin, BlockUser {
  readonly kind = "lease";
  readonly home: LeaseHome;
  readonly unit: number;
  readonly generation: number;
  readonly offset: number;
  readonly byteLength: number;
  /** The call that took it. */
  readonly callLabel: string;
  gone: string | undefined;
  view: BlockView | undefined;
  /** Keeps its bytes beyond the end of its scope. */
  retained = false;
  /** Whether sending its bytes ends it. */
  readonly endsWhenSent: boolean;
  private holds = 1;
  private ended = false;
  private returned = false;

  private constructor(
    home: LeaseHome,
    unit: number,
    generation: number,
    offset: number,
    byteLength: number,
    lifetime: LeaseLifetime,
    callLabel: string,
  ) {
    this.home = home;
    this.unit = unit;
    this.generation = generation;
    this.offset = offset;
    this.byteLength = byteLength;
    this.endsWhenSent = lifetime !== "collected";
    this.callLabel = callLabel;
  }

  /** @throws SystemError when the block cannot be mapped; then the caller still has it */
  static open(
    home: LeaseHome,
    unit: number,
    generation: number,
    offset: number,
    byteLength: number,
    lifetime: LeaseLifetime,
    callLabel: string,
    handles: LeaseHandle[],
  ): Uint8Array {
    const lease = new Lease(home, unit, generation, offset, byteLength, lifetime, callLabel);
    const buffer = home.views.open(unit, offset, byteLength, lease);
    setOrigin(buffer, lease);
    if (lease.endsWhenSent) ephemeral.count++;
    handles.push({ lease, buffer });
    return new Uint8Array(buffer);
  }

  /** Ends the user's right: all views on the bytes are empty from now on. Nothing happens if it has ended. */
  end(buffer: ArrayBuffer, why: string): void {
    if (this.ended || !this.home.views.detach(buffer, this)) return;
    this.gone = why;
    this.userIsDone();
  }

  /**
   * Its bytes go back in a message to their owner, and with them the right to the block: like `end`, but the block is
   * not given back besides. False if something else still needs it.
   */
  endByReturning(buffer: ArrayBuffer, why: string): boolean {
    if (this.holds > 1 || this.returned || this.ended || !this.home.views.detach(buffer, this)) return false;
    this.gone = why;
    this.holds = 0;
    this.markEnded();
    return true;
  }

  /** Its bytes are named in a message to their owner, and stay ours. */
  markReturned(): void {
    this.returned = true;
  }

  /** Something of ours reads the block: it does not go back meanwhile. */
  pin(): void {
    this.holds++;
  }

  get isPinned(): boolean {
    return this.holds > 1;
  }

  unpin(): void {
    if (--this.holds === 0) this.home.release(this, this.returned);
  }

  onCollected(): void {
    if (!this.ended) this.userIsDone();
  }

  private markEnded(): void {
    this.ended = true;
    if (this.endsWhenSent) ephemeral.count--;
  }

  private userIsDone(): void {
    this.markEnded();
    this.unpin();
  }
}

/** A lease together with its bytes: kept only by what may keep them alive. */
export interface LeaseHandle {
  readonly lease: Lease;
  readonly buffer: ArrayBuffer;
}

/** In strict mode: buffers of bytes that are not leases but end as if they were, … */
const strictBuffers = new WeakSet<ArrayBufferLike>();
/** … unless they are kept. */
const keptBuffers = new WeakSet<ArrayBufferLike>();
let strictSeen = false;

/** Whether bytes may end with the call that brought them, so that who sends them later has to copy them at once. */
export function isEphemeral(bytes: ArrayBufferView): boolean {
  const origin = originOf(bytes);
  if (origin instanceof Lease) return origin.endsWhenSent && !origin.retained;
  return strictBuffers.has(bytes.buffer);
}

/** Bytes outlive the end of their scope. */
export function retainBytes(bytes: ArrayBufferView): void {
  const origin = originOf(bytes);
  if (origin instanceof Lease) origin.retained = true;
  else if (strictBuffers.has(bytes.buffer)) keptBuffers.add(bytes.buffer);
}

/**
 * What a message holds, kept by the message in a field that nobody else can see. SUBTLE: not in a WeakMap. Once its
 * table is old, collections of the young generation take what it maps to for used, and with it the message's bytes
 * (measured: thousands of leases were left to the next full collection).
 */
class MessageHold extends Returned {
  readonly #leases: MessageLeases;

  constructor(message: object, leases: MessageLeases) {
    super(message);
    this.#leases = leases;
  }

  static in(message: object): MessageLeases | undefined {
    return #leases in message ? message.#leases : undefined;
  }
}

/** The leases that came with one message. */
export class MessageLeases {
  private readonly handles: readonly LeaseHandle[];
  /** In strict mode: bytes that are not leases, to be treated as if they were. */
  private readonly strict: readonly Uint8Array[];
  private readonly callLabel: string;
  private retained = false;

  private constructor(handles: readonly LeaseHandle[], strict: readonly Uint8Array[], callLabel: string) {
    this.handles = handles;
    this.strict = strict;
    this.callLabel = callLabel;
  }

  static of(
    message: object,
    handles: readonly LeaseHandle[],
    strict: readonly Uint8Array[],
    callLabel: string,
  ): MessageLeases {
    const leases = new MessageLeases(handles, strict, callLabel);
    for (const { buffer } of strict) strictBuffers.add(buffer);
    if (strict.length > 0 && !strictSeen) {
      // Once for all: such a message is never kept until it can be sent.
      strictSeen = true;
      ephemeral.count++;
    }
    new MessageHold(message, leases);
    return leases;
  }

  retain(): void {
    this.retained = true;
    for (const { lease } of this.handles) lease.retained = true;
  }

  /** The scope that the message came with ends. */
  endScope(): void {
    if (this.retained) return;
    const why = `it was a lease of the call ${this.callLabel}, which has ended; copy it, or keep it with retain(message)`;
    for (const { lease, buffer } of this.handles) if (!lease.retained) lease.end(buffer, why);
    this.poisonAll(why, false);
  }

  end(why: string): void {
    for (const { lease, buffer } of this.handles) lease.end(buffer, why);
    this.poisonAll(why, true);
  }

  private poisonAll(why: string, evenKept: boolean): void {
    for (const bytes of this.strict) {
      if (isPoisoned(bytes)) continue;
      const origin = originOf(bytes);
      const isKept =
        origin instanceof Lease ? origin.retained && origin.gone === undefined : keptBuffers.has(bytes.buffer);
      if (evenKept || !isKept) poison(bytes, why);
    }
  }
}

export function leasesOf(message: object): MessageLeases | undefined {
  return MessageHold.in(message);
}

/** The lease that bytes are of, with them. */
export function leaseHandleOf(bytes: ArrayBufferView): LeaseHandle | undefined {
  const origin = originOf(bytes);
  return origin instanceof Lease ? { lease: origin, buffer: bytes.buffer as ArrayBuffer } : undefined;
}

/** Whether nothing of these bytes may be looked at any more, not even where they lie. */
export function isPoisoned(bytes: ArrayBufferView): boolean {
  return poisoned.has(bytes);
}

const poisoned = new WeakSet<ArrayBufferView>();

/** From now on using `bytes` throws an error that says why, but for reading by index. */
function poison(bytes: Uint8Array, why: string): void {
  // Poisoned already, or not of ours.
  if (Object.getPrototypeOf(bytes) !== Uint8Array.prototype) return;
  poisoned.add(bytes);
  if (bytes.byteLength > 0) moveBuffer(bytes.buffer as ArrayBuffer);
  const fail = () => {
    throw new TypeError(`these bytes are gone: ${why}`);
  };
  const prototype = Object.create(Uint8Array.prototype) as object;
  for (
    let source = Uint8Array.prototype as object;
    source !== Object.prototype;
    source = Object.getPrototypeOf(source) as object
  ) {
    for (const key of Reflect.ownKeys(source)) {
      if (key !== "constructor") Object.defineProperty(prototype, key, { get: fail, configurable: true });
    }
  }
  Object.setPrototypeOf(bytes, prototype);
}
