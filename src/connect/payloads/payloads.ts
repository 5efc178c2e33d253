/** Functions for large values besides sending and receiving them: `loan`, `release`, `leaseOf`, `retain`. */
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
import { DEFAULTS } from "../options/defaults.js";
import { loanTable } from "../options/table.js";
import type { LoanOptions, PayloadLease } from "../types/payloads.js";

/** Key of the method by which a transport gives loans. Not public. */
export const LOAN = Symbol("isthmus.loan");

export interface LoanOwner {
  [LOAN](byteLength: number, makeSignal: () => AbortSignal): Promise<Uint8Array>;
}

/**
 * Lends memory to build a payload in, so that sending it copies nothing: `byteLength` bytes of shared memory, aligned
 * to 64 bytes. Put them into any `bytes` field of a message, or, as a typed array with `typedList` of `isthmus/codec`,
 * into a packed field.
 *
 * The content is unspecified: zeros, or what an earlier message of the same connection left. Sending takes the whole
 * loan, even if only a part (`subarray`) was sent. From then on all views of its ArrayBuffer are empty, and sending one
 * of them is an error that names the call. So do not retry with the same message; make a new loan. A loan that is twice
 * in one message arrives twice and costs one copy.
 *
 * A loan that is not sent is given back by `release`, by `using lease = leaseOf(bytes)`, or when it is garbage.
 *
 * The same rules apply, but the bytes are copied, if the loan is sent over another connection than its own (of another
 * transport, or after a reconnection) or without shared memory. Other transports than Isthmus's copy the bytes and
 * leave the loan as it is.
 *
 * @param owner the transport that the request is going to be sent through, or the context of the handler that responds
 * with it
 * @param byteLength 0 to 2 GiB − 64 KiB
 * @throws ConnectError `ResourceExhausted`, naming the holder of the memory, if there was no room within `timeoutMs` or
 * never can be; `Unavailable` if there is no connection; `Canceled` if `signal` aborts; `InvalidArgument` if
 * `byteLength` is negative or not a whole number
 * @example
 * ```ts
 * const data = await loan(transport, 8 << 20);
 * fill(data);
 * await client.upload({ data });
 * ```
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
    throw new ConnectError("the wait for a loan was canceled before it began", Code.Canceled);
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

/** A time limit and two signals, as one signal. */
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
      const onAbort = () => this.controller.abort(new ConnectError("the wait was canceled", Code.Canceled));
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
 * Gives back the memory of a payload:
 *
 * - a received message: the memory that it leases, which is its large values; small values were copied and stay
 * - a loan that is not going to be sent
 * - a mapped file, which is closed
 * - a region; its receivers keep what was sent
 *
 * From then on all views of the bytes are empty. Does nothing if the target has no lease, or has been released before.
 * No background operation (of `zlib`, `fs`, or another call) may still use the bytes.
 * @param target a message that a call delivered (not one nested in it), or the bytes
 * @example
 * ```ts
 * const response = await client.download({ name: "a" });
 * await writeFile("a", response.data);
 * release(response);
 * ```
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

/**
 * An object for `using` that releases the leases of a received message, or a loan, at the end of the block.
 * @example
 * ```ts
 * const message = await client.download({ name: "a" });
 * using lease = leaseOf(message);
 * await writeFile("a", message.data);
 * ```
 */
export function leaseOf(target: Message | Uint8Array): PayloadLease {
  return {
    release: () => release(target),
    retain: () => retain(target),
    [Symbol.dispose]: () => release(target),
  };
}

/**
 * Keeps leased bytes beyond their handler if the option `leases` is "scoped". From then on they live like "collected"
 * ones, until they are garbage or released.
 * @param target a message that a call delivered (not one nested in it), or leased bytes
 * @example
 * ```ts
 * upload(request) {
 *   retain(request);
 *   queue.push(request.data);
 *   return {};
 * }
 * ```
 */
export function retain(target: Message | Uint8Array): void {
  if (!ArrayBuffer.isView(target)) return leasesOf(target)?.retain();
  if (!isPoisoned(target)) retainBytes(target);
}
