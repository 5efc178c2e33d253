/** What users do with large values besides sending and receiving them: `loan`, `release`, `leaseOf`, `retain`. */
import type { Message } from "@bufbuild/protobuf";
import type { HandlerContext, Transport } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import { leaseHandleOf } from "../../memory/payload/lease.js";
import { leasesOf, isPoisoned, retainBytes } from "../../memory/payload/message-leases.js";
import { Loan } from "../../memory/payload/loan.js";
import { MappedFile } from "../../memory/payload/mapped-file.js";
import { originOf } from "../../memory/payload/origin.js";
import { Region } from "../../memory/payload/region.js";
import { letMove, moveBuffer } from "../../memory/v8/array-buffer-transfer.js";
import { clearTimeout, setTimeout } from "../../os/timers.js";
import { onAbortOf, ownSignal } from "../../rpc/abort.js";
import { CallContext } from "../../rpc/server/context.js";
import { TIMER_MS_MAX } from "../../rpc/deadline.js";
import { PAYLOAD_BYTES_MAX } from "../../wire/frame.js";
import { checkOptional } from "../options/check.js";
import { DEFAULTS, loanTable } from "../options/table.js";

/** The method by which a transport gives loans; not for users. */
export const LOAN = Symbol("isthmus.loan");

export interface LoanOwner {
  [LOAN](byteLength: number, makeSignal: () => AbortSignal): Promise<Uint8Array>;
}

export interface LoanOptions {
  /** Gives up waiting; a handler's call is over when its own signal aborts, which gives up too. */
  readonly signal?: AbortSignal;
  /**
   * How long to wait while the arena is full, in milliseconds; 10 000 by default. `Infinity`, and what no timer can
   * count: for ever.
   */
  readonly timeoutMs?: number;
}

/**
 * Memory to build a payload in from the start, so that sending it copies nothing: `byteLength` bytes of shared memory,
 * aligned to 64 bytes, put into any `bytes` field (or, as a typed array through `typedList` of `isthmus/codec`, into a
 * packed field) of a message.
 *
 * Its content is not specified: zeros, or what an earlier message of the same connection left there. Sending takes all
 * of the loan, also if only a part of it (`subarray`) was sent: from then on all views on its ArrayBuffer are empty,
 * and sending one of them is an error that names the call. So a retry that sends the same message fails; make a new
 * loan for it. The same loan twice in one message arrives twice, by one copy. A loan that is not sent goes back by
 * `release`, by `using lease = leaseOf(bytes)`, or when it is garbage.
 *
 * Sent over another connection than its own (of another transport, or after a reconnection), and where there is no
 * shared memory, the same holds, but the bytes are copied. A foreign transport knows nothing of loans: it copies the
 * bytes and does not take them.
 *
 * @param owner the transport that a request is going to be sent through, or the context of the handler whose answer it
 * is for
 * @throws ConnectError `ResourceExhausted` that names who has the memory, if there was no room for `timeoutMs`, or
 * there never can be; `Unavailable` if there is no connection; `Canceled` if `signal` aborts; `InvalidArgument` if
 * `byteLength` is no size
 */
export async function loan(
  owner: Transport | HandlerContext,
  byteLength: number,
  options?: LoanOptions,
): Promise<Uint8Array> {
  const { signal: given, timeoutMs } = checkOptional(loanTable, options);
  const signal = given && ownSignal(given);
  if (!Number.isInteger(byteLength) || byteLength < 0)
    throw new ConnectError(`a loan of ${byteLength} bytes: expected a whole number of bytes`, Code.InvalidArgument);
  if (byteLength > PAYLOAD_BYTES_MAX) {
    throw new ConnectError(
      `a loan of ${byteLength} bytes is larger than the limit of ${PAYLOAD_BYTES_MAX} bytes (2 GiB − 64 KiB)`,
      Code.ResourceExhausted,
    );
  }
  const take = takerOf(owner);
  if (byteLength === 0 || take === undefined) return Loan.onHeap(byteLength);
  if (signal?.aborted === true)
    throw new ConnectError("the wait for a loan was given up before it began", Code.Canceled);
  let wait: LoanWait | undefined;
  try {
    return await take(
      byteLength,
      () => (wait ??= new LoanWait(timeoutMs, signal, owner instanceof CallContext ? owner.signal : undefined)).signal,
    );
  } finally {
    wait?.end();
  }
}

type Taker = (byteLength: number, makeSignal: () => AbortSignal) => Promise<Uint8Array>;

function takerOf(owner: Transport | HandlerContext): Taker | undefined {
  if (owner instanceof CallContext) return (byteLength, makeSignal) => owner.carrier.loan(byteLength, makeSignal);
  if (LOAN in owner) return (byteLength, makeSignal) => (owner as unknown as LoanOwner)[LOAN](byteLength, makeSignal);
  return undefined;
}

/** A time limit and other signals, as one signal. */
class LoanWait {
  private readonly controller = new AbortController();
  private readonly timer: NodeJS.Timeout | undefined;
  private readonly unlink: (() => void)[] = [];

  constructor(
    timeoutMs: number = DEFAULTS.loanTimeoutMs,
    signal: AbortSignal | undefined,
    callSignal: AbortSignal | undefined,
  ) {
    const expire = () => this.controller.abort(new ConnectError(`waited ${timeoutMs} ms`, Code.DeadlineExceeded));
    if (!(timeoutMs > TIMER_MS_MAX)) this.timer = setTimeout(expire, timeoutMs);
    for (const outer of [signal, callSignal]) {
      if (outer === undefined) continue;
      const onAbort = () => this.controller.abort(new ConnectError("the wait was given up", Code.Canceled));
      if (outer.aborted) onAbort();
      onAbortOf(outer, onAbort);
      this.unlink.push(() => outer.removeEventListener("abort", onAbort));
    }
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  end(): void {
    clearTimeout(this.timer);
    for (const unlink of this.unlink) unlink();
  }
}

/**
 * Gives back what a received message has leased (its large values), or a loan that is not to be sent; closes a mapped
 * file, and ends a region (what was sent of it stays with whoever has it). All views on these bytes are empty from now
 * on; small values of the message were copied and stay. Nothing happens for what has no lease, or none any more.
 *
 * No operation in the background (of `zlib`, `fs`, another call) may still be using the bytes.
 * @param target a message that a call delivered (not one nested in it), or bytes: leased ones, a loan, a mapped file, a
 * region
 */
export function release(target: Message | Uint8Array): void {
  const why = "it was released";
  if (!ArrayBuffer.isView(target)) {
    leasesOf(target)?.end(why);
    return;
  }
  if (isPoisoned(target)) return;
  const origin = originOf(target);
  if (origin instanceof Loan) return origin.release(target.buffer as ArrayBuffer, why);
  if (origin instanceof MappedFile) {
    origin.release(why);
    if (target.buffer.byteLength === 0) return;
    const buffer = target.buffer as ArrayBuffer;
    letMove(buffer);
    moveBuffer(buffer);
    return;
  }
  if (origin instanceof Region) return origin.release(target.buffer as ArrayBuffer, why);
  const handle = leaseHandleOf(target);
  handle?.lease.end(handle.buffer, why);
}

/** The right to a received message's large values, or to a loan, to be ended with `using`. */
export interface PayloadLease extends Disposable {
  /** See {@link release}. */
  release(): void;
  /** See {@link retain}. */
  retain(): void;
}

/** `using lease = leaseOf(message)` releases at the end of the block what the message has leased. */
export function leaseOf(target: Message | Uint8Array): PayloadLease {
  return {
    release: () => release(target),
    retain: () => retain(target),
    [Symbol.dispose]: () => release(target),
  };
}

/**
 * With `leases: "scoped"`: keeps leased bytes beyond the handler that they were given to; from then on they live as
 * "collected" ones do, until they are garbage or released.
 */
export function retain(target: Message | Uint8Array): void {
  if (!ArrayBuffer.isView(target)) return leasesOf(target)?.retain();
  if (!isPoisoned(target)) retainBytes(target);
}
