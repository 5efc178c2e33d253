/** A transport to one address over shared memory or a socket: Connect's Transport on top of a `ConnectionManager`. */
import type {
  DescMessage,
  DescMethod,
  DescMethodStreaming,
  DescMethodUnary,
  MessageInitShape,
} from "@bufbuild/protobuf";
import type { ContextValues, Interceptor, StreamResponse, Transport, UnaryResponse } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Address } from "../../carrier/address.js";
import { formatAddress } from "../../carrier/address.js";
import type { LeaseLifetime } from "../../memory/payload/lease.js";
import type { ClientConnection } from "../../rpc/client/client.js";
import type { CallRequest, StreamCallRequest } from "../../rpc/client/call-request.js";
import { NotTaken, withTimeout } from "../../rpc/client/call-request.js";
import type { ClientMethod } from "../../rpc/client/client-method.js";
import { ownSignal } from "../../rpc/abort.js";
import { boundedTimeout } from "../../rpc/deadline.js";
import { connectErrorOf } from "../../rpc/errors.js";
import { closeIterator } from "../../rpc/stream/stream-writer.js";
import { METHODS_MAX, PATH_BYTES_MAX } from "../../wire/frame.js";
import type { Start } from "./interceptors.js";
import { callIntercepted, streamIntercepted } from "./interceptors.js";
import { ConnectionManager } from "./connection-manager.js";
import { waitForReady } from "./dialer.js";
import { callTimeout, checkLimits, codecOf, lifetimeOf } from "../options/options.js";
import { checkOptional } from "../options/check.js";
import { connectTable, transportCloseTable } from "../options/table.js";
import type { LoanOwner } from "../payloads/payloads.js";
import { LOAN } from "../payloads/payloads.js";
import { methodPath } from "../descriptors.js";
import type {
  AddressedTransport,
  ConnectionState,
  ConnectOptions,
  HeadersInit,
  IsthmusTransportOptions,
  TransportStats,
} from "../types/client.js";

/** A method of a client. Its `ClientMethod` is looked up once. */
export interface CalledMethod {
  readonly descriptor: DescMethodUnary;
  /** Set by the first call: only methods that are called count against the transport's limit. */
  clientMethod: ClientMethod | undefined;
}

export class LocalTransport implements AddressedTransport, LoanOwner {
  readonly #isLocal = true;
  private readonly options: IsthmusTransportOptions;
  private readonly address: string;
  private readonly interceptors: readonly Interceptor[];
  private readonly lifetime: LeaseLifetime;
  private readonly methods = new Map<DescMethod, ClientMethod>();
  private readonly connectionManager: ConnectionManager;
  private readonly startCall: Start<unknown, UnaryResponse> = (request) => this.call(request) as Promise<UnaryResponse>;
  private readonly startStream: Start<AsyncIterator<unknown>, StreamResponse> = (request) => this.openStream(request);

  constructor(options: IsthmusTransportOptions, address: Address) {
    this.options = options;
    this.address = formatAddress(address);
    const limits = checkLimits({ readMaxBytes: options.readMaxBytes, writeMaxBytes: options.writeMaxBytes });
    this.interceptors = options.interceptors ?? [];
    this.lifetime = lifetimeOf(options);
    this.connectionManager = new ConnectionManager(this, options, address, limits);
  }

  /** Whether `transport` is one of these, and neither an object that inherits from one nor a proxy of one. */
  static isLocal(transport: Transport): transport is LocalTransport {
    return transport instanceof LocalTransport && #isLocal in transport;
  }

  async [LOAN](byteLength: number, makeSignal: () => AbortSignal): Promise<Uint8Array> {
    const connection =
      this.connectionManager.ready ??
      (await this.connectionManager.connection(undefined, makeSignal(), undefined)).connection;
    return connection.loan(byteLength, makeSignal);
  }

  async connect(options?: ConnectOptions): Promise<void> {
    const { timeoutMs, signal, waitForReady: waits } = checkOptional(connectTable, options);
    await this.connectionManager.connection(boundedTimeout(timeoutMs), signal && ownSignal(signal), waits);
  }

  async connectNow(signal?: AbortSignal): Promise<void> {
    await this.connectionManager.connection(undefined, signal, false);
  }

  get state(): ConnectionState {
    return this.connectionManager.state;
  }

  get carrier(): "shm" | "socket" | undefined {
    return this.connectionManager.ready?.carrier.name;
  }

  get carrierReason(): string | undefined {
    return this.connectionManager.ready?.carrier.reason;
  }

  // eslint-disable-next-line @typescript-eslint/max-params -- the signature of Connect's Transport
  unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: MessageInitShape<I>,
    contextValues?: ContextValues,
  ): Promise<UnaryResponse<I, O>> {
    try {
      const timeout = callTimeout(timeoutMs, this.options.defaultTimeoutMs);
      const clientMethod = this.clientMethod(method);
      const own = signal === undefined ? undefined : ownSignal(signal);
      const response =
        this.interceptors.length === 0
          ? this.call({
              method: clientMethod,
              input,
              header: header === undefined ? undefined : new Headers(header),
              timeoutMs: timeout,
              signal: own,
              contextValues,
              wantsMessage: false,
            })
          : callIntercepted(this.interceptors, this.startCall, {
              method: clientMethod,
              input,
              header,
              timeoutMs: timeout,
              signal: own,
              contextValues,
              wantsMessage: false,
            });
      return response as Promise<UnaryResponse<I, O>>;
    } catch (error) {
      return Promise.reject(connectErrorOf(error, Code.Internal));
    }
  }

  /** Whether `unaryMessage` does what `unary` would: there are no interceptors, and nobody has wrapped `unary`. */
  get hasPlainUnary(): boolean {
    return this.interceptors.length === 0 && this.unary === plainUnary;
  }

  /** Calls as `unary` does if `hasPlainUnary`, but resolves with the message. Does not throw. */
  // eslint-disable-next-line @typescript-eslint/max-params -- as `unary`
  unaryMessage(
    called: CalledMethod,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: unknown,
    contextValues: ContextValues | undefined,
  ): Promise<unknown> {
    try {
      const timeout = callTimeout(timeoutMs, this.options.defaultTimeoutMs);
      const method = (called.clientMethod ??= this.clientMethod(called.descriptor));
      const own = signal === undefined ? undefined : ownSignal(signal);
      const isDefaultCodec = this.options.codec === undefined;
      const result = this.call({
        method,
        input,
        header: header === undefined ? undefined : new Headers(header),
        timeoutMs: timeout,
        signal: own,
        contextValues,
        wantsMessage: isDefaultCodec,
      });
      // Resolving with a message reads its property `then`. If that is the user's code, it must not run in our loop
      // (CONTEXT-2).
      return isDefaultCodec ? result : (result as Promise<UnaryResponse>).then(messageOf);
    } catch (error) {
      return Promise.reject(connectErrorOf(error, Code.Internal));
    }
  }

  // eslint-disable-next-line @typescript-eslint/max-params -- the signature of Connect's Transport
  stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: AsyncIterable<MessageInitShape<I>>,
    contextValues?: ContextValues,
  ): Promise<StreamResponse<I, O>> {
    try {
      const timeout = callTimeout(timeoutMs, this.options.defaultTimeoutMs);
      const clientMethod = this.clientMethod(method);
      const own = signal === undefined ? undefined : ownSignal(signal);
      const headers = header === undefined ? undefined : new Headers(header);
      const request: StreamCallRequest = {
        method: clientMethod,
        input: input[Symbol.asyncIterator](),
        header: headers,
        timeoutMs: timeout,
        signal: own,
        contextValues,
        wantsMessage: false,
      };
      const response =
        this.interceptors.length === 0
          ? this.openStream(request)
          : streamIntercepted(this.interceptors, this.startStream, request);
      return response as Promise<StreamResponse<I, O>>;
    } catch (error) {
      return Promise.reject(connectErrorOf(error, Code.Internal));
    }
  }

  stats(): TransportStats {
    const { state, ready, pendingCalls, connections } = this.connectionManager;
    return {
      state,
      carrier: this.carrier,
      carrierReason: this.carrierReason,
      isolation: ready?.carrier.trust?.isolation,
      isolationReason: ready?.carrier.trust?.reason,
      pendingCalls,
      connections,
      connection: ready?.stats(),
    };
  }

  toJSON() {
    return { address: this.address, ...this.stats() };
  }

  async close(options?: { readonly timeoutMs?: number }): Promise<void> {
    const { timeoutMs = 0 } = checkOptional(transportCloseTable, options);
    await this.connectionManager.close(timeoutMs);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  private clientMethod(method: DescMethod): ClientMethod {
    return this.methods.get(method) ?? this.addMethod(method);
  }

  private addMethod(method: DescMethod): ClientMethod {
    const codec = codecOf(this.options);
    const path = methodPath(method);
    if (path.length > PATH_BYTES_MAX)
      throw new ConnectError(
        `the path of a method, ${path.slice(0, 40)}…, has ${path.length} characters; the limit is ${PATH_BYTES_MAX}`,
        Code.InvalidArgument,
      );
    const added: ClientMethod = {
      method,
      id: this.methods.size,
      path,
      input: codec(method.input),
      output: codec(method.output),
      receivePolicy: { lifetime: this.lifetime, callLabel: path },
    };
    if (added.id >= METHODS_MAX)
      throw new ConnectError(`a transport can call at most ${METHODS_MAX} different methods`, Code.ResourceExhausted);
    this.methods.set(method, added);
    return added;
  }

  /** Resolves as `ClientConnection.call` does. */
  private call(request: CallRequest): Promise<unknown> {
    const { ready } = this.connectionManager;
    if (ready === undefined) return this.callOnceConnected(request);
    // A call that has to wait may come back. Others make no further promise.
    return ready.isFull ? ready.call(request).catch(this.callAgain) : ready.call(request);
  }

  /** LEAVE-2: a connection that goes away does not take the calls that wait for a slot. */
  private readonly callAgain = (error: unknown): Promise<unknown> => {
    if (error instanceof NotTaken) return this.call(error.request as CallRequest);
    throw error;
  };

  private async callOnceConnected(request: CallRequest): Promise<unknown> {
    const { connection, leftMs } = await this.connectionFor(request);
    return connection.call(withTimeout(request, leftMs)).catch(this.callAgain);
  }

  private async openStream(request: StreamCallRequest): Promise<StreamResponse> {
    try {
      const { ready } = this.connectionManager;
      return await (ready === undefined ? this.openStreamOnceConnected(request) : ready.openStream(request));
    } catch (error) {
      if (error instanceof NotTaken) return this.openStream(error.request as StreamCallRequest);
      throw error;
    }
  }

  private async openStreamOnceConnected(request: StreamCallRequest): Promise<StreamResponse> {
    let made: { connection: ClientConnection; leftMs: number | undefined };
    try {
      made = await this.connectionFor(request);
    } catch (error) {
      void closeIterator(request.input, error as Error);
      throw error;
    }
    return made.connection.openStream(withTimeout(request, made.leftMs));
  }

  private connectionFor({ timeoutMs, signal, contextValues }: CallRequest) {
    return this.connectionManager.connection(boundedTimeout(timeoutMs), signal, contextValues?.get(waitForReady));
  }
}

// eslint-disable-next-line @typescript-eslint/unbound-method -- it is compared, not called
const plainUnary = LocalTransport.prototype.unary;
const messageOf = (response: UnaryResponse): unknown => response.message;
