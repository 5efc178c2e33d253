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
import { isScoped } from "../../memory/payload/lease.js";
import { leasesOf } from "../../memory/payload/message-leases.js";
import { Violation } from "../../memory/shm/violation.js";
import { FLAG, KIND, METHODS_MAX, PATH_BYTES_MAX, SLOTS_MAX } from "../../wire/frame.js";
import type { CallContext, Caller } from "./context.js";
import { noMemory, parseError, serializeError, tooLarge } from "../errors.js";
import type { Outgoing } from "../../send/outgoing.js";
import { Reassembler, decodeWhole, takeMetadata } from "../inbound.js";
import type { KeepAliveOptions } from "../keepalive.js";
import { hangs, KeepAlive } from "../keepalive.js";
import { encodedBytes } from "../../send/encoded-bytes.js";
import { SendQueue } from "../../send/send-queue.js";
import { encodeError } from "../outgoing-error.js";
import type { DrainedConnection } from "./draining.js";
import { Draining } from "./draining.js";
import type { ServerCallHost } from "./server-call.js";
import { ServerCall } from "./server-call.js";
import type { ServerMethod } from "./server-method.js";
import type { ServerStreamHost } from "./server-stream.js";
import { ServerStream } from "./server-stream.js";

export interface ServerConnectionOptions extends Caller {
  /** The served methods by path. */
  readonly methods: ReadonlyMap<string, ServerMethod>;
  readonly maxStreams: number;
  /** Undefined if the client knows unary calls only. */
  readonly windows: StreamWindows | undefined;
  /** Undefined if the connection waits for a client that hangs. */
  readonly keepAlive?: Required<KeepAliveOptions> | undefined;
}

/** Most frames of the connection itself that may wait to be sent, in addition to responses. */
const BACKLOG_SLACK = 256;
export class ServerConnection implements FrameReceiver, ServerCallHost, ServerStreamHost, DrainedConnection {
  readonly carrier: Carrier;
  readonly options: ServerConnectionOptions;
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
    this.sendQueue = new SendQueue(carrier, {
      onSent: (streamId, messageLength) => this.findStream(streamId)?.onSent(messageLength),
      onFailed: (first, thrown, wasStarted) =>
        this.onFailed(first, serializeError(thrown, "response", first.label), wasStarted),
    });
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
    if (call?.reassembler?.filledUp() === true) inOwnContext(this.onWhole, call);
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
    this.methods[frame.code] =
      this.options.methods.get(path) ??
      `${path} is not served here; check the service and method name, and that the server registers it`;
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
    const refusal =
      this.refusal(method) ??
      (typeof method === "string" || method.gate !== undefined ? undefined : excess(method, frame));
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- a string is always refused
    if (refusal !== undefined || typeof method === "string") return this.sendError(frame.streamId, refusal!, undefined);
    if (opensStream || method.handle === undefined) return this.openStream(method, frame, opensStream);
    const call = new ServerCall(this, method, frame.streamId, takeMetadata(frame), frame.argument);
    this.calls[slot] = call;
    this.countCall();
    if (method.gate !== undefined && !call.ask(method.gate, excess(method, frame))) {
      if (call.waiting !== undefined && call.waiting.refusal === undefined) this.assemble(call, frame);
      return;
    }
    if ((frame.flags & FLAG.more) !== 0 || frame.following) return this.assemble(call, frame);
    const scoped =
      isScoped(method.receivePolicy.lifetime) && (frame.spanCount > 0 || method.receivePolicy.lifetime === "strict");
    let message: unknown;
    try {
      message = decodeWhole(method.input, frame, this.carrier.spanSource, method.receivePolicy);
    } catch (error) {
      if (error instanceof Violation) throw error;
      return call.fail(parseError(error, "request", method.path));
    }
    if (scoped) call.scope = leasesOf(message as object);
    call.run(message);
  };

  /** Keeps the bytes of a request that this frame begins. */
  private assemble(call: ServerCall, frame: ReceivedFrame): void {
    try {
      call.reassembler = Reassembler.start(frame, this.carrier.spanSource, call.served.receivePolicy);
    } catch (error) {
      if (error instanceof Violation) throw error;
      return call.fail(noMemory(frame.messageLength, error));
    }
    if (call.reassembler.add(frame)) this.onWhole(call);
  }

  /** @param isOpen whether messages follow; otherwise the frame brings the only one */
  private openStream(method: ServerMethod, frame: ReceivedFrame, isOpen: boolean): void {
    const stream = new ServerStream(this, method, frame.streamId, takeMetadata(frame), frame.argument);
    this.calls[frame.streamId & (SLOTS_MAX - 1)] = stream;
    this.countCall();
    this.streams++;
    if (method.gate !== undefined) stream.ask(method.gate, excess(method, frame));
    if (!isOpen && !stream.isOver) stream.onOnly(frame);
    stream.run();
  }

  private countCall(): void {
    if (this.openCalls++ > 0) return;
    this.keepAlive?.start();
    this.draining?.stayOpen();
  }

  private refusal(method: ServerMethod | string): ConnectError | undefined {
    if (typeof method === "string") return new ConnectError(method, Code.Unimplemented);
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
    if (call.waiting?.refusal !== undefined) return;
    if (call.reassembler === undefined || call.waiting?.isWhole === true)
      throw new Violation("STREAM-3", "a fragment without its message's first frame");
    if (call.reassembler.add(frame)) inOwnContext(this.onWhole, call);
  }

  /** The request has arrived completely, or its gate has admitted it. */
  readonly onWhole = (call: ServerCall): void => {
    if (call.waiting !== undefined) {
      call.waiting.isWhole = true;
      return;
    }
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it has just been completed
    const { bytes, received } = call.reassembler!;
    call.reassembler = undefined;
    let message: unknown;
    try {
      message = received.decode(call.served.input, bytes, 0, bytes.length, true);
    } catch (error) {
      return call.fail(parseError(error, "request", call.served.path));
    }
    if (isScoped(call.served.receivePolicy.lifetime)) call.scope = leasesOf(message as object);
    call.run(message);
  };

  private onReset(frame: ReceivedFrame): void {
    const call = this.find(frame.streamId);
    if (call === undefined) {
      this.sendQueue.drop(frame.streamId);
      return this.draining?.closeIfIdle();
    }
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
    else if (!wasStarted) this.sendError(streamId, error, undefined);
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

  send(
    call: ServerCall | ServerStream,
    metadata: Uint8Array | undefined,
    headerLength: number,
    message: unknown,
  ): void {
    this.sendQueue.send({
      kind: KIND.response,
      flags: FLAG.endStream,
      code: 0,
      streamId: call.streamId,
      argument: headerLength,
      metadata,
      codec: call.served.output,
      message,
      writeMaxBytes: call.served.options.writeMaxBytes,
      label: call.served.path,
    });
  }

  // Called by streams.

  sendHeaders({ streamId }: ServerStream, metadata: Uint8Array): number {
    return this.sendQueue.send({
      kind: KIND.headers,
      flags: 0,
      code: 0,
      streamId,
      argument: 0,
      metadata,
      codec: undefined,
      message: undefined,
      writeMaxBytes: 0,
      label: "",
    });
  }

  sendMessage({ streamId, served }: ServerStream, message: unknown): number {
    return this.sendQueue.send({
      kind: KIND.message,
      flags: 0,
      code: 0,
      streamId,
      argument: 0,
      metadata: undefined,
      codec: served.output,
      message,
      writeMaxBytes: served.options.writeMaxBytes,
      label: served.path,
    });
  }

  sendEnd({ streamId }: ServerStream, metadata: Uint8Array | undefined, headerLength: number): void {
    this.sendQueue.send({
      kind: KIND.end,
      flags: FLAG.endStream,
      code: 0,
      streamId,
      argument: headerLength,
      metadata,
      codec: undefined,
      message: undefined,
      writeMaxBytes: 0,
      label: "",
    });
  }

  grant({ streamId }: ServerStream, bytes: number): void {
    this.sendQueue.grant(streamId, bytes);
  }

  drop({ streamId }: ServerStream): "unsent" | "sent" {
    return this.sendQueue.drop(streamId);
  }

  /** Never throws, whatever the error is. @param kind of the frame that the client expects */
  sendError(
    streamId: number,
    error: ConnectError,
    context: CallContext | undefined,
    kind: number = KIND.response,
    withHeaders = true,
  ): void {
    if (this.closed) return;
    const { code, status, metadata, headerLength } = encodeError(error, context, withHeaders);
    this.sendQueue.send({
      kind,
      flags: FLAG.endStream,
      code,
      streamId,
      argument: headerLength,
      metadata,
      codec: encodedBytes,
      message: status,
      writeMaxBytes: status.length,
      label: "",
    });
  }
}

/** The error of a request that exceeds its method's limits. */
function excess({ options }: ServerMethod, { messageLength, argument }: ReceivedFrame): ConnectError | undefined {
  const { readMaxBytes, maxTimeoutMs } = options;
  if (messageLength > readMaxBytes) return tooLarge(messageLength, readMaxBytes);
  if (argument > maxTimeoutMs)
    return new ConnectError(`timeout ${argument}ms must be <= ${maxTimeoutMs}`, Code.InvalidArgument);
  return undefined;
}
