/**
 * The server's end of a connection: finds the method, runs the handler, sends the answer. Handlers run in the order
 * their requests arrive; answers leave in the order they are ready.
 *
 * CALL-2  Every request is answered exactly once, unless the client gave it up or the connection is over; then its
 *         handler's signal aborts and what the handler returns is dropped.
 */
import type { DescMethodUnary } from "@bufbuild/protobuf";
import type { ContextValues, Interceptor } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Carrier, CarrierClosed, FrameReceiver, ReceivedFrame } from "../carrier/carrier.js";
import type { MessageCodec } from "../codec/codec.js";
import type { Holding, LeaseLifetime } from "../memory/lease.js";
import { holdingOf, isScoped } from "../memory/lease.js";
import { Violation } from "../memory/violation.js";
import type { PeerCredentials } from "../os/addon.js";
import { FLAG, KIND, METHODS_MAX, PATH_BYTES_MAX, SLOTS_MAX, STATUS_BYTES_MAX } from "../wire/frame.js";
import { encodeMetadata, metadataComplaint } from "../wire/metadata.js";
import { parseError, serializeError, tooLarge } from "./client.js";
import { CallContext } from "./context.js";
import { boundedTimeout, timedOut } from "./deadline.js";
import { encodeError, handlerError, wireCode } from "./errors.js";
import type { Reception } from "./inbound.js";
import { Assembly, decodeWhole, takeMetadata } from "./inbound.js";
import { Outbox } from "./outbox.js";

/** A method as this server serves it. */
export interface ServerMethod {
  readonly method: DescMethodUnary;
  readonly path: string;
  /** The user's function, behind the interceptors if there are any. */
  readonly handle: (message: unknown, context: CallContext) => unknown;
  readonly input: MessageCodec;
  readonly output: MessageCodec;
  readonly options: ServerMethodOptions;
  readonly reception: Reception;
}

export interface ServerMethodOptions {
  readonly readMaxBytes: number;
  readonly writeMaxBytes: number;
  readonly maxTimeoutMs: number;
  readonly leases: LeaseLifetime;
  readonly interceptors: readonly Interceptor[];
  readonly shutdownSignal: AbortSignal | undefined;
}

export interface ServerConnectionOptions {
  /** By path. A path that is served but not as a unary method maps to the reason. */
  readonly methods: ReadonlyMap<string, ServerMethod | string>;
  /** Undefined where nobody vouches for it. */
  readonly peer: PeerCredentials | undefined;
  readonly maxStreams: number;
  readonly contextValues: (peer: PeerCredentials | undefined) => ContextValues;
}

/** Frames of the connection itself that may wait to be sent besides answers. */
const BACKLOG_SLACK = 256;
/** How long a client may take to read its last answers before the connection is closed under it. */
const GO_AWAY_GRACE_MS = 100;

export class ServerConnection implements FrameReceiver {
  readonly carrier: Carrier;
  readonly options: ServerConnectionOptions;
  private readonly outbox: Outbox;
  private readonly onEnded: (reason: CarrierClosed) => void;
  private readonly methods: (ServerMethod | string | undefined)[] = [];
  private readonly calls: (ServerCall | undefined)[] = [];
  private openCalls = 0;
  private draining: Promise<void> | undefined;
  private onDrained: (() => void) | undefined;
  private goodbye: NodeJS.Timeout | undefined;
  closed = false;

  constructor(carrier: Carrier, options: ServerConnectionOptions, onEnded: (reason: CarrierClosed) => void) {
    this.carrier = carrier;
    this.options = options;
    this.onEnded = onEnded;
    this.outbox = new Outbox(carrier, (streamId, error, wasStarted) => {
      if (!wasStarted) this.sendError(streamId, error, undefined);
    });
  }

  get pendingCalls(): number {
    return this.openCalls;
  }

  /** Refuses new calls and closes once the open ones are answered. Resolves then. */
  drain(): Promise<void> {
    if (this.closed) return Promise.resolve();
    if (this.draining === undefined) {
      this.draining = new Promise((resolve) => {
        this.onDrained = resolve;
      });
      this.outbox.sendControl(KIND.goAway, 0, 0, 0);
      this.closeIfDrained();
    }
    return this.draining;
  }

  /** The client closes when it has read its last answer and that we go away; if it does not, we do a little later. */
  private closeIfDrained(): void {
    if (this.draining === undefined || this.closed || this.openCalls > 0 || !this.outbox.idle) return;
    this.goodbye ??= setTimeout(() => this.close("the server has shut down"), GO_AWAY_GRACE_MS);
  }

  close(detail: string): void {
    this.carrier.close({ cause: "local", detail });
  }

  // What the carrier tells.

  onFrame(frame: ReceivedFrame): void {
    // Answers wait for calls that are open, so there are never more of them than streams; a client that sends on and
    // on without reading would have us keep refusals and pongs without bound.
    if (this.outbox.backlog > this.options.maxStreams + BACKLOG_SLACK) throw new Violation("STREAM-5", "the client sends but does not read its answers");
    switch (frame.kind) {
      case KIND.request:
        return this.onRequest(frame);
      case KIND.message:
        return this.onPiece(frame);
      case KIND.method:
        return this.onMethod(frame);
      case KIND.reset:
        return this.onReset(frame);
      case KIND.ping:
        return this.outbox.sendControl(KIND.pong, 0, 0, frame.argument);
      case KIND.pong:
      case KIND.goAway:
        return;
      default:
        throw new Violation("FRAME-6", `frame kind ${frame.kind} from a client`);
    }
  }

  onFilled(streamId: number): void {
    const call = this.find(streamId);
    if (call?.assembly?.filledUp() === true) this.onWhole(call);
  }

  onRoom(): boolean {
    const sent = this.outbox.pump();
    this.closeIfDrained();
    return sent;
  }

  onClosed(reason: CarrierClosed): void {
    this.closed = true;
    this.outbox.close();
    for (const call of this.calls) call?.abandon(new ConnectError(`the client is gone: ${reason.detail}`, Code.Canceled));
    this.calls.length = 0;
    this.openCalls = 0;
    clearTimeout(this.goodbye);
    this.onEnded(reason);
    this.onDrained?.();
  }

  private onMethod(frame: ReceivedFrame): void {
    if (frame.code >= METHODS_MAX) throw new Violation("METHOD-1", `method number ${frame.code} is past the limit of ${METHODS_MAX}`);
    if (frame.metadataLength > PATH_BYTES_MAX) throw new Violation("METHOD-3", `a method's path of ${frame.metadataLength} bytes`);
    const path = Buffer.from(takeMetadata(frame) ?? []).toString("latin1");
    this.methods[frame.code] = this.options.methods.get(path) ?? `${path} is not served here; check the service and method name, and that the server registers it`;
  }

  private onRequest(frame: ReceivedFrame): void {
    const slot = frame.streamId & (SLOTS_MAX - 1);
    if (slot >= this.options.maxStreams) throw new Violation("STREAM-4", `stream slot ${slot} is past the limit of ${this.options.maxStreams}`);
    if (this.calls[slot] !== undefined) throw new Violation("STREAM-1", `stream slot ${slot} was opened while it is open`);
    // Else answers that nobody takes would pile up without bound.
    if (this.outbox.holds(slot)) throw new Violation("STREAM-6", `stream slot ${slot} was opened before its last answer was taken`);
    const method = this.methods[frame.code];
    if (method === undefined) throw new Violation("METHOD-2", `method number ${frame.code} was not defined`);
    const refusal = this.refusal(method, frame);
    if (refusal !== undefined || typeof method === "string") return this.sendError(frame.streamId, refusal!, undefined);
    const call = new ServerCall(this, method, frame.streamId, takeMetadata(frame), frame.argument);
    this.calls[slot] = call;
    this.openCalls++;
    if ((frame.flags & FLAG.more) !== 0 || frame.following) {
      try {
        call.assembly = Assembly.start(frame, this.carrier.spanSource, method.reception);
      } catch (error) {
        if (error instanceof Violation) throw error;
        return call.fail(new ConnectError(`no memory for a request of ${frame.messageLength} bytes`, Code.ResourceExhausted, undefined, undefined, error));
      }
      call.assembly.add(frame);
      return;
    }
    const scoped = isScoped(method.reception.lifetime) && (frame.spanCount > 0 || method.reception.lifetime === "strict");
    let message: unknown;
    try {
      message = decodeWhole(method.input, frame, this.carrier.spanSource, method.reception);
    } catch (error) {
      if (error instanceof Violation) throw error;
      return call.fail(parseError(error));
    }
    if (scoped) call.scope = holdingOf(message as object);
    call.run(message);
  }

  private refusal(method: ServerMethod | string, frame: ReceivedFrame): ConnectError | undefined {
    if (typeof method === "string") return new ConnectError(method, Code.Unimplemented);
    if (this.draining !== undefined) return new ConnectError("the server is shutting down", Code.Unavailable);
    const { readMaxBytes, maxTimeoutMs } = method.options;
    if (frame.messageLength > readMaxBytes) return tooLarge(frame.messageLength, readMaxBytes);
    if (frame.argument > maxTimeoutMs) {
      return new ConnectError(`timeout ${frame.argument}ms must be <= ${maxTimeoutMs}`, Code.InvalidArgument);
    }
    return undefined;
  }

  private onPiece(frame: ReceivedFrame): void {
    const call = this.find(frame.streamId);
    // The rest of a request that was refused or given up.
    if (call === undefined) return;
    if (call.assembly === undefined) throw new Violation("STREAM-3", "a piece without its message's first frame");
    if (call.assembly.add(frame)) this.onWhole(call);
  }

  /** The request is here, all of it. */
  private onWhole(call: ServerCall): void {
    const { bytes, received } = call.assembly!;
    call.assembly = undefined;
    let message: unknown;
    try {
      message = received.decode(call.served.input, bytes, 0, bytes.length, true);
    } catch (error) {
      return call.fail(parseError(error));
    }
    if (isScoped(call.served.reception.lifetime)) call.scope = holdingOf(message as object);
    call.run(message);
  }

  private onReset(frame: ReceivedFrame): void {
    const call = this.find(frame.streamId);
    if (call === undefined) {
      this.outbox.drop(frame.streamId);
      return this.closeIfDrained();
    }
    this.forget(call);
    const code = (frame.code as Code) === Code.DeadlineExceeded ? Code.DeadlineExceeded : Code.Canceled;
    call.abandon(new ConnectError(code === Code.Canceled ? "the client canceled the call" : "the operation timed out", code));
  }

  private find(streamId: number): ServerCall | undefined {
    const call = this.calls[streamId & (SLOTS_MAX - 1)];
    return call !== undefined && call.streamId === streamId ? call : undefined;
  }

  /** The call's slot is free for the client's next one. */
  forget(call: ServerCall): void {
    if (this.closed) return;
    this.calls[call.streamId & (SLOTS_MAX - 1)] = undefined;
    this.openCalls--;
    this.closeIfDrained();
  }

  send(call: ServerCall, metadata: Uint8Array | undefined, headerLength: number, message: unknown): void {
    this.outbox.send(
      KIND.response,
      FLAG.endStream,
      0,
      call.streamId,
      headerLength,
      metadata,
      call.served.output,
      message,
      call.served.options.writeMaxBytes,
      call.served.path,
    );
  }

  sendError(streamId: number, error: ConnectError, context: CallContext | undefined): void {
    if (this.closed) return;
    let { metadata, headerLength } = responseMetadata(context, error.metadata);
    if (metadataComplaint(metadata?.length ?? 0) !== undefined) {
      metadata = undefined;
      headerLength = 0;
    }
    let status = encodeError(error);
    if (status.length > STATUS_BYTES_MAX) {
      status = encodeError(new ConnectError(`an error of ${status.length} bytes is larger than the limit of ${STATUS_BYTES_MAX}`, error.code));
    }
    this.outbox.send(KIND.response, FLAG.endStream, wireCode(error.code), streamId, headerLength, metadata, rawBytes, status, status.length, "");
  }
}

/** One request from its arrival to its answer. */
export class ServerCall {
  private readonly connection: ServerConnection;
  readonly served: ServerMethod;
  readonly streamId: number;
  assembly: Assembly | undefined;
  /** What the request has leased, if that ends with the handler. */
  scope: Holding | undefined;
  private readonly context: CallContext;
  private readonly timer: NodeJS.Timeout | undefined;
  private done = false;

  constructor(connection: ServerConnection, served: ServerMethod, streamId: number, metadata: Uint8Array | undefined, timeoutMs: number) {
    this.connection = connection;
    this.served = served;
    this.streamId = streamId;
    this.context = new CallContext(served, connection, metadata, timeoutMs);
    const timeout = boundedTimeout(timeoutMs);
    if (timeout !== undefined) this.timer = setTimeout(() => this.fail(timedOut()), timeout);
  }

  /** Runs the handler. Called by the drain, so in the poller's root context; nothing that the handler throws gets past here. */
  run(message: unknown): void {
    let result: unknown;
    try {
      result = this.served.handle(message, this.context);
    } catch (error) {
      return this.settle(undefined, handlerError(error));
    }
    if (isThenable(result)) {
      const promise = result instanceof Promise ? result : Promise.resolve(result);
      promise.then(
        (answer) => this.settle(answer, undefined),
        (error: unknown) => this.settle(undefined, handlerError(error)),
      );
    } else {
      this.settle(result, undefined);
    }
  }

  /** The handler is done; perhaps long after the call is. What was lent to it ends when its answer has been taken. */
  private settle(answer: unknown, error: ConnectError | undefined): void {
    if (error !== undefined) this.fail(error);
    else this.answer(answer);
    if (this.scope === undefined) return;
    // Taking bytes away takes microseconds; the client need not wait for that.
    if (!this.connection.closed) this.connection.carrier.publish();
    this.scope.endScope();
  }

  private answer(message: unknown): void {
    if (this.done) return;
    const { connection } = this;
    try {
      const { metadata, headerLength } = responseMetadata(this.context, undefined);
      const complaint = metadataComplaint(metadata?.length ?? 0);
      if (complaint !== undefined) throw new ConnectError(complaint, Code.ResourceExhausted);
      connection.send(this, metadata, headerLength, message);
    } catch (error) {
      return this.fail(serializeError(error));
    }
    this.finish(undefined);
    connection.forget(this);
  }

  /** Answers with an error. */
  fail(error: ConnectError): void {
    if (this.done) return;
    this.finish(error);
    this.connection.forget(this);
    this.connection.sendError(this.streamId, error, this.context);
  }

  /** Nobody waits for the answer any more. */
  abandon(reason: ConnectError): void {
    if (!this.done) this.finish(reason);
  }

  private finish(reason: ConnectError | undefined): void {
    this.done = true;
    this.assembly?.received.drop();
    this.assembly = undefined;
    if (this.timer !== undefined) clearTimeout(this.timer);
    this.context.end(reason);
  }
}

/** As `await` sees it: promises of other realms and libraries count too. */
function isThenable(value: unknown): value is PromiseLike<unknown> {
  return value instanceof Promise || typeof (value as Partial<PromiseLike<unknown>> | null | undefined)?.then === "function";
}

/** Joins response headers and trailers (with an error's metadata) into one block. */
function responseMetadata(context: CallContext | undefined, extra: Headers | undefined): { metadata: Uint8Array | undefined; headerLength: number } {
  const header = context?.responseHeaderIfAny;
  const trailer = context?.responseTrailerIfAny;
  if (header === undefined && trailer === undefined && (extra === undefined || isEmpty(extra))) return NO_METADATA;
  const parts = [header, trailer, extra].map((headers) => (headers === undefined ? new Uint8Array(0) : encodeMetadata(headers)));
  return { metadata: Buffer.concat(parts), headerLength: parts[0].length };
}

const NO_METADATA = { metadata: undefined, headerLength: 0 };

function isEmpty(headers: Headers): boolean {
  for (const entry of headers) {
    void entry;
    return false;
  }
  return true;
}

/** Status bytes are encoded already. */
const rawBytes: MessageCodec = {
  encodeInto(message, target, offset, limit) {
    const bytes = message as Uint8Array;
    if (bytes.length > limit - offset) return -1 - bytes.length;
    target.set(bytes, offset);
    return bytes.length;
  },
  encode: (message) => ({ inline: message as Uint8Array, spans: [], byteLength: (message as Uint8Array).length }),
  decode: (input, offset, byteLength) => input.slice(offset, offset + byteLength),
};
