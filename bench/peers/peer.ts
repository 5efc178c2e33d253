/** What a peer of the benchmark offers: a server that answers, a client that calls. */
import type { Payload } from "../proto/bench_pb.js";

/** The names of the peers, in the order of the reports and of the rounds: those in Node, then the native ones. */
export const nodePeerNames = [
  "isthmus",
  "isthmus-loans",
  "isthmus-passthrough",
  "isthmus-socket",
  "isthmus-grpc-js",
  "isthmus-1-worker",
  "isthmus-4-workers",
  "connect",
  "grpc-js",
  "net",
  "zeromq",
  "worker",
] as const;
export type NodePeerName = (typeof nodePeerNames)[number];

/** In C over shared memory, and in Go: `native/`. */
export const nativePeerNames = [
  "c-spin",
  "c-futex",
  "c-eventfd",
  "grpc-go",
  "grpc-go-tuned",
  "shmipc-go",
  "shmipc-go-tuned",
] as const;
export type NativePeerName = (typeof nativePeerNames)[number];

export const peerNames = [...nodePeerNames, ...nativePeerNames] as const;
export type PeerName = (typeof peerNames)[number];

export function isNative(name: PeerName): name is NativePeerName {
  return (nativePeerNames as readonly string[]).includes(name);
}

/** The largest payload of native peers. */
const nativeBytesMax = 64 << 10;

/** Whether a peer can take part in a scenario. */
export function canPlay(name: PeerName, scenario: { byteLength: number; echo: boolean; clients: number }): boolean {
  if (needsClients(name)) return scenario.clients > 1;
  if (isNative(name)) return scenario.byteLength <= nativeBytesMax && !scenario.echo && scenario.clients === 1;
  return true;
}

/** Whether a peer is about servers with several clients, and left out where there is one. */
function needsClients(name: PeerName): boolean {
  return name.endsWith("-worker") || name.endsWith("-workers");
}

/**
 * The server's part of a call, the same for every peer: reads every byte of the request, writes every byte of the
 * reply.
 */
export type Answer = (request: Payload) => Payload;

/** An answer that may have to be waited for. The request's data is read before the handler returns. */
export type Handler = (request: Payload) => Payload | Promise<Payload>;

export interface Peer {
  readonly name: NodePeerName;
  /** True if the server is a thread of the client's own process; then `startServer` is not called. */
  readonly servesInClient: boolean;
  /** @param path where the Unix socket goes. Resolves when clients may connect. */
  startServer(path: string, answer: Handler): Promise<Closable>;
  /** Resolves when calls may be made. */
  connect(path: string): Promise<Connection>;
}

export interface Connection extends Closable {
  /**
   * The request may be used again once the promise resolves. The reply's data is valid until the microtasks that
   * the promise starts have run.
   */
  call(request: Payload): Promise<Payload>;
  /**
   * Where a request's bytes are to be written, anew for each call; without it they lie on the heap, and are used again.
   */
  allocate?(byteLength: number): Promise<Uint8Array>;
  /** The reply's data was read. */
  free?(reply: Payload): void;
}

export interface Closable {
  close(): Promise<void>;
}

/** The peer's module is not there or does not load: it is left out, with the reason. */
export class PeerUnavailable extends Error {
  override readonly name = "PeerUnavailable";
}

/** Larger than every message of the benchmark. */
export const messageBytesMax = 65 << 20;

/** Loads one peer only, so that a process carries no code of another. */
export async function loadPeer(name: NodePeerName): Promise<Peer> {
  switch (name) {
    case "isthmus":
      return (await import("./isthmus.js")).isthmus;
    case "isthmus-loans":
      return (await import("./isthmus.js")).isthmusLoans;
    case "isthmus-passthrough":
      return (await import("./isthmus.js")).isthmusPassthrough;
    case "isthmus-socket":
      return (await import("./isthmus.js")).isthmusSocket;
    case "isthmus-1-worker":
      return (await import("./isthmus.js")).isthmusOneWorker;
    case "isthmus-4-workers":
      return (await import("./isthmus.js")).isthmusFourWorkers;
    case "isthmus-grpc-js":
      return (await import("./grpc.js")).isthmusGrpc;
    case "connect":
      return (await import("./connect.js")).connect;
    case "grpc-js":
      return (await import("./grpc.js")).grpc;
    case "net":
      return (await import("./net.js")).net;
    case "zeromq":
      return (await import("./zeromq.js")).zeromq;
    case "worker":
      return (await import("./worker.js")).worker;
  }
}
