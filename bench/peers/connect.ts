/**
 * Connect's gRPC over HTTP/2 on a Unix socket.
 *
 * `http2.connect` takes `createConnection`, and the transport hands `nodeOptions` to it: that is how it reaches the
 * socket. The URL only fills the `:authority` header. Compression is off and the flow-control windows are raised on
 * both sides, since with HTTP/2's default of 64 KiB large messages wait for a round trip per window.
 */
import http2 from "node:http2";
import net from "node:net";
import { createClient } from "@connectrpc/connect";
import { Http2SessionManager, connectNodeAdapter, createGrpcTransport } from "@connectrpc/connect-node";
import { EchoService } from "../proto/bench_pb.js";
import { messageBytesMax, type Peer } from "./peer.js";

const windowBytes = 16 << 20;
/** By default a session that buffers more than 10 MB is ended with ENHANCE_YOUR_CALM. */
const sessionMegabytes = 1024;
const limits = { readMaxBytes: messageBytesMax, writeMaxBytes: messageBytesMax };

/** Raises the connection's window too, for which `http2.connect` has no option. */
class WideSessionManager extends Http2SessionManager {
  #widened: http2.Http2Session | undefined;

  override async request(...args: Parameters<Http2SessionManager["request"]>): Promise<http2.ClientHttp2Stream> {
    const stream = await super.request(...args);
    if (stream.session !== undefined && stream.session !== this.#widened) {
      this.#widened = stream.session;
      stream.session.setLocalWindowSize(windowBytes);
    }
    return stream;
  }
}

export const connect: Peer = {
  name: "connect",
  servesInClient: false,

  async startServer(path, answer) {
    const server = http2.createServer(
      { settings: { initialWindowSize: windowBytes }, maxSessionMemory: sessionMegabytes },
      connectNodeAdapter({
        routes: (router) => router.service(EchoService, { echo: answer }),
        acceptCompression: [],
        connect: false,
        grpcWeb: false,
        ...limits,
      }),
    );
    const sessions = new Set<http2.ServerHttp2Session>();
    server.on("session", (session) => {
      session.setLocalWindowSize(windowBytes);
      sessions.add(session);
      session.on("close", () => sessions.delete(session));
    });
    await new Promise<void>((resolve, reject) => server.on("error", reject).listen(path, resolve));
    return {
      close: () =>
        new Promise((resolve) => {
          server.close(() => resolve());
          for (const session of sessions) session.destroy();
        }),
    };
  },

  async connect(path) {
    const sessionManager = new WideSessionManager(
      "http://localhost",
      {},
      {
        createConnection: () => net.connect(path),
        settings: { initialWindowSize: windowBytes },
        maxSessionMemory: sessionMegabytes,
      },
    );
    const transport = createGrpcTransport({
      baseUrl: "http://localhost",
      sessionManager,
      acceptCompression: [],
      ...limits,
    });
    const state = await sessionManager.connect();
    if (state === "error") throw sessionManager.error();
    const client = createClient(EchoService, transport);
    return {
      call: (request) => client.echo(request),
      close: () => {
        sessionManager.abort();
        return Promise.resolve();
      },
    };
  },
};
