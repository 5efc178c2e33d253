/**
 * Calls that block the thread until they are answered: for scripts, and for worker threads that have nothing else to
 * do.
 */
import type {
  DescMessage,
  DescMethod,
  DescMethodUnary,
  DescService,
  MessageInitShape,
  MessageShape,
} from "@bufbuild/protobuf";
import type { UnaryResponse } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import { parseAddress } from "../../carrier/address.js";
import type { BlockingDriver } from "../../carrier/blocking/driver.js";
import { connectNow } from "../../carrier/handshake/connect-blocking.js";
import type { Addon } from "../../os/addon.js";
import { nowMs } from "../../os/timers.js";
import type { ClientMethod } from "../../rpc/client/client-call.js";
import { ClientConnection } from "../../rpc/client/client.js";
import { boundedTimeout, timedOut } from "../../rpc/deadline.js";
import { connectErrorOf, prepareErrors } from "../../rpc/errors.js";
import { METHODS_MAX, SLOTS_MAX } from "../../wire/frame.js";
import { checkOptions } from "../options/check.js";
import { blockingCallTable, blockingTable } from "../options/table.js";
import type { CallLimits, CommonOptions } from "../options/options.js";
import {
  checkLimits,
  codecOf,
  geometryOf,
  handshakeTimeoutOf,
  pollMicrosOf,
  requireSharedMemory,
  streamWindowOf,
} from "../options/options.js";
import { methodPath } from "../server/routes.js";

/**
 * As for {@link createIsthmusTransport}, less what a thread that blocks cannot do: interceptors, other carriers,
 * leases, streams, signs of life.
 */
export interface BlockingClientOptions
  extends Omit<CommonOptions, "carrier" | "leases" | "keepAlive" | "streamWindowBytes"> {
  /** Where the server listens: a socket path, or `unix:PATH`. */
  readonly address: string;
  /**
   * Deadline of calls that set none, in milliseconds, above 0; none by default. `Infinity`, and more than timers can
   * count, is none.
   */
  readonly defaultTimeoutMs?: number;
}

/** What `new Headers` takes; Node's types do not name it. */
type HeadersInit = NonNullable<ConstructorParameters<typeof Headers>[0]>;

export interface BlockingCallOptions {
  /** How long the call may take, the connection included, in milliseconds; then it fails with `DeadlineExceeded`. */
  readonly timeoutMs?: number;
  readonly headers?: HeadersInit;
  /** Called with the response's headers before the call returns. */
  readonly onHeader?: (headers: Headers) => void;
  /** Called with the response's trailers before the call returns. */
  readonly onTrailer?: (trailers: Headers) => void;
}

type UnaryMethods<S extends DescService> = {
  [P in keyof S["method"] as S["method"][P] extends DescMethodUnary
    ? P
    : never]: S["method"][P] extends DescMethodUnary<infer I, infer O>
    ? (request: MessageInitShape<I>, options?: BlockingCallOptions) => MessageShape<O>
    : never;
};

interface Closing {
  /** Ends the connection. Later calls throw `Unavailable`. */
  close(): void;
}

/**
 * One function for each unary method of the service: it blocks, and returns the message or throws a `ConnectError`.
 * Streaming methods are not there; called all the same, they throw `Unimplemented`. If the service itself has a method
 * `close`, that is the service's, and `using`, or `client[Symbol.dispose]()`, ends the connection.
 */
export type BlockingClient<S extends DescService> = UnaryMethods<S> &
  Disposable &
  ("close" extends keyof S["method"] ? unknown : Closing);

/**
 * Creates a client whose calls block this thread until they are answered: nothing else of the thread runs meanwhile, no
 * timer, no promise, no other call. It has a connection of its own over shared memory, made by the first call and made
 * again by the next one after it was lost. A call looks for its answer for a moment, then waits in the kernel.
 *
 * `bytes` that are received are copies on the heap. `bytes` that are sent are copied once; those of a region are not.
 *
 * A call that was in flight when the connection was lost throws `Unavailable`; one that the server had not taken is
 * sent once more. The server must run in another process or thread: on this one it could never answer, and calls throw
 * `FailedPrecondition` at once. The client belongs to the thread that made it. Between calls it keeps no process alive.
 *
 * @throws ConnectError `InvalidArgument` for an address or sizes that make no sense; `FailedPrecondition` for an
 * address that is no Unix socket's, and where shared memory cannot be had on this machine
 */
export function createBlockingClient<S extends DescService>(
  service: S,
  options: BlockingClientOptions,
): BlockingClient<S> {
  const caller = new BlockingCaller(options);
  const client: Record<string | symbol, unknown> = {
    close: () => caller.close(),
    [Symbol.dispose]: () => caller.close(),
  };
  for (const method of service.methods) {
    const path = methodPath(method);
    client[method.localName] =
      method.methodKind === "unary"
        ? (request: MessageInitShape<DescMessage>, callOptions?: BlockingCallOptions) =>
            caller.call(method as DescMethodUnary, request, callOptions)
        : () => {
            throw new ConnectError(
              `${path} is a streaming method; a blocking client makes unary calls`,
              Code.Unimplemented,
            );
          };
  }
  return client as BlockingClient<S>;
}

interface Link {
  connection: ClientConnection | undefined;
  driver: BlockingDriver | undefined;
}

/** Nothing else would close the connection of a client that was not closed. */
const forgotten = new FinalizationRegistry<Link>(({ connection }) => connection?.close("the client was garbage"));

class BlockingCaller {
  private readonly options: BlockingClientOptions;
  private readonly addon: Addon;
  private readonly path: string;
  private readonly limits: CallLimits;
  private readonly geometry: ReturnType<typeof geometryOf>;
  private readonly methods = new Map<DescMethod, ClientMethod>();
  private readonly link: Link = { connection: undefined, driver: undefined };
  private closed = false;
  private readonly outcome = new Outcome();
  /** Gives up the call that it was handed to; replaced when it has been used. */
  private givingUp = new AbortController();
  private busy = false;

  constructor(options: BlockingClientOptions) {
    this.options = options = checkOptions(blockingTable, options);
    const address = parseAddress(options.address);
    if (address.kind !== "unix")
      throw new ConnectError(
        `address ${options.address}: ${NEEDS_SHARED_MEMORY}; use createIsthmusTransport for other addresses`,
        Code.FailedPrecondition,
      );
    this.path = address.path;
    this.limits = checkLimits({ readMaxBytes: options.readMaxBytes, writeMaxBytes: options.writeMaxBytes });
    this.geometry = geometryOf(options);
    this.addon = addonHere();
    prepareErrors();
    forgotten.register(this, this.link);
  }

  call(
    method: DescMethodUnary,
    input: MessageInitShape<DescMessage>,
    options: BlockingCallOptions | undefined,
  ): unknown {
    const { timeoutMs, headers, onHeader, onTrailer } =
      options === undefined ? NO_OPTIONS : checkOptions(blockingCallTable, options);
    // A getter of a message, or a codec, may call.
    if (this.busy)
      throw new ConnectError(
        "a call of this client is under way on this thread; make another client for calls inside of calls",
        Code.FailedPrecondition,
      );
    let response: UnaryResponse;
    this.busy = true;
    try {
      const header = headers === undefined ? undefined : new Headers(headers);
      response = this.callUntil(
        this.methods.get(method) ?? this.addMethod(method),
        input,
        header,
        boundedTimeout(timeoutMs ?? this.options.defaultTimeoutMs),
      );
    } catch (error) {
      throw connectErrorOf(error, Code.Internal);
    } finally {
      this.busy = false;
      this.outcome.clear();
    }
    onHeader?.(response.header);
    onTrailer?.(response.trailer);
    return response.message;
  }

  close(): void {
    this.closed = true;
    this.link.connection?.close("the client was closed");
  }

  private callUntil(
    method: ClientMethod,
    input: unknown,
    header: Headers | undefined,
    timeoutMs: number | undefined,
  ): UnaryResponse {
    const deadline = timeoutMs === undefined ? Infinity : nowMs() + timeoutMs;
    for (let isFirst = true; ; isFirst = false) {
      const connection = this.connected(deadline);
      const driver = this.link.driver!;
      const { outcome } = this;
      outcome.begin();
      driver.beginRequest();
      const leftMs = timeoutMs === undefined ? undefined : Math.max(deadline - nowMs(), 1);
      const signal = timeoutMs === undefined ? undefined : this.givingUp.signal;
      connection.callWith(method, input, header, leftMs, signal, outcome.resolve, outcome.reject);
      if (!driver.serve(outcome, deadline)) this.abandon(connection);
      const { response, error } = outcome;
      if (response !== undefined) return response;
      // Nobody has seen the request: the server had gone before.
      if (isFirst && driver.isUntaken && !this.closed) continue;
      throw error ?? new ConnectError("the call was not settled", Code.Internal);
    }
  }

  /** The server has to learn of it now: there is no turn of the loop in which it would. */
  private abandon(connection: ClientConnection): void {
    this.givingUp.abort(timedOut());
    this.givingUp = new AbortController();
    connection.carrier.publish();
  }

  private connected(deadline: number): ClientConnection {
    if (this.closed) throw new ConnectError("the client is closed", Code.Unavailable);
    const { options, link } = this;
    if (link.connection !== undefined) link.driver!.catchUp();
    if (link.connection?.usable === true) return link.connection;
    const made = connectNow(
      this.addon,
      this.path,
      {
        carrier: "shm",
        lack: undefined,
        geometry: this.geometry,
        handshakeTimeoutMs: handshakeTimeoutOf(options),
        pollMicros: pollMicrosOf(options),
        maxStreams: SLOTS_MAX,
        isolation: options.isolation,
        streamWindowBytes: streamWindowOf({}),
      },
      deadline,
    );
    // SUBTLE: refers to the link only, so that a client that nobody has any more can be garbage.
    const connection: ClientConnection = new ClientConnection(
      made.carrier,
      { ...this.limits, maxStreams: made.maxStreams, windows: undefined },
      {
        onEnded() {
          if (link.connection === connection) link.connection = undefined;
        },
      },
    );
    link.connection = connection;
    link.driver = made.driver;
    made.carrier.start(connection, false);
    return connection;
  }

  private addMethod(method: DescMethodUnary): ClientMethod {
    if (this.methods.size >= METHODS_MAX)
      throw new ConnectError(`a client can call at most ${METHODS_MAX} different methods`, Code.ResourceExhausted);
    const codec = codecOf(this.options);
    const path = methodPath(method);
    // SUBTLE: not leased. What a lease holds comes back when V8 frees it, of which a thread that does not let its loop
    // turn never hears.
    const added: ClientMethod = {
      method,
      id: this.methods.size,
      path,
      input: codec(method.input),
      output: codec(method.output),
      receivePolicy: { lifetime: "copied", callLabel: path },
    };
    this.methods.set(method, added);
    return added;
  }
}

const NO_OPTIONS: BlockingCallOptions = {};
const NEEDS_SHARED_MEMORY = "blocking calls need shared memory and a Unix socket on this machine";

function addonHere(): Addon {
  try {
    return requireSharedMemory();
  } catch (error) {
    const { rawMessage } = connectErrorOf(error);
    throw new ConnectError(
      `${NEEDS_SHARED_MEMORY}: ${rawMessage}`,
      Code.FailedPrecondition,
      undefined,
      undefined,
      error,
    );
  }
}

/** What became of the call under way; used again for the next. */
class Outcome {
  settled = false;
  response: UnaryResponse | undefined;
  error: ConnectError | undefined;
  readonly resolve = (response: UnaryResponse) => {
    this.settled = true;
    this.response = response;
  };
  readonly reject = (error: ConnectError) => {
    this.settled = true;
    this.error = error;
  };

  begin(): void {
    this.clear();
    this.settled = false;
  }

  clear(): void {
    this.response = undefined;
    this.error = undefined;
  }
}
