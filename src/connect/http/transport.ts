/**
 * A transport to an HTTP address: Connect's own, over one HTTP/2 connection at a time that is made when it is first
 * needed. This adds what other carriers have: errors that name the address, a time limit for connecting, payloads,
 * state, and `close`.
 *
 * HTTP-1  A call is given to Connect only once there is a connection. So a failure to connect can be distinguished from
 *         a call that was sent, and only the former may move to another address.
 */
import type { DescMessage, DescMethodStreaming, DescMethodUnary, Message, MessageInitShape } from "@bufbuild/protobuf";
import type {
  ContextValues,
  Interceptor,
  StreamResponse,
  Transport,
  UnaryRequest,
  UnaryResponse,
} from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Http2SessionManager } from "@connectrpc/connect-node";
import type { HttpAddress } from "../../carrier/address.js";
import { formatAddress } from "../../carrier/address.js";
import { inRootContext } from "../../carrier/poll/root-context.js";
import { clearTimeout, setImmediate, setTimeout } from "../../os/timers.js";
import { ownSignal } from "../../rpc/abort.js";
import { boundedTimeout, timedOut } from "../../rpc/deadline.js";
import { abortError, connectErrorOf } from "../../rpc/errors.js";
import { loadConnectNode, SESSION_MEGABYTES } from "./connect-node.js";
import { connectionFailure, isReset, lostConnection } from "./client-errors.js";
import { HttpCall } from "./client-call.js";
import { greeting } from "./greeting.js";
import { ownPayloads, ownPayloadsOfAll } from "./payloads.js";
import { checkOptional } from "../options/check.js";
import { DEFAULTS } from "../options/defaults.js";
import { connectTable, transportCloseTable } from "../options/table.js";
import { callTimeout, checkCarrier, checkLimits, omitUndefined, handshakeTimeoutOf } from "../options/options.js";
import { methodPath } from "../descriptors.js";
import type {
  AddressedTransport,
  ConnectionState,
  ConnectOptions,
  HeadersInit,
  IsthmusTransportOptions,
  TransportStats,
} from "../types/client.js";

const TIMEOUT_HEADERS = ["grpc-timeout", "connect-timeout-ms"];
/** How much earlier than this end's timer the server's timer may fire. */
const DEADLINE_SLACK_MS = 50;

type Sent = Pick<UnaryRequest, "signal" | "header">;

interface Loaded {
  readonly manager: Http2SessionManager;
  readonly transport: Transport;
}

export class HttpTransport implements AddressedTransport {
  private readonly options: IsthmusTransportOptions;
  private readonly name: string;
  private readonly loading: Promise<Loaded>;
  private loaded: Loaded | undefined;
  private connecting: Promise<void> | undefined;
  private connections = 0;
  private closedBecause: ConnectError | undefined;
  private readonly calls = new Set<HttpCall>();

  constructor(options: IsthmusTransportOptions, address: HttpAddress) {
    this.options = options;
    this.name = formatAddress(address);
    checkCarrier(options, address);
    const limits = checkLimits({ readMaxBytes: options.readMaxBytes, writeMaxBytes: options.writeMaxBytes });
    this.loading = inRootContext(() => this.load(limits));
    // Each call reports the failure.
    this.loading.catch(() => undefined);
  }

  private async load(limits: { readMaxBytes: number; writeMaxBytes: number }): Promise<Loaded> {
    const { options, name } = this;
    const connectNode = await loadConnectNode(`connect to ${name}`);
    const manager = new connectNode.Http2SessionManager(
      name,
      {
        pingIntervalMs: options.pingIntervalMs ?? DEFAULTS.pingIntervalMs,
        ...omitUndefined({
          pingTimeoutMs: options.pingTimeoutMs,
          pingIdleConnection: options.pingIdleConnection,
          idleConnectionTimeoutMs: options.idleConnectionTimeoutMs,
        }),
      },
      { maxSessionMemory: SESSION_MEGABYTES, ...options.nodeOptions },
    );
    const all = {
      baseUrl: name,
      httpVersion: "2" as const,
      sessionManager: manager,
      ...limits,
      interceptors: [...(options.interceptors ?? []), this.innermost],
      acceptCompression: [...(options.acceptCompression ?? [])],
      ...omitUndefined({
        sendCompression: options.sendCompression,
        compressMinBytes: options.compressMinBytes,
        binaryOptions: options.binaryOptions,
      }),
    };
    const make = {
      grpc: connectNode.createGrpcTransport,
      "grpc-web": connectNode.createGrpcWebTransport,
      connect: connectNode.createConnectTransport,
    }[options.protocol ?? "grpc"];
    this.loaded = { manager, transport: make({ useBinaryFormat: true, ...all }) };
    return this.loaded;
  }

  get state(): ConnectionState {
    if (this.closedBecause !== undefined) return "closed";
    if (this.connecting !== undefined) return "connecting";
    return this.isReady() ? "ready" : "idle";
  }

  get carrierReason(): string | undefined {
    return this.carrier === undefined ? undefined : "HTTP connections do not use shared memory";
  }

  get carrier(): "http" | undefined {
    return this.state === "ready" ? "http" : undefined;
  }

  toJSON() {
    return { address: this.name, ...this.stats() };
  }

  stats(): TransportStats {
    return {
      state: this.state,
      carrier: this.carrier,
      carrierReason: this.carrierReason,
      isolation: undefined,
      isolationReason: undefined,
      pendingCalls: this.calls.size,
      connections: this.connections,
      connection: undefined,
    };
  }

  // eslint-disable-next-line @typescript-eslint/max-params -- the signature of Connect's Transport
  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: MessageInitShape<I>,
    contextValues?: ContextValues,
  ): Promise<UnaryResponse<I, O>> {
    const call = this.begin(signal);
    try {
      const { transport } = this.loaded ?? (await this.loading);
      return await transport.unary(method, call.signal, this.timeoutOf(timeoutMs), header, input, contextValues);
    } finally {
      call.end();
    }
  }

  // eslint-disable-next-line @typescript-eslint/max-params -- the signature of Connect's Transport
  async stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: AsyncIterable<MessageInitShape<I>>,
    contextValues?: ContextValues,
  ): Promise<StreamResponse<I, O>> {
    const messages = iteratedOnce(input);
    const call = this.begin(signal);
    try {
      const { transport } = this.loaded ?? (await this.loading);
      const response = await transport.stream(
        method,
        call.signal,
        this.timeoutOf(timeoutMs),
        header,
        messages,
        contextValues,
      );
      return { ...response, message: call.endingWith(response.message) };
    } catch (error) {
      call.end();
      throw error;
    }
  }

  /**
   * Makes the connection if there is none, once the server has shown that it is alive and speaks HTTP/2.
   *
   * SUBTLE: Node's session is connected when its socket is, and the kernel accepts connections for a server that hangs.
   * @throws ConnectError that names the address
   */
  connectNow(signal?: AbortSignal): Promise<void> {
    return this.ensureConnection(true, signal);
  }

  async connect(options?: ConnectOptions): Promise<void> {
    const { timeoutMs, signal: given } = checkOptional(connectTable, options);
    const signal = given && ownSignal(given);
    const timeout = boundedTimeout(timeoutMs);
    if (timeout === undefined) return this.connectNow(signal);
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(timedOut(" before there was a connection")), timeout);
    try {
      await this.connectNow(signal === undefined ? late.signal : AbortSignal.any([signal, late.signal]));
    } catch (error) {
      throw late.signal.aborted ? late.signal.reason : error;
    } finally {
      clearTimeout(timer);
    }
  }

  private async ensureConnection(greeted: boolean, signal: AbortSignal | undefined): Promise<void> {
    const { manager } = this.loaded ?? (await this.loading);
    if (this.closedBecause !== undefined) throw this.closedBecause;
    if (this.isReady()) return;
    this.connecting ??= inRootContext(() => this.makeConnection(manager, greeted)).finally(() => {
      this.connecting = undefined;
    });
    await orAborted(this.connecting, signal);
  }

  async close(options?: { readonly timeoutMs?: number }): Promise<void> {
    checkOptional(transportCloseTable, options);
    if (this.closedBecause !== undefined) return;
    const reason = new ConnectError("the transport was closed", Code.Unavailable);
    this.closedBecause = reason;
    for (const call of [...this.calls]) call.abort(reason);
    await this.loading.then(
      ({ manager }) => manager.abort(reason),
      () => undefined,
    );
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  private timeoutOf(timeoutMs: number | undefined): number | undefined {
    return boundedTimeout(callTimeout(timeoutMs, this.options.defaultTimeoutMs));
  }

  private isReady(): boolean {
    const state = this.loaded?.manager.state();
    return state === "open" || state === "idle" || state === "verifying";
  }

  private begin(signal: AbortSignal | undefined): HttpCall {
    if (this.closedBecause !== undefined) throw new ConnectError("the transport is closed", Code.Unavailable);
    const call = new HttpCall(signal, (ended) => this.calls.delete(ended));
    this.calls.add(call);
    return call;
  }

  private async makeConnection(manager: Http2SessionManager, greeted: boolean): Promise<void> {
    const timeoutMs = handshakeTimeoutOf(this.options);
    const expiry = new AbortController();
    const timer = setTimeout(() => {
      const late = new ConnectError(
        `no connection within ${timeoutMs} ms; is the server alive, and does a firewall drop packets?`,
        Code.Unavailable,
      );
      expiry.abort(late);
      manager.abort(late);
    }, timeoutMs);
    try {
      if (greeted) {
        await greeting(this.name, this.options.nodeOptions, expiry.signal).catch((error: unknown) => {
          throw connectionFailure(this.name, error);
        });
      }
      if ((await manager.connect()) === "error") throw connectionFailure(this.name, manager.error());
      this.connections++;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Runs right before the call is sent, after all of the user's interceptors. */
  private readonly innermost: Interceptor = (next) => async (request) => {
    const { signal, method } = request;
    await this.ensureConnection(false, signal);
    const path = methodPath(method);
    try {
      if (request.stream) {
        const response = await next({
          ...request,
          message: ownPayloadsOfAll(method.input, request.message, "request", path, signal),
        });
        return response.stream ? { ...response, message: this.explaining(response.message, request) } : response;
      }
      const owned = ownPayloads(method.input, request.message, "request", path, signal);
      return await next(owned === request.message ? request : { ...request, message: await owned });
    } catch (error) {
      throw await this.explain(error, request);
    }
  };

  private async *explaining(messages: AsyncIterable<Message>, request: Sent): AsyncGenerator<Message> {
    try {
      yield* messages;
    } catch (error) {
      throw await this.explain(error, request);
    }
  }

  private async explain(error: unknown, { signal, header }: Sent): Promise<unknown> {
    if (signal.aborted) return error;
    // Calls learn of the end of their connection before the session manager does.
    await new Promise((resolve) => setImmediate(resolve));
    // A server whose timer fires first may just cancel the stream. Connect reports that as a timeout once this end's
    // timer has fired too.
    if (isReset(error) && TIMEOUT_HEADERS.some((name) => header.has(name)))
      await abortedWithin(signal, DEADLINE_SLACK_MS);
    if (signal.aborted) return error;
    return lostConnection(this.name, error, this.isReady());
  }
}

/**
 * SUBTLE: Connect asks for an iterator again when a call is aborted. If that throws, it throws into the event loop.
 * @throws ConnectError
 */
function iteratedOnce<M>(messages: AsyncIterable<M>): AsyncIterable<M> {
  try {
    const iterator = messages[Symbol.asyncIterator]();
    return { [Symbol.asyncIterator]: () => iterator };
  } catch (error) {
    throw connectErrorOf(error, Code.Internal);
  }
}

function abortedWithin(signal: AbortSignal, timeoutMs: number): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, timeoutMs);
    signal.addEventListener("abort", end);
  });
}

/** Waits until the promise settles or the signal aborts. */
function orAborted(promise: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(abortError(signal));
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}
