/** Interfaces between a client's connection and its owner. */
import type { CarrierClosed } from "../../carrier/carrier.js";
import type { StreamWindows } from "../../carrier/handshake/link.js";
import type { KeepAliveOptions } from "../keepalive.js";

export interface ClientLimits {
  readonly readMaxBytes: number;
  readonly writeMaxBytes: number;
  readonly maxStreams: number;
  /** Undefined if the server knows unary calls only. */
  readonly windows: StreamWindows | undefined;
}

export interface ClientConnectionOwner {
  /** The connection has ended. Called once. */
  onEnded(reason: CarrierClosed): void;
  /** The server accepts no new calls on this connection. Called at most once, before `onEnded`. */
  onLeaving?(): void;
  /** Undefined if the connection waits for a server that hangs. */
  readonly keepAlive?: Required<KeepAliveOptions> | undefined;
}
