/**
 * The client's end of a connection: opens a stream per call, matches responses to calls, and ends each call exactly
 * once, by a response, the deadline, cancellation or the loss of the connection, whichever comes first.
 *
 * LEAVE-2  Calls that wait for a slot when the server goes away, or when the connection is lost, were never sent. They
 *          move to the next connection.
 */
import { AsyncResource } from "node:async_hooks";
import type { StreamResponse } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Carrier, CarrierClosed, FrameReceiver, ReceivedFrame } from "../../carrier/carrier.js";
import { inRootContext } from "../../carrier/poll/root-context.js";
import { Violation } from "../../memory/shm/violation.js";
import { KIND } from "../../wire/frame.js";
import { CallQueue } from "./call-queue.js";
import type { CallRequest, StreamCallRequest } from "./call-request.js";
import { NotTaken, withTimeout } from "./call-request.js";
import { boundedTimeout } from "../deadline.js";
import type { ClientMethod } from "./client-method.js";
import { CallTable } from "./call-table.js";
import type { ClientCall } from "./client-call.js";
import { nothing } from "./client-call.js";
import type { ClientConnectionOwner, ClientLimits } from "./client-owner.js";
import { ClientStreams } from "./client-streams.js";
import { abortError, serializeError } from "../errors.js";
import type { KeepAliveOptions } from "../keepalive.js";
import { hangs, KeepAlive } from "../keepalive.js";
import { GoAwayTracker } from "./goaway-tracker.js";
import { SendQueue } from "../../send/send-queue.js";
import { closeIterator } from "../stream/stream-writer.js";
import type { UnaryCallHost } from "./unary-calls.js";
import { UnaryCalls } from "./unary-calls.js";

/** Most pongs that may wait to be sent. */
const PONGS_WAITING_MAX = 256;

// All calls share one executor, so a call makes no closure.
let newResolve: (result: unknown) => void;
let newReject: (error: ConnectError | NotTaken) => void;
const executor = (resolve: (result: unknown) => void, reject: (error: ConnectError | NotTaken) => void) => {
  newResolve = resolve;
  newReject = reject;
};

export class ClientConnection implements FrameReceiver, UnaryCallHost {
  readonly carrier: Carrier;
  private readonly limits: ClientLimits;
  private readonly sendQueue: SendQueue;
  private readonly owner: ClientConnectionOwner;
  private readonly keepAlive: KeepAlive | undefined;
  readonly calls = new CallTable();
  /** Calls that wait for a slot. */
  private readonly queue = new CallQueue();
  private startingQueued = false;
  private readonly defined: boolean[] = [];
  private readonly unary: UnaryCalls;
  private readonly streams: ClientStreams;
  private closedBy: CarrierClosed | undefined;
  /** No new calls start on this connection: the server takes none, or the owner retired the connection. */
  private goingAway = false;
  /** Set once the server has said `goAway`. */
  private goAwayTracker: GoAwayTracker | undefined;
  private framesReceived = 0;
  private lastPing = 0;

  constructor(carrier: Carrier, limits: ClientLimits, owner: ClientConnectionOwner) {
    this.carrier = carrier;
    this.limits = limits;
    this.owner = owner;
    this.sendQueue = new SendQueue(carrier, {
      onSent: (streamId, messageLength) => {
        this.calls.find(streamId)?.stream?.onSent(messageLength);
        if (this.goAwayTracker !== undefined) this.goAwayTracker.left(streamId);
      },
      onFailed: ({ streamId, label }, thrown) => {
        const call = this.calls.find(streamId);
        if (call === undefined) return;
        const error = serializeError(thrown, "request", label);
        if (call.stream !== undefined) call.stream.cancel(error);
        else this.unary.fail(call, error);
      },
    });
    this.unary = new UnaryCalls(carrier, this.sendQueue, limits, this);
    this.streams = new ClientStreams(carrier, this.sendQueue, limits, {
      take: () => this.take(),
      release: (streamId) => this.releaseStream(streamId),
      define: (method) => this.define(method),
      requested: (streamId) => this.goAwayTracker?.left(streamId),
    });
    if (owner.keepAlive !== undefined) this.keepAlive = this.watch(owner.keepAlive);
  }

  private watch(options: Required<KeepAliveOptions>): KeepAlive {
    return new KeepAlive(options, {
      framesReceived: () => this.framesReceived,
      hasCalls: () => this.calls.size > 0,
      ping: () => this.sendQueue.sendControl(KIND.ping, 0, 0, (this.lastPing = (this.lastPing + 1) >>> 0)),
      cancel: (silentMs) => this.carrier.close({ cause: "failure", detail: hangs("server", silentMs) }),
    });
  }

  get usable(): boolean {
    return this.closedBy === undefined && !this.goingAway;
  }

  /** Whether further calls wait for others to end. */
  get isFull(): boolean {
    return this.calls.size >= this.limits.maxStreams;
  }

  get pendingCalls(): number {
    return this.calls.size + this.queue.size;
  }

  /** Whether the server has sent anything besides `goAway`. */
  get wasOfUse(): boolean {
    return this.framesReceived > (this.goAwayTracker === undefined ? 0 : 1);
  }

  /**
   * Calls a unary method. Waits for a slot if the server takes no more calls at once.
   * @returns settles exactly once: resolves with a `UnaryResponse`, or with the message if the request wants only that;
   * rejects with a ConnectError, or if the call waited with `NotTaken`
   */
  call(request: CallRequest): Promise<unknown> {
    const promise = new Promise<unknown>(executor);
    const resolve = newResolve;
    const reject = newReject;
    newResolve = newReject = nothing;
    if (this.isFull) this.callLater(request, resolve, reject);
    else this.start(request, resolve, reject);
    return promise;
  }

  // A function of its own, so that a call that starts at once makes no closure.
  private callLater(
    request: CallRequest,
    resolve: (result: unknown) => void,
    reject: (error: ConnectError | NotTaken) => void,
  ): void {
    const start = (leftMs: number | undefined) => {
      const left = withTimeout(request, leftMs);
      if (this.takesNoMore) reject(new NotTaken(left));
      else this.start(left, resolve, reject);
    };
    this.queue.add(boundedTimeout(request.timeoutMs), request.signal, start, reject);
  }

  /**
   * Calls a streaming method. Waits for a slot if the server takes no more calls at once. If the stream ends early, so
   * does the iterator of its messages.
   * @returns resolves with the server's first frame unless that is a refusal; rejects with a ConnectError, or with
   * `NotTaken`, and then the iterator is left as it is
   */
  openStream(request: StreamCallRequest): Promise<StreamResponse> {
    const { input, signal } = request;
    const timeoutMs = boundedTimeout(request.timeoutMs);
    return new Promise<StreamResponse>((resolve, reject) => {
      const refuse = (error: ConnectError) => {
        void closeIterator(input, error);
        reject(error);
      };
      const start = (leftMs: number | undefined) => {
        const left = withTimeout(request, leftMs);
        if (this.takesNoMore) reject(new NotTaken(left));
        else if (this.closedBy !== undefined) refuse(lostError(this.closedBy));
        else if (signal !== undefined && signal.aborted) refuse(abortError(signal));
        else this.streams.start(left, resolve, refuse);
      };
      if (!this.isFull) start(timeoutMs);
      // The user's iterable runs in the user's context (STREAM-W).
      else this.queue.add(timeoutMs, signal, AsyncResource.bind(start), refuse);
    });
  }

  /**
   * Starts a unary call. There must be a free slot. For callers without promises, who make one call at a time:
   * `resolve` or `reject` is called exactly once, perhaps before this returns.
   */
  start(request: CallRequest, resolve: (result: unknown) => void, reject: (error: ConnectError) => void): void {
    if (this.closedBy !== undefined) reject(lostError(this.closedBy));
    else this.unary.start(request, resolve, reject);
  }

  define(method: ClientMethod): void {
    if (this.defined[method.id]) return;
    this.defined[method.id] = true;
    this.sendQueue.sendControl(KIND.method, method.id, 0, 0, Buffer.from(method.path, "latin1"));
  }

  // Called by the carrier.

  onFrame(frame: ReceivedFrame): void {
    this.framesReceived++;
    switch (frame.kind) {
      case KIND.response:
        return this.onResponse(frame);
      case KIND.message:
        return this.onMessage(frame);
      case KIND.goAway:
        return this.onGoAway();
      case KIND.reset:
        return this.onReset(frame);
      case KIND.ping:
        if (this.sendQueue.backlog > this.limits.maxStreams + PONGS_WAITING_MAX)
          throw new Violation("STREAM-5", "the server pings but does not read the answers");
        return this.sendQueue.sendControl(KIND.pong, 0, 0, frame.argument);
      case KIND.pong:
        return;
      case KIND.headers:
      case KIND.end:
      case KIND.credit:
        if (this.limits.windows !== undefined) return this.onStreamFrame(frame);
    }
    throw new Violation("FRAME-6", `frame kind ${frame.kind} from a server`);
  }

  /** Takes a frame that only streams have. */
  private onStreamFrame(frame: ReceivedFrame): void {
    const call = this.calls.find(frame.streamId);
    if (call === undefined) return;
    const { stream } = call;
    if (stream === undefined) return this.unary.refuseStream(call);
    this.streams.onFrame(stream, frame);
  }

  onFilled(streamId: number): void {
    const call = this.calls.find(streamId);
    if (call?.stream !== undefined) return call.stream.onFilled();
    if (call !== undefined) this.unary.onFilled(call);
  }

  onRoom(): boolean {
    // Messages that waited are encoded now, which may run user code.
    return inRootContext(() => this.sendQueue.pump());
  }

  onClosed(reason: CarrierClosed): void {
    this.closedBy = reason;
    this.keepAlive?.stop();
    this.sendQueue.close();
    for (const call of this.calls.open()) {
      if (call.stream !== undefined) {
        call.stream.onLost(lostError(reason));
        continue;
      }
      const reject = call.reject;
      this.free(call);
      reject(lostError(reason));
    }
    // SUBTLE: before the queued calls, so that calls that move do not return to this connection.
    this.owner.onEnded(reason);
    while (this.queue.size > 0) this.queue.startNext();
  }

  /** Whether calls that have not started are returned to the owner (LEAVE-2). */
  private get takesNoMore(): boolean {
    return this.goAwayTracker !== undefined || (this.closedBy !== undefined && this.closedBy.cause !== "local");
  }

  /** @throws ConnectError as `Carrier.loan` does */
  loan(byteLength: number, makeSignal: () => AbortSignal): Promise<Uint8Array> {
    return this.carrier.loan(byteLength, makeSignal);
  }

  /** Ends the connection. Open calls reject. */
  close(detail: string): void {
    this.carrier.close({ cause: "local", detail });
  }

  stats() {
    return { pendingCalls: this.pendingCalls, openStreams: this.streams.open, ...this.carrier.stats() };
  }

  private onResponse(frame: ReceivedFrame): void {
    const call = this.calls.find(frame.streamId);
    // CALL-1: a response to a call that has been given up.
    if (call === undefined) return;
    if (call.stream !== undefined) call.stream.onFinal(frame);
    else this.unary.onResponse(call, frame);
  }

  private onMessage(frame: ReceivedFrame): void {
    const call = this.calls.find(frame.streamId);
    if (call === undefined) return;
    if (call.stream !== undefined) call.stream.onMessage(frame);
    else this.unary.onFragment(call, frame);
  }

  /** The server cannot send the rest of a response. */
  private onReset(frame: ReceivedFrame): void {
    const call = this.calls.find(frame.streamId);
    if (call === undefined) return;
    const error = new ConnectError("the server could not send all of its answer", Code.Internal);
    if (call.stream !== undefined) call.stream.onReset(error);
    else this.unary.fail(call, error);
  }

  /** Starts no new calls, and ends the connection once the open and the queued ones are over. */
  retire(): void {
    this.goingAway = true;
    this.closeIfLeft();
  }

  private onGoAway(): void {
    if (this.goAwayTracker !== undefined) return;
    const wasRetired = this.goingAway;
    this.goingAway = true;
    const unsent = new Set<number>();
    for (const call of this.calls.open()) {
      if (call.stream === undefined ? this.sendQueue.holds(call.slot) : !call.stream.isRequested)
        unsent.add(call.streamId);
    }
    if (wasRetired && this.queue.size > 0) return;
    this.goAwayTracker = new GoAwayTracker(unsent, () => {
      if (this.closedBy === undefined) this.sendQueue.sendControl(KIND.goAway, 0, 0, 0);
    });
    this.owner.onLeaving?.();
    while (this.queue.size > 0) this.queue.startNext();
    this.closeIfLeft();
  }

  closeIfLeft(): void {
    if (this.goingAway && this.pendingCalls === 0)
      this.close(this.goAwayTracker === undefined ? "the connection was retired" : "the server is shutting down");
  }

  // The table of calls.

  take(): ClientCall {
    const call = this.calls.take();
    if (this.calls.size === 1) {
      this.carrier.keepAlive(true);
      this.keepAlive?.start();
    }
    return call;
  }

  free(call: ClientCall): void {
    this.calls.release(call);
    if (this.calls.size === 0) this.carrier.keepAlive(false);
    if (this.goAwayTracker !== undefined) this.goAwayTracker.left(call.streamId);
    if (this.queue.size > 0 && this.closedBy === undefined) this.startQueued();
  }

  private releaseStream(streamId: number): void {
    const call = this.calls.find(streamId);
    if (call === undefined) return;
    call.stream = undefined;
    this.streams.open--;
    this.free(call);
    this.closeIfLeft();
  }

  /**
   * SUBTLE: a loop, because a call that fails as it starts frees its slot again. With recursion, a long queue of such
   * calls would overflow the stack.
   */
  private startQueued(): void {
    if (this.startingQueued) return;
    this.startingQueued = true;
    while (this.queue.size > 0 && this.calls.size < this.limits.maxStreams) this.queue.startNext();
    this.startingQueued = false;
  }
}

function lostError(reason: CarrierClosed): ConnectError {
  return new ConnectError(`connection lost: ${reason.detail}`, Code.Unavailable, undefined, undefined, reason.error);
}
