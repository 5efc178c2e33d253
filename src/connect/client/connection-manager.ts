/**
 * A transport's connections to one address: the one for new calls, those that go away but still have open calls, and
 * the way to the next one.
 *
 * CONNECT-1  `ready` is a connection that takes calls, or undefined. It is cleared before a call could use it in vain.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { Address } from "../../carrier/address.js";
import { formatAddress } from "../../carrier/address.js";
import type { CarrierClosed } from "../../carrier/carrier.js";
import { connect } from "../../carrier/handshake/connect.js";
import { clearTimeout, nowMs, setTimeout } from "../../os/timers.js";
import { ClientConnection } from "../../rpc/client/client.js";
import { prepareErrors } from "../../rpc/errors.js";
import { SLOTS_MAX } from "../../wire/frame.js";
import { Dialer, reconnectOf } from "./dialer.js";
import { tell, transportState } from "../events.js";
import type { CallLimits } from "../options/options.js";
import {
  checkCarrier,
  geometryOf,
  handshakeTimeoutOf,
  keepAliveOf,
  meansFor,
  pollMicrosOf,
  streamWindowOf,
} from "../options/options.js";
import type { ConnectionState, IsthmusTransportOptions } from "../types/client.js";

export class ConnectionManager {
  /** The connection for new calls. */
  ready: ClientConnection | undefined;
  /** Number of connections made so far. */
  connections = 0;
  private readonly transport: object;
  private readonly options: IsthmusTransportOptions;
  private readonly address: Address;
  private readonly limits: CallLimits;
  private readonly geometry: ReturnType<typeof geometryOf>;
  private readonly keepAlive: ReturnType<typeof keepAliveOf>;
  private readonly dialer: Dialer<ClientConnection>;
  private readonly draining = new Set<ClientConnection>();
  /** Aborts when the transport is closed. */
  private readonly closing = new AbortController();
  private closed = false;
  private onEmpty: (() => void) | undefined;
  private shown: ConnectionState = "idle";
  private reason: string | undefined;

  /** @throws ConnectError if options contradict each other, or require what is not available */
  constructor(transport: object, options: IsthmusTransportOptions, address: Address, limits: CallLimits) {
    this.transport = transport;
    this.options = options;
    this.address = address;
    this.limits = limits;
    this.geometry = geometryOf(options);
    this.keepAlive = keepAliveOf(options, address.kind === "tcp");
    checkCarrier(options, address);
    prepareErrors();
    this.dialer = new Dialer(
      () => this.make(),
      reconnectOf(options.reconnect),
      () => this.show(),
    );
  }

  get state(): ConnectionState {
    if (this.closed) return "closed";
    return this.ready !== undefined ? "ready" : this.dialer.state;
  }

  get pendingCalls(): number {
    let sum = this.dialer.waiting + (this.ready?.pendingCalls ?? 0);
    for (const connection of this.draining) sum += connection.pendingCalls;
    return sum;
  }

  /**
   * Waits for a connection that takes calls.
   * @param waits as for `Dialer.wait`; the transport's option by default
   * @throws ConnectError
   */
  async connection(
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
    waits: boolean | undefined,
  ): Promise<{ connection: ClientConnection; leftMs: number | undefined }> {
    const start = nowMs();
    let leftMs = timeoutMs;
    // The connection may have ended before this function continues.
    while (this.ready === undefined) {
      await this.dialer.wait(leftMs, signal, waits ?? this.options.waitForReady);
      if (timeoutMs !== undefined) leftMs = Math.max(timeoutMs - (nowMs() - start), 1);
    }
    return { connection: this.ready, leftMs };
  }

  /** Takes no more calls. Ends the connections when their calls have ended, or after `timeoutMs`; resolves then. */
  async close(timeoutMs: number): Promise<void> {
    this.closed = true;
    this.dialer.close(
      new ConnectError(
        this.closing.signal.aborted ? "the transport is closed" : "the transport was closed",
        Code.Unavailable,
      ),
    );
    const open = [...this.draining, ...(this.ready === undefined ? [] : [this.ready])];
    this.ready = undefined;
    for (const connection of open) this.draining.add(connection);
    this.show();
    if (timeoutMs > 0) {
      for (const connection of open) connection.retire();
      await this.allEnded(timeoutMs);
    }
    if (!this.closing.signal.aborted)
      this.closing.abort(new ConnectError("the transport was closed", Code.Unavailable));
    for (const connection of [...this.draining]) connection.close("the transport was closed");
    this.dialer.close(new ConnectError("the transport is closed", Code.Unavailable));
  }

  private async allEnded(timeoutMs: number): Promise<void> {
    if (this.draining.size === 0) return;
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      this.onEmpty = resolve;
      if (timeoutMs <= 2 ** 31 - 1) timer = setTimeout(resolve, timeoutMs);
    });
    clearTimeout(timer);
  }

  private async make(): Promise<ClientConnection> {
    const { options, address } = this;
    const { addon, lack } = meansFor(options, address);
    const linkOptions = {
      carrier: options.carrier ?? "auto",
      lack,
      geometry: this.geometry,
      handshakeTimeoutMs: handshakeTimeoutOf(options),
      pollMicros: pollMicrosOf(options),
      maxStreams: SLOTS_MAX,
      streamWindowBytes: streamWindowOf(options),
      isolation: options.isolation,
    };
    const link = await connect(addon, address, linkOptions, this.closing.signal);
    const connection: ClientConnection = new ClientConnection(
      link.carrier,
      { ...this.limits, maxStreams: link.maxStreams, windows: link.windows },
      {
        onEnded: (reason) => this.onEnded(connection, reason),
        onLeaving: () => this.onLeaving(connection),
        keepAlive: this.keepAlive,
      },
    );
    this.connections++;
    link.carrier.start(connection, false);
    if (this.closed) connection.close("the transport was closed");
    else if (connection.usable) this.ready = connection;
    return connection;
  }

  private onLeaving(connection: ClientConnection): void {
    this.draining.add(connection);
    this.retire(connection, "the server is shutting down");
  }

  private onEnded(connection: ClientConnection, reason: CarrierClosed): void {
    this.draining.delete(connection);
    if (connection.wasOfUse) this.dialer.succeeded();
    else this.dialer.failed();
    this.retire(connection, reason.detail);
    if (this.draining.size === 0) this.onEmpty?.();
  }

  private retire(connection: ClientConnection, reason: string): void {
    if (this.ready !== connection) return;
    this.ready = undefined;
    this.reason = reason;
    this.show();
  }

  /** Publishes the state if it has changed. */
  private show(): void {
    const { state, shown: previous } = this;
    if (state === previous) return;
    this.shown = state;
    if (!transportState.hasSubscribers) return;
    const reason =
      state === "ready" || state === "closed" ? undefined : (this.dialer.failure?.rawMessage ?? this.reason);
    const { name: carrier, reason: carrierReason, trust } = this.ready?.carrier ?? {};
    tell(transportState, {
      transport: this.transport,
      address: formatAddress(this.address),
      state,
      previous,
      reason,
      carrier,
      carrierReason,
      isolation: trust?.isolation,
      isolationReason: trust?.reason,
    });
  }
}
