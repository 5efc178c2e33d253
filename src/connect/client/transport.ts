/** What users see of a client's transport: its options, and how one is made for an address or a list of them. */
import type { Interceptor, Transport } from "@connectrpc/connect";
import { parseAddress } from "../../carrier/address.js";
import type { ClientConnection } from "../../rpc/client/client.js";
import type { ReconnectOptions } from "./dialer.js";
import { FailoverTransport } from "./failover.js";
import type { HttpTransportOptions } from "../http/transport.js";
import { HttpTransport } from "../http/transport.js";
import { LocalTransport } from "./local-transport.js";
import { checkOptions } from "../options/check.js";
import { transportTable } from "../options/table.js";
import type { CommonOptions } from "../options/options.js";

export interface IsthmusTransportOptions extends CommonOptions, HttpTransportOptions {
  /**
   * Where the server listens: a socket path, `unix:PATH`, `tcp:HOST:PORT`, or `http://HOST:PORT` (also `https://`, and
   * with a path that stands before every method's). Of a list the first that works is used, and new calls go back to an
   * earlier one when that works again; a call that may have been sent is never sent to another.
   */
  readonly address: string | readonly string[];
  /** Applied to every call, the first one outermost, as in Connect's transports. */
  readonly interceptors?: Interceptor[];
  /**
   * Deadline of calls that set none, in milliseconds, above 0; none by default. `Infinity`, and more than timers can
   * count, is none.
   */
  readonly defaultTimeoutMs?: number;
  /**
   * Whether a call that finds no connection, and whose attempt to make one fails, waits for further attempts: up to its
   * deadline, or without one for `reconnect.giveUpAfterMs`. `true`: also for the first connection; `false`: never, it
   * fails with the attempt. By default calls wait once there has been a connection, so a restart of the server is
   * waited for, and a mistyped address is told at once. Where waiting cannot help, as without the right to connect,
   * calls fail at once. A context value, `waitForReady`, says it for a single call. Not for an address of HTTP, whose
   * calls do not wait, unless it is one of a list.
   */
  readonly waitForReady?: boolean;
  /** How a lost connection is made again; not for an address of HTTP, unless it is one of a list. */
  readonly reconnect?: ReconnectOptions;
}

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
  /** As that of the transport. */
  readonly carrierReason: string | undefined;
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
  /**
   * Why the current connection does not run over shared memory, as a sentence for people: which end has none, and what
   * it lacks. Undefined if it does, and without a connection.
   */
  readonly carrierReason: string | undefined;
  stats(): TransportStats;
  /** What `JSON.stringify`, and a logger that uses it, shows: the address and `stats()`. */
  toJSON(): TransportStats & { readonly address: string | readonly string[] };
  /**
   * Makes the connection ahead of the first call, if there is none; waits for it as a call would.
   * @throws ConnectError that says why there is none
   */
  connect(options?: ConnectOptions): Promise<void>;
  /**
   * Ends the connection: open calls reject with `Unavailable`, later ones too. With `timeoutMs` open calls may finish
   * for that long, in milliseconds (over HTTP they are not waited for); those that wait for a connection reject at
   * once.
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
 * next one, which waits for it as the option `waitForReady` says. Calls that were in flight on a connection that was
 * lost fail with `Unavailable`. The process stays alive only while calls are pending.
 *
 * @throws ConnectError `InvalidArgument` if the address is malformed, an option is unknown, or its value is out of
 * range; `FailedPrecondition` if `carrier` is "shm" and shared memory cannot be had on this machine, or with one of the
 * addresses
 */
export function createIsthmusTransport(options: IsthmusTransportOptions): IsthmusTransport {
  const checked = checkOptions(transportTable, options);
  const { address } = checked;
  if (!Array.isArray(address)) return addressedTransport(checked, address as string);
  // What waits, waits for all of them.
  return new FailoverTransport(
    address.map((one: string) => addressedTransport({ ...checked, waitForReady: false }, one)),
    checked,
  );
}

function addressedTransport(options: IsthmusTransportOptions, address: string): AddressedTransport {
  const parsed = parseAddress(address);
  return parsed.kind === "http" ? new HttpTransport(options, parsed) : new LocalTransport(options, parsed);
}
