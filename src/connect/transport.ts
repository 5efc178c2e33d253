/** The client: Connect's Transport over a connection that is made when first needed, and made again after it was lost, by the `Connector`. */
import type { DescMessage, DescMethod, DescMethodStreaming, DescMethodUnary, MessageInitShape } from "@bufbuild/protobuf";
import { create, isMessage } from "@bufbuild/protobuf";
import type { ContextValues, Interceptor, StreamRequest, StreamResponse, Transport, UnaryRequest, UnaryResponse } from "@connectrpc/connect";
import { Code, ConnectError, createContextValues } from "@connectrpc/connect";
import type { Address } from "../carrier/address.js";
import { parseAddress } from "../carrier/address.js";
import type { LeaseLifetime } from "../memory/lease.js";
import { onAbortOf } from "../rpc/abort.js";
import type { ClientConnection } from "../rpc/client.js";
import type { ClientMethod } from "../rpc/client-call.js";
import { closeIterator } from "../rpc/stream-writer.js";
import { boundedTimeout, timedOut } from "../rpc/deadline.js";
import { abortError } from "../rpc/errors.js";
import { URL_BASE } from "../rpc/context.js";
import { METHODS_MAX } from "../wire/frame.js";
import type { CommonOptions } from "./options.js";
import { checkLimits, codecOf, handshakeTimeoutOf, lifetimeOf } from "./options.js";
import { Connector } from "./connector.js";
import type { ReconnectOptions } from "./dialer.js";
import { waitForReady } from "./dialer.js";
import { mapMessages } from "./interception.js";
import { FailoverTransport } from "./failover.js";
import type { HttpTransportOptions } from "./http-transport.js";
import { HttpTransport } from "./http-transport.js";
import type { LoanOwner } from "./payloads.js";
import { LOAN } from "./payloads.js";
import { methodPath } from "./routes.js";

export interface IsthmusTransportOptions extends CommonOptions, HttpTransportOptions {
  /**
   * Where the server listens: a socket path, `unix:PATH`, `tcp:HOST:PORT`, or `http://HOST:PORT` (also `https://`, and with a path that stands before every
   * method's). Of a list the first that works is used, and new calls go back to an earlier one when that works again; a call that may have been sent is
   * never sent to another.
   */
  readonly address: string | readonly string[];
  /** Applied to every call, the first one outermost, as in Connect's transports. */
  readonly interceptors?: Interceptor[];
  /** Deadline of calls that set none, in milliseconds; none by default. */
  readonly defaultTimeoutMs?: number;
  /**
   * Whether a call that finds no connection, and whose attempt to make one fails, waits for further attempts: up to its deadline, or without one
   * for `reconnect.giveUpAfterMs`. `true`: also for the first connection; `false`: never, it fails with the attempt. By default
   * calls wait once there has been a connection, so a restart of the server is waited for, and a mistyped address is told at once. Where waiting cannot help,
   * as without the right to connect, calls fail at once. A context value, `waitForReady`, says it for a single call. Not for an address of HTTP,
   * whose calls do not wait, unless it is one of a list.
   */
  readonly waitForReady?: boolean;
  /** How a lost connection is made again; not for an address of HTTP, unless it is one of a list. */
  readonly reconnect?: ReconnectOptions;
}

/** What `new Headers` takes; Node's types do not name it. */
type HeadersInit = NonNullable<ConstructorParameters<typeof Headers>[0]>;

/**
 * - "idle": there is no connection; the next call makes one.
 * - "connecting": a first attempt is under way.
 * - "ready": there is a connection.
 * - "reconnecting": an attempt has failed, and calls wait for a further one.
 * - "closed": by `close`.
 */
export type ConnectionState = "idle" | "connecting" | "ready" | "reconnecting" | "closed";

export interface TransportStats {
  readonly state: ConnectionState;
  readonly carrier: "shm" | "socket" | "http" | undefined;
  /** Calls that are not settled. */
  readonly pendingCalls: number;
  /** Connections made so far. */
  readonly connections: number;
  /** Of the current connection: frames, wake-ups, memory; undefined without one, and over HTTP. */
  readonly connection: ReturnType<ClientConnection["stats"]> | undefined;
}

export interface ConnectOptions {
  /** How long it may take, in milliseconds; without it as long as a call without a deadline would wait. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
  /** Overrides the transport's option of that name. */
  readonly waitForReady?: boolean;
}

export interface IsthmusTransport extends Transport, AsyncDisposable {
  readonly state: ConnectionState;
  /** What the current connection runs over; undefined without one. */
  readonly carrier: "shm" | "socket" | "http" | undefined;
  stats(): TransportStats;
  /**
   * Makes the connection ahead of the first call, if there is none; waits for it as a call would.
   * @throws ConnectError that says why there is none
   */
  connect(options?: ConnectOptions): Promise<void>;
  /**
   * Ends the connection: open calls reject with `Unavailable`, later ones too. With `timeoutMs` open calls may finish for that long, in
   * milliseconds (over HTTP they are not waited for); those that wait for a connection reject at once.
   */
  close(options?: { readonly timeoutMs?: number }): Promise<void>;
}

/** A transport to one address. */
export interface AddressedTransport extends IsthmusTransport {
  /** Makes the connection, if there is none: one attempt. @throws ConnectError that says why there is none */
  connectNow(signal?: AbortSignal): Promise<void>;
}

/**
 * Creates a transport for Connect's `createClient`. The connection is made by the first call; after it was lost, by the
 * next one, which waits for it as the option `waitForReady` says. Calls that were in flight on a connection that was lost fail with `Unavailable`. The
 * process stays alive only while calls are pending.
 *
 * @throws ConnectError `InvalidArgument` for an address that is none and for sizes of memory that make no sense; `FailedPrecondition` if `carrier` is "shm" and
 * shared memory cannot be had on this machine, or with one of the addresses
 */
export function createIsthmusTransport(options: IsthmusTransportOptions): IsthmusTransport {
  const { address } = options;
  if (!Array.isArray(address)) return addressedTransport(options, address as string);
  if (address.length === 0) throw new ConnectError("option address: the list is empty", Code.InvalidArgument);
  // What waits, waits for all of them.
  return new FailoverTransport(
    address.map((one: string) => addressedTransport({ ...options, waitForReady: false }, one)),
    options,
  );
}

function addressedTransport(options: IsthmusTransportOptions, address: string): AddressedTransport {
  const parsed = parseAddress(address);
  return parsed.kind === "http" ? new HttpTransport(options, parsed) : new LocalTransport(options, parsed);
}

class LocalTransport implements AddressedTransport, LoanOwner {
  private readonly options: IsthmusTransportOptions;
  private readonly interceptors: readonly Interceptor[];
  private readonly lifetime: LeaseLifetime;
  private readonly methods = new Map<DescMethod, ClientMethod>();
  private readonly connector: Connector;

  constructor(options: IsthmusTransportOptions, address: Address) {
    this.options = options;
    const limits = checkLimits({ readMaxBytes: options.readMaxBytes, writeMaxBytes: options.writeMaxBytes });
    this.interceptors = options.interceptors ?? [];
    this.lifetime = lifetimeOf(options.leases);
    handshakeTimeoutOf(options);
    this.connector = new Connector(this, options, address, limits, {
      moveCall: (method, input, header, timeoutMs, signal, contextValues) => this.call(method, input, header, timeoutMs, signal, contextValues as ContextValues | undefined),
      moveStream: (method, input, header, timeoutMs, signal, contextValues) => this.openStream(method, input, header, timeoutMs, signal, contextValues as ContextValues | undefined),
    });
  }

  async [LOAN](byteLength: number, patience: () => AbortSignal): Promise<Uint8Array> {
    const connection = this.connector.ready ?? (await this.connector.connection(undefined, patience(), undefined)).connection;
    return connection.loan(byteLength, patience);
  }

  async connect({ timeoutMs, signal, waitForReady: waits }: ConnectOptions = {}): Promise<void> {
    await this.connector.connection(boundedTimeout(timeoutMs), signal, waits);
  }

  async connectNow(signal?: AbortSignal): Promise<void> {
    await this.connector.connection(undefined, signal, false);
  }

  get state(): ConnectionState {
    return this.connector.state;
  }

  get carrier(): "shm" | "socket" | undefined {
    return this.connector.ready?.carrier.name;
  }

  unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: MessageInitShape<I>,
    contextValues?: ContextValues,
  ): Promise<UnaryResponse<I, O>> {
    const timeout = timeoutMs ?? this.options.defaultTimeoutMs;
    try {
      const clientMethod = this.methods.get(method) ?? this.addMethod(method);
      const response =
        this.interceptors.length === 0
          ? this.call(clientMethod, input, header === undefined ? undefined : new Headers(header), timeout, signal, contextValues)
          : this.callIntercepted(clientMethod, input, header, timeout, signal, contextValues);
      return response as Promise<UnaryResponse<I, O>>;
    } catch (error) {
      return Promise.reject(ConnectError.from(error, Code.Internal));
    }
  }

  stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: AsyncIterable<MessageInitShape<I>>,
    contextValues?: ContextValues,
  ): Promise<StreamResponse<I, O>> {
    const timeout = timeoutMs ?? this.options.defaultTimeoutMs;
    try {
      const clientMethod = this.methods.get(method) ?? this.addMethod(method);
      const iterator = input[Symbol.asyncIterator]();
      const response =
        this.interceptors.length === 0
          ? this.openStream(clientMethod, iterator, header === undefined ? undefined : new Headers(header), timeout, signal, contextValues)
          : this.streamIntercepted(clientMethod, iterator, header, timeout, signal, contextValues);
      return response as Promise<StreamResponse<I, O>>;
    } catch (error) {
      return Promise.reject(ConnectError.from(error, Code.Internal));
    }
  }

  stats(): TransportStats {
    const { state, ready, pendingCalls, connections } = this.connector;
    return { state, carrier: this.carrier, pendingCalls, connections, connection: ready?.stats() };
  }

  close({ timeoutMs = 0 }: { readonly timeoutMs?: number } = {}): Promise<void> {
    return this.connector.close(timeoutMs);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  private addMethod(method: DescMethod): ClientMethod {
    const codec = codecOf(this.options);
    const added: ClientMethod = {
      method,
      id: this.methods.size,
      path: methodPath(method),
      input: codec(method.input),
      output: codec(method.output),
      reception: { lifetime: this.lifetime, taker: methodPath(method) },
    };
    if (added.id >= METHODS_MAX) throw new ConnectError(`a transport can call at most ${METHODS_MAX} different methods`, Code.ResourceExhausted);
    this.methods.set(method, added);
    return added;
  }

  private call(
    method: ClientMethod,
    input: unknown,
    header: Headers | undefined,
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
    contextValues: ContextValues | undefined,
  ): Promise<UnaryResponse> {
    const { ready } = this.connector;
    if (ready !== undefined) return ready.call(method, input, header, timeoutMs, signal, contextValues);
    return this.callOnceConnected(method, input, header, timeoutMs, signal, contextValues);
  }

  private async callOnceConnected(
    method: ClientMethod,
    input: unknown,
    header: Headers | undefined,
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
    contextValues: ContextValues | undefined,
  ): Promise<UnaryResponse> {
    const { connection, leftMs } = await this.connector.connection(boundedTimeout(timeoutMs), signal, contextValues?.get(waitForReady));
    return connection.call(method, input, header, leftMs, signal, contextValues);
  }

  private async openStream(
    method: ClientMethod,
    input: AsyncIterator<unknown>,
    header: Headers | undefined,
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
    contextValues: ContextValues | undefined,
  ): Promise<StreamResponse> {
    const { ready } = this.connector;
    if (ready !== undefined) return ready.openStream(method, input, header, timeoutMs, signal, contextValues);
    let made: { connection: ClientConnection; leftMs: number | undefined };
    try {
      made = await this.connector.connection(boundedTimeout(timeoutMs), signal, contextValues?.get(waitForReady));
    } catch (error) {
      void closeIterator(input, error as Error);
      throw error;
    }
    return made.connection.openStream(method, input, header, made.leftMs, signal, contextValues);
  }

  private async callIntercepted(
    method: ClientMethod,
    input: unknown,
    header: HeadersInit | undefined,
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
    contextValues: ContextValues | undefined,
  ): Promise<UnaryResponse> {
    const schema = method.method.input;
    const unary = method.method as DescMethodUnary;
    const message = isMessage(input, schema) ? input : create(schema, input as MessageInitShape<DescMessage>);
    const scope = new CallScope(boundedTimeout(timeoutMs), signal);
    let next = (async (request: UnaryRequest) => {
      const response = await this.call(method, request.message, request.header, scope.leftMs, request.signal, request.contextValues);
      // Interceptors may spread it, so it has to be a plain object.
      const { stream, service, header, trailer } = response;
      return { stream, service, method: response.method, message: response.message, header, trailer };
    }) as ReturnType<Interceptor>;
    try {
      for (const interceptor of [...this.interceptors].reverse()) next = interceptor(next);
      const response = await next({
        stream: false,
        service: unary.parent,
        method: unary,
        requestMethod: "POST",
        url: URL_BASE + method.path,
        header: new Headers(header),
        contextValues: contextValues ?? createContextValues(),
        signal: scope.signal,
        message,
      });
      scope.end(undefined);
      return response as UnaryResponse;
    } catch (error) {
      throw scope.fail(error);
    }
  }

  private async streamIntercepted(
    method: ClientMethod,
    input: AsyncIterator<unknown>,
    header: HeadersInit | undefined,
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
    contextValues: ContextValues | undefined,
  ): Promise<StreamResponse> {
    const streaming = method.method as DescMethodStreaming;
    const scope = new CallScope(boundedTimeout(timeoutMs), signal);
    // An interceptor may not pass on that the stream ended early.
    onAbortOf(scope.signal, () => void closeIterator(input, scope.failure));
    let next = (async (request: StreamRequest) => {
      const response = await this.openStream(method, request.message[Symbol.asyncIterator](), request.header, scope.leftMs, request.signal, request.contextValues);
      return response;
    }) as ReturnType<Interceptor>;
    try {
      for (const interceptor of [...this.interceptors].reverse()) next = interceptor(next);
      const response = await next({
        stream: true,
        service: streaming.parent,
        method: streaming,
        requestMethod: "POST",
        url: URL_BASE + method.path,
        header: new Headers(header),
        contextValues: contextValues ?? createContextValues(),
        signal: scope.signal,
        message: mapMessages({ [Symbol.asyncIterator]: () => input }, streaming.input),
      });
      const messages = (response as StreamResponse).message[Symbol.asyncIterator]();
      return { ...(response as StreamResponse), message: new ScopedMessages(messages, scope) as StreamResponse["message"] };
    } catch (error) {
      throw scope.fail(error);
    }
  }
}

/** Scopes of streams that their users forgot. A loop that is left with `break` is one: Connect's clients do not pass on that it ended. */
const forgotten = new FinalizationRegistry<CallScope>((scope) => scope.end(new ConnectError("nobody reads the stream any more", Code.Canceled)));

/** The messages of a stream with interceptors: its scope ends with them. SUBTLE: nothing of ours that lasts refers to it. */
class ScopedMessages implements AsyncIterableIterator<unknown> {
  private readonly iterator: AsyncIterator<unknown>;
  private readonly scope: CallScope;

  constructor(iterator: AsyncIterator<unknown>, scope: CallScope) {
    this.iterator = iterator;
    this.scope = scope;
    forgotten.register(this, scope);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<unknown>> {
    try {
      const result = await this.iterator.next();
      if (result.done === true) this.scope.end(undefined);
      return result;
    } catch (error) {
      throw this.scope.fail(error);
    }
  }

  async return(value?: unknown): Promise<IteratorResult<unknown>> {
    this.scope.end(new ConnectError("the stream was left before its end", Code.Canceled));
    await this.iterator.return?.();
    return { done: true, value };
  }
}

/** Deadline and signal of a call with interceptors, as one signal that they can see; it also aborts when the call is over. */
class CallScope {
  private readonly controller = new AbortController();
  private readonly deadline: number | undefined;
  private readonly timer: NodeJS.Timeout | undefined;
  private readonly outer: AbortSignal | undefined;
  /** Why the call failed, once it has. */
  failure: ConnectError | undefined;
  private readonly onAbort = () => this.controller.abort(this.outer!.reason);

  constructor(timeoutMs: number | undefined, outer: AbortSignal | undefined) {
    this.outer = outer;
    if (outer?.aborted === true) this.onAbort();
    else if (outer !== undefined) onAbortOf(outer, this.onAbort);
    if (timeoutMs === undefined) return;
    this.deadline = performance.now() + timeoutMs;
    this.timer = setTimeout(() => this.controller.abort(timedOut()), timeoutMs);
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** What is left of the timeout, in milliseconds; undefined without one. */
  get leftMs(): number | undefined {
    return this.deadline === undefined ? undefined : Math.max(this.deadline - performance.now(), 1);
  }

  /** The call failed with `error`. Returns what its caller is told. */
  fail(error: unknown): ConnectError {
    // An interceptor that noticed the deadline or the abort by itself may have thrown anything.
    const failure = this.signal.aborted ? abortError(this.signal) : ConnectError.from(error);
    this.end(failure);
    return failure;
  }

  end(failure: ConnectError | undefined): void {
    this.failure ??= failure;
    clearTimeout(this.timer);
    this.outer?.removeEventListener("abort", this.onAbort);
    this.controller.abort(failure);
  }
}
