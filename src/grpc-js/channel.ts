/** A channel for grpc-js's clients that reaches an Isthmus server: the same generated clients over shared memory. */
import { Code, ConnectError } from "@connectrpc/connect";
import type { ChannelInterface } from "@grpc/grpc-js";
import { connectivityState as ConnectivityState, propagate as Propagate, status as Status } from "@grpc/grpc-js";
import type { IsthmusTransport, IsthmusTransportOptions } from "../connect/transport.js";
import { createIsthmusTransport } from "../connect/transport.js";
import { nowMs, setImmediate, setTimeout } from "../os/timers.js";
import { createBytesCodec } from "./bytes-codec.js";
import type { ChannelCall, PathMethods } from "./client-call.js";
import { ClientCall, pathMethodsOf } from "./client-call.js";

/** Those of a transport, but for what grpc-js's clients do themselves. */
export type IsthmusChannelOptions = Omit<IsthmusTransportOptions, "address" | "codec" | "binaryOptions" | "interceptors" | "leases"> & {
  /** Where the server listens: a socket path, `unix:PATH`, or `tcp:HOST:PORT`. */
  readonly address: string;
};

/** grpc-js's channel, and the transport's state behind it. */
export interface IsthmusChannel extends ChannelInterface {
  readonly transport: IsthmusTransport;
}

/** How often a change of state is looked for, in milliseconds. */
const WATCH_INTERVAL_MS = 10;

/**
 * Creates a channel for generated (or generic) clients of grpc-js: `new EchoClient("", credentials.createInsecure(), { channelOverride: channel })`.
 * Metadata, deadlines, cancellation, call credentials and grpc-js's interceptors work as they do over HTTP/2; channel options (`grpc.…`) and
 * channel credentials have no effect. The client's `close` closes the channel.
 *
 * @throws ConnectError as `createIsthmusTransport`, and `InvalidArgument` for an address of HTTP, which grpc-js speaks itself
 */
export function createIsthmusChannel(options: IsthmusChannelOptions): IsthmusChannel {
  // Generated code turns messages into bytes and back.
  if (/^https?:/.test(options.address)) {
    throw new ConnectError(`address ${options.address}: grpc-js speaks HTTP/2 itself; give it to the client without channelOverride`, Code.InvalidArgument);
  }
  const codec = createBytesCodec((message) => message as Uint8Array, (bytes) => bytes);
  return new Channel(createIsthmusTransport({ ...options, codec: () => codec, leases: "copied" }), options.address);
}

type CreateCall = Parameters<ChannelInterface["createCall"]>;

class Channel implements IsthmusChannel {
  readonly transport: IsthmusTransport;
  private readonly target: string;
  private readonly paths = new Map<string, PathMethods>();
  private trying = false;
  /** Until when to go on trying, in milliseconds since the epoch: the latest deadline of those who watch. */
  private triesUntil = 0;
  /** The last try was in vain. */
  private failed = false;

  constructor(transport: IsthmusTransport, target: string) {
    this.transport = transport;
    this.target = target;
  }

  close(): void {
    void this.transport.close();
  }

  getTarget(): string {
    return this.target;
  }

  getConnectivityState(tryToConnect: boolean): ConnectivityState {
    if (tryToConnect && this.transport.state === "idle") this.tryToConnect(0);
    switch (this.transport.state) {
      case "ready":
        return ConnectivityState.READY;
      case "connecting":
        return ConnectivityState.CONNECTING;
      case "reconnecting":
        return ConnectivityState.TRANSIENT_FAILURE;
      case "closed":
        return ConnectivityState.SHUTDOWN;
      case "idle":
        return this.failed ? ConnectivityState.TRANSIENT_FAILURE : ConnectivityState.IDLE;
    }
  }

  /** Makes an attempt, and further ones until a time of `nowMs`, with the transport's pauses between them. */
  private tryToConnect(until: number): void {
    this.triesUntil = Math.max(this.triesUntil, until);
    if (this.trying || this.transport.state !== "idle") return;
    this.trying = true;
    const timeoutMs = this.triesUntil - nowMs();
    this.transport
      .connect(timeoutMs > 0 ? { timeoutMs, waitForReady: true } : { waitForReady: false })
      .then(
        () => (this.failed = false),
        () => (this.failed = true),
      )
      .finally(() => (this.trying = false));
  }

  watchConnectivityState(currentState: ConnectivityState, deadline: Date | number, callback: (error?: Error) => void): void {
    // By the clock that does not stand still: the deadline is of the user's, which a test runner may have faked.
    const until = nowMs() + Number(deadline) - Date.now();
    const look = () => {
      if (this.getConnectivityState(false) !== currentState) return callback();
      if (nowMs() >= until) return callback(new Error("Deadline passed without connectivity state change"));
      this.tryToConnect(until);
      setTimeout(look, Math.min(WATCH_INTERVAL_MS, Math.max(until - nowMs(), 0)));
    };
    // SUBTLE: now, so that who is called back by the failure of an attempt, and watches again, does not begin a series without pauses.
    this.tryToConnect(until);
    setImmediate(look);
  }

  getChannelzRef(): ReturnType<ChannelInterface["getChannelzRef"]> {
    return { kind: "channel", id: 0, name: this.target } as ReturnType<ChannelInterface["getChannelzRef"]>;
  }

  createCall(...[path, deadline, , parentCall, propagateFlags]: CreateCall): ChannelCall {
    let methods = this.paths.get(path);
    if (methods === undefined) this.paths.set(path, (methods = pathMethodsOf(path)));
    const flags = propagateFlags ?? Propagate.DEFAULTS;
    let until = Number(deadline);
    if (parentCall !== null && (flags & Propagate.DEADLINE) !== 0) until = Math.min(until, Number(parentCall.getDeadline()));
    const call = new ClientCall(this.transport, methods, path, until);
    if (parentCall !== null && (flags & Propagate.CANCELLATION) !== 0) parentCall.once("cancelled", () => call.cancelWithStatus(Status.CANCELLED, "Cancelled by parent call"));
    return call;
  }
}
