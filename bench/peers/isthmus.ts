/**
 * Isthmus, three times: over shared memory with its protobuf codec, and with a codec that only copies bytes, which shows what
 * the path itself costs; and over the socket, which is what remains where shared memory cannot be had.
 */
import { createClient, type ConnectRouter } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport, type MessageCodecFactory } from "../../src/index.js";
import { EchoService, type Payload } from "../proto/bench_pb.js";
import { createPassthroughCodec } from "./passthrough.js";
import type { Peer, PeerName } from "./peer.js";

export const isthmus: Peer = createPeer("isthmus");
export const isthmusPassthrough: Peer = createPeer("isthmus-passthrough", createPassthroughCodec);

export const isthmusSocket: Peer = createPeer("isthmus-socket", undefined, "socket");

/** @param carrier nothing but this, or an error: another would measure something else */
function createPeer(name: PeerName, codec?: MessageCodecFactory, carrier: "shm" | "socket" = "shm"): Peer {
  const options = { carrier, ...(codec === undefined ? {} : { codec }) } as const;
  return {
    name,
    servesInClient: false,

    async startServer(path, answer) {
      const server = createIsthmusServer({ routes: (router: ConnectRouter) => router.service(EchoService, { echo: answer }), ...options });
      await server.listen(`unix:${path}`);
      return server;
    },

    connect(path) {
      const transport = createIsthmusTransport({ address: `unix:${path}`, ...options });
      const client = createClient(EchoService, transport);
      return Promise.resolve({ call: (request: Payload) => client.echo(request), close: () => transport.close() });
    },
  };
}
