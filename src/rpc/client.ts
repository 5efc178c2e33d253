/**
 * The client's end of a connection: opens a stream per call, matches answers to calls, and ends every call exactly
 * once, whichever of answer, deadline, cancellation and loss of the connection comes first.
 *
 * CALL-1  A stream id is slot + generation; the generation changes with every call, so a late answer to a call that was
 *         given up is recognised and dropped.
 */
import type { DescMethodUnary } from "@bufbuild/protobuf";
import type { UnaryResponse } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Carrier, CarrierClosed, FrameReceiver, ReceivedFrame } from "../carrier/carrier.js";
import type { MessageCodec } from "../codec/codec.js";
import { FileTooShort } from "../memory/mapped-file.js";
import { Violation } from "../memory/violation.js";
import { FLAG, KIND, SLOT_BITS, SLOTS_MAX, STATUS_BYTES_MAX } from "../wire/frame.js";
import { decodeHeaders, encodeMetadata, metadataComplaint } from "../wire/metadata.js";
import { onAbortOf } from "./abort.js";
import { CallQueue } from "./call-queue.js";
import { boundedTimeout, timedOut } from "./deadline.js";
import { abortError, decodeError } from "./errors.js";
import type { Reception } from "./inbound.js";
import { Assembly, decodeWhole, takeMetadata } from "./inbound.js";
import { Outbox } from "./outbox.js";

/** A method as this client calls it. */
export interface ClientMethod {
  readonly method: DescMethodUnary;
  /** Number that stands for the method on every connection of this client, once it is defined there. */
  readonly id: number;
  /** "/package.Service/Method" */
  readonly path: string;
  readonly input: MessageCodec;
  readonly output: MessageCodec;
  readonly reception: Reception;
}

export interface ClientLimits {
  readonly readMaxBytes: number;
  readonly writeMaxBytes: number;
  readonly maxStreams: number;
}

/** Pongs that may wait to be sent. */
const PONGS_WAITING_MAX = 256;

/** One slot of the table of open calls, reused for call after call. */
class ClientCall {
  readonly slot: number;
  generation = 0;
  streamId = 0;
  active = false;
  method!: ClientMethod;
  resolve!: (response: UnaryResponse) => void;
  reject!: (error: ConnectError) => void;
  timer: NodeJS.Timeout | undefined;
  signal: AbortSignal | undefined;
  onAbort: (() => void) | undefined;
  assembly: Assembly | undefined;
  // Of an answer that comes in pieces, from its first frame.
  code = 0;
  metadata: Uint8Array | undefined;
  headerLength = 0;

  constructor(slot: number) {
    this.slot = slot;
  }
}

// One executor for all calls: no closure per call.
let newResolve: (response: UnaryResponse) => void;
let newReject: (error: ConnectError) => void;
const executor = (resolve: (response: UnaryResponse) => void, reject: (error: ConnectError) => void) => {
  newResolve = resolve;
  newReject = reject;
};

// SUBTLE: a promise's functions hold its result, and what is leased with it; so they are not kept beyond their call.
const nothing = () => undefined;

export class ClientConnection implements FrameReceiver {
  readonly carrier: Carrier;
  private readonly limits: ClientLimits;
  private readonly outbox: Outbox;
  private readonly onEnded: (reason: CarrierClosed) => void;
  private readonly calls: ClientCall[] = [];
  private readonly freeSlots: number[] = [];
  /** Calls that wait for a slot. */
  private readonly queue = new CallQueue();
  private startingQueued = false;
  private readonly defined: boolean[] = [];
  private pending = 0;
  private closedBy: CarrierClosed | undefined;
  /** The server accepts no new calls here. */
  goingAway = false;

  /** @param onEnded called once, when the connection is over or goes away */
  constructor(carrier: Carrier, limits: ClientLimits, onEnded: (reason: CarrierClosed) => void) {
    this.carrier = carrier;
    this.limits = limits;
    this.onEnded = onEnded;
    this.outbox = new Outbox(carrier, (streamId, error) => this.finishFailed(streamId, error));
  }

  get usable(): boolean {
    return this.closedBy === undefined && !this.goingAway;
  }

  get pendingCalls(): number {
    return this.pending + this.queue.size;
  }

  /**
   * Calls a method.
   * @param timeoutMs undefined or not positive: no deadline
   * @returns settles exactly once; rejects with a ConnectError
   */
  call(
    method: ClientMethod,
    input: unknown,
    header: Headers | undefined,
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
  ): Promise<UnaryResponse> {
    const promise = new Promise<UnaryResponse>(executor);
    const resolve = newResolve;
    const reject = newReject;
    newResolve = newReject = nothing;
    if (this.pending >= this.limits.maxStreams) {
      const start = (leftMs: number | undefined) => this.start(method, input, header, leftMs, signal, resolve, reject);
      this.queue.add(boundedTimeout(timeoutMs), signal, start, reject);
    } else {
      this.start(method, input, header, timeoutMs, signal, resolve, reject);
    }
    return promise;
  }

  /** Like `call`, for who waits without promises and makes one call at a time: `resolve` or `reject` is called once, perhaps before this returns. */
  callWith(
    method: ClientMethod,
    input: unknown,
    header: Headers | undefined,
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
    resolve: (response: UnaryResponse) => void,
    reject: (error: ConnectError) => void,
  ): void {
    this.start(method, input, header, timeoutMs, signal, resolve, reject);
  }

  private start(
    method: ClientMethod,
    input: unknown,
    header: Headers | undefined,
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
    resolve: (response: UnaryResponse) => void,
    reject: (error: ConnectError) => void,
  ): void {
    if (this.closedBy !== undefined) return reject(lostError(this.closedBy));
    if (signal !== undefined && signal.aborted) return reject(abortError(signal));
    const call = this.take(method, resolve, reject);
    try {
      let metadata: Uint8Array | undefined;
      if (header !== undefined) {
        metadata = encodeMetadata(header);
        const complaint = metadataComplaint(metadata.length);
        if (complaint !== undefined) throw new ConnectError(complaint, Code.ResourceExhausted);
      }
      if (!this.defined[method.id]) {
        this.defined[method.id] = true;
        this.outbox.sendControl(KIND.method, method.id, 0, 0, Buffer.from(method.path, "latin1"));
      }
      const timeout = boundedTimeout(timeoutMs);
      const argument = timeout === undefined ? 0 : Math.ceil(timeout);
      this.outbox.send(KIND.request, FLAG.endStream, method.id, call.streamId, argument, metadata, method.input, input, this.limits.writeMaxBytes, method.path);
      // Sending may have found that the connection is broken, and ended it.
      if (!call.active) return;
      if (timeout !== undefined) {
        const streamId = call.streamId;
        call.timer = setTimeout(() => this.giveUp(streamId, timedOut()), timeout);
      }
      if (signal !== undefined) {
        const streamId = call.streamId;
        call.signal = signal;
        call.onAbort = () => this.giveUp(streamId, abortError(signal));
        onAbortOf(signal, call.onAbort);
      }
    } catch (error) {
      this.release(call);
      reject(serializeError(error));
    }
  }

  // What the carrier tells.

  onFrame(frame: ReceivedFrame): void {
    switch (frame.kind) {
      case KIND.response:
        return this.onResponse(frame);
      case KIND.message:
        return this.onPiece(frame);
      case KIND.goAway:
        return this.onGoAway();
      case KIND.reset:
        return this.onReset(frame);
      case KIND.ping:
        if (this.outbox.backlog > this.limits.maxStreams + PONGS_WAITING_MAX) throw new Violation("STREAM-5", "the server pings but does not read the answers");
        return this.outbox.sendControl(KIND.pong, 0, 0, frame.argument);
      case KIND.pong:
        return;
      default:
        throw new Violation("FRAME-6", `frame kind ${frame.kind} from a server`);
    }
  }

  onFilled(streamId: number): void {
    const call = this.find(streamId);
    if (call?.assembly?.filledUp() === true) this.onWhole(call);
  }

  onRoom(): boolean {
    return this.outbox.pump();
  }

  onClosed(reason: CarrierClosed): void {
    this.closedBy = reason;
    this.outbox.close();
    for (const call of this.calls) {
      if (!call.active) continue;
      const reject = call.reject;
      this.release(call);
      reject(lostError(reason));
    }
    while (this.queue.size > 0) this.queue.startNext();
    this.onEnded(reason);
  }

  /** @throws ConnectError, see `Carrier.loan` */
  loan(byteLength: number, patience: () => AbortSignal): Promise<Uint8Array> {
    return this.carrier.loan(byteLength, patience);
  }

  /** Ends the connection; open calls reject. */
  close(detail: string): void {
    this.carrier.close({ cause: "local", detail });
  }

  stats() {
    return { pendingCalls: this.pendingCalls, ...this.carrier.stats() };
  }

  private onResponse(frame: ReceivedFrame): void {
    const call = this.find(frame.streamId);
    // CALL-1: an answer to a call that was given up meanwhile.
    if (call === undefined) return;
    if (call.assembly !== undefined) throw new Violation("STREAM-2", "a second response to one call");
    const metadata = takeMetadata(frame);
    const headerLength = frame.argument;
    if (headerLength > frame.metadataLength) throw new Violation("FRAME-7", "headers reach past the metadata");
    if (frame.code === 0 && frame.messageLength > this.limits.readMaxBytes) {
      return this.giveUp(frame.streamId, tooLarge(frame.messageLength, this.limits.readMaxBytes));
    }
    if (frame.code !== 0 && frame.messageLength > STATUS_BYTES_MAX) {
      throw new Violation("STATUS-1", `an error of ${frame.messageLength} bytes`);
    }
    if ((frame.flags & FLAG.more) !== 0 || frame.following) {
      call.code = frame.code;
      call.metadata = metadata;
      call.headerLength = headerLength;
      this.assemble(call, frame);
      return;
    }
    let message: unknown;
    try {
      if (frame.code !== 0) {
        const status = frame.pieceSource.slice(frame.pieceOffset, frame.pieceOffset + frame.pieceLength);
        return this.finish(call, decodeError(frame.code, status, metadata), undefined);
      }
      message = decodeWhole(call.method.output, frame, this.carrier.spanSource, call.method.reception);
    } catch (error) {
      if (error instanceof Violation) throw error;
      return this.finish(call, parseError(error), undefined);
    }
    this.finish(call, undefined, new LeanResponse(call.method.method, message, metadata, headerLength));
  }

  private onPiece(frame: ReceivedFrame): void {
    const call = this.find(frame.streamId);
    if (call === undefined) return;
    if (call.assembly === undefined) throw new Violation("STREAM-3", "a piece without its message's first frame");
    if (call.assembly.add(frame)) this.onWhole(call);
  }

  /** The answer is here, all of it. */
  private onWhole(call: ClientCall): void {
    const { bytes, received } = call.assembly!;
    if (call.code !== 0) return this.finish(call, decodeError(call.code, bytes, call.metadata), undefined);
    let message: unknown;
    try {
      message = received.decode(call.method.output, bytes, 0, bytes.length, true);
      call.assembly = undefined;
    } catch (error) {
      return this.finish(call, parseError(error), undefined);
    }
    this.finish(call, undefined, new LeanResponse(call.method.method, message, call.metadata, call.headerLength));
  }

  private assemble(call: ClientCall, frame: ReceivedFrame): void {
    try {
      call.assembly = Assembly.start(frame, this.carrier.spanSource, call.method.reception);
    } catch (error) {
      if (error instanceof Violation) throw error;
      return this.giveUp(call.streamId, new ConnectError(`no memory for an answer of ${frame.messageLength} bytes`, Code.ResourceExhausted, undefined, undefined, error));
    }
    call.assembly.add(frame);
  }

  /** The server cannot send the rest of an answer. */
  private onReset(frame: ReceivedFrame): void {
    const call = this.find(frame.streamId);
    if (call !== undefined) this.finish(call, new ConnectError("the server could not send all of its answer", Code.Internal), undefined);
  }

  private onGoAway(): void {
    if (this.goingAway) return;
    this.goingAway = true;
    if (this.pendingCalls === 0) this.close("the server is shutting down");
  }

  // The table of calls.

  private take(method: ClientMethod, resolve: (response: UnaryResponse) => void, reject: (error: ConnectError) => void): ClientCall {
    let slot = this.freeSlots.pop();
    if (slot === undefined) {
      slot = this.calls.length;
      this.calls.push(new ClientCall(slot));
    }
    const call = this.calls[slot];
    // From 1 on: stream id 0 is the connection itself.
    call.generation = (call.generation % (SLOTS_MAX - 1)) + 1;
    call.streamId = ((call.generation << SLOT_BITS) | slot) >>> 0;
    call.active = true;
    call.method = method;
    call.resolve = resolve;
    call.reject = reject;
    if (this.pending++ === 0) this.carrier.keepAlive(true);
    return call;
  }

  private find(streamId: number): ClientCall | undefined {
    const call = this.calls[streamId & (SLOTS_MAX - 1)] as ClientCall | undefined;
    return call !== undefined && call.active && call.streamId === streamId ? call : undefined;
  }

  private release(call: ClientCall): void {
    call.active = false;
    call.resolve = nothing;
    call.reject = nothing;
    if (call.timer !== undefined) {
      clearTimeout(call.timer);
      call.timer = undefined;
    }
    if (call.signal !== undefined) {
      call.signal.removeEventListener("abort", call.onAbort!);
      call.signal = undefined;
      call.onAbort = undefined;
    }
    call.assembly?.received.drop();
    call.assembly = undefined;
    call.metadata = undefined;
    this.freeSlots.push(call.slot);
    if (--this.pending === 0) this.carrier.keepAlive(false);
    if (this.queue.size > 0 && this.closedBy === undefined) this.startQueued();
  }

  /** SUBTLE: a loop, because a call that fails as it starts releases its slot again, and a long queue of such would overflow the stack. */
  private startQueued(): void {
    if (this.startingQueued) return;
    this.startingQueued = true;
    while (this.queue.size > 0 && this.pending < this.limits.maxStreams) this.queue.startNext();
    this.startingQueued = false;
  }

  private finish(call: ClientCall, error: ConnectError | undefined, response: UnaryResponse | undefined): void {
    const { resolve, reject, streamId } = call;
    // Refused or timed out before it had read all of the request: the rest need not be sent.
    if (error !== undefined) this.outbox.drop(streamId);
    this.release(call);
    if (response !== undefined) resolve(response);
    else reject(error!);
    if (this.goingAway && this.pendingCalls === 0) this.close("the server is shutting down");
  }

  private finishFailed(streamId: number, error: ConnectError): void {
    const call = this.find(streamId);
    if (call !== undefined) this.finish(call, error, undefined);
  }

  /** Ends a call from this side and tells the server, unless it never heard of it. */
  private giveUp(streamId: number, error: ConnectError): void {
    const call = this.find(streamId);
    if (call === undefined) return;
    if (this.outbox.drop(streamId) === "sent") {
      this.outbox.sendControl(KIND.reset, error.code, streamId, 0);
    }
    this.finish(call, error, undefined);
  }
}

/** A response whose headers are read only if somebody looks. */
class LeanResponse implements UnaryResponse {
  readonly stream = false;
  readonly method: DescMethodUnary;
  readonly message: UnaryResponse["message"];
  private readonly metadata: Uint8Array | undefined;
  private readonly headerLength: number;
  private headerRead: Headers | undefined;
  private trailerRead: Headers | undefined;

  constructor(method: DescMethodUnary, message: unknown, metadata: Uint8Array | undefined, headerLength: number) {
    this.method = method;
    this.message = message as UnaryResponse["message"];
    this.metadata = metadata;
    this.headerLength = headerLength;
  }

  get service() {
    return this.method.parent;
  }

  get header(): Headers {
    return (this.headerRead ??= decodeHeaders(this.metadata?.subarray(0, this.headerLength)));
  }

  get trailer(): Headers {
    return (this.trailerRead ??= decodeHeaders(this.metadata?.subarray(this.headerLength)));
  }
}

function lostError(reason: CarrierClosed): ConnectError {
  return new ConnectError(`connection lost: ${reason.detail}`, Code.Unavailable);
}

export function tooLarge(byteLength: number, readMaxBytes: number): ConnectError {
  return new ConnectError(`message size ${byteLength} is larger than configured readMaxBytes ${readMaxBytes}`, Code.ResourceExhausted);
}

export function parseError(error: unknown): ConnectError {
  return new ConnectError(`parse binary: ${error instanceof Error ? error.message : String(error)}`, Code.Internal, undefined, undefined, error);
}

export function serializeError(error: unknown): ConnectError {
  if (error instanceof ConnectError) return error;
  if (error instanceof FileTooShort) return new ConnectError(error.message, Code.DataLoss, undefined, undefined, error);
  return new ConnectError(`serialize binary: ${error instanceof Error ? error.message : String(error)}`, Code.Internal, undefined, undefined, error);
}
