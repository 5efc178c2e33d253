/** Connection events that are published on channels of `node:diagnostics_channel`. Types only. */
import type { Isolation } from "../../carrier/trust.js";
import type { PeerCredentials } from "../../os/addon.js";
import type { ConnectionState } from "./client.js";
import type { IsthmusServer } from "./server.js";

/**
 * Published on `isthmus:transport:state` when the state of a transport changes. HTTP addresses publish no events.
 *
 * @example
 * ```ts
 * import { subscribe } from "node:diagnostics_channel";
 *
 * subscribe("isthmus:transport:state", (event) => {
 *   const { address, state, reason } = event as TransportStateEvent;
 *   console.log(address, state, reason);
 * });
 * ```
 */
export interface TransportStateEvent {
  /** The transport. With a list of addresses: its part for this address. */
  readonly transport: object;
  /** The address in the form that `listen` returns. */
  readonly address: string;
  readonly state: ConnectionState;
  readonly previous: ConnectionState;
  /** Why there is no connection: how the last one ended, or why the last attempt failed. */
  readonly reason: string | undefined;
  /** What the connection runs over; undefined unless the state is "ready". */
  readonly carrier: "shm" | "socket" | undefined;
  /** Why the connection does not use shared memory; undefined if it does, and if there is none. */
  readonly carrierReason: string | undefined;
  /** How far the peer is trusted with shared memory; undefined if there is none. See {@link Isolation}. */
  readonly isolation: Isolation | undefined;
  /** Why, as readable text: for example "the peer is in another mount namespace". */
  readonly isolationReason: string | undefined;
}

/**
 * Published on `isthmus:server:connection` when a connection over shared memory or a socket opens, and when it closes.
 * With `workers`, it is published in the worker's thread.
 */
export interface ServerConnectionEvent {
  readonly server: IsthmusServer;
  readonly event: "opened" | "closed";
  readonly carrier: "shm" | "socket";
  /** Why the connection does not use shared memory: which end lacks it, and what is missing; undefined if it does. */
  readonly carrierReason: string | undefined;
  /** How far the peer is trusted with shared memory; undefined if there is none. See {@link Isolation}. */
  readonly isolation: Isolation | undefined;
  /** Why, as readable text: for example "the peer is in another mount namespace". */
  readonly isolationReason: string | undefined;
  /** Credentials of the client's process; undefined over TCP and without the addon. */
  readonly peer: PeerCredentials | undefined;
  /** Why the connection closed; undefined if it opened. */
  readonly reason: string | undefined;
}
