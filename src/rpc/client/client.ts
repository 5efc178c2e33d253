/**
 * The client's end of a connection: opens a stream per call, matches responses to calls, and ends each call exactly
 * once, by a response, the deadline, cancellation or the loss of the connection, whichever comes first.
 *
 * LEAVE-2  Calls that wait for a slot when the server goes away, or when the connection is lost, were never sent. They
 *          move to the next connection.
 */
import { AsyncResource } from "node:async_hooks";
import type { DescMethodUnary } from "@bufbuild/protobuf";
import type { StreamResponse } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Carrier, CarrierClosed, FrameReceiver, ReceivedFrame } from "../../carrier/carrier.js";
import { inRootContext } from "../../carrier/poll/root-context.js";
import { Violation } from "../../memory/shm/violation.js";
import { setTimeout } from "../../os/timers.js";
import { FLAG, KIND, STATUS_BYTES_MAX } from "../../wire/frame.js";
import { onAbortOf } from "../abort.js";
import { CallQueue } from "./call-queue.js";
import type { CallRequest, StreamCallRequest } from "./call-request.js";
import { NotTaken, requestMetadata, withTimeout } from "./call-request.js";
import { boundedTimeout, timedOut } from "../deadline.js";
import type { ClientMethod } from "./client-method.js";
import { CallTable, isOpen } from "./call-table.js";
import type { ClientCall } from "./client-call.js";
import { UnaryResult, nothing } from "./client-call.js";
import type { ClientConnectionOwner, ClientLimits } from "./client-owner.js";
import { ClientStreams } from "./client-streams.js";
import { abortError, decodeError, noMemory, parseError, serializeError, tooLarge } from "../errors.js";
import type { Outgoing } from "../../send/outgoing.js";
import type { KeepAliveOptions } from "../keepalive.js";
import { hangs, KeepAlive } from "../keepalive.js";
import { Reassembler, decodeWhole, takeMetadata, takeFragment } from "../inbound.js";
import { GoAwayTracker } from "./goaway-tracker.js";
import { SendQueue } from "../../send/send-queue.js";
import { closeIterator } from "../stream/stream-writer.js";

/** Most pongs that may wait to be sent. */
const PONGS_WAITING_MAX = 256;

// All calls share one executor, so a call makes no closure.
let newResolve: (result: unknown) => void;
let newReject: (error: ConnectError | NotTaken) => void;
const executor = (resolve: (result: unknown) => void, reject: (error: ConnectError | NotTaken) => void) => {
  newResolve = resolve;
  newReject = reject;
};

export class ClientConnection implements FrameReceiver {
  readonly carrier: Carrier;
  private readonly limits: ClientLimits;
  private readonly sendQueue: SendQueue;
  private readonly owner: ClientConnectionOwner;
  private readonly keepAlive: KeepAlive | undefined;
  private readonly calls = new CallTable();
  /** Calls that wait for a slot. */
  private readonly queue = new CallQueue();
  private startingQueued = false;
  private readonly defined: boolean[] = [];
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
      onFailed: (first, thrown) => this.onFailed(first, serializeError(thrown, "request", first.label)),
    });
    this.streams = new ClientStreams(carrier, this.sendQueue, limits, {
      take: () => this.take(),
      release: (streamId) => this.releaseStream(streamId),
      define: (method) => {
        if (!this.defined[method.id]) this.define(method);
      },
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
   * Starts a call. There must be a free slot. For callers without promises, who make one call at a time: `resolve` or
   * `reject` is called exactly once, perhaps before this returns.
   */
  start(request: CallRequest, resolve: (result: unknown) => void, reject: (error: ConnectError) => void): void {
    const { method, header, signal } = request;
    if (this.closedBy !== undefined) return reject(lostError(this.closedBy));
    if (signal !== undefined && signal.aborted) return reject(abortError(signal));
    const call = this.take();
    const { streamId } = call;
    call.method = method;
    call.resolve = resolve;
    call.reject = reject;
    call.wantsMessage = request.wantsMessage;
    try {
      const metadata = header === undefined ? undefined : requestMetadata(header);
      if (!this.defined[method.id]) this.define(method);
      const timeout = boundedTimeout(request.timeoutMs);
      const argument = timeout === undefined ? 0 : Math.ceil(timeout);
      this.sendQueue.send({
        kind: KIND.request,
        flags: FLAG.endStream,
        code: method.id,
        streamId,
        argument,
        metadata,
        codec: method.input,
        message: request.input,
        writeMaxBytes: this.limits.writeMaxBytes,
        label: method.path,
      });
      // Sending may have found that the connection is broken, or run code of the user's that ended it.
      if (!isOpen(call, streamId)) return;
      if (timeout !== undefined) this.cancelAfter(call, streamId, timeout);
      if (signal !== undefined) this.cancelOnAbort(call, streamId, signal);
    } catch (error) {
      // SUBTLE: the code that threw may have ended the connection before, and with it this call, whose slot may belong
      // to another call by now.
      if (isOpen(call, streamId)) this.free(call);
      reject(serializeError(error, "request", method.path));
    }
  }

  private cancelAfter(call: ClientCall, streamId: number, timeoutMs: number): void {
    call.timer = setTimeout(() => this.cancel(streamId, timedOut()), timeoutMs);
  }

  private cancelOnAbort(call: ClientCall, streamId: number, signal: AbortSignal): void {
    call.signal = signal;
    call.onAbort = () => this.cancel(streamId, abortError(signal));
    onAbortOf(signal, call.onAbort);
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

  private define(method: ClientMethod): void {
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
    if (stream === undefined) return this.cancel(frame.streamId, streamAnswer(call.method.path));
    this.streams.onFrame(stream, frame);
  }

  onFilled(streamId: number): void {
    const call = this.calls.find(streamId);
    if (call?.stream !== undefined) return call.stream.onFilled();
    if (call?.reassembler?.filledUp() === true) this.onWhole(call);
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
    if (call.stream !== undefined) return call.stream.onFinal(frame);
    if (call.reassembler !== undefined) throw new Violation("STREAM-2", "a second response to one call");
    const metadata = call.wantsMessage && frame.code === 0 ? undefined : takeMetadata(frame);
    const headerLength = frame.argument;
    if (headerLength > frame.metadataLength) throw new Violation("FRAME-7", "headers reach past the metadata");
    if (frame.code === 0 && frame.messageLength > this.limits.readMaxBytes) {
      return this.cancel(frame.streamId, tooLarge(frame.messageLength, this.limits.readMaxBytes));
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
        return this.fail(call, decodeError(frame.code, takeFragment(frame), metadata));
      }
      message = decodeWhole(call.method.output, frame, this.carrier.spanSource, call.method.receivePolicy);
    } catch (error) {
      if (error instanceof Violation) throw error;
      return this.fail(call, parseError(error, "response", call.method.path));
    }
    this.succeed(call, message, metadata, headerLength);
  }

  private onMessage(frame: ReceivedFrame): void {
    const call = this.calls.find(frame.streamId);
    if (call === undefined) return;
    if (call.stream !== undefined) return call.stream.onMessage(frame);
    if (call.reassembler === undefined && this.limits.windows !== undefined)
      return this.cancel(frame.streamId, streamAnswer(call.method.path));
    if (call.reassembler === undefined) throw new Violation("STREAM-3", "a fragment without its message's first frame");
    if (call.reassembler.add(frame)) this.onWhole(call);
  }

  /** The response has arrived completely. */
  private onWhole(call: ClientCall): void {
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it has just been completed
    const { bytes, received } = call.reassembler!;
    if (call.code !== 0) return this.fail(call, decodeError(call.code, bytes, call.metadata));
    let message: unknown;
    try {
      message = received.decode(call.method.output, bytes, 0, bytes.length, true);
      call.reassembler = undefined;
    } catch (error) {
      return this.fail(call, parseError(error, "response", call.method.path));
    }
    this.succeed(call, message, call.metadata, call.headerLength);
  }

  private assemble(call: ClientCall, frame: ReceivedFrame): void {
    try {
      call.reassembler = Reassembler.start(frame, this.carrier.spanSource, call.method.receivePolicy);
    } catch (error) {
      if (error instanceof Violation) throw error;
      return this.cancel(call.streamId, noMemory(frame.messageLength, error));
    }
    call.reassembler.add(frame);
  }

  /** The server cannot send the rest of a response. */
  private onReset(frame: ReceivedFrame): void {
    const call = this.calls.find(frame.streamId);
    if (call === undefined) return;
    const error = new ConnectError("the server could not send all of its answer", Code.Internal);
    if (call.stream !== undefined) call.stream.onReset(error);
    else this.fail(call, error);
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

  private closeIfLeft(): void {
    if (this.goingAway && this.pendingCalls === 0)
      this.close(this.goAwayTracker === undefined ? "the connection was retired" : "the server is shutting down");
  }

  // The table of calls.

  private take(): ClientCall {
    const call = this.calls.take();
    if (this.calls.size === 1) {
      this.carrier.keepAlive(true);
      this.keepAlive?.start();
    }
    return call;
  }

  private free(call: ClientCall): void {
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

  private succeed(call: ClientCall, message: unknown, metadata: Uint8Array | undefined, headerLength: number): void {
    const { resolve, streamId, wantsMessage, method } = call;
    if (this.sendQueue.borrows) this.sendQueue.release(streamId);
    this.free(call);
    // SUBTLE: the slot may belong to the next call by now.
    if (wantsMessage) resolve(message);
    else resolve(new UnaryResult(method.method as DescMethodUnary, message, metadata, headerLength));
    this.closeIfLeft();
  }

  private fail(call: ClientCall, error: ConnectError): void {
    const { reject, streamId } = call;
    // The server refused the call, or it timed out, before it had read the whole request. The rest need not be sent.
    this.sendQueue.drop(streamId);
    this.free(call);
    reject(error);
    this.closeIfLeft();
  }

  /** A message that waited for room cannot be sent. */
  private onFailed({ streamId }: Outgoing, error: ConnectError): void {
    const call = this.calls.find(streamId);
    if (call?.stream !== undefined) call.stream.cancel(error);
    else if (call !== undefined) this.fail(call, error);
  }

  /** Ends a call from this side. Tells the server unless the request has not been sent. */
  private cancel(streamId: number, error: ConnectError): void {
    const call = this.calls.find(streamId);
    if (call === undefined) return;
    if (this.sendQueue.drop(streamId) === "sent") {
      this.sendQueue.sendControl(KIND.reset, error.code, streamId, 0);
    }
    this.fail(call, error);
  }
}

/** Client and server disagree about the kind of the method. */
function streamAnswer(path: string): ConnectError {
  return new ConnectError(
    `protocol error: the server answers ${path} with a stream, and this client called it as a unary method`,
    Code.Unimplemented,
  );
}

function lostError(reason: CarrierClosed): ConnectError {
  return new ConnectError(`connection lost: ${reason.detail}`, Code.Unavailable, undefined, undefined, reason.error);
}
