/** What a client's connection has from its owner, and tells it. */
import type { StreamResponse, UnaryResponse } from "@connectrpc/connect";
import type { CarrierClosed } from "../../carrier/carrier.js";
import type { StreamWindows } from "../../carrier/handshake/handshake.js";
import type { KeepAliveOptions } from "../keepalive.js";
import type { CallRequest, StreamCallRequest } from "./call-request.js";

export interface ClientLimits {
  readonly readMaxBytes: number;
  readonly writeMaxBytes: number;
  readonly maxStreams: number;
  /** Undefined: the server knows unary calls only. */
  readonly windows: StreamWindows | undefined;
}

export interface ClientConnectionOwner {
  /** The connection is over. Called once. */
  onEnded(reason: CarrierClosed): void;
  /** The server accepts no new calls here. Called at most once, before `onEnded`. */
  onLeaving?(): void;
  /** These two make a call over another connection, if it was not sent over this one. Without them it fails. */
  readonly moveCall?: (request: CallRequest) => Promise<UnaryResponse>;
  readonly moveStream?: (request: StreamCallRequest) => Promise<StreamResponse>;
  /** Undefined: a server that hangs is waited for. */
  readonly keepAlive?: Required<KeepAliveOptions> | undefined;
}
