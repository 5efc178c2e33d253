/** A channel that connects grpc-js's clients to an Isthmus server: the same generated clients over shared memory. */
import { isDate } from "node:util/types";
import { Code, ConnectError } from "@connectrpc/connect";
import type { ChannelInterface } from "@grpc/grpc-js";
import {
  Channel as GrpcChannel,
  connectivityState as ConnectivityState,
  propagate as Propagate,
  status as Status,
} from "@grpc/grpc-js";
import { createIsthmusTransport } from "../connect/client/transport.js";
import { checkOptions, tableOf } from "../connect/options/check.js";
import type { Rule } from "../connect/options/kinds.js";
import { channelRules } from "../connect/options/client-rules.js";
import type { IsthmusTransport, IsthmusTransportOptions } from "../connect/types/client.js";
import type { HttpTransportOptions } from "../connect/types/http.js";
import { nowMs, setImmediate, setTimeout } from "../os/timers.js";
import { createBytesCodec } from "./bytes-codec.js";
import type { ChannelCall, PathMethods } from "./grpc-client-call.js";
import { GrpcClientCall, pathMethodsOf } from "./grpc-client-call.js";

/** Options of a transport without those that grpc-js's clients handle themselves. */
export type IsthmusChannelOptions = Omit<
  IsthmusTransportOptions,
  "address" | "codec" | "binaryOptions" | "interceptors" | "leases" | keyof HttpTransportOptions
> & {
  /** Where the server listens: a socket path, `unix:PATH`, or `tcp:HOST:PORT`. */
  readonly address: string;
};

/** A channel of grpc-js, with the transport behind it. */
export interface IsthmusChannel extends GrpcChannel {
  readonly transport: IsthmusTransport;
}

/** Channel options of grpc-js (`grpc.…`) are accepted and have no effect. */
export const channelTable = tableOf(
  "createIsthmusChannel",
  channelRules satisfies Record<keyof IsthmusChannelOptions, Rule>,
  "grpc.",
);

/** Interval at which changes of the state are looked for, in milliseconds. */
const WATCH_INTERVAL_MS = 10;

/**
 * Creates a channel for generated (or generic) clients of grpc-js, for their option `channelOverride`.
 *
 * Metadata, deadlines, cancellation, call credentials and grpc-js's interceptors work as they do over HTTP/2. Channel
 * options (`grpc.…`) and channel credentials have no effect. The client's `close` closes the channel.
 *
 * @throws ConnectError as `createIsthmusTransport`; also `InvalidArgument` for HTTP addresses, which grpc-js handles
 * itself
 * @example
 * ```ts
 * const channelOverride = createIsthmusChannel({ address: "/run/echo.sock" });
 * const client = new EchoClient("", credentials.createInsecure(), { channelOverride });
 * ```
 */
export function createIsthmusChannel(given: IsthmusChannelOptions): IsthmusChannel {
  const options = checkOptions(channelTable, given);
  // Generated code encodes and decodes the messages.
  if (/^https?:/.test(options.address)) {
    throw new ConnectError(
      `address ${options.address}: grpc-js speaks HTTP/2 itself; give it to the client without channelOverride`,
      Code.InvalidArgument,
    );
  }
  const codec = createBytesCodec(
    (message) => message as Uint8Array,
    (bytes) => bytes,
  );
  const channel: ChannelInterface = new Channel(
    createIsthmusTransport({ ...options, codec: () => codec, leases: "copied" }),
    options.address,
  );
  // grpc-js's class has private members, so TypeScript accepts nothing else. The prototype is set below.
  return channel as IsthmusChannel;
}

type CreateCall = Parameters<ChannelInterface["createCall"]>;

class Channel implements ChannelInterface {
  readonly transport: IsthmusTransport;
  private readonly target: string;
  private readonly peer: string;
  private readonly paths = new Map<string, PathMethods>();
  private trying = false;
  /** Latest deadline of those who watch the state, by the monotonic clock. Attempts are made until then. */
  private triesUntil = 0;
  /** Whether the last attempt failed. */
  private failed = false;

  constructor(transport: IsthmusTransport, address: string) {
    this.transport = transport;
    // As in grpc-js: the target has a scheme, the peer has none.
    this.target = /^(unix|tcp):/.test(address) ? address : `unix:${address}`;
    this.peer = this.target.slice(this.target.indexOf(":") + 1);
  }

  close(): void {
    void this.transport.close();
  }

  /** For `JSON.stringify`. */
  toJSON() {
    return this.transport.toJSON();
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

  /**
   * Makes one attempt, and further ones until the time `until` of `nowMs`, with the transport's pauses between them.
   */
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

  /** @throws Error if the channel is closed */
  watchConnectivityState(
    currentState: ConnectivityState,
    deadline: Date | number,
    callback: (error?: Error) => void,
  ): void {
    this.mustBeOpen();
    const until = nowMs() + timeoutUntil(deadline);
    const look = () => {
      if (this.getConnectivityState(false) !== currentState) return callback();
      const leftMs = until - nowMs();
      if (!(leftMs > 0)) return callback(new Error("Deadline passed without connectivity state change"));
      this.tryToConnect(until);
      setTimeout(look, Math.min(WATCH_INTERVAL_MS, leftMs));
    };
    // SUBTLE: at once. A caller that is told of a failed attempt and watches again would otherwise start attempts
    // without pauses.
    this.tryToConnect(until);
    setImmediate(look);
  }

  getChannelzRef(): ReturnType<ChannelInterface["getChannelzRef"]> {
    return { kind: "channel", id: 0, name: this.target } as ReturnType<ChannelInterface["getChannelzRef"]>;
  }

  /** @throws TypeError and Error as grpc-js's channel does */
  createCall(...[path, deadline, , parentCall, propagateFlags]: CreateCall): ChannelCall {
    if (typeof path !== "string") throw new TypeError("Channel#createCall: method must be a string");
    if (!(typeof deadline === "number" || isDate(deadline)))
      throw new TypeError("Channel#createCall: deadline must be a number or Date");
    this.mustBeOpen();
    let methods = this.paths.get(path);
    if (methods === undefined) this.paths.set(path, (methods = pathMethodsOf(path)));
    let timeoutMs = timeoutUntil(deadline);
    if (parentCall === null || parentCall === undefined)
      return new GrpcClientCall(this.transport, methods, path, this.peer, timeoutMs);
    const flags = propagateFlags ?? Propagate.DEFAULTS;
    if ((flags & Propagate.DEADLINE) !== 0) timeoutMs = Math.min(timeoutMs, timeoutUntil(parentCall.getDeadline()));
    const call = new GrpcClientCall(this.transport, methods, path, this.peer, timeoutMs);
    if ((flags & Propagate.CANCELLATION) !== 0) {
      const onCancelled = () => call.cancelWithStatus(Status.CANCELLED, "Cancelled by parent call");
      parentCall.once("cancelled", onCancelled);
      call.onEnded = () => parentCall.removeListener("cancelled", onCancelled);
    }
    return call;
  }

  private mustBeOpen(): void {
    if (this.transport.state === "closed") throw new Error("Channel has been shut down");
  }
}

// Makes channels pass `instanceof` checks for grpc-js's class, all of whose methods are overridden.
Object.setPrototypeOf(Channel.prototype, GrpcChannel.prototype);

/**
 * Converts a deadline to a timeout. The deadline is a time of the program's clock, which a test may have replaced: the
 * clock is read once, and from then on only elapsed time counts.
 */
function timeoutUntil(deadline: Date | number): number {
  const until = Number(deadline);
  return until === Infinity ? Infinity : until - Date.now();
}
