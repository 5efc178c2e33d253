/** The server: serves Connect's routes to the processes that connect to its addresses. */
import type { ContextValues, Interceptor } from "@connectrpc/connect";
import { Code, ConnectError, createContextValues } from "@connectrpc/connect";
import type { Address, HttpAddress } from "../../carrier/address.js";
import { formatAddress, nameOf, parseAddress } from "../../carrier/address.js";
import type { CarrierClosed } from "../../carrier/carrier.js";
import { ControlSocket } from "../../carrier/shm/control-socket.js";
import type { HandshakeSocket } from "../../carrier/handshake/handshake.js";
import { serverHandshake } from "../../carrier/handshake/handshake.js";
import { isSameUser, OVERFLOW_UID } from "../../carrier/handshake/link.js";
import { inRootContext } from "../../carrier/poll/root-context.js";
import type { Listener, ListenOptions } from "../../carrier/handshake/listen.js";
import { withRetryability } from "../../carrier/retryability.js";
import { createProtobufCodec } from "../../codec/codec.js";
import type { Addon, PeerCredentials } from "../../os/addon.js";
import { clearTimeout, nowMs, setTimeout } from "../../os/timers.js";
import { ownSignal } from "../../rpc/abort.js";
import { TIMER_MS_MAX } from "../../rpc/deadline.js";
import { prepareErrors } from "../../rpc/errors.js";
import type { RequestGate } from "../../rpc/server/gate.js";
import { ServerConnection } from "../../rpc/server/server.js";
import type { ServerMethod } from "../../rpc/server/server-method.js";
import { SLOTS_MAX } from "../../wire/frame.js";
import { reasonWithoutMemory } from "../../wire/hello.js";
import type { ServerConnectionEvent } from "../events.js";
import { serverConnection, tell } from "../events.js";
import type { CorsOptions } from "../http/cors.js";
import { corsOf } from "../http/cors.js";
import type { HttpListener, HttpServerOptions } from "../http/server.js";
import { http1OptionsOf, listenHttp } from "../http/server.js";
import { checkOptional, checkOptions } from "../options/check.js";
import { DEFAULTS, listenTable, serverCloseTable, serverTable } from "../options/table.js";
import type { CommonOptions } from "../options/options.js";
import {
  checkCarrier,
  checkLimits,
  codecOf,
  geometryOf,
  handshakeTimeoutOf,
  keepAliveOf,
  lackOf,
  lifetimeOf,
  pollMicrosOf,
  streamWindowOf,
} from "../options/options.js";
import { openListener } from "./listening.js";
import type { IsthmusRouter } from "./routes.js";
import { collectRoutes } from "./routes.js";
import type { IsthmusWorkerServerOptions, WorkerStats } from "./workers.js";
import { WorkerServer } from "./workers.js";

export interface IsthmusServerOptions extends CommonOptions {
  readonly workers?: undefined;
  /** Registers services, exactly as for any Connect server; may set options per service or method. */
  readonly routes: (router: IsthmusRouter) => void;
  /** Applied to every call, the first one outermost. A service's or method's own option replaces them. */
  readonly interceptors?: Interceptor[];
  /**
   * Asked before every call, once its headers are there and before any of its messages is decoded: what it throws, or
   * rejects with, the caller is told instead. A service's or method's own option replaces it. As Connect's option of
   * this name (since 2.3), whatever version is installed.
   */
  readonly requestGate?: RequestGate;
  /** Longest timeout a client may ask for, in milliseconds; a longer one is answered with `InvalidArgument`. */
  readonly maxTimeoutMs?: number;
  /** When it aborts, the signals of all handler contexts abort. */
  readonly shutdownSignal?: AbortSignal;
  /** Context values that a client's calls start with. Without credentials (TCP, or no addon) `peer` is undefined. */
  readonly contextValues?: (peer: PeerCredentials | undefined) => ContextValues;
  /**
   * Who may connect, decided by what the kernel says of the connecting process. By default processes of the same user
   * id. User id 65534 stands for "somebody of another user namespace" and is never let in by default. Where the kernel
   * cannot be asked, on TCP and without the addon, `listen` refuses to go on if this is given.
   *
   * Only `true`, or a promise of it, lets in. The time that a promise takes counts into the handshake's, and the client
   * counts as a connection meanwhile.
   */
  readonly allow?: (peer: PeerCredentials) => boolean | Promise<boolean>;
  /**
   * Connections at once over shared memory and sockets; 1024 by default. Further ones are refused with
   * `ResourceExhausted`.
   */
  readonly maxConnections?: number;
  /**
   * Connections at once over HTTP; 1024 by default. Further ones are closed at once. They take no place of those that
   * `maxConnections` counts.
   */
  readonly maxHttpConnections?: number;
  /** Limits of HTTP/1.1. */
  readonly http?: HttpServerOptions;
  /**
   * Lets scripts of web pages from other origins call over HTTP. `true` allows all pages, without credentials; off by
   * default.
   */
  readonly cors?: boolean | CorsOptions;
  /** Calls that one connection may have open at once; 65536 by default. A client keeps further ones back. */
  readonly maxStreams?: number;
}

export interface ServerStats {
  /** All connections, those of HTTP included. */
  readonly connections: number;
  /** The same by what they run over. */
  readonly carriers: { readonly shm: number; readonly socket: number; readonly http: number };
  /**
   * Why no connection to this server's paths runs over shared memory, if so: what the server lacks. What a client
   * lacks, an event tells (`isthmus:server:connection`).
   */
  readonly carrierReason: string | undefined;
  readonly pendingCalls: number;
  /** How many of them are streams of Isthmus's own carriers. */
  readonly openStreams: number;
  /** Connections that were refused or failed in the handshake. */
  readonly refused: number;
  /** Connections that ended because the client broke the protocol. */
  readonly violations: number;
  /** With option `workers`: the threads that serve now. What they tell of themselves may be 250 ms old. */
  readonly workers?: readonly WorkerStats[];
}

export interface ListeningAt {
  /** `unix:PATH`, or `tcp:HOST:PORT` or `http://HOST:PORT` with the port that was taken. */
  readonly address: string;
}

export interface IsthmusServer extends AsyncDisposable {
  /**
   * Listens on a socket path (or `unix:PATH`), or on `tcp:HOST:PORT`; port 0 takes a free one. May be called for
   * several addresses. The process stays alive while listening. TCP is neither encrypted nor authenticated: for the
   * loopback interface and networks whose every user is trusted.
   *
   * `http://HOST:PORT` and, with `options.tls`, `https://HOST:PORT` serve the same routes as gRPC, gRPC-Web and Connect
   * over HTTP/2 and HTTP/1.1, for which `@connectrpc/connect-node` has to be installed; with a path, below that path.
   * @returns the address as clients can use it
   * @throws ConnectError that says what is in the way: `AlreadyExists` if a live server has the path or port,
   * `NotFound` if the directory is missing, `PermissionDenied`, `InvalidArgument` for an address that is none,
   * `FailedPrecondition` where what the options insist on cannot be had: shared memory, or credentials of clients
   */
  listen(address: string, options?: ListenOptions): Promise<ListeningAt>;
  /**
   * Stops listening, tells clients to go, lets open calls finish, then closes. Calls that clients sent before they knew
   * are served; their next ones they make over a new connection, for which they wait by default. After `timeoutMs`
   * (10,000 by default) what is still open is cut off; more than a timer can count, 24.8 days, such as `Infinity`, is
   * as good as never.
   */
  close(options?: { timeoutMs?: number }): Promise<void>;
  stats(): ServerStats;
  /** What `JSON.stringify`, and a logger that uses it, shows: `stats()`. */
  toJSON(): ServerStats;
}

/** Options of `listen` that mean nothing for an address of the kind. */
const MISPLACED: Readonly<Record<(Address | HttpAddress)["kind"], readonly (keyof ListenOptions)[]>> = {
  unix: ["tls"],
  tcp: ["mode", "gid", "takeover", "tls"],
  http: ["mode", "gid", "takeover"],
};

/**
 * A server in this thread, or with `workers` one that spreads its connections over threads of its own.
 * @throws whatever `routes` throws; ConnectError `InvalidArgument` for an option that there is not or whose value makes
 * no sense, and `FailedPrecondition` if `carrier` is "shm" and cannot be had
 */
export function createIsthmusServer(options: IsthmusServerOptions | IsthmusWorkerServerOptions): IsthmusServer {
  if (options?.workers === undefined) return new LocalServer(options);
  return new WorkerServer(
    options,
    (checked, sink) => new LocalServer({ ...checked, workers: undefined, routes: () => undefined }, sink),
  );
}

/** Who serves what a server accepts, if not itself. */
export interface ConnectionSink {
  /** Connections that are there, shaking hands or waiting. */
  connections(): number;
  /** Takes the descriptor of a client that may come in. @param leftMs what is left of the handshake's time */
  give(addon: Addon, descriptor: number, peer: PeerCredentials, leftMs: number): void;
}

export class LocalServer implements IsthmusServer {
  private readonly sink: ConnectionSink | undefined;
  private readonly options: IsthmusServerOptions;
  private readonly methods: ReadonlyMap<string, ServerMethod>;
  private readonly geometry: ReturnType<typeof geometryOf>;
  private readonly listeners: Listener[] = [];
  private readonly httpListeners: HttpListener[] = [];
  private readonly connections = new Set<ServerConnection>();
  private readonly handshakes = new Set<AbortController>();
  private refused = 0;
  private violations = 0;
  private carrierReason: string | undefined;
  private closing = false;

  constructor(given: IsthmusServerOptions, sink?: ConnectionSink) {
    const options = checkOptions(serverTable, given);
    this.options = options;
    this.sink = sink;
    this.methods = collectRoutes(options.routes, {
      ...checkLimits({ readMaxBytes: options.readMaxBytes, writeMaxBytes: options.writeMaxBytes }),
      interceptors: options.interceptors ?? [],
      requestGate: options.requestGate,
      maxTimeoutMs: options.maxTimeoutMs ?? Number.MAX_SAFE_INTEGER,
      shutdownSignal: options.shutdownSignal && ownSignal(options.shutdownSignal),
      leases: lifetimeOf(options),
      codecFor: (route) =>
        route?.binaryOptions === undefined || options.codec !== undefined
          ? codecOf(options)
          : createProtobufCodec(route.binaryOptions),
    });
    this.geometry = geometryOf(options);
    http1OptionsOf(options.http);
    corsOf(options.cors);
    checkCarrier(options);
    prepareErrors();
  }

  async listen(address: string, options?: ListenOptions): Promise<ListeningAt> {
    if (this.isClosing()) throw new ConnectError("the server is closed", Code.FailedPrecondition);
    const parsed = parseAddress(address);
    const listenOptions = checkOptional(listenTable, options, `listen on ${nameOf(parsed)}: `);
    const misplaced = MISPLACED[parsed.kind].find((name) => listenOptions[name] !== undefined);
    if (misplaced !== undefined)
      throw new ConnectError(
        `listen on ${nameOf(parsed)}: option ${misplaced} is for ${misplaced === "tls" ? "https:// addresses" : "socket paths"}`,
        Code.InvalidArgument,
      );
    if (parsed.kind === "http") return this.listenHttp(parsed, listenOptions);
    const listener = await inRootContext(() =>
      openListener(this.options, parsed, listenOptions, {
        onDescriptor: (addon, descriptor, refusal) => this.accept(addon, descriptor, refusal),
        onStream: (stream) =>
          void this.shakeHands(
            stream,
            undefined,
            this.fullHouse(),
            handshakeTimeoutOf(this.options),
            undefined,
            parsed.kind === "tcp" ? stream.peerAddress : undefined,
          ),
      }),
    );
    this.listeners.push(listener);
    const lack = lackOf(this.options, false);
    if (parsed.kind === "unix" && lack !== undefined) this.carrierReason = reasonWithoutMemory(undefined, lack);
    if (this.isClosing()) {
      await this.stopListening();
      throw new ConnectError("the server was closed", Code.FailedPrecondition);
    }
    return { address: formatAddress(listener.address) };
  }

  private async listenHttp(address: HttpAddress, listenOptions: ListenOptions): Promise<ListeningAt> {
    const listener = await inRootContext(() =>
      listenHttp(this.options, address, listenOptions, () => this.mayAcceptHttp()),
    );
    if (this.isClosing()) {
      await listener.close();
      throw new ConnectError("the server was closed", Code.FailedPrecondition);
    }
    this.httpListeners.push(listener);
    return { address: formatAddress(listener.address) };
  }

  async close(options?: { timeoutMs?: number }): Promise<void> {
    const { timeoutMs = DEFAULTS.closeTimeoutMs } = checkOptional(serverCloseTable, options);
    this.closing = true;
    const stopped = this.stopListening();
    for (const handshake of this.handshakes)
      handshake.abort(withRetryability(new ConnectError("the server is shutting down", Code.Unavailable), "draining"));
    const open = [...this.connections];
    const http = this.httpListeners.map((listener) => listener.close());
    const cutOff = setTimeout(
      () => {
        for (const listener of this.httpListeners) listener.cutOff();
        for (const connection of open)
          connection.close(`the server shut down and did not wait longer than ${timeoutMs} ms`);
      },
      Math.min(timeoutMs, TIMER_MS_MAX),
    );
    await Promise.all([...open.map((connection) => connection.drain()), ...http]);
    clearTimeout(cutOff);
    await stopped;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  toJSON(): ServerStats {
    return this.stats();
  }

  stats(): ServerStats {
    let pendingCalls = 0;
    let openStreams = 0;
    const carriers = { shm: 0, socket: 0, http: 0 };
    for (const connection of this.connections) {
      pendingCalls += connection.pendingCalls;
      openStreams += connection.openStreams;
      carriers[connection.carrier.name]++;
    }
    for (const listener of this.httpListeners) {
      pendingCalls += listener.pendingCalls;
      carriers.http += listener.connections;
    }
    return {
      connections: this.connections.size + carriers.http,
      carriers,
      carrierReason: this.carrierReason,
      pendingCalls,
      openStreams,
      refused: this.refused,
      violations: this.violations,
    };
  }

  private isClosing(): boolean {
    return this.closing;
  }

  private async stopListening(): Promise<void> {
    await Promise.all(this.listeners.splice(0).map((listener) => listener.close()));
  }

  /** Takes the descriptor over. */
  private accept(addon: Addon, descriptor: number, refusal: ConnectError | undefined): void {
    let peer: PeerCredentials;
    try {
      peer = addon.peerCredentials(descriptor);
    } catch {
      // Without credentials nobody is let in, and there is nobody to tell.
      addon.closeDescriptor(descriptor);
      this.refused++;
      return;
    }
    const timeoutMs = handshakeTimeoutOf(this.options);
    const verdict = refusal ?? this.judge(peer);
    if (verdict instanceof Promise) void this.admitLater(addon, descriptor, peer, verdict, timeoutMs);
    else this.admit(addon, descriptor, peer, verdict, timeoutMs);
  }

  private admit(
    addon: Addon,
    descriptor: number,
    peer: PeerCredentials,
    refusal: ConnectError | undefined,
    leftMs: number,
  ): void {
    if (refusal === undefined && this.sink !== undefined) this.sink.give(addon, descriptor, peer, leftMs);
    else this.take(addon, descriptor, peer, refusal, leftMs);
  }

  /** ALLOW-1: the client has its place, and its time runs, from now on. */
  private async admitLater(
    addon: Addon,
    descriptor: number,
    peer: PeerCredentials,
    verdict: Promise<ConnectError | undefined>,
    timeoutMs: number,
  ): Promise<void> {
    const start = nowMs();
    const abort = new AbortController();
    const late = `the server did not decide within ${timeoutMs} ms whether to let this client in: what its option \`allow\` returned has not settled`;
    const timer = setTimeout(() => abort.abort(new ConnectError(late, Code.DeadlineExceeded)), timeoutMs);
    this.handshakes.add(abort);
    const aborted = new Promise<ConnectError>((resolve) =>
      abort.signal.addEventListener("abort", () => resolve(abort.signal.reason as ConnectError)),
    );
    const refusal = await Promise.race([aborted, verdict]);
    clearTimeout(timer);
    this.handshakes.delete(abort);
    // The place that is left here is taken again before anything else runs. After `close` the client is told so,
    // whatever was decided in that moment.
    this.admit(
      addon,
      descriptor,
      peer,
      (abort.signal.reason as ConnectError | undefined) ?? refusal,
      Math.max(timeoutMs - (nowMs() - start), 1),
    );
  }

  /**
   * Serves a client that was accepted, or tells it why not. Takes the descriptor over.
   * @param leftMs what is left of the handshake's time
   * @param onChange called when the connection was made, and once when it is gone
   */
  take(
    addon: Addon,
    descriptor: number,
    peer: PeerCredentials,
    refusal: ConnectError | undefined,
    leftMs: number,
    onChange?: (gone: boolean) => void,
  ): void {
    let socket: ControlSocket;
    try {
      socket = new ControlSocket(addon, descriptor);
    } catch {
      // It closed the descriptor.
      this.refused++;
      onChange?.(true);
      return;
    }
    void this.shakeHands(socket, peer, refusal, leftMs, onChange);
  }

  private async shakeHands(
    socket: HandshakeSocket,
    peer: PeerCredentials | undefined,
    refusal: ConnectError | undefined,
    leftMs: number,
    onChange?: (gone: boolean) => void,
    peerAddress?: string,
  ): Promise<void> {
    const { options } = this;
    const abort = new AbortController();
    const timeoutMs = handshakeTimeoutOf(options);
    const timer = setTimeout(
      () => abort.abort(new ConnectError(`no greeting within ${timeoutMs} ms`, Code.DeadlineExceeded)),
      leftMs,
    );
    this.handshakes.add(abort);
    try {
      const link = await serverHandshake(
        socket,
        peer,
        refusal,
        {
          carrier: options.carrier ?? "auto",
          lack: lackOf(options, peerAddress !== undefined),
          geometry: this.geometry,
          handshakeTimeoutMs: timeoutMs,
          pollMicros: pollMicrosOf(options),
          maxStreams: Math.min(options.maxStreams ?? SLOTS_MAX, SLOTS_MAX),
          streamWindowBytes: streamWindowOf(options),
          isolation: options.isolation,
        },
        abort.signal,
      );
      const connection: ServerConnection = new ServerConnection(
        link.carrier,
        {
          methods: this.methods,
          peer,
          peerAddress,
          maxStreams: link.maxStreams,
          windows: link.windows,
          contextValues: options.contextValues ?? createContextValues,
          keepAlive: keepAliveOf(options, peerAddress !== undefined),
        },
        (reason) => {
          this.onEnded(connection, reason);
          onChange?.(true);
        },
      );
      this.connections.add(connection);
      this.publish("opened", connection, undefined);
      onChange?.(false);
      link.carrier.start(connection, true);
      if (this.closing) void connection.drain();
    } catch {
      // The client was told the reason, or is gone.
      this.refused++;
      onChange?.(true);
    } finally {
      clearTimeout(timer);
      this.handshakes.delete(abort);
    }
  }

  /**
   * Why the client is not let in, if so. `allow` may take its time.
   *
   * ALLOW-1  A client that is being decided on counts as a handshake: it has a place among `maxConnections`, or is
   *          refused at once, and its time runs.
   * ALLOW-2  Only `true` lets in.
   */
  private judge(peer: PeerCredentials): ConnectError | undefined | Promise<ConnectError | undefined> {
    const { allow = isSameUser } = this.options;
    try {
      const answer: unknown = inRootContext(() => allow(peer));
      if (!isThenable(answer)) return refusalFor(peer, answer) ?? this.fullHouse();
      const verdict = new Promise((resolve) => resolve(answer)).then((settled) => refusalFor(peer, settled), undecided);
      return this.fullHouse() ?? verdict;
    } catch (error) {
      return undecided(error);
    }
  }

  private fullHouse(): ConnectError | undefined {
    const { maxConnections = DEFAULTS.maxConnections } = this.options;
    if (this.connections.size + this.handshakes.size + (this.sink?.connections() ?? 0) < maxConnections)
      return undefined;
    return new ConnectError(
      `the server has ${maxConnections} connections, its limit (maxConnections)`,
      Code.ResourceExhausted,
    );
  }

  /** Asked for a connection that is counted already. */
  private mayAcceptHttp(): boolean {
    const { maxHttpConnections = DEFAULTS.maxHttpConnections } = this.options;
    if (this.httpListeners.reduce((sum, { connections }) => sum + connections, 0) <= maxHttpConnections) return true;
    this.refused++;
    return false;
  }

  private onEnded(connection: ServerConnection, reason: CarrierClosed): void {
    this.connections.delete(connection);
    if (reason.cause === "violation") this.violations++;
    this.publish("closed", connection, reason.detail);
  }

  private publish(
    event: "opened" | "closed",
    { carrier, options }: ServerConnection,
    reason: string | undefined,
  ): void {
    if (!serverConnection.hasSubscribers) return;
    tell(serverConnection, {
      server: this,
      event,
      carrier: carrier.name,
      carrierReason: carrier.reason,
      peer: options.peer,
      reason,
    } satisfies ServerConnectionEvent);
  }
}

/** SUBTLE: also promises of other realms. */
function isThenable(answer: unknown): answer is PromiseLike<unknown> {
  return (
    ((typeof answer === "object" && answer !== null) || typeof answer === "function") &&
    typeof (answer as Partial<PromiseLike<unknown>>).then === "function"
  );
}

function undecided(error: unknown): ConnectError {
  return new ConnectError(
    "the server could not decide whether to let this client in: its option `allow` threw",
    Code.Internal,
    undefined,
    undefined,
    error,
  );
}

/**
 * ALLOW-2. If `allow` returned something other than a boolean, the client's error says so, for whoever wrote `allow`.
 */
function refusalFor(peer: PeerCredentials, answer: unknown): ConnectError | undefined {
  if (answer === true) return undefined;
  const text = refusalText(peer);
  return new ConnectError(
    answer === false
      ? text
      : `${text}. It answered ${answer === null ? "null" : typeof answer}; only true, or a promise of it, lets in`,
    Code.PermissionDenied,
  );
}

function refusalText({ uid }: PeerCredentials): string {
  const text = `user ${uid} may not connect to this server; its option \`allow\` decides who may`;
  if (uid !== OVERFLOW_UID) return text;
  // `allow` sees the same number for all of them: only the file system can tell them apart.
  return `${text}. 65534 is a user that has no number in the server's user namespace: let it in with \`allow\`, and let the socket's mode and its directory decide who gets that far`;
}
