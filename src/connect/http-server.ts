/**
 * Listening for HTTP: the same routes, by Connect's adapter, as gRPC, gRPC-Web and Connect. A port speaks HTTP/2 and HTTP/1.1: with TLS the client chooses,
 * without it the first bytes of a connection tell.
 *
 * HTTP-2  A connection is counted from when it is accepted to when its socket is closed, and a call from its request to the end of its answer.
 * HTTP-3  Closing ends a connection when its calls are over: HTTP/2 by GOAWAY, HTTP/1.1 with the answer, and one without calls at once.
 * HTTP-4  Nothing that a request says, or that the user's functions do with it, throws into the event loop. SUBTLE: Connect's adapter makes a URL of the
 *         request's host before its promise begins, and throws where that is none.
 */
import { once } from "node:events";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer as createHttp1Server } from "node:http";
import type { Http2SecureServer, Http2ServerRequest, Http2ServerResponse, SecureServerOptions, ServerHttp2Session } from "node:http2";
import { createSecureServer, createServer as createHttp2Server } from "node:http2";
import type { AddressInfo, Server, Socket } from "node:net";
import { createServer } from "node:net";
import type { TLSSocket } from "node:tls";
import type { ConnectRouter, ContextValues } from "@connectrpc/connect";
import { Code, ConnectError, createContextValues } from "@connectrpc/connect";
import type { HttpAddress } from "../carrier/address.js";
import { formatAddress } from "../carrier/address.js";
import type { ListenOptions } from "../carrier/listen.js";
import { BACKLOG } from "../carrier/listen.js";
import { clearTimeout, setTimeout } from "../os/timers.js";
import { loadConnectNode, SESSION_MEGABYTES } from "./connect-node.js";
import { connectKnowsGates, gateInterceptor } from "./http-gate.js";
import { ownResponses } from "./http-payloads.js";
import { checkCarrier, checkLimits, given, handshakeTimeoutOf } from "./options.js";
import type { IsthmusRouteOptions, IsthmusRouter } from "./routes.js";
import type { IsthmusServerOptions } from "./server.js";

/** What the first bytes of HTTP/2 are, as far as no method of HTTP/1.1 begins. */
const PREFACE = Buffer.from("PRI * HTTP/2");

type Request = IncomingMessage | Http2ServerRequest;
type Response = ServerResponse | Http2ServerResponse;
type Handler = (request: Request, response: Response) => void;

/** @param mayAccept asked for every connection; false turns it away @throws ConnectError that says what is in the way */
export async function listenHttp(options: IsthmusServerOptions, address: HttpAddress, { tls }: ListenOptions, mayAccept: () => boolean): Promise<HttpListener> {
  const name = formatAddress(address);
  checkCarrier(options, address);
  if (options.allow !== undefined) {
    throw new ConnectError(`listen on ${name}: option \`allow\` decides by the credentials of clients, and there are none over HTTP; use interceptors, or TLS with client certificates`, Code.FailedPrecondition);
  }
  if (address.secure && tls === undefined) throw new ConnectError(`listen on ${name}: https needs a key and a certificate: listen(address, { tls: { key, cert } })`, Code.InvalidArgument);
  if (!address.secure && tls !== undefined) throw new ConnectError(`listen on ${name}: option \`tls\` is for https:// addresses`, Code.InvalidArgument);
  const { connectNodeAdapter } = await loadConnectNode(`listen on ${name}`);
  const knowsGates = await connectKnowsGates();
  const { contextValues } = options;
  const handler = connectNodeAdapter({
    ...checkLimits({ readMaxBytes: options.readMaxBytes, writeMaxBytes: options.writeMaxBytes }),
    routes: (router) => options.routes(prepared(router, options, knowsGates)),
    ...given({ maxTimeoutMs: options.maxTimeoutMs, shutdownSignal: options.shutdownSignal, binaryOptions: options.binaryOptions }),
    requestPathPrefix: address.prefix,
    contextValues: () => valuesFrom(contextValues),
  });
  const listener = new HttpListener(address, handler, tls, options.maxStreams, handshakeTimeoutOf(options), mayAccept);
  await listener.open();
  return listener;
}

/** The user's values. If those cannot be had, that is told to whoever looks at them, as over the other carriers: HTTP-4. */
function valuesFrom(make: IsthmusServerOptions["contextValues"]): ContextValues {
  try {
    return make?.(undefined) ?? createContextValues();
  } catch (error) {
    const fail = () => {
      throw error;
    };
    return { get: fail, set: fail, delete: fail };
  }
}

/**
 * Connect's router as the user's `routes` sees it. Payloads of answers are looked at after all interceptors, also where a service has its own.
 * @param knowsGates whether Connect's router asks `requestGate`
 */
function prepared(router: ConnectRouter, { interceptors = [], requestGate }: IsthmusServerOptions, knowsGates: boolean): IsthmusRouter {
  const optionsOf = (own: IsthmusRouteOptions | undefined): IsthmusRouteOptions => {
    const gate = own?.requestGate ?? requestGate;
    const rest = own?.interceptors ?? interceptors;
    if (gate === undefined) return { ...own, interceptors: [ownResponses, ...rest] };
    return { ...own, requestGate: gate, interceptors: [ownResponses, ...(knowsGates ? [] : [gateInterceptor(gate)]), ...rest] };
  };
  const wrapped: IsthmusRouter = {
    handlers: router.handlers,
    service(service, implementation, options) {
      router.service(service, implementation, optionsOf(options));
      return wrapped;
    },
    rpc(method, implementation, options) {
      router.rpc(method, implementation, optionsOf(options));
      return wrapped;
    },
  };
  return wrapped;
}

export class HttpListener {
  address: HttpAddress;
  pendingCalls = 0;
  private readonly handler: Handler;
  private readonly server: Server | Http2SecureServer;
  private readonly sniffTimeoutMs: number;
  private readonly mayAccept: () => boolean;
  /** All connections. */
  private readonly sockets = new Set<Socket>();
  /** Those that have not said what they speak. */
  private readonly undecided = new Set<Socket>();
  private readonly sessions = new Set<ServerHttp2Session>();
  /** Connections of HTTP/1.1, with the calls that are open on them. */
  private readonly http1 = new Map<Socket, number>();
  private closing = false;
  private onEmpty: (() => void) | undefined;

  constructor(
    address: HttpAddress,
    handler: Handler,
    tls: ListenOptions["tls"],
    maxStreams: number | undefined,
    handshakeTimeoutMs: number,
    mayAccept: () => boolean,
  ) {
    this.address = address;
    this.handler = handler;
    this.sniffTimeoutMs = handshakeTimeoutMs;
    this.mayAccept = mayAccept;
    const settings = maxStreams === undefined ? {} : { maxConcurrentStreams: Math.min(maxStreams, 2 ** 31 - 1) };
    try {
      this.server = address.secure
        ? this.makeSecure({ handshakeTimeout: handshakeTimeoutMs, maxSessionMemory: SESSION_MEGABYTES, ...tls, settings: { ...settings, ...tls?.settings } })
        : this.makePlain(settings);
    } catch (error) {
      throw new ConnectError(`listen on ${formatAddress(address)}: option \`tls\`: ${(error as Error).message}`, Code.InvalidArgument, undefined, undefined, error);
    }
  }

  get connections(): number {
    return this.sockets.size;
  }

  /** @throws ConnectError */
  async open(): Promise<void> {
    const { server } = this;
    const { host, port } = this.address;
    try {
      const ready = once(server, "listening");
      server.listen({ host, port, backlog: BACKLOG });
      await ready;
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      const status = code === "EADDRINUSE" ? Code.AlreadyExists : code === "EACCES" ? Code.PermissionDenied : Code.Unavailable;
      throw new ConnectError(`listen on ${formatAddress(this.address)}: ${message}`, status, undefined, undefined, error);
    }
    // Out of descriptors: libuv turns the client away, and goes on.
    server.on("error", () => {});
    this.address = { ...this.address, port: (server.address() as AddressInfo).port };
  }

  /** Accepts nothing more; resolves when all calls are over and all connections closed. */
  async close(): Promise<void> {
    this.closing = true;
    const empty = new Promise<void>((resolve) => (this.onEmpty = resolve));
    this.server.close();
    for (const session of this.sessions) session.close();
    for (const socket of this.undecided) socket.destroy();
    for (const [socket, calls] of this.http1) if (calls === 0) socket.destroy();
    if (this.sockets.size > 0) await empty;
  }

  /** Ends what is still open. */
  cutOff(): void {
    for (const socket of this.sockets) socket.destroy();
  }

  private makePlain(settings: { maxConcurrentStreams?: number }): Server {
    const http2 = createHttp2Server({ settings, maxSessionMemory: SESSION_MEGABYTES }, (request, response) => this.serve(request, response));
    const http1 = createHttp1Server((request, response) => this.serve(request, response));
    http2.on("session", (session) => this.onSession(session));
    return createServer((socket) => {
      if (!this.accept(socket)) return;
      this.sniff(socket, (isHttp2) => {
        if (!isHttp2) this.http1.set(socket, 0);
        (isHttp2 ? http2 : http1).emit("connection", socket);
      });
    });
  }

  private makeSecure(options: SecureServerOptions): Http2SecureServer {
    const server = createSecureServer({ allowHTTP1: true, ...options }, (request, response) => this.serve(request, response));
    server.on("connection", (socket: Socket) => void this.accept(socket));
    server.on("session", (session) => this.onSession(session));
    server.on("secureConnection", (socket: TLSSocket) => {
      if (socket.alpnProtocol === "h2") return;
      this.http1.set(socket, 0);
      socket.once("close", () => this.http1.delete(socket));
      if (this.closing) socket.destroy();
    });
    return server;
  }

  private accept(socket: Socket): boolean {
    this.sockets.add(socket);
    // What becomes of the connection is told by its end.
    socket.on("error", () => {});
    socket.once("close", () => {
      this.sockets.delete(socket);
      this.undecided.delete(socket);
      this.http1.delete(socket);
      if (this.sockets.size === 0) this.onEmpty?.();
    });
    if (!this.closing && this.mayAccept()) return true;
    socket.destroy();
    return false;
  }

  /** Looks at the first bytes, and puts them back. */
  private sniff(socket: Socket, decide: (isHttp2: boolean) => void): void {
    this.undecided.add(socket);
    const timer = setTimeout(() => socket.destroy(), this.sniffTimeoutMs);
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

  private onSession(session: ServerHttp2Session): void {
    this.sessions.add(session);
    session.once("close", () => this.sessions.delete(session));
    // Its calls are told by their own ends.
    session.on("error", () => {});
    if (this.closing) session.close();
  }

  private serve(request: Request, response: Response): void {
    this.pendingCalls++;
    const socket = request.httpVersionMajor === 1 ? request.socket : undefined;
    if (socket !== undefined) this.http1.set(socket, (this.http1.get(socket) ?? 0) + 1);
    response.once("close", () => {
      this.pendingCalls--;
      // Connect's adapter, when it waits to write on, looks for "drain" and "error" only: HTTP/2 says neither when the client has gone.
      response.emit("drain");
      if (socket === undefined || !this.http1.has(socket)) return;
      const left = this.http1.get(socket)! - 1;
      this.http1.set(socket, left);
      // HTTP-3. What was written is flushed first.
      if (this.closing && left === 0) socket.end();
    });
    if ("stream" in request) discardRest(request);
    try {
      this.handler(request, response);
    } catch {
      // HTTP-4
      request.resume();
      response.writeHead(400).end();
    }
  }
}

/**
 * Once the handler has turned away from a request, for example because a message is too large, what still comes of it is read and dropped. Else
 * it would fill HTTP/2's window, and a client that reads the answer only after it has written all would wait forever.
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
