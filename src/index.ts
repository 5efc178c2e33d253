/** Isthmus: Connect's clients and handlers between processes on one machine, over shared memory. */
export { createIsthmusServer } from "./connect/server.js";
export type { IsthmusServer, IsthmusServerOptions, ListeningAt, ServerStats } from "./connect/server.js";
export { createIsthmusTransport } from "./connect/transport.js";
export type { ConnectionState, IsthmusTransport, IsthmusTransportOptions, TransportStats } from "./connect/transport.js";
export type { HttpTransportOptions } from "./connect/http-transport.js";
export type { CommonOptions } from "./connect/options.js";
export { mapFile } from "./connect/files.js";
export type { MapFileOptions } from "./connect/files.js";
export { region } from "./connect/regions.js";
export { leaseOf, loan, release, retain } from "./connect/payloads.js";
export type { LoanOptions, PayloadLease } from "./connect/payloads.js";
export type { LeaseLifetime } from "./memory/lease.js";
export type { Isolation } from "./carrier/handshake.js";
export type { ListenOptions } from "./carrier/listen.js";
export { peerCredentials } from "./rpc/context.js";
export type { PeerCredentials } from "./os/addon.js";
export type { MessageCodec, MessageCodecFactory } from "./codec/codec.js";
export type { Rope, Span } from "./codec/rope.js";
