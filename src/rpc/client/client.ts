/**
 * The client's end of a connection: opens a stream per call, matches answers to calls, and ends every call exactly
 * once, whichever of answer, deadline, cancellation and loss of the connection comes first.
 *
 * CALL-1  A stream id is slot + generation; the generation changes with every call, so a late answer to a call that was
 *         given up is recognised and dropped.
 * LEAVE-2 Calls that wait for a slot when the server goes away, or the connection is lost, were never sent. They move
 * to the next connection.
 */
import { AsyncResource } from "node:async_hooks";
import type { DescMethodUnary } from "@bufbuild/protobuf";
import type { StreamResponse, UnaryResponse } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Carrier, CarrierClosed, FrameReceiver, ReceivedFrame } from "../../carrier/carrier.js";
import { inRootContext } from "../../carrier/poll/root-context.js";
import { Violation } from "../../memory/shared/violation.js";
import { clearTimeout, setTimeout } from "../../os/timers.js";
import { FLAG, KIND, SLOT_BITS, SLOTS_MAX, STATUS_BYTES_MAX } from "../../wire/frame.js";
import { onAbortOf } from "../abort.js";
import { CallQueue } from "./call-queue.js";
import { boundedTimeout, timedOut } from "../deadline.js";
import type { ClientMethod } from "./client-call.js";
import { ClientCall, UnaryResult, nothing, requestMetadata } from "./client-call.js";
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

/** Pongs that may wait to be sent. */
const PONGS_WAITING_MAX = 256;

// One executor for all calls: no closure per call.
let newResolve: (response: UnaryResponse) => void;
let newReject: (error: ConnectError) => void;
const executor = (resolve: (response: UnaryResponse) => void, reject: (error: ConnectError) => void) => {
  newResolve = resolve;
  newReject = reject;
};

export class ClientConnection implements FrameReceiver {
  readonly carrier: Carrier;
  private readonly limits: ClientLimits;
  private readonly sendQueue: SendQueue;
  private readonly owner: ClientConnectionOwner;
  private readonly keepAlive: KeepAlive | undefined;
  private readonly calls: ClientCall[] = [];
  private readonly freeSlots: number[] = [];
  /** Calls that wait for a slot. */
  private readonly queue = new CallQueue();
  private startingQueued = false;
  private readonly defined: boolean[] = [];
  private pending = 0;
  private readonly streams: ClientStreams;
  private closedBy: CarrierClosed | undefined;
  /** No new calls begin here: the server takes none, or the owner retired the connection. */
  private goingAway = false;
  /** Since the server said that it goes away. */
  private goAwayTracker: GoAwayTracker | undefined;
  private framesReceived = 0;
  private lastPing = 0;

  constructor(carrier: Carrier, limits: ClientLimits, owner: ClientConnectionOwner) {
    this.carrier = carrier;
    this.limits = limits;
    this.owner = owner;
    this.sendQueue = new SendQueue(carrier, {
      onSent: (streamId, messageLength) => {
        this.find(streamId)?.stream?.onSent(messageLength);
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
      hasCalls: () => this.pending > 0,
      ping: () => this.sendQueue.sendControl(KIND.ping, 0, 0, (this.lastPing = (this.lastPing + 1) >>> 0)),
      cancel: (silentMs) => this.carrier.close({ cause: "failure", detail: hangs("server", silentMs) }),
    });
  }

  get usable(): boolean {
    return this.closedBy === undefined && !this.goingAway;
  }

  get pendingCalls(): number {
    return this.pending + this.queue.size;
  }

  /** Whether the server has said anything but that it goes away. */
  get wasOfUse(): boolean {
    return this.framesReceived > (this.goAwayTracker === undefined ? 0 : 1);
  }

  /**
   * Calls a method.
   * @param timeoutMs undefined or not positive: no deadline
   * @param origin for the owner, if the call has to move
   * @returns settles exactly once; rejects with a ConnectError
   */
  call(
    method: ClientMethod,
    input: unknown,
    header: Headers | undefined,
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
    origin?: unknown,
  ): Promise<UnaryResponse> {
    const promise = new Promise<UnaryResponse>(executor);
    const resolve = newResolve;
    const reject = newReject;
    newResolve = newReject = nothing;
    if (this.pending >= this.limits.maxStreams) {
      const start = (leftMs: number | undefined) => {
        if (this.moves && this.owner.moveCall !== undefined)
          this.owner.moveCall(method, input, header, leftMs, signal, origin).then(resolve, reject);
        else this.start(method, input, header, leftMs, signal, resolve, reject);
      };
      this.queue.add(boundedTimeout(timeoutMs), signal, start, reject);
    } else {
      this.start(method, input, header, timeoutMs, signal, resolve, reject);
    }
    return promise;
  }

  /**
   * Like `call`, for who waits without promises and makes one call at a time: `resolve` or `reject` is called once,
   * perhaps before this returns.
   */
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
    const call = this.take();
    const { streamId } = call;
    call.method = method;
    call.resolve = resolve;
    call.reject = reject;
    try {
      const metadata = header === undefined ? undefined : requestMetadata(header);
      if (!this.defined[method.id]) this.define(method);
      const timeout = boundedTimeout(timeoutMs);
      const argument = timeout === undefined ? 0 : Math.ceil(timeout);
      this.sendQueue.send({
        kind: KIND.request,
        flags: FLAG.endStream,
        code: method.id,
        streamId,
        argument,
        metadata,
        codec: method.input,
        message: input,
        writeMaxBytes: this.limits.writeMaxBytes,
        label: method.path,
      });
      // Sending may have found that the connection is broken, or run code of the user's that ended it.
      if (!isOpen(call, streamId)) return;
      if (timeout !== undefined) {
        call.timer = setTimeout(() => this.cancel(streamId, timedOut()), timeout);
      }
      if (signal !== undefined) {
        call.signal = signal;
        call.onAbort = () => this.cancel(streamId, abortError(signal));
        onAbortOf(signal, call.onAbort);
      }
    } catch (error) {
      // SUBTLE: what threw may have ended the connection before, and with it this call, whose slot may be another's by
      // now.
      if (isOpen(call, streamId)) this.free(call);
      reject(serializeError(error, "request", method.path));
    }
  }

  /**
   * Calls a streaming method.
   * @param input the user's messages; its iterator is ended if the stream ends before
   * @param timeoutMs undefined or not positive: no deadline
   * @returns resolves with the first that the server says, unless that is a refusal; rejects with a ConnectError
   */
  openStream(
    method: ClientMethod,
    input: AsyncIterator<unknown>,
    header: Headers | undefined,
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
    origin?: unknown,
  ): Promise<StreamResponse> {
    return new Promise<StreamResponse>((resolve, reject) => {
      const refuse = (error: ConnectError) => {
        void closeIterator(input, error);
        reject(error);
      };
      const start = (leftMs: number | undefined) => {
        if (this.moves && this.owner.moveStream !== undefined)
          this.owner.moveStream(method, input, header, leftMs, signal, origin).then(resolve, reject);
        else if (this.closedBy !== undefined) refuse(lostError(this.closedBy));
        else if (signal !== undefined && signal.aborted) refuse(abortError(signal));
        else this.streams.start(method, input, header, leftMs, signal, resolve, refuse);
      };
      if (this.pending < this.limits.maxStreams) start(boundedTimeout(timeoutMs));
      // What the user's iterable runs in is the user's (STREAM-W).
      else this.queue.add(boundedTimeout(timeoutMs), signal, AsyncResource.bind(start), refuse);
    });
  }

  private define(method: ClientMethod): void {
    this.defined[method.id] = true;
    this.sendQueue.sendControl(KIND.method, method.id, 0, 0, Buffer.from(method.path, "latin1"));
  }

  // What the carrier tells.

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

  /** A frame that only streams have. */
  private onStreamFrame(frame: ReceivedFrame): void {
    const call = this.find(frame.streamId);
    if (call === undefined) return;
    const { stream } = call;
    if (stream === undefined) return this.cancel(frame.streamId, streamAnswer(call.method.path));
    this.streams.onFrame(stream, frame);
  }

  onFilled(streamId: number): void {
    const call = this.find(streamId);
    if (call?.stream !== undefined) return call.stream.onFilled();
    if (call?.reassembler?.filledUp() === true) this.onWhole(call);
  }

  onRoom(): boolean {
    // What waited is encoded now, which can run code of the user's.
    return inRootContext(() => this.sendQueue.pump());
  }

  onClosed(reason: CarrierClosed): void {
    this.closedBy = reason;
    this.keepAlive?.stop();
    this.sendQueue.close();
    for (const call of this.calls) {
      if (!call.active) continue;
      if (call.stream !== undefined) {
        call.stream.onLost(lostError(reason));
        continue;
      }
      const reject = call.reject;
      this.free(call);
      reject(lostError(reason));
    }
    // First, so that those who move on do not come here again.
    this.owner.onEnded(reason);
    while (this.queue.size > 0) this.queue.startNext();
  }

  /** LEAVE-2 */
  private get moves(): boolean {
    return this.goAwayTracker !== undefined || (this.closedBy !== undefined && this.closedBy.cause !== "local");
  }

  /** @throws ConnectError, see `Carrier.loan` */
  loan(byteLength: number, makeSignal: () => AbortSignal): Promise<Uint8Array> {
    return this.carrier.loan(byteLength, makeSignal);
  }

  /** Ends the connection; open calls reject. */
  close(detail: string): void {
    this.carrier.close({ cause: "local", detail });
  }

  stats() {
    return { pendingCalls: this.pendingCalls, openStreams: this.streams.open, ...this.carrier.stats() };
  }

  private onResponse(frame: ReceivedFrame): void {
    const call = this.find(frame.streamId);
    // CALL-1: an answer to a call that was given up meanwhile.
    if (call === undefined) return;
    if (call.stream !== undefined) return call.stream.onFinal(frame);
    if (call.reassembler !== undefined) throw new Violation("STREAM-2", "a second response to one call");
    const metadata = takeMetadata(frame);
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
        return this.finish(call, decodeError(frame.code, takeFragment(frame), metadata), undefined);
      }
      message = decodeWhole(call.method.output, frame, this.carrier.spanSource, call.method.receivePolicy);
    } catch (error) {
      if (error instanceof Violation) throw error;
      return this.finish(call, parseError(error, "response", call.method.path), undefined);
    }
    this.finish(
      call,
      undefined,
      new UnaryResult(call.method.method as DescMethodUnary, message, metadata, headerLength),
    );
  }

  private onMessage(frame: ReceivedFrame): void {
    const call = this.find(frame.streamId);
    if (call === undefined) return;
    if (call.stream !== undefined) return call.stream.onMessage(frame);
    if (call.reassembler === undefined && this.limits.windows !== undefined)
      return this.cancel(frame.streamId, streamAnswer(call.method.path));
    if (call.reassembler === undefined) throw new Violation("STREAM-3", "a fragment without its message's first frame");
    if (call.reassembler.add(frame)) this.onWhole(call);
  }

  /** The answer is here, all of it. */
  private onWhole(call: ClientCall): void {
    const { bytes, received } = call.reassembler!;
    if (call.code !== 0) return this.finish(call, decodeError(call.code, bytes, call.metadata), undefined);
    let message: unknown;
    try {
      message = received.decode(call.method.output, bytes, 0, bytes.length, true);
      call.reassembler = undefined;
    } catch (error) {
      return this.finish(call, parseError(error, "response", call.method.path), undefined);
    }
    this.finish(
      call,
      undefined,
      new UnaryResult(call.method.method as DescMethodUnary, message, call.metadata, call.headerLength),
    );
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

  /** The server cannot send the rest of an answer. */
  private onReset(frame: ReceivedFrame): void {
    const call = this.find(frame.streamId);
    if (call === undefined) return;
    const error = new ConnectError("the server could not send all of its answer", Code.Internal);
    if (call.stream !== undefined) call.stream.onReset(error);
    else this.finish(call, error, undefined);
  }

  /** No new calls begin here. Ends the connection when those that are open, or wait for a slot, are over. */
  retire(): void {
    this.goingAway = true;
    this.closeIfLeft();
  }

  private onGoAway(): void {
    if (this.goAwayTracker !== undefined) return;
    const wasRetired = this.goingAway;
    this.goingAway = true;
    const unsent = new Set<number>();
    for (const call of this.calls) {
      if (call.active && (call.stream === undefined ? this.sendQueue.holds(call.slot) : !call.stream.isRequested))
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
    if (this.pending++ === 0) {
      this.carrier.keepAlive(true);
      this.keepAlive?.start();
    }
    return call;
  }

  private find(streamId: number): ClientCall | undefined {
    const call = this.calls[streamId & (SLOTS_MAX - 1)] as ClientCall | undefined;
    return call !== undefined && isOpen(call, streamId) ? call : undefined;
  }

  private free(call: ClientCall): void {
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
    call.reassembler?.received.drop();
    call.reassembler = undefined;
    call.metadata = undefined;
    this.freeSlots.push(call.slot);
    if (--this.pending === 0) this.carrier.keepAlive(false);
    if (this.goAwayTracker !== undefined) this.goAwayTracker.left(call.streamId);
    if (this.queue.size > 0 && this.closedBy === undefined) this.startQueued();
  }

  private releaseStream(streamId: number): void {
    const call = this.find(streamId);
    if (call === undefined) return;
    call.stream = undefined;
    this.streams.open--;
    this.free(call);
    this.closeIfLeft();
  }

  /**
   * SUBTLE: a loop, because a call that fails as it starts releases its slot again, and a long queue of such would
   * overflow the stack.
   */
  private startQueued(): void {
    if (this.startingQueued) return;
    this.startingQueued = true;
    while (this.queue.size > 0 && this.pending < this.limits.maxStreams) this.queue.startNext();
    this.startingQueued = false;
  }

  private finish(call: ClientCall, error: ConnectError | undefined, response: UnaryResponse | undefined): void {
    const { resolve, reject, streamId } = call;
    // Refused or timed out before it had read all of the request: the rest need not be sent.
    if (error !== undefined) this.sendQueue.drop(streamId);
    else if (this.sendQueue.borrows) this.sendQueue.release(streamId);
    this.free(call);
    if (response !== undefined) resolve(response);
    else reject(error!);
    this.closeIfLeft();
  }

  /** A message that was kept cannot be sent. */
  private onFailed({ streamId }: Outgoing, error: ConnectError): void {
    const call = this.find(streamId);
    if (call?.stream !== undefined) call.stream.cancel(error);
    else if (call !== undefined) this.finish(call, error, undefined);
  }

  /** Ends a call from this side and tells the server, unless it never heard of it. */
  private cancel(streamId: number, error: ConnectError): void {
    const call = this.find(streamId);
    if (call === undefined) return;
    if (this.sendQueue.drop(streamId) === "sent") {
      this.sendQueue.sendControl(KIND.reset, error.code, streamId, 0);
    }
    this.finish(call, error, undefined);
  }
}

function isOpen(call: ClientCall, streamId: number): boolean {
  return call.active && call.streamId === streamId;
}

/** The two ends have different ideas of the method. */
function streamAnswer(path: string): ConnectError {
  return new ConnectError(
    `protocol error: the server answers ${path} with a stream, and this client called it as a unary method`,
    Code.Unimplemented,
  );
}

function lostError(reason: CarrierClosed): ConnectError {
  return new ConnectError(`connection lost: ${reason.detail}`, Code.Unavailable, undefined, undefined, reason.error);
}
