/**
 * Isthmus, twice: with its protobuf codec, and with a codec that only copies bytes, which shows what the path itself costs.
 */
import { createClient, type ConnectRouter } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport, type MessageCodecFactory } from "../../src/index.js";
import { EchoService, type Payload } from "../proto/bench_pb.js";
import { createPassthroughCodec } from "./passthrough.js";
import type { Peer, PeerName } from "./peer.js";

export const isthmus: Peer = createPeer("isthmus");
export const isthmusPassthrough: Peer = createPeer("isthmus-passthrough", createPassthroughCodec);

function createPeer(name: PeerName, codec?: MessageCodecFactory): Peer {
  // Nothing but shared memory, or an error: a slower carrier would measure something else.
  const options = { carrier: "shm", ...(codec === undefined ? {} : { codec }) } as const;
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
