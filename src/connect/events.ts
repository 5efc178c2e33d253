/** Events of connections, on channels of `node:diagnostics_channel`. They cost nothing without subscribers. */
import type { Channel } from "node:diagnostics_channel";
import { channel } from "node:diagnostics_channel";
import { inRootContext } from "../carrier/poll/root-context.js";
import type { PeerCredentials } from "../os/addon.js";
import type { IsthmusServer } from "./server/server.js";
import type { ConnectionState } from "./client/transport.js";

/**
 * Published on `isthmus:transport:state` when the state of a transport to an address of Isthmus's own (not HTTP) has
 * changed.
 */
export interface TransportStateEvent {
  /** With a list of addresses: the part of the transport that is for this address. */
  readonly transport: object;
  /** As `listen` gives it. */
  readonly address: string;
  readonly state: ConnectionState;
  readonly previous: ConnectionState;
  /** Why there is no connection: how the last one ended, or why the last attempt failed. */
  readonly reason: string | undefined;
  /** What the connection runs over, in the state "ready", … */
  readonly carrier: "shm" | "socket" | undefined;
  /** … and why not over shared memory, if so. */
  readonly carrierReason: string | undefined;
}

/**
 * Published on `isthmus:server:connection` when a connection of Isthmus's own was made, and when it is over. With
 * `workers` in the worker's thread.
 */
export interface ServerConnectionEvent {
  readonly server: IsthmusServer;
  readonly event: "opened" | "closed";
  readonly carrier: "shm" | "socket";
  /** Why it is not shared memory, if so: which end has none, and what it lacks. */
  readonly carrierReason: string | undefined;
  readonly peer: PeerCredentials | undefined;
  /** Why it ended. */
  readonly reason: string | undefined;
}

export const transportState = channel("isthmus:transport:state");
export const serverConnection = channel("isthmus:server:connection");

/**
 * Publishes an event. Subscribers run in a context of their own (CONTEXT-2), not in that of the call that led to it.
 */
export function tell(to: Channel, event: TransportStateEvent | ServerConnectionEvent): void {
  inRootContext(() => to.publish(event));
}
