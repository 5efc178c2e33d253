/**
 * Isthmus, four times: with payloads on the heap, as for any other transport; with payloads built in loans and leased
 * by the receiver; with a codec that only copies bytes, which shows what the path itself costs; and over the socket,
 * which is what remains where shared memory cannot be had.
 */
import type { ConnectRouter } from "@connectrpc/connect";
import {
  createClient,
  createIsthmusServer,
  createIsthmusTransport,
  loan,
  release,
  type CommonOptions,
} from "../../src/index.js";
import { EchoService, type Payload } from "../proto/bench_pb.js";
import { createPassthroughCodec } from "./passthrough.js";
import type { Peer, PeerName } from "./peer.js";

export const isthmus: Peer = createPeer("isthmus", {});
export const isthmusLoans: Peer = createPeer("isthmus-loans", { leases: "scoped" });
export const isthmusPassthrough: Peer = createPeer("isthmus-passthrough", { codec: createPassthroughCodec });

/** Gives received memory back at once, as `net` here does, whose replies are valid until the next one comes. */
export const isthmusSocket: Peer = createPeer("isthmus-socket", { carrier: "socket", leases: "scoped" });

export const isthmusOneWorker: Peer = createWorkersPeer("isthmus-1-worker", 1);
export const isthmusFourWorkers: Peer = createWorkersPeer("isthmus-4-workers", 4);

/** The server spreads its connections over threads. */
function createWorkersPeer(name: PeerName, count: number): Peer {
  return {
    ...createPeer(name, {}),
    async startServer(path) {
      const server = createIsthmusServer({
        carrier: "shm",
        workers: { count, routes: new URL("./worker-routes.js", import.meta.url) },
      });
      await server.listen(`unix:${path}`);
      return server;
    },
  };
}

/** Nothing but shared memory, unless `own` says otherwise: another carrier would measure something else. */
function createPeer(name: PeerName, own: CommonOptions): Peer {
  const options: CommonOptions = { carrier: "shm", ...own };
  return {
    name,
    servesInClient: false,

    async startServer(path, answer) {
      const server = createIsthmusServer({
        routes: (router: ConnectRouter) => router.service(EchoService, { echo: answer }),
        ...options,
      });
      await server.listen(`unix:${path}`);
      return server;
    },

    connect(path) {
      const transport = createIsthmusTransport({ address: `unix:${path}`, ...options });
      const client = createClient(EchoService, transport);
      const connection = { call: (request: Payload) => client.echo(request), close: () => transport.close() };
      if (options.leases !== "scoped") return Promise.resolve(connection);
      const free = (reply: Payload) => release(reply);
      if (options.carrier === "socket") return Promise.resolve({ ...connection, free });
      return Promise.resolve({ ...connection, allocate: (byteLength: number) => loan(transport, byteLength), free });
    },
  };
}
