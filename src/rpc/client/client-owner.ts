/** What a client's connection has from its owner, and tells it. */
import type { StreamResponse, UnaryResponse } from "@connectrpc/connect";
import type { CarrierClosed } from "../../carrier/carrier.js";
import type { StreamWindows } from "../../carrier/handshake/link.js";
import type { ClientMethod } from "./client-call.js";
import type { KeepAliveOptions } from "../keepalive.js";

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
  /** Make a call elsewhere that was not sent here; without them it fails. @param origin what `call` was given */
  readonly moveCall?: (
    method: ClientMethod,
    input: unknown,
    header: Headers | undefined,
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
    origin: unknown,
  ) => Promise<UnaryResponse>;
  readonly moveStream?: (
    method: ClientMethod,
    input: AsyncIterator<unknown>,
    header: Headers | undefined,
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
    origin: unknown,
  ) => Promise<StreamResponse>;
  /** Undefined: a server that hangs is waited for. */
  readonly keepAlive?: Required<KeepAliveOptions> | undefined;
}
