/** What users see of clients: transports, blocking clients, and their options. Types only. */
import type { DescMethodUnary, DescService, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type { Interceptor, Transport } from "@connectrpc/connect";
import type { Isolation } from "../../carrier/trust.js";
import type { ClientConnection } from "../../rpc/client/client.js";
import type { CommonOptions } from "./common.js";
import type { HttpTransportOptions } from "./http.js";

/** The argument of `new Headers`, for which Node's types have no name. */
export type HeadersInit = NonNullable<ConstructorParameters<typeof Headers>[0]>;

/** Options of `createIsthmusTransport`. All but `address` may be omitted. */
export interface IsthmusTransportOptions extends CommonOptions, HttpTransportOptions {
  /**
   * Where the server listens: a socket path, `unix:PATH`, `tcp:HOST:PORT`, `http://HOST:PORT` or `https://HOST:PORT`.
   * An HTTP address may have a path, which is put in front of every method's path.
   *
   * With a list, the first address that works is used. New calls return to an earlier address once it works again. A
   * call that may have been sent is never sent to another address.
   */
  readonly address: string | readonly string[];
  /** Applied to every call, the first one outermost, as in Connect's transports. */
  readonly interceptors?: Interceptor[];
  /**
   * Timeout of calls that set none, in milliseconds, above 0; none by default. `Infinity`, and more than timers can
   * count (24.8 days), means none.
   */
  readonly defaultTimeoutMs?: number;
  /**
   * Whether a call waits for further attempts if there is no connection and the attempt to make one fails. It waits
   * until its deadline, or for `reconnect.giveUpAfterMs` if it has none.
   *
   * - `true`: also for the first connection.
   * - `false`: never; the call fails together with the attempt.
   * - By default only after there has been a connection: a restart of the server is waited for, while a mistyped
   *   address is reported at once.
   *
   * Calls fail at once if waiting cannot help, for example without permission to connect. The context value
   * `waitForReady` overrides this option for a single call. It has no effect on a single HTTP address, whose calls do
   * not wait; it applies to a list that contains one.
   */
  readonly waitForReady?: boolean;
  /** How a lost connection is made again. Applies to an HTTP address only as part of a list. */
  readonly reconnect?: ReconnectOptions;
}

/** How a lost connection is made again. */
export interface ReconnectOptions {
  /**
   * Pause after the first failed attempt, in milliseconds; 10 by default. Each further pause is 1.6 times as long. All
   * pauses vary randomly by 20%.
   */
  readonly initialDelayMs?: number;
  /** Longest pause, in milliseconds; 2000 by default. */
  readonly maxDelayMs?: number;
  /**
   * How long a call without a deadline waits for a connection, in milliseconds; 30,000 by default. `Infinity` waits
   * forever.
   */
  readonly giveUpAfterMs?: number;
}

/**
 * State of a transport.
 *
 * - "idle": there is no connection; the next call makes one.
 * - "connecting": a first attempt is in progress.
 * - "ready": there is a connection.
 * - "reconnecting": an attempt has failed, and calls wait for the next one.
 * - "closed": `close` was called.
 */
export type ConnectionState = "idle" | "connecting" | "ready" | "reconnecting" | "closed";

/** A snapshot of a transport, from `stats()`. */
export interface TransportStats {
  readonly state: ConnectionState;
  /** Same as the transport's `carrier`. */
  readonly carrier: "shm" | "socket" | "http" | undefined;
  /** Same as the transport's `carrierReason`. */
  readonly carrierReason: string | undefined;
  /**
   * How far the current connection's peer is trusted with shared memory; undefined if there is no connection, or no
   * shared memory. See {@link Isolation}.
   */
  readonly isolation: Isolation | undefined;
  /** Why, as readable text: for example "the peer is in another mount namespace". */
  readonly isolationReason: string | undefined;
  /** Number of calls that have not settled. */
  readonly pendingCalls: number;
  /** Number of connections made so far. */
  readonly connections: number;
  /** Frames, wake-ups and memory of the current connection; undefined if there is none, and over HTTP. */
  readonly connection: ReturnType<ClientConnection["stats"]> | undefined;
}

/** Options of a transport's `connect`. */
export interface ConnectOptions {
  /** Time limit in milliseconds. By default it waits as long as a call without a deadline. */
  readonly timeoutMs?: number;
  /** Cancels the wait. */
  readonly signal?: AbortSignal;
  /** Overrides the transport's option of the same name. */
  readonly waitForReady?: boolean;
}

/** A transport for `createClient`, of this package or of Connect. Made by `createIsthmusTransport`. */
export interface IsthmusTransport extends Transport, AsyncDisposable {
  readonly state: ConnectionState;
  /** What the current connection runs over; undefined if there is none. */
  readonly carrier: "shm" | "socket" | "http" | undefined;
  /**
   * Why the current connection does not use shared memory, as readable text: which end lacks it, and what is missing.
   * Undefined if the connection uses shared memory, and if there is none.
   */
  readonly carrierReason: string | undefined;
  stats(): TransportStats;
  /** The address and `stats()`, for `JSON.stringify` and loggers that use it. */
  toJSON(): TransportStats & { readonly address: string | readonly string[] };
  /**
   * Makes the connection ahead of the first call if there is none. Waits for it as a call would.
   * @throws ConnectError that says why there is no connection
   */
  connect(options?: ConnectOptions): Promise<void>;
  /**
   * Closes the transport: open calls and later ones reject with `Unavailable`.
   *
   * With `timeoutMs`, open calls may finish within that time, in milliseconds; over HTTP they are not waited for. Calls
   * that still wait for a connection reject at once.
   */
  close(options?: { readonly timeoutMs?: number }): Promise<void>;
}

/** A transport to a single address. */
export interface AddressedTransport extends IsthmusTransport {
  /** Makes one attempt to connect if there is no connection. @throws ConnectError that says why there is none */
  connectNow(signal?: AbortSignal): Promise<void>;
}

/**
 * Options of `createBlockingClient`: those of a transport without what a blocked thread cannot do, which is
 * interceptors, other carriers, leases, streams and keep-alive.
 */
export interface BlockingClientOptions
  extends Omit<CommonOptions, "carrier" | "leases" | "keepAlive" | "streamWindowBytes"> {
  /** Where the server listens: a socket path, or `unix:PATH`. */
  readonly address: string;
  /**
   * Timeout of calls that set none, in milliseconds, above 0; none by default. `Infinity`, and more than timers can
   * count (24.8 days), means none.
   */
  readonly defaultTimeoutMs?: number;
}

/** Options of a blocking client's calls. */
export interface BlockingCallOptions {
  /**
   * Time limit for the call, including the time to connect, in milliseconds. Then the call fails with
   * `DeadlineExceeded`.
   */
  readonly timeoutMs?: number;
  /** Request headers. */
  readonly headers?: HeadersInit;
  /** Called with the response's headers before the call returns. */
  readonly onHeader?: (headers: Headers) => void;
  /** Called with the response's trailers before the call returns. */
  readonly onTrailer?: (trailers: Headers) => void;
}

type UnaryMethods<S extends DescService> = {
  [P in keyof S["method"] as S["method"][P] extends DescMethodUnary
    ? P
    : never]: S["method"][P] extends DescMethodUnary<infer I, infer O>
    ? (request: MessageInitShape<I>, options?: BlockingCallOptions) => MessageShape<O>
    : never;
};

interface Closing {
  /** Closes the connection. Later calls throw `Unavailable`. */
  close(): void;
}

/**
 * A client with one function for each unary method of the service. A function blocks the thread, then returns the
 * message or throws a `ConnectError`.
 *
 * The type has no streaming methods; calling one all the same throws `Unimplemented`. If the service has a method named
 * `close`, that name belongs to the service: use `using`, or `client[Symbol.dispose]()`, to close the connection.
 */
export type BlockingClient<S extends DescService> = UnaryMethods<S> &
  Disposable &
  ("close" extends keyof S["method"] ? unknown : Closing);
