/** A server in one thread: listens, admits clients, and serves Connect's routes to them. */
import { Code, ConnectError, createContextValues } from "@connectrpc/connect";
import type { HttpAddress } from "../../carrier/address.js";
import { formatAddress, nameOf, parseAddress } from "../../carrier/address.js";
import type { CarrierClosed } from "../../carrier/carrier.js";
import type { HandshakeSocket } from "../../carrier/handshake/handshake.js";
import { serverHandshake } from "../../carrier/handshake/handshake.js";
import { isSameUser } from "../../carrier/trust.js";
import type { Listener, ListenOptions } from "../../carrier/handshake/listen.js";
import { withRetryability } from "../../carrier/retryability.js";
import { inRootContext } from "../../carrier/poll/root-context.js";
import { ControlSocket } from "../../carrier/shm/control-socket.js";
import type { Addon, PeerCredentials } from "../../os/addon.js";
import { clearTimeout, nowMs, setTimeout } from "../../os/timers.js";
import { keptPool } from "./kept-pool.js";
import { ownSignal } from "../../rpc/abort.js";
import { TIMER_MS_MAX } from "../../rpc/deadline.js";
import { prepareErrors } from "../../rpc/errors.js";
import type { ServerMethod } from "../../rpc/server/server-method.js";
import { ServerConnection } from "../../rpc/server/server.js";
import { SLOTS_MAX } from "../../wire/frame.js";
import { reasonWithoutMemory } from "../../wire/hello.js";
import { serverConnection, tell } from "../events.js";
import { corsOf } from "../http/cors.js";
import type { HttpListener } from "../http/server.js";
import { http1OptionsOf, listenHttp } from "../http/server.js";
import { checkOptional, checkOptions } from "../options/check.js";
import {
  checkCarrier,
  checkLimits,
  codecOf,
  geometryOf,
  handshakeTimeoutOf,
  keepAliveOf,
  lackOf,
  lifetimeOf,
  limitsOf,
  pollMicrosOf,
  protobufCodecOf,
  streamWindowOf,
} from "../options/options.js";
import { DEFAULTS } from "../options/defaults.js";
import { listenTable, serverCloseTable, serverTable } from "../options/table.js";
import type { HealthRegistry } from "../services/health.js";
import { StandardServices } from "../services/standard-services.js";
import type { ServerConnectionEvent } from "../types/events.js";
import type { IsthmusServer, IsthmusServerOptions, ListeningAt, ServerStats } from "../types/server.js";
import type { Verdict } from "./admission.js";
import { verdictOn } from "./admission.js";
import { checkPlaced, openListener } from "./listening.js";
import { Places } from "./places.js";
import type { RouteDefaults } from "./routes.js";
import { collectRoutes } from "./routes.js";

/** What the handshake needs to know of a client. */
interface Greeted {
  /** Undefined without credentials. */
  readonly peer: PeerCredentials | undefined;
  /** Host and port of a client over TCP. */
  readonly peerAddress?: string | undefined;
  /** Time left for the handshake, in milliseconds. */
  readonly leftMs: number;
}

/** A client that was accepted over a Unix socket. The receiver owns the descriptor. */
export interface AcceptedClient extends Greeted {
  readonly addon: Addon;
  readonly descriptor: number;
  readonly peer: PeerCredentials;
}

/** Serves the clients that a server admits, in place of the server itself. */
export interface ConnectionSink {
  /** Its clients, including those in the handshake and those that wait for a thread. */
  clients(): readonly PeerCredentials[];
  /** Takes over an admitted client. */
  give(client: AcceptedClient): void;
}

export class LocalServer implements IsthmusServer {
  readonly health: HealthRegistry | undefined;
  private readonly sink: ConnectionSink | undefined;
  private readonly options: IsthmusServerOptions;
  private readonly methods: ReadonlyMap<string, ServerMethod>;
  private readonly geometry: ReturnType<typeof geometryOf>;
  private readonly limits: ReturnType<typeof limitsOf>;
  private readonly listeners: Listener[] = [];
  private readonly httpListeners: HttpListener[] = [];
  private readonly places: Places;
  private refused = 0;
  private violations = 0;
  private carrierReason: string | undefined;
  private closing = false;

  constructor(given: IsthmusServerOptions, sink?: ConnectionSink) {
    const options = checkOptions(serverTable, given);
    this.sink = sink;
    this.limits = limitsOf(options);
    this.places = new Places(
      {
        maxConnections: options.maxConnections ?? DEFAULTS.maxConnections,
        maxStreams: Math.min(options.maxStreams ?? SLOTS_MAX, SLOTS_MAX),
        handshakes: this.limits.handshakes,
        connectionsPerUser: this.limits.connectionsPerUser,
        connectionsPerProcess: this.limits.connectionsPerProcess,
      },
      () => sink?.clients() ?? [],
    );
    const defaults: RouteDefaults = {
      ...checkLimits({ readMaxBytes: options.readMaxBytes, writeMaxBytes: options.writeMaxBytes }),
      interceptors: options.interceptors ?? [],
      requestGate: options.requestGate,
      maxTimeoutMs: options.maxTimeoutMs ?? Number.MAX_SAFE_INTEGER,
      shutdownSignal: options.shutdownSignal && ownSignal(options.shutdownSignal),
      leases: lifetimeOf(options),
      codecFor: (route) =>
        route?.binaryOptions === undefined || options.codec !== undefined
          ? codecOf(options, this.limits.valuesPerMessage)
          : protobufCodecOf(route.binaryOptions, this.limits.valuesPerMessage),
    };
    const methods = collectRoutes(options.routes, defaults);
    const services = new StandardServices(options, new Set([...methods.values()].map(({ method }) => method.parent)));
    this.health = services.health;
    this.methods = new Map([...methods, ...collectRoutes((router) => services.register(router), defaults)]);
    this.options = {
      ...options,
      routes: (router) => {
        options.routes(router);
        services.register(router);
      },
    };
    this.geometry = geometryOf(options);
    http1OptionsOf(options.http);
    corsOf(options.cors);
    checkCarrier(options);
    prepareErrors();
  }

  async listen(address: string, options?: ListenOptions): Promise<ListeningAt> {
    if (this.isClosing()) throw new ConnectError("the server is closed", Code.FailedPrecondition);
    const parsed = parseAddress(address);
    const listenOptions = checkOptional(listenTable, options, `listen on ${nameOf(parsed)}: `);
    checkPlaced(parsed, listenOptions);
    if (parsed.kind === "http") return this.listenHttp(parsed, listenOptions);
    const listener = await inRootContext(() =>
      openListener(this.options, parsed, listenOptions, {
        onDescriptor: (addon, descriptor, refusal) => this.accept(addon, descriptor, refusal),
        onStream: (stream) => {
          const peerAddress = parsed.kind === "tcp" ? stream.peerAddress : undefined;
          const leftMs = handshakeTimeoutOf(this.options);
          void this.shakeHands(stream, { peer: undefined, peerAddress, leftMs }, this.places.refusalFor(undefined));
        },
      }),
    );
    this.listeners.push(listener);
    const lack = lackOf(this.options, false);
    if (parsed.kind === "unix" && lack !== undefined) this.carrierReason = reasonWithoutMemory(undefined, lack);
    if (this.isClosing()) {
      await this.stopListening();
      throw new ConnectError("the server was closed", Code.FailedPrecondition);
    }
    return { address: formatAddress(listener.address) };
  }

  private async listenHttp(address: HttpAddress, listenOptions: ListenOptions): Promise<ListeningAt> {
    const listener = await inRootContext(() =>
      listenHttp(this.options, address, listenOptions, () => this.mayAcceptHttp()),
    );
    if (this.isClosing()) {
      await listener.close();
      throw new ConnectError("the server was closed", Code.FailedPrecondition);
    }
    this.httpListeners.push(listener);
    return { address: formatAddress(listener.address) };
  }

  async close(options?: { timeoutMs?: number }): Promise<void> {
    const { timeoutMs = DEFAULTS.closeTimeoutMs } = checkOptional(serverCloseTable, options);
    this.closing = true;
    this.health?.shutDown();
    const stopped = this.stopListening();
    this.places.abortAll(
      withRetryability(new ConnectError("the server is shutting down", Code.Unavailable), "draining"),
    );
    const open = [...this.places.connections];
    const http = this.httpListeners.map((listener) => listener.close());
    const cutOff = setTimeout(
      () => {
        for (const listener of this.httpListeners) listener.cutOff();
        for (const connection of open)
          connection.close(`the server shut down and did not wait longer than ${timeoutMs} ms`);
      },
      Math.min(timeoutMs, TIMER_MS_MAX),
    );
    await Promise.all([...open.map((connection) => connection.drain()), ...http]);
    clearTimeout(cutOff);
    await stopped;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  toJSON(): ServerStats {
    return this.stats();
  }

  stats(): ServerStats {
    let pendingCalls = 0;
    let openStreams = 0;
    let isolated = 0;
    let { handlers, keptBytes } = this.places.ofClosed();
    const { connections, handshaking } = this.places;
    const carriers = { shm: 0, socket: 0, http: 0 };
    for (const connection of connections) {
      pendingCalls += connection.pendingCalls;
      openStreams += connection.openStreams;
      if (connection.carrier.trust?.isolation === "snapshot") isolated++;
      handlers += connection.handlers.running;
      keptBytes += connection.kept.used;
      carriers[connection.carrier.name]++;
    }
    for (const listener of this.httpListeners) {
      pendingCalls += listener.pendingCalls;
      carriers.http += listener.connections;
    }
    return {
      connections: connections.size + carriers.http,
      handshakes: handshaking,
      carriers,
      carrierReason: this.carrierReason,
      isolated,
      pendingCalls,
      openStreams,
      handlers,
      keptBytes,
      refused: this.refused,
      violations: this.violations,
    };
  }

  private isClosing(): boolean {
    return this.closing;
  }

  private async stopListening(): Promise<void> {
    await Promise.all(this.listeners.splice(0).map((listener) => listener.close()));
  }

  /** Takes a client, and owns its descriptor from now on. */
  private accept(addon: Addon, descriptor: number, refusal: ConnectError | undefined): void {
    let peer: PeerCredentials;
    try {
      peer = addon.peerCredentials(descriptor);
    } catch {
      // A client without credentials is not admitted. It cannot be told why, since its socket is broken.
      addon.closeDescriptor(descriptor);
      this.refused++;
      return;
    }
    const client = { addon, descriptor, peer, leftMs: handshakeTimeoutOf(this.options) };
    const verdict = refusal ?? this.judge(peer);
    if (verdict instanceof Promise) void this.admitLater(client, verdict);
    else this.admit(client, verdict);
  }

  /**
   * ALLOW-1  A client whose admission is being decided counts as a handshake: it takes a place or is refused at once,
   *          and its time runs.
   */
  private judge(peer: PeerCredentials): Verdict | Promise<Verdict> {
    const verdict = verdictOn(peer, this.options.allow ?? isSameUser);
    return verdict instanceof Promise
      ? (this.places.refusalFor(peer) ?? verdict)
      : (verdict ?? this.places.refusalFor(peer));
  }

  private admit(client: AcceptedClient, refusal: Verdict): void {
    if (refusal === undefined && this.sink !== undefined) this.sink.give(client);
    else this.take(client, refusal);
  }

  /** Admits or refuses a client whose admission `allow` decides later (ALLOW-1). */
  private async admitLater(client: AcceptedClient, verdict: Promise<Verdict>): Promise<void> {
    const { leftMs: timeoutMs } = client;
    const start = nowMs();
    const abort = new AbortController();
    const late = `the server did not decide within ${timeoutMs} ms whether to admit this client: the promise of its option \`allow\` has not settled`;
    const timer = setTimeout(() => abort.abort(new ConnectError(late, Code.DeadlineExceeded)), timeoutMs);
    this.places.begin(abort, client.peer, true);
    const aborted = new Promise<ConnectError>((resolve) =>
      abort.signal.addEventListener("abort", () => resolve(abort.signal.reason as ConnectError)),
    );
    const refusal = await Promise.race([aborted, verdict]);
    clearTimeout(timer);
    this.places.end(abort);
    // The place given up here is taken again before anything else runs. After `close`, the client is told that the
    // server shuts down, whatever `allow` decided in that moment.
    const leftMs = Math.max(timeoutMs - (nowMs() - start), 1);
    this.admit({ ...client, leftMs }, (abort.signal.reason as ConnectError | undefined) ?? refusal);
  }

  /**
   * Serves an accepted client, or tells it why it is refused. Owns the descriptor from now on.
   * @param onChange called when the connection has opened, and once when it is gone or could not be made
   */
  take(client: AcceptedClient, refusal: Verdict, onChange?: (gone: boolean) => void): void {
    // A worker thread has handshakes of its own.
    if (onChange !== undefined) refusal ??= this.places.refusalFor(client.peer);
    if (refusal !== undefined && this.places.isCrowded) {
      client.addon.closeDescriptor(client.descriptor);
      this.refused++;
      onChange?.(true);
      return;
    }
    let socket: ControlSocket;
    try {
      socket = new ControlSocket(client.addon, client.descriptor);
    } catch {
      // The constructor has closed the descriptor.
      this.refused++;
      onChange?.(true);
      return;
    }
    void this.shakeHands(socket, client, refusal, onChange);
  }

  private async shakeHands(
    socket: HandshakeSocket,
    { peer, peerAddress, leftMs }: Greeted,
    refusal: Verdict,
    onChange?: (gone: boolean) => void,
  ): Promise<void> {
    const { options } = this;
    const abort = new AbortController();
    const timeoutMs = handshakeTimeoutOf(options);
    const timer = setTimeout(
      () => abort.abort(new ConnectError(`no greeting within ${timeoutMs} ms`, Code.DeadlineExceeded)),
      leftMs,
    );
    this.places.begin(abort, peer);
    try {
      const link = await serverHandshake(
        socket,
        peer,
        refusal,
        {
          carrier: options.carrier ?? "auto",
          lack: lackOf(options, peerAddress !== undefined),
          geometry: this.geometry,
          handshakeTimeoutMs: timeoutMs,
          pollMicros: pollMicrosOf(options),
          maxStreams: Math.min(options.maxStreams ?? SLOTS_MAX, SLOTS_MAX),
          streamWindowBytes: streamWindowOf(options),
          isolation: options.isolation,
        },
        abort.signal,
      );
      const connection: ServerConnection = new ServerConnection(
        link.carrier,
        {
          methods: this.methods,
          peer,
          peerAddress,
          maxStreams: link.maxStreams,
          limits: this.limits,
          keptPool: keptPool(),
          windows: link.windows,
          contextValues: options.contextValues ?? createContextValues,
          keepAlive: keepAliveOf(options, peerAddress !== undefined),
        },
        (reason) => {
          this.onEnded(connection, reason);
          onChange?.(true);
        },
      );
      this.places.open(connection);
      this.publish("opened", connection, undefined);
      onChange?.(false);
      link.carrier.start(connection, true);
      if (this.closing) void connection.drain();
    } catch {
      // The client was told the reason, or is gone.
      this.refused++;
      onChange?.(true);
    } finally {
      clearTimeout(timer);
      this.places.end(abort);
    }
  }

  /** Called for a connection that has been counted already. */
  private mayAcceptHttp(): boolean {
    const { maxHttpConnections = DEFAULTS.maxHttpConnections } = this.options;
    if (this.httpListeners.reduce((sum, { connections }) => sum + connections, 0) <= maxHttpConnections) return true;
    this.refused++;
    return false;
  }

  private onEnded(connection: ServerConnection, reason: CarrierClosed): void {
    this.places.close(connection);
    if (reason.cause === "violation") this.violations++;
    this.publish("closed", connection, reason.detail);
  }

  private publish(
    event: "opened" | "closed",
    { carrier, options }: ServerConnection,
    reason: string | undefined,
  ): void {
    if (!serverConnection.hasSubscribers) return;
    tell(serverConnection, {
      server: this,
      event,
      carrier: carrier.name,
      carrierReason: carrier.reason,
      isolation: carrier.trust?.isolation,
      isolationReason: carrier.trust?.reason,
      peer: options.peer,
      reason,
    } satisfies ServerConnectionEvent);
  }
}
