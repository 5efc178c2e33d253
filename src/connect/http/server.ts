/**
 * Serves the same routes over HTTP with Connect's handlers, as gRPC, gRPC-Web and Connect. A port speaks both HTTP/2
 * and HTTP/1.1: with TLS the client chooses, without TLS the first bytes of a connection tell.
 *
 * HTTP-2  A connection counts from when it is accepted until its socket has closed. A call counts from its request
 *         until its response or its connection has ended.
 * HTTP-3  Closing ends a connection when its calls have ended: HTTP/2 by GOAWAY, HTTP/1.1 with the response. A
 *         connection without calls ends at once.
 * HTTP-4  Neither the content of a request nor the user's functions make anything throw into the event loop, and each
 *         request is answered.
 */
import { once } from "node:events";
import type { ServerOptions } from "node:http";
import { createServer as createHttp1Server } from "node:http";
import type { Http2SecureServer, Http2ServerRequest, SecureServerOptions, ServerHttp2Session } from "node:http2";
import { createSecureServer, createServer as createHttp2Server } from "node:http2";
import type { AddressInfo, Server, Socket } from "node:net";
import { createServer as createPlainServer } from "node:net";
import type { TLSSocket } from "node:tls";
import { Code, ConnectError } from "@connectrpc/connect";
import type { HttpAddress } from "../../carrier/address.js";
import { formatAddress } from "../../carrier/address.js";
import type { ListenOptions } from "../../carrier/handshake/listen.js";
import { BACKLOG } from "../../carrier/handshake/listen.js";
import { otherRuntime } from "../../os/runtime.js";
import { clearTimeout, setImmediate, setTimeout } from "../../os/timers.js";
import { loadConnectNode, SESSION_MEGABYTES } from "./connect-node.js";
import type { Request, Response } from "./answers.js";
import type { Cors } from "./cors.js";
import { corsOf } from "./cors.js";
import type { Handler } from "./handler.js";
import { connectKnowsGates } from "./gate.js";
import { handlerOf } from "./handler.js";
import { Http2Response } from "./http2-response.js";
import { Http2Sessions } from "./sessions.js";
import { DEFAULTS } from "../options/defaults.js";
import { checkCarrier, handshakeTimeoutOf } from "../options/options.js";
import type { HttpServerOptions } from "../types/http.js";
import type { IsthmusServerOptions } from "../types/server.js";

/** The first bytes of HTTP/2. No method of HTTP/1.1 begins with them. */
const PREFACE = Buffer.from("PRI * HTTP/2");

const KEEP_ALIVE_TIMEOUT_MS = 5000;
/** The longest and the shortest interval at which Node checks the timeouts of HTTP/1.1. */
const CHECK_MS_MAX = 30_000;
const CHECK_MS_MIN = 50;
/** When TCP itself starts to probe whether a silent client still exists. */
const TCP_KEEP_ALIVE_MS = 60_000;

type Http1Options = Required<
  Pick<ServerOptions, "headersTimeout" | "requestTimeout" | "connectionsCheckingInterval" | "keepAliveTimeout">
>;

/** @throws ConnectError `InvalidArgument` if the timeouts contradict each other */
export function http1OptionsOf({
  headersTimeoutMs,
  requestTimeoutMs = DEFAULTS.requestTimeoutMs,
}: HttpServerOptions = {}): Http1Options {
  const headersTimeout = headersTimeoutMs ?? Math.min(DEFAULTS.headersTimeoutMs, requestTimeoutMs || Infinity);
  if (requestTimeoutMs > 0 && headersTimeout > requestTimeoutMs) {
    throw new ConnectError(
      `option http.headersTimeoutMs: ${headersTimeout} is more than http.requestTimeoutMs, ${requestTimeoutMs}, which includes the time for the headers`,
      Code.InvalidArgument,
    );
  }
  const shortest = Math.min(headersTimeout || Infinity, requestTimeoutMs || Infinity);
  const connectionsCheckingInterval = Math.min(CHECK_MS_MAX, Math.max(CHECK_MS_MIN, Math.floor(shortest / 4)));
  return {
    headersTimeout,
    requestTimeout: requestTimeoutMs,
    connectionsCheckingInterval,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
  };
}

/**
 * Starts listening.
 * @param mayAccept called for every connection; `false` closes it
 * @throws ConnectError that says what is in the way
 */
export async function listenHttp(
  options: IsthmusServerOptions,
  address: HttpAddress,
  { tls }: ListenOptions,
  mayAccept: () => boolean,
): Promise<HttpListener> {
  const name = formatAddress(address);
  checkCarrier(options, address);
  if (options.allow !== undefined) {
    throw new ConnectError(
      `listen on ${name}: option \`allow\` needs the credentials of clients, which HTTP does not provide; use interceptors, or TLS with client certificates`,
      Code.FailedPrecondition,
    );
  }
  if (address.secure && tls === undefined)
    throw new ConnectError(
      `listen on ${name}: https needs a key and a certificate: listen(address, { tls: { key, cert } })`,
      Code.InvalidArgument,
    );
  if (!address.secure && tls !== undefined)
    throw new ConnectError(`listen on ${name}: option \`tls\` is for https:// addresses`, Code.InvalidArgument);
  const handler = handlerOf(
    await loadConnectNode(`listen on ${name}`),
    options,
    address.prefix,
    await connectKnowsGates(),
  );
  const listener = new HttpListener(address, handler, tls, options, mayAccept);
  await listener.open();
  return listener;
}

export class HttpListener {
  address: HttpAddress;
  pendingCalls = 0;
  private readonly handler: Handler;
  private readonly cors: Cors | undefined;
  private readonly server: Server | Http2SecureServer;
  private readonly handshakeTimeoutMs: number;
  private readonly mayAccept: () => boolean;
  /** All connections. */
  private readonly sockets = new Set<Socket>();
  /** Connections whose protocol is unknown, or whose TLS handshake has not finished. */
  private readonly undecided = new Set<Socket>();
  private readonly sessions: Http2Sessions;
  /** The session that Node has just made for a socket. */
  private made: ServerHttp2Session | undefined;
  /** Connections of HTTP/1.1, with their open calls. */
  private readonly http1 = new Map<Socket, Set<Response>>();
  private closing = false;
  private onEmpty: (() => void) | undefined;

  constructor(
    address: HttpAddress,
    handler: Handler,
    tls: ListenOptions["tls"],
    options: IsthmusServerOptions,
    mayAccept: () => boolean,
  ) {
    const { maxStreams } = options;
    this.address = address;
    this.handler = handler;
    this.cors = corsOf(options.cors);
    this.handshakeTimeoutMs = handshakeTimeoutOf(options);
    this.sessions = new Http2Sessions(this.handshakeTimeoutMs);
    this.mayAccept = mayAccept;
    const settings = maxStreams === undefined ? {} : { maxConcurrentStreams: Math.min(maxStreams, 2 ** 31 - 1) };
    const http1Options = http1OptionsOf(options.http);
    try {
      this.server = address.secure
        ? this.makeSecure(
            {
              handshakeTimeout: this.handshakeTimeoutMs,
              maxSessionMemory: SESSION_MEGABYTES,
              ...tls,
              settings: { ...settings, ...tls?.settings },
            },
            http1Options,
          )
        : this.makePlain(settings, http1Options);
    } catch (error) {
      throw new ConnectError(
        `listen on ${formatAddress(address)}: option \`tls\`: ${(error as Error).message}`,
        Code.InvalidArgument,
        undefined,
        undefined,
        error,
      );
    }
  }

  get connections(): number {
    return this.sockets.size;
  }

  /** @throws ConnectError that says what is in the way */
  async open(): Promise<void> {
    const { server } = this;
    const { host, port } = this.address;
    try {
      const ready = once(server, "listening");
      server.listen({ host, port, backlog: BACKLOG });
      await ready;
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      const status =
        code === "EADDRINUSE" ? Code.AlreadyExists : code === "EACCES" ? Code.PermissionDenied : Code.Unavailable;
      throw new ConnectError(
        `listen on ${formatAddress(this.address)}: ${message}`,
        status,
        undefined,
        undefined,
        error,
      );
    }
    // No free descriptors: libuv closes the client's connection and continues.
    server.on("error", () => {});
    this.address = { ...this.address, port: (server.address() as AddressInfo).port };
  }

  /** Accepts no more connections. Resolves when all calls have ended and all connections have closed. */
  async close(): Promise<void> {
    this.closing = true;
    const empty = new Promise<void>((resolve) => (this.onEmpty = resolve));
    this.server.close();
    this.sessions.close();
    for (const socket of this.undecided) socket.destroy();
    for (const [socket, calls] of this.http1) if (calls.size === 0) socket.destroy();
    if (this.sockets.size > 0) await empty;
  }

  /** Closes all connections at once. */
  cutOff(): void {
    for (const socket of this.sockets) socket.destroy();
  }

  /**
   * Makes a server without TLS.
   *
   * SUBTLE: Node applies the timeouts of HTTP/1.1 only to a server that listens itself. So that server listens, and
   * gets its own connections back. Bun's does not give its connections away: there a plain server listens, and the
   * timeouts are not applied.
   */
  private makePlain(settings: { maxConcurrentStreams?: number }, http1Options: Http1Options): Server {
    const http2 = createHttp2Server(
      { settings, maxSessionMemory: SESSION_MEGABYTES, Http2ServerResponse: Http2Response },
      (request, response) => this.serve(request, response),
    );
    const http1 = createHttp1Server(http1Options, (request, response) => this.serve(request, response));
    const takesHttp1 = http1.listeners("connection");
    http1.removeAllListeners("connection");
    http2.on("session", (session) => (this.made = session));
    const listening: Server = otherRuntime === undefined ? http1 : createPlainServer();
    listening.on("connection", (socket: Socket) => {
      if (!this.accept(socket)) return;
      this.sniff(socket, (isHttp2) => {
        if (isHttp2) {
          http2.emit("connection", socket);
          this.onHttp2(socket);
        } else {
          this.onHttp1(socket);
          for (const take of takesHttp1) take.call(http1, socket);
        }
      });
    });
    return listening;
  }

  private makeSecure(options: SecureServerOptions, http1Options: Http1Options): Http2SecureServer {
    const server = createSecureServer(
      { allowHTTP1: true, Http2ServerResponse: Http2Response, ...options },
      (request, response) => this.serve(request, response),
    );
    // Not all versions of Node take these as options.
    Object.assign(server, http1Options);
    /**
     * Connections in the TLS handshake, by the client's address: Node does not say which of them became a TLSSocket.
     */
    const shaking = new Map<string, Socket>();
    server.on("connection", (socket: Socket) => {
      if (!this.accept(socket)) return;
      const name = remoteOf(socket);
      shaking.set(name, socket);
      this.undecided.add(socket);
      socket.once("close", () => shaking.get(name) === socket && shaking.delete(name));
    });
    server.on("session", (session) => (this.made = session));
    server.on("secureConnection", (socket: TLSSocket) => {
      const raw = shaking.get(remoteOf(socket));
      if (raw !== undefined) this.undecided.delete(raw);
      if (socket.alpnProtocol === "h2") this.onHttp2(socket);
      else this.onHttp1(socket);
    });
    return server;
  }

  private accept(socket: Socket): boolean {
    this.sockets.add(socket);
    // The "close" event deals with the end of the connection.
    socket.on("error", () => {});
    socket.once("close", () => {
      this.sockets.delete(socket);
      this.undecided.delete(socket);
      if (this.sockets.size === 0) this.onEmpty?.();
    });
    socket.allowHalfOpen = false;
    socket.setKeepAlive(true, TCP_KEEP_ALIVE_MS);
    if (!this.closing && this.mayAccept()) return true;
    socket.destroy();
    return false;
  }

  /** Reads the first bytes of a connection, and puts them back. */
  private sniff(socket: Socket, decide: (isHttp2: boolean) => void): void {
    this.undecided.add(socket);
    const timer = setTimeout(() => socket.destroy(), this.handshakeTimeoutMs);
    let seen: Buffer = Buffer.alloc(0);
    const onReadable = () => {
      const chunk = socket.read() as Buffer | null;
      if (chunk === null) return;
      seen = Buffer.concat([seen, chunk]);
      const length = Math.min(seen.length, PREFACE.length);
      const agrees = seen.subarray(0, length).equals(PREFACE.subarray(0, length));
      if (agrees && length < PREFACE.length) return;
      end();
      this.undecided.delete(socket);
      socket.unshift(seen);
      decide(agrees);
    };
    const end = () => {
      clearTimeout(timer);
      socket.off("readable", onReadable);
      socket.off("close", end);
    };
    socket.on("readable", onReadable);
    socket.once("close", end);
  }

  private onHttp2(socket: Socket): void {
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- Node emits "session" just before
    const session = this.made!;
    this.made = undefined;
    this.sessions.add(session, socket);
    if (this.closing) session.close();
  }

  private onHttp1(socket: Socket): void {
    const calls = new Set<Response>();
    this.http1.set(socket, calls);
    socket.once("close", () => {
      this.http1.delete(socket);
      // SUBTLE: Node emits "close" only on the response that is being written, not on those of pipelined requests.
      setImmediate(() => {
        for (const response of calls) response.emit("close");
      });
    });
    if (this.closing) socket.destroy();
  }

  private serve(request: Request, response: Response): void {
    this.pendingCalls++;
    const socket = request.httpVersionMajor === 1 ? request.socket : undefined;
    const calls = socket && this.http1.get(socket);
    calls?.add(response);
    response.once("close", () => {
      this.pendingCalls--;
      // When Connect waits to continue writing, it listens for "drain" and "error" only. HTTP/2 emits neither when the
      // client has gone.
      response.emit("drain");
      calls?.delete(response);
      // Flushes what was written first (HTTP-3).
      if (this.closing && calls?.size === 0) socket?.destroySoon();
    });
    if ("stream" in request) discardRest(request);
    try {
      if (this.cors?.apply(request, response) === true) return;
      this.handler(request, response);
    } catch {
      // HTTP-4
      request.resume();
      response.writeHead(400).end();
    }
  }
}

/** Identifies a connection of a listener. */
function remoteOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}

/**
 * Reads and drops the rest of a request once its handler has stopped reading, for example because a message is too
 * large. Otherwise it would fill the HTTP/2 window, and a client that reads the response only after it has written
 * everything would wait forever.
 */
function discardRest(request: Http2ServerRequest): void {
  request.once("close", () => {
    const { stream } = request;
    if (stream === undefined || stream.destroyed || stream.readableEnded) return;
    // Node's own listener would stop the stream again.
    stream.removeAllListeners("data");
    stream.resume();
  });
}
