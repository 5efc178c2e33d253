/** Isthmus: Connect's clients and handlers between processes on one machine, over shared memory. */
export { createIsthmusServer } from "./connect/server/server.js";
export type { IsthmusServer, IsthmusServerOptions, ListeningAt, ServerStats } from "./connect/server/server.js";
export type { IsthmusRouteOptions, IsthmusRouter } from "./connect/server/routes.js";
export type { RequestGate } from "./rpc/server/gate.js";
export type {
  IsthmusWorkerServerOptions,
  RoutesModuleOptions,
  WorkersOptions,
  WorkerStats,
} from "./connect/server/workers.js";
export { createIsthmusTransport } from "./connect/client/transport.js";
export type {
  ConnectionState,
  ConnectOptions,
  IsthmusTransport,
  IsthmusTransportOptions,
  TransportStats,
} from "./connect/client/transport.js";
export type { CorsOptions } from "./connect/http/cors.js";
export type { HttpServerOptions } from "./connect/http/server.js";
export type { HttpTransportOptions } from "./connect/http/transport.js";
export { createBlockingClient } from "./connect/client/blocking.js";
export type { BlockingCallOptions, BlockingClient, BlockingClientOptions } from "./connect/client/blocking.js";
export { waitForReady } from "./connect/client/dialer.js";
export type { ReconnectOptions } from "./connect/client/dialer.js";
export type { KeepAliveOptions } from "./rpc/keepalive.js";
export type { ServerConnectionEvent, TransportStateEvent } from "./connect/events.js";
export type { CommonOptions } from "./connect/options/options.js";
export { mapFile } from "./connect/payloads/files.js";
export type { MapFileOptions } from "./connect/payloads/files.js";
export { region } from "./connect/payloads/regions.js";
export { leaseOf, loan, release, retain } from "./connect/payloads/payloads.js";
export type { LoanOptions, PayloadLease } from "./connect/payloads/payloads.js";
export type { LeaseLifetime } from "./memory/payload/lease.js";
export type { Isolation } from "./carrier/handshake/link.js";
export type { ListenOptions } from "./carrier/handshake/listen.js";
export { peerCredentials } from "./rpc/server/context.js";
export type { PeerCredentials } from "./os/addon.js";
export type { MessageCodec, MessageCodecFactory } from "./codec/codec.js";
export type { Rope, Span } from "./codec/rope/rope.js";
