/**
 * The leases of one received message, and how they end together: with the message's scope, or by `release`.
 *
 * Strict mode extends this to bytes that are not leases. They end as if they were, and any use of them afterwards
 * throws an error.
 */
import { moveBuffer } from "../v8/array-buffer-transfer.js";
import type { LeaseHandle } from "./lease.js";
import { Lease } from "./lease.js";
import { ephemeral, originOf, Returned } from "./origin.js";

/** Strict mode: the buffers of bytes that are not leases but end as if they were. */
const strictBuffers = new WeakSet<ArrayBufferLike>();
/** Strict mode: those of `strictBuffers` that outlive their scope. */
const keptBuffers = new WeakSet<ArrayBufferLike>();
let strictSeen = false;

/** Whether bytes may end with the call that brought them. A sender has to copy such bytes at once. */
export function isEphemeral(bytes: ArrayBufferView): boolean {
  const origin = originOf(bytes);
  if (origin instanceof Lease) return origin.endsWhenSent && !origin.retained;
  return strictBuffers.has(bytes.buffer);
}

/** Lets bytes outlive the end of their scope. */
export function retainBytes(bytes: ArrayBufferView): void {
  const origin = originOf(bytes);
  if (origin instanceof Lease) origin.retained = true;
  else if (strictBuffers.has(bytes.buffer)) keptBuffers.add(bytes.buffer);
}

/**
 * What a message holds, in a private field of the message. SUBTLE: not in a WeakMap. Once the table of a WeakMap is
 * old, collections of the young generation treat the values in it as used, and with them the message's bytes (measured:
 * thousands of leases stayed until the next full collection).
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
  /** Strict mode: bytes that are not leases and are treated as if they were. */
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
      // Counted once and never taken off: from now on, no message is kept to be encoded later.
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

  /** Call when the scope that the message came with ends. */
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

/** Whether any use of these bytes throws, even asking for their buffer. */
export function isPoisoned(bytes: ArrayBufferView): boolean {
  return poisoned.has(bytes);
}

const poisoned = new WeakSet<ArrayBufferView>();

/** Makes any use of `bytes` throw an error that says why, except reading by index. */
function poison(bytes: Uint8Array, why: string): void {
  // Another prototype: poisoned already, or not made by us.
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
