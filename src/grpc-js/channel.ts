/** A channel for grpc-js's clients that reaches an Isthmus server: the same generated clients over shared memory. */
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

/** Those of a transport, but for what grpc-js's clients do themselves. */
export type IsthmusChannelOptions = Omit<
  IsthmusTransportOptions,
  "address" | "codec" | "binaryOptions" | "interceptors" | "leases" | keyof HttpTransportOptions
> & {
  /** Where the server listens: a socket path, `unix:PATH`, or `tcp:HOST:PORT`. */
  readonly address: string;
};

/** grpc-js's channel, and the transport's state behind it. */
export interface IsthmusChannel extends GrpcChannel {
  readonly transport: IsthmusTransport;
}

/** What grpc-js calls channel options has no effect here, and may be among them. */
export const channelTable = tableOf(
  "createIsthmusChannel",
  channelRules satisfies Record<keyof IsthmusChannelOptions, Rule>,
  "grpc.",
);

/** How often a change of state is looked for, in milliseconds. */
const WATCH_INTERVAL_MS = 10;

/**
 * Creates a channel for generated (or generic) clients of grpc-js: `new EchoClient("", credentials.createInsecure(), {
 * channelOverride: channel })`. Metadata, deadlines, cancellation, call credentials and grpc-js's interceptors work as
 * they do over HTTP/2; channel options (`grpc.…`) and channel credentials have no effect. The client's `close` closes
 * the channel.
 *
 * @throws ConnectError as `createIsthmusTransport`, and `InvalidArgument` for an address of HTTP, which grpc-js speaks
 * itself
 */
export function createIsthmusChannel(given: IsthmusChannelOptions): IsthmusChannel {
  const options = checkOptions(channelTable, given);
  // Generated code turns messages into bytes and back.
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
  // The class of grpc-js has private parts, so nothing else passes for it; its prototype is below.
  return channel as IsthmusChannel;
}

type CreateCall = Parameters<ChannelInterface["createCall"]>;

class Channel implements ChannelInterface {
  readonly transport: IsthmusTransport;
  private readonly target: string;
  private readonly peer: string;
  private readonly paths = new Map<string, PathMethods>();
  private trying = false;
  /** Until when to go on trying, by the monotonic clock: the latest deadline of those who watch. */
  private triesUntil = 0;
  /** The last try was in vain. */
  private failed = false;

  constructor(transport: IsthmusTransport, address: string) {
    this.transport = transport;
    // As grpc-js has them: a target with its scheme, a peer without.
    this.target = /^(unix|tcp):/.test(address) ? address : `unix:${address}`;
    this.peer = this.target.slice(this.target.indexOf(":") + 1);
  }

  close(): void {
    void this.transport.close();
  }

  /** What `JSON.stringify` shows. */
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
    // SUBTLE: now, so that who is called back by the failure of an attempt, and watches again, does not begin a series
    // without pauses.
    this.tryToConnect(until);
    setImmediate(look);
  }

  getChannelzRef(): ReturnType<ChannelInterface["getChannelzRef"]> {
    return { kind: "channel", id: 0, name: this.target } as ReturnType<ChannelInterface["getChannelzRef"]>;
  }

  /** @throws TypeError and Error as grpc-js's own channel */
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

// So that a channel passes for one of grpc-js's class also where that is asked for. It overrides all of its methods.
Object.setPrototypeOf(Channel.prototype, GrpcChannel.prototype);

/**
 * Deadlines are given by the clock of the program, which a test may have replaced: it is read once, and from then on
 * only the time that passes counts.
 */
function timeoutUntil(deadline: Date | number): number {
  const until = Number(deadline);
  return until === Infinity ? Infinity : until - Date.now();
}
