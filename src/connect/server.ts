/** The server: serves Connect's routes to the processes that connect to its addresses. */
import type { ContextValues, ConnectRouter, Interceptor } from "@connectrpc/connect";
import { Code, ConnectError, createContextValues } from "@connectrpc/connect";
import type { HttpAddress } from "../carrier/address.js";
import { formatAddress, parseAddress } from "../carrier/address.js";
import type { CarrierClosed } from "../carrier/carrier.js";
import { ControlSocket } from "../carrier/control-socket.js";
import type { HandshakeSocket } from "../carrier/handshake.js";
import { isSameUser, OVERFLOW_UID, welcome } from "../carrier/handshake.js";
import { inRootContext } from "../carrier/root-context.js";
import type { Listener, ListenOptions } from "../carrier/listen.js";
import { createProtobufCodec } from "../codec/codec.js";
import type { Addon, PeerCredentials } from "../os/addon.js";
import { clearTimeout, setTimeout } from "../os/timers.js";
import { TIMER_MS_MAX } from "../rpc/deadline.js";
import { prepareErrors } from "../rpc/errors.js";
import { ServerConnection } from "../rpc/server.js";
import type { ServerMethod } from "../rpc/server-method.js";
import { SLOTS_MAX } from "../wire/frame.js";
import type { ServerConnectionEvent } from "./events.js";
import { serverConnection } from "./events.js";
import type { CorsOptions } from "./http-cors.js";
import { corsOf } from "./http-cors.js";
import type { HttpListener, HttpServerOptions } from "./http-server.js";
import { http1OptionsOf, listenHttp } from "./http-server.js";
import type { CommonOptions } from "./options.js";
import { checkCarrier, checkLimits, checkPositive, codecOf, geometryOf, handshakeTimeoutOf, isolationOf, keepAliveOf, lifetimeOf, pollMicrosOf, streamWindowOf } from "./options.js";
import { openListener } from "./listening.js";
import { collectRoutes } from "./routes.js";
import type { IsthmusWorkerServerOptions, WorkerStats } from "./workers.js";
import { WorkerServer } from "./workers.js";

export interface IsthmusServerOptions extends CommonOptions {
  readonly workers?: undefined;
  /** Registers services, exactly as for any Connect server; may set options per service or method. */
  readonly routes: (router: ConnectRouter) => void;
  /** Applied to every call, the first one outermost. A service's or method's own option replaces them. */
  readonly interceptors?: Interceptor[];
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
   */
  readonly allow?: (peer: PeerCredentials) => boolean;
  /** Connections at once over shared memory and sockets; 1024 by default. Further ones are refused with `ResourceExhausted`. */
  readonly maxConnections?: number;
  /** Connections at once over HTTP; 1024 by default. Further ones are closed at once. They take no place of those that `maxConnections` counts. */
  readonly maxHttpConnections?: number;
  /** Limits of HTTP/1.1. */
  readonly http?: HttpServerOptions;
  /** Lets scripts of web pages from other origins call over HTTP. `true` allows all pages, without credentials; off by default. */
  readonly cors?: boolean | CorsOptions;
  /** Calls that one connection may have open at once; 65536 by default. A client keeps further ones back. */
  readonly maxStreams?: number;
}

export interface ServerStats {
  /** All connections, those of HTTP included. */
  readonly connections: number;
  /** The same by what they run over. */
  readonly carriers: { readonly shm: number; readonly socket: number; readonly http: number };
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
   * Listens on a socket path (or `unix:PATH`), or on `tcp:HOST:PORT`; port 0 takes a free one. May be called for several
   * addresses. The process stays alive while listening. TCP is neither encrypted nor authenticated: for the loopback
   * interface and networks whose every user is trusted.
   *
   * `http://HOST:PORT` and, with `options.tls`, `https://HOST:PORT` serve the same routes as gRPC, gRPC-Web and Connect over HTTP/2 and
   * HTTP/1.1, for which `@connectrpc/connect-node` has to be installed; with a path, below that path.
   * @returns the address as clients can use it
   * @throws ConnectError that says what is in the way: `AlreadyExists` if a live server has the path or port, `NotFound` if
   * the directory is missing, `PermissionDenied`, `InvalidArgument` for an address that is none, `FailedPrecondition` where
   * what the options insist on cannot be had: shared memory, or credentials of clients
   */
  listen(address: string, options?: ListenOptions): Promise<ListeningAt>;
  /**
   * Stops listening, tells clients to go, lets open calls finish, then closes. Calls that clients sent before they knew are served; their next ones they
   * make over a new connection, for which they wait by default. After `timeoutMs` (10,000 by default) what is still open is cut off; more than a timer
   * can count, 24.8 days, such as `Infinity`, is as good as never.
   */
  close(options?: { timeoutMs?: number }): Promise<void>;
  stats(): ServerStats;
}

const MAX_CONNECTIONS_DEFAULT = 1024;
const MAX_HTTP_CONNECTIONS_DEFAULT = 1024;
const CLOSE_TIMEOUT_MS_DEFAULT = 10_000;

/**
 * A server in this thread, or with `workers` one that spreads its connections over threads of its own.
 * @throws whatever `routes` throws; ConnectError for limits and sizes that make no sense, and `FailedPrecondition` if `carrier` is "shm" and cannot be had
 */
export function createIsthmusServer(options: IsthmusServerOptions | IsthmusWorkerServerOptions): IsthmusServer {
  if (options.workers === undefined) return new LocalServer(options);
  return new WorkerServer(options, (elsewhere) => new LocalServer({ ...options, workers: undefined, routes: () => undefined }, elsewhere));
}

/** Who serves what a server accepts, if not itself. */
export interface Elsewhere {
  /** Connections that are there, shaking hands or waiting. */
  connections(): number;
  /** Takes the descriptor of a client that may come in. */
  give(addon: Addon, descriptor: number, peer: PeerCredentials): void;
}

export class LocalServer implements IsthmusServer {
  private readonly elsewhere: Elsewhere | undefined;
  private readonly options: IsthmusServerOptions;
  private readonly methods: ReadonlyMap<string, ServerMethod>;
  private readonly geometry: ReturnType<typeof geometryOf>;
  private readonly listeners: Listener[] = [];
  private readonly httpListeners: HttpListener[] = [];
  private readonly connections = new Set<ServerConnection>();
  private readonly handshakes = new Set<AbortController>();
  private refused = 0;
  private violations = 0;
  private closing = false;

  constructor(options: IsthmusServerOptions, elsewhere?: Elsewhere) {
    this.options = options;
    this.elsewhere = elsewhere;
    this.methods = collectRoutes(options.routes, {
      ...checkLimits({ readMaxBytes: options.readMaxBytes, writeMaxBytes: options.writeMaxBytes }),
      interceptors: options.interceptors ?? [],
      maxTimeoutMs: options.maxTimeoutMs ?? Number.MAX_SAFE_INTEGER,
      shutdownSignal: options.shutdownSignal,
      leases: lifetimeOf(options.leases),
      codecFor: (route) => (route?.binaryOptions === undefined || options.codec !== undefined ? codecOf(options) : createProtobufCodec(route.binaryOptions)),
    });
    this.geometry = geometryOf(options);
    isolationOf(options.isolation);
    streamWindowOf(options);
    keepAliveOf(options, false);
    const { maxStreams } = options;
    handshakeTimeoutOf(options);
    const { maxTimeoutMs, maxConnections, maxHttpConnections } = options;
    checkPositive({ maxTimeoutMs }, "a number of milliseconds above 0");
    checkPositive({ maxConnections, maxHttpConnections }, "a number above 0");
    http1OptionsOf(options.http);
    corsOf(options.cors);
    if (maxStreams !== undefined && !(maxStreams >= 1)) throw new ConnectError(`maxStreams ${maxStreams} must be >= 1`, Code.InvalidArgument);
    checkCarrier(options);
    prepareErrors();
  }

  async listen(address: string, listenOptions: ListenOptions = {}): Promise<ListeningAt> {
    if (this.isClosing()) throw new ConnectError("the server is closed", Code.FailedPrecondition);
    const parsed = parseAddress(address);
    if (parsed.kind === "http") return this.listenHttp(parsed, listenOptions);
    const listener = await inRootContext(() =>
      openListener(this.options, parsed, listenOptions, {
        onDescriptor: (addon, descriptor, refusal) => this.accept(addon, descriptor, refusal),
        onStream: (stream) => void this.shakeHands(stream, undefined, this.fullHouse(), undefined, parsed.kind === "tcp"),
      }),
    );
    this.listeners.push(listener);
    if (this.isClosing()) {
      await this.stopListening();
      throw new ConnectError("the server was closed", Code.FailedPrecondition);
    }
    return { address: formatAddress(listener.address) };
  }

  private async listenHttp(address: HttpAddress, listenOptions: ListenOptions): Promise<ListeningAt> {
    const listener = await inRootContext(() => listenHttp(this.options, address, listenOptions, () => this.mayAcceptHttp()));
    if (this.isClosing()) {
      await listener.close();
      throw new ConnectError("the server was closed", Code.FailedPrecondition);
    }
    this.httpListeners.push(listener);
    return { address: formatAddress(listener.address) };
  }

  async close({ timeoutMs = CLOSE_TIMEOUT_MS_DEFAULT }: { timeoutMs?: number } = {}): Promise<void> {
    this.closing = true;
    const stopped = this.stopListening();
    for (const handshake of this.handshakes) handshake.abort(new ConnectError("the server is shutting down", Code.Unavailable));
    const open = [...this.connections];
    const http = this.httpListeners.map((listener) => listener.close());
    const cutOff = setTimeout(() => {
      for (const listener of this.httpListeners) listener.cutOff();
      for (const connection of open) connection.close(`the server shut down and did not wait longer than ${timeoutMs} ms`);
    }, Math.min(timeoutMs, TIMER_MS_MAX));
    await Promise.all([...open.map((connection) => connection.drain()), ...http]);
    clearTimeout(cutOff);
    await stopped;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
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
    return { connections: this.connections.size + carriers.http, carriers, pendingCalls, openStreams, refused: this.refused, violations: this.violations };
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
    const reason = refusal ?? this.refusal(peer);
    if (reason === undefined && this.elsewhere !== undefined) this.elsewhere.give(addon, descriptor, peer);
    else this.take(addon, descriptor, peer, reason);
  }

  /**
   * Serves a client that was accepted, or tells it why not. Takes the descriptor over.
   * @param onChange called when the connection was made, and once when it is gone
   */
  take(addon: Addon, descriptor: number, peer: PeerCredentials, refusal: ConnectError | undefined, onChange?: (gone: boolean) => void): void {
    let socket: ControlSocket;
    try {
      socket = new ControlSocket(addon, descriptor);
    } catch {
      // It closed the descriptor.
      this.refused++;
      onChange?.(true);
      return;
    }
    void this.shakeHands(socket, peer, refusal, onChange);
  }

  private async shakeHands(
    socket: HandshakeSocket,
    peer: PeerCredentials | undefined,
    refusal: ConnectError | undefined,
    onChange?: (gone: boolean) => void,
    overTcp = false,
  ): Promise<void> {
    const { options } = this;
    const abort = new AbortController();
    const timeoutMs = handshakeTimeoutOf(options);
    const timer = setTimeout(() => abort.abort(new ConnectError(`no greeting within ${timeoutMs} ms`, Code.DeadlineExceeded)), timeoutMs);
    this.handshakes.add(abort);
    try {
      const link = await welcome(
        socket,
        peer,
        refusal,
        {
          carrier: options.carrier ?? "auto",
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
          maxStreams: link.maxStreams,
          windows: link.windows,
          contextValues: options.contextValues ?? createContextValues,
          keepAlive: keepAliveOf(options, overTcp),
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

  private refusal(peer: PeerCredentials): ConnectError | undefined {
    const { allow } = this.options;
    let allowed;
    try {
      allowed = (allow ?? isSameUser)(peer);
    } catch (error) {
      return new ConnectError("the server could not decide whether to let this client in: its option `allow` threw", Code.Internal, undefined, undefined, error);
    }
    if (!allowed) return new ConnectError(refusalText(peer), Code.PermissionDenied);
    return this.fullHouse();
  }

  private fullHouse(): ConnectError | undefined {
    const { maxConnections = MAX_CONNECTIONS_DEFAULT } = this.options;
    if (this.connections.size + this.handshakes.size + (this.elsewhere?.connections() ?? 0) < maxConnections) return undefined;
    return new ConnectError(`the server has ${maxConnections} connections, its limit (maxConnections)`, Code.ResourceExhausted);
  }

  /** Asked for a connection that is counted already. */
  private mayAcceptHttp(): boolean {
    const { maxHttpConnections = MAX_HTTP_CONNECTIONS_DEFAULT } = this.options;
    if (this.httpListeners.reduce((sum, { connections }) => sum + connections, 0) <= maxHttpConnections) return true;
    this.refused++;
    return false;
  }

  private onEnded(connection: ServerConnection, reason: CarrierClosed): void {
    this.connections.delete(connection);
    if (reason.cause === "violation") this.violations++;
    this.publish("closed", connection, reason.detail);
  }

  private publish(event: "opened" | "closed", { carrier, options }: ServerConnection, reason: string | undefined): void {
    if (!serverConnection.hasSubscribers) return;
    serverConnection.publish({ server: this, event, carrier: carrier.name, peer: options.peer, reason } satisfies ServerConnectionEvent);
  }
}

function refusalText({ uid }: PeerCredentials): string {
  const text = `user ${uid} may not connect to this server; its option \`allow\` decides who may`;
  if (uid !== OVERFLOW_UID) return text;
  // `allow` sees the same number for all of them: only the file system can tell them apart.
  return `${text}. 65534 is a user that has no number in the server's user namespace: let it in with \`allow\`, and let the socket's mode and its directory decide who gets that far`;
}
