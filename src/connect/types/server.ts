/** What users see of servers: their options, state and statistics. Types only. */
import type { ContextValues, Interceptor } from "@connectrpc/connect";
import type { ListenOptions } from "../../carrier/handshake/listen.js";
import type { PeerCredentials } from "../../os/addon.js";
import type { RequestGate } from "../../rpc/server/gate.js";
import type { CommonOptions } from "./common.js";
import type { ServerHealth } from "./health.js";
import type { CorsOptions, HttpServerOptions } from "./http.js";
import type { ServerLimits } from "./limits.js";
import type { IsthmusRouter } from "./routes.js";

/** Options of `createIsthmusServer` for a server in the calling thread. All but `routes` may be omitted. */
export interface IsthmusServerOptions extends CommonOptions {
  readonly workers?: undefined;
  /** Registers services, as for any Connect server. May set options for a service or a method. */
  readonly routes: (router: IsthmusRouter) => void;
  /** Applied to every call, the first one outermost. The option of a service or method replaces them. */
  readonly interceptors?: Interceptor[];
  /**
   * Called before every call, once its headers have arrived and before any of its messages is decoded. If it throws or
   * rejects, the call fails with that error. The option of a service or method replaces it. Same as Connect's option of
   * this name (since 2.3), and available with every installed version.
   */
  readonly requestGate?: RequestGate;
  /** Longest timeout that a client may ask for, in milliseconds. Longer ones fail with `InvalidArgument`. */
  readonly maxTimeoutMs?: number;
  /** When it aborts, the signals of all handler contexts abort. */
  readonly shutdownSignal?: AbortSignal;
  /**
   * Makes the initial context values of a client's calls. `peer` is undefined without credentials: over TCP, or without
   * the addon.
   */
  readonly contextValues?: (peer: PeerCredentials | undefined) => ContextValues;
  /**
   * Decides by the kernel's credentials of a process whether it may connect. Only `true`, or a promise of it, admits
   * the client.
   *
   * By default, processes with the server's user id may connect. User id 65534 stands for any user of another user
   * namespace and is never admitted by default. `listen` fails with `FailedPrecondition` if this option is given for an
   * address without credentials: TCP, HTTP, or a server without the addon.
   *
   * The time that a promise takes counts towards the handshake's timeout. The client counts as one in the handshake.
   */
  readonly allow?: (peer: PeerCredentials) => boolean | Promise<boolean>;
  /**
   * Most connections at once over shared memory and sockets; 1024 by default. Further ones are refused with
   * `ResourceExhausted`.
   */
  readonly maxConnections?: number;
  /**
   * Most connections at once over HTTP; 1024 by default. Further ones are closed at once. `maxConnections` does not
   * count them.
   */
  readonly maxHttpConnections?: number;
  /** Limits for HTTP/1.1. */
  readonly http?: HttpServerOptions;
  /**
   * Lets web pages of other origins call over HTTP; off by default. `true` allows all pages, without credentials.
   */
  readonly cors?: boolean | CorsOptions;
  /**
   * Serves gRPC's health checking protocol, `grpc.health.v1.Health`, for probes and load balancers; off by default.
   * Every service is serving until `server.health.set` or `close` says otherwise. `requestGate` and interceptors do not
   * apply to it.
   */
  readonly health?: boolean;
  /**
   * Serves gRPC's server reflection (v1 and v1alpha), with which tools such as grpcurl find services and their
   * messages; off by default. `requestGate` and interceptors apply to it.
   */
  readonly reflection?: boolean;
  /**
   * Most open calls of one connection, and most handlers that run for it; 65,536 by default. Clients hold further ones
   * back. A handler counts until it has settled, even if its client has given the call up.
   */
  readonly maxStreams?: number;
  /** What one client may use of the server. */
  readonly limits?: ServerLimits;
}

/** A snapshot of a server, from `stats()`. */
export interface ServerStats {
  /** Number of open connections, including HTTP. */
  readonly connections: number;
  /** The open connections by what they run over. */
  readonly carriers: { readonly shm: number; readonly socket: number; readonly http: number };
  /**
   * What the server lacks if no connection to its socket paths can use shared memory; otherwise undefined. The event
   * `isthmus:server:connection` says what a client lacks.
   */
  readonly carrierReason: string | undefined;
  /**
   * The open connections whose client is not trusted with shared memory (isolation "snapshot"). The event
   * `isthmus:server:connection` says why for each.
   */
  readonly isolated: number;
  /** Number of calls that have not been answered, including streams. */
  readonly pendingCalls: number;
  /** Number of pending calls that are streams over shared memory or sockets. */
  readonly openStreams: number;
  /** Number of clients in the handshake over shared memory and sockets. `connections` does not count them. */
  readonly handshakes: number;
  /**
   * Number of handlers that run over shared memory and sockets, including those whose client has given the call up.
   * Each connection has at most `maxStreams` of them.
   */
  readonly handlers: number;
  /**
   * Private memory that clients make the server keep over shared memory and sockets, in bytes. See
   * {@link ServerLimits.keptBytes}, which bounds it per connection.
   */
  readonly keptBytes: number;
  /** Number of connections that were refused or failed in the handshake. */
  readonly refused: number;
  /** Number of connections that ended because the client violated the protocol. */
  readonly violations: number;
  /** With the option `workers`: the threads that serve now. Their numbers may be up to 250 ms old. */
  readonly workers?: readonly WorkerStats[];
}

/** A worker thread of a server. */
export interface WorkerStats {
  readonly threadId: number;
  readonly connections: number;
  readonly pendingCalls: number;
}

/** The result of `listen`. */
export interface ListeningAt {
  /** `unix:PATH`; or `tcp:HOST:PORT`, `http://HOST:PORT` or `https://HOST:PORT` with the port that was taken. */
  readonly address: string;
}

/** A server, made by `createIsthmusServer`. */
export interface IsthmusServer extends AsyncDisposable {
  /** The statuses that health checks report; undefined without the option `health`. */
  readonly health: ServerHealth | undefined;
  /**
   * Listens on a socket path (or `unix:PATH`), or on `tcp:HOST:PORT`; port 0 takes a free one. May be called for
   * several addresses. The process stays alive while it listens.
   *
   * TCP is neither encrypted nor authenticated: use it on the loopback interface and on networks whose every user is
   * trusted.
   *
   * `http://HOST:PORT` and, with `options.tls`, `https://HOST:PORT` serve the same routes as gRPC, gRPC-Web and Connect
   * over HTTP/2 and HTTP/1.1. They require the package `@connectrpc/connect-node`. If the address has a path, the
   * routes are served below it.
   * @returns the address for clients
   * @throws ConnectError that says what is in the way: `AlreadyExists` if a live server has the path or port,
   * `NotFound` if the directory does not exist, `PermissionDenied`, `InvalidArgument` if the address is malformed or an
   * option does not apply to it, `FailedPrecondition` if the options require shared memory or credentials that are not
   * available
   */
  listen(address: string, options?: ListenOptions): Promise<ListeningAt>;
  /**
   * Stops listening, tells clients to leave, lets open calls finish, then closes the connections. Calls that clients
   * sent before they knew are served. They make later calls over a new connection, for which they wait by default.
   *
   * Calls still open after `timeoutMs` milliseconds (10,000 by default) are cut off. `Infinity`, and more than timers
   * can count (24.8 days), means never.
   */
  close(options?: { timeoutMs?: number }): Promise<void>;
  stats(): ServerStats;
  /** Same as `stats()`, for `JSON.stringify` and loggers that use it. */
  toJSON(): ServerStats;
}
