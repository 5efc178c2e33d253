/** Isthmus: Connect's clients and handlers between processes on one machine, over shared memory. */
export { createIsthmusServer } from "./connect/server/server.js";
export type {
  IsthmusServer,
  IsthmusServerOptions,
  ListeningAt,
  ServerStats,
  WorkerStats,
} from "./connect/types/server.js";
export type { ServerLimits } from "./connect/types/limits.js";
export type { IsthmusRouteOptions, IsthmusRouter } from "./connect/types/routes.js";
export type { RequestGate } from "./rpc/server/gate.js";
export type { IsthmusWorkerServerOptions, RoutesModuleOptions, WorkersOptions } from "./connect/types/workers.js";
export { createIsthmusTransport } from "./connect/client/transport.js";
export type {
  BlockingCallOptions,
  BlockingClient,
  BlockingClientOptions,
  ConnectionState,
  ConnectOptions,
  IsthmusTransport,
  IsthmusTransportOptions,
  ReconnectOptions,
  TransportStats,
} from "./connect/types/client.js";
export type { HealthStatus, ServerHealth } from "./connect/types/health.js";
export type { CorsOptions, HttpServerOptions, HttpTransportOptions } from "./connect/types/http.js";
export { createClient } from "./connect/client/create-client.js";
export { createBlockingClient } from "./connect/client/blocking.js";
export { waitForReady } from "./connect/client/dialer.js";
export type { KeepAliveOptions } from "./rpc/keepalive.js";
export type { ServerConnectionEvent, TransportStateEvent } from "./connect/types/events.js";
export type { CommonOptions } from "./connect/types/common.js";
export { mapFile } from "./connect/payloads/files.js";
export { region } from "./connect/payloads/regions.js";
export { leaseOf, loan, release, retain } from "./connect/payloads/payloads.js";
export type { LoanOptions, MapFileOptions, PayloadLease } from "./connect/types/payloads.js";
export type { LeaseLifetime } from "./memory/payload/lease.js";
export type { Isolation } from "./carrier/trust.js";
export type { ListenOptions } from "./carrier/handshake/listen.js";
export { peerCredentials } from "./rpc/server/context.js";
export type { PeerCredentials } from "./os/addon.js";
export type { MessageCodec, MessageCodecFactory } from "./codec/codec.js";
export type { Rope, Span } from "./codec/rope/rope.js";
