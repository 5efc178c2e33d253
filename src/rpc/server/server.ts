/**
 * The server's end of a connection: finds the method, runs the handler, sends the response. Handlers start in the order
 * in which requests arrive; responses leave as they become ready.
 *
 * CALL-2  Every request is answered exactly once, unless the client gave it up or the connection has ended. Then the
 *         handler's signal aborts, and what the handler returns is dropped.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Carrier, CarrierClosed, FrameReceiver, ReceivedFrame } from "../../carrier/carrier.js";
import type { StreamWindows } from "../../carrier/handshake/link.js";
import { inOwnContext, inRootContext } from "../../carrier/poll/root-context.js";
import type { KeptPool } from "../../memory/kept/kept-bytes.js";
import { KeptBytes } from "../../memory/kept/kept-bytes.js";
import { Violation } from "../../memory/shm/violation.js";
import { FLAG, KIND, MESSAGE_COST_BYTES, METHODS_MAX, PATH_BYTES_MAX, SLOTS_MAX } from "../../wire/frame.js";
import type { Caller } from "./context.js";
import { exhausted, serializeError } from "../errors.js";
import type { Outgoing } from "../../send/outgoing.js";
import { takeMetadata } from "../inbound.js";
import type { KeepAliveOptions } from "../keepalive.js";
import { hangs, KeepAlive } from "../keepalive.js";
import { SendQueue } from "../../send/send-queue.js";
import { Answers } from "./answers.js";
import type { DrainedConnection } from "./draining.js";
import { Draining } from "./draining.js";
import { Handlers, Rate } from "./handlers.js";
import type { ServerCallHost } from "./server-call.js";
import { ServerCall } from "./server-call.js";
import type { ServerMethod } from "./server-method.js";
import type { ServerStreamHost } from "./server-stream.js";
import { ServerStream } from "./server-stream.js";
import { excessOf, UnaryCalls } from "./unary-calls.js";

/** What a client may use of a server. */
export interface ServerConnectionLimits {
  /** Calls that a client may give up per second while they run. */
  readonly resetsPerSecond: number;
  /** See `KeptBytes`. */
  readonly keptBytes: number;
}

export interface ServerConnectionOptions extends Caller {
  /** The served methods by path. */
  readonly methods: ReadonlyMap<string, ServerMethod>;
  readonly maxStreams: number;
  readonly limits: ServerConnectionLimits;
  readonly keptPool: KeptPool;
  /** Undefined if the client knows unary calls only. */
  readonly windows: StreamWindows | undefined;
  /** Undefined if the connection waits for a client that hangs. */
  readonly keepAlive?: Required<KeepAliveOptions> | undefined;
}

/** Most frames of the connection itself that may wait to be sent, in addition to responses. */
const BACKLOG_SLACK = 256;
/** Characters that are kept of the name of a method that is not served. */
const UNKNOWN_PATH_CHARS_MAX = 256;

export class ServerConnection implements FrameReceiver, ServerCallHost, ServerStreamHost, DrainedConnection {
  readonly carrier: Carrier;
  readonly options: ServerConnectionOptions;
  readonly answers: Answers;
  readonly handlers: Handlers;
  readonly kept: KeptBytes;
  readonly unary: UnaryCalls;
  private readonly resets: Rate;
  private readonly sendQueue: SendQueue;
  private readonly onEnded: (reason: CarrierClosed) => void;
  private readonly methods: (ServerMethod | string | undefined)[] = [];
  private readonly calls: (ServerCall | ServerStream | undefined)[] = [];
  private openCalls = 0;
  private streams = 0;
  /** Set once the server goes away. */
  private draining: Draining | undefined;
  private readonly keepAlive: KeepAlive | undefined;
  private framesReceived = 0;
  private lastPing = 0;
  closed = false;

  constructor(carrier: Carrier, options: ServerConnectionOptions, onEnded: (reason: CarrierClosed) => void) {
    this.carrier = carrier;
    this.options = options;
    this.onEnded = onEnded;
    const { resetsPerSecond, keptBytes } = options.limits;
    this.kept = new KeptBytes(keptBytes, options.keptPool);
    this.sendQueue = new SendQueue(
      carrier,
      {
        onSent: (streamId, messageLength) => this.findStream(streamId)?.onSent(messageLength),
        onFailed: (first, thrown, wasStarted) =>
          this.onFailed(first, serializeError(thrown, "response", first.label), wasStarted),
      },
      this.kept,
    );
    this.answers = new Answers(this.sendQueue, () => this.closed);
    this.handlers = new Handlers(options.maxStreams);
    this.unary = new UnaryCalls(carrier.spanSource, this.handlers, this.kept);
    this.resets = new Rate(resetsPerSecond, Math.max(resetsPerSecond, options.maxStreams));
    if (options.keepAlive === undefined) return;
    this.keepAlive = new KeepAlive(options.keepAlive, {
      framesReceived: () => this.framesReceived,
      hasCalls: () => this.openCalls > 0,
      ping: () => this.sendQueue.sendControl(KIND.ping, 0, 0, (this.lastPing = (this.lastPing + 1) >>> 0)),
      cancel: (silentMs) => this.carrier.close({ cause: "failure", detail: hangs("client", silentMs) }),
    });
  }

  get pendingCalls(): number {
    return this.openCalls;
  }

  /** Number of open calls that are streams. */
  get openStreams(): number {
    return this.streams;
  }

  /** Tells the client to leave, and closes the connection once its calls are answered. Resolves then. */
  drain(): Promise<void> {
    if (this.closed) return Promise.resolve();
    if (this.draining === undefined) {
      this.draining = new Draining(this, this.options.windows !== undefined);
      this.sendQueue.sendControl(KIND.goAway, 0, 0, 0);
      this.draining.closeIfIdle();
    }
    return this.draining.ended;
  }

  /** See `DrainedConnection`. */
  isIdle(): boolean {
    return !this.closed && this.openCalls === 0 && this.sendQueue.idle;
  }

  close(detail: string): void {
    this.carrier.close({ cause: "local", detail });
  }

  // Called by the carrier.

  onFrame(frame: ReceivedFrame): void {
    this.framesReceived++;
    // Responses belong to open calls, so at most `maxStreams` of them wait. Without this check, a client that sends
    // without reading would make the server keep refusals and pongs without bound.
    if (this.sendQueue.backlog > this.options.maxStreams + BACKLOG_SLACK)
      throw new Violation("STREAM-5", "the client sends but does not read its answers");
    switch (frame.kind) {
      case KIND.request:
        return inOwnContext(this.onRequest, frame);
      case KIND.message:
        return this.onMessage(frame);
      case KIND.method:
        return this.onMethod(frame);
      case KIND.reset:
        return this.onReset(frame);
      case KIND.ping:
        return this.sendQueue.sendControl(KIND.pong, 0, 0, frame.argument);
      case KIND.goAway:
        return this.draining?.onGoAway();
      case KIND.pong:
        return;
      case KIND.end:
      case KIND.credit:
        if (this.options.windows !== undefined) return this.onStreamFrame(frame);
    }
    throw new Violation("FRAME-6", `frame kind ${frame.kind} from a client`);
  }

  /** Takes a frame that only streams have. It has no effect on a unary call. */
  private onStreamFrame(frame: ReceivedFrame): void {
    const stream = this.findStream(frame.streamId);
    if (frame.kind === KIND.credit) stream?.onCredit(frame.argument);
    else stream?.onEnd();
  }

  onFilled(streamId: number): void {
    const call = this.find(streamId);
    if (call instanceof ServerStream) return call.onFilled();
    if (call !== undefined) this.unary.onFilled(call);
  }

  onRoom(): boolean {
    // Messages that waited are encoded now, which may run user code.
    const sent = inRootContext(() => this.sendQueue.pump());
    this.draining?.closeIfIdle();
    return sent;
  }

  onClosed(reason: CarrierClosed): void {
    this.closed = true;
    this.sendQueue.close();
    const open = this.calls.splice(0);
    for (const call of open)
      if (call !== undefined)
        inRootContext(() => call.abandon(new ConnectError(`the client is gone: ${reason.detail}`, Code.Canceled)));
    this.openCalls = this.streams = 0;
    this.draining?.stayOpen();
    this.keepAlive?.stop();
    this.onEnded(reason);
    this.draining?.onClosed();
  }

  private onMethod(frame: ReceivedFrame): void {
    if (frame.code >= METHODS_MAX)
      throw new Violation("METHOD-1", `method number ${frame.code} is past the limit of ${METHODS_MAX}`);
    if (frame.metadataLength > PATH_BYTES_MAX)
      throw new Violation("METHOD-3", `a method's path of ${frame.metadataLength} bytes`);
    const path = Buffer.from(takeMetadata(frame) ?? []).toString("latin1");
    this.kept.give(this.pathBytes(frame.code));
    // Cut off, because names that are not served are kept for their error.
    this.methods[frame.code] = this.options.methods.get(path) ?? path.slice(0, UNKNOWN_PATH_CHARS_MAX);
    this.kept.take(this.pathBytes(frame.code));
  }

  /** What an unknown method's name counts (KEPT-1). */
  private pathBytes(code: number): number {
    const method = this.methods[code];
    return typeof method === "string" ? method.length + MESSAGE_COST_BYTES : 0;
  }

  private readonly onRequest = (frame: ReceivedFrame): void => {
    const slot = frame.streamId & (SLOTS_MAX - 1);
    if (slot >= this.options.maxStreams)
      throw new Violation("STREAM-4", `stream slot ${slot} is past the limit of ${this.options.maxStreams}`);
    if (this.calls[slot] !== undefined)
      throw new Violation("STREAM-1", `stream slot ${slot} was opened while it is open`);
    // Otherwise responses that the client does not read would accumulate without bound.
    if (this.sendQueue.holds(slot))
      throw new Violation("STREAM-6", `stream slot ${slot} was opened before its last answer was taken`);
    const method = this.methods[frame.code];
    if (method === undefined) throw new Violation("METHOD-2", `method number ${frame.code} was not defined`);
    const opensStream = (frame.flags & FLAG.endStream) === 0 && this.options.windows !== undefined;
    if (opensStream && frame.messageLength > 0)
      throw new Violation("STREAM-7", "a request that opens a stream brings a message");
    if (typeof method === "string") return this.answers.sendError(frame.streamId, unknownMethod(method), undefined);
    const refusal = this.refusal(method) ?? (method.gate === undefined ? excessOf(method, frame) : undefined);
    if (refusal !== undefined) return this.answers.sendError(frame.streamId, refusal, undefined);
    if (this.kept.isFull) return this.answers.sendError(frame.streamId, exhausted(this.kept), undefined);
    if (opensStream || method.handle === undefined) return this.openStream(method, frame, opensStream);
    const call = new ServerCall(this, method, frame.streamId, takeMetadata(frame), frame.argument);
    this.calls[slot] = call;
    this.countCall();
    this.unary.begin(call, frame, method.gate === undefined ? undefined : excessOf(method, frame));
  };

  /** @param isOpen whether messages follow; otherwise the frame brings the only one */
  private openStream(method: ServerMethod, frame: ReceivedFrame, isOpen: boolean): void {
    const stream = new ServerStream(this, method, frame.streamId, takeMetadata(frame), frame.argument);
    this.calls[frame.streamId & (SLOTS_MAX - 1)] = stream;
    this.countCall();
    this.streams++;
    if (!this.handlers.enter(stream)) stream.wait(excessOf(method, frame));
    else {
      stream.hasPlace = true;
      if (method.gate !== undefined) stream.ask(method.gate, excessOf(method, frame));
    }
    if (!isOpen && !stream.isOver) stream.onOnly(frame);
    stream.run();
  }

  private countCall(): void {
    if (this.openCalls++ > 0) return;
    this.keepAlive?.start();
    this.draining?.stayOpen();
  }

  private refusal(method: ServerMethod): ConnectError | undefined {
    if (this.draining?.clientLeft === true)
      return new ConnectError("the server is shutting down, and this client had acknowledged that", Code.Unavailable);
    if (method.handle === undefined && this.options.windows === undefined) {
      return new ConnectError(
        `${method.path} is a streaming method; the client's version of isthmus knows unary calls only`,
        Code.Unimplemented,
      );
    }
    return undefined;
  }

  private onMessage(frame: ReceivedFrame): void {
    const call = this.find(frame.streamId);
    // The rest of a request that was refused or given up.
    if (call === undefined) return;
    if (call instanceof ServerStream) return call.onMessage(frame);
    this.unary.onMessage(call, frame);
  }

  private onReset(frame: ReceivedFrame): void {
    const call = this.find(frame.streamId);
    if (call === undefined) {
      this.sendQueue.drop(frame.streamId);
      return this.draining?.closeIfIdle();
    }
    if (!this.resets.take())
      throw new Violation(
        "STREAM-10",
        `the client gives up more than ${this.options.limits.resetsPerSecond} calls per second (limits.resetsPerSecond)`,
      );
    const code = (frame.code as Code) === Code.DeadlineExceeded ? Code.DeadlineExceeded : Code.Canceled;
    inRootContext(() =>
      call.abandon(
        new ConnectError(code === Code.Canceled ? "the client canceled the call" : "the operation timed out", code),
      ),
    );
  }

  /** A message that waited for room cannot be sent. */
  private onFailed({ streamId }: Outgoing, error: ConnectError, wasStarted: boolean): void {
    const stream = this.findStream(streamId);
    if (stream !== undefined) stream.fail(error);
    else if (!wasStarted) this.answers.sendError(streamId, error, undefined);
  }

  private findStream(streamId: number): ServerStream | undefined {
    const call = this.find(streamId);
    return call instanceof ServerStream ? call : undefined;
  }

  private find(streamId: number): ServerCall | ServerStream | undefined {
    const call = this.calls[streamId & (SLOTS_MAX - 1)];
    return call !== undefined && call.streamId === streamId ? call : undefined;
  }

  /** Frees the slot of a call that has ended. */
  remove(call: ServerCall | ServerStream): void {
    if (this.closed) return;
    this.calls[call.streamId & (SLOTS_MAX - 1)] = undefined;
    this.openCalls--;
    if (call instanceof ServerStream) this.streams--;
    this.draining?.closeIfIdle();
  }
}

function unknownMethod(path: string): ConnectError {
  return new ConnectError(
    `${path} is not served here; check the service and method name, and that the server registers it`,
    Code.Unimplemented,
  );
}
