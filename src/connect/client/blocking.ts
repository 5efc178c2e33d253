/** Calls that block their thread until they are answered, for scripts and for worker threads that do nothing else. */
import type { DescMessage, DescMethod, DescMethodUnary, DescService, MessageInitShape } from "@bufbuild/protobuf";
import type { UnaryResponse } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import { parseAddress } from "../../carrier/address.js";
import type { BlockingDriver } from "../../carrier/blocking/driver.js";
import { connectNow } from "../../carrier/handshake/connect-blocking.js";
import type { Addon } from "../../os/addon.js";
import { nowMs } from "../../os/timers.js";
import type { ClientMethod } from "../../rpc/client/client-method.js";
import { ClientConnection } from "../../rpc/client/client.js";
import { boundedTimeout, timedOut } from "../../rpc/deadline.js";
import { connectErrorOf, prepareErrors } from "../../rpc/errors.js";
import { METHODS_MAX, SLOTS_MAX } from "../../wire/frame.js";
import { checkOptions } from "../options/check.js";
import { blockingCallTable, blockingTable } from "../options/table.js";
import type { CallLimits } from "../options/options.js";
import {
  checkLimits,
  codecOf,
  geometryOf,
  handshakeTimeoutOf,
  pollMicrosOf,
  requireSharedMemory,
  streamWindowOf,
} from "../options/options.js";
import { methodPath } from "../descriptors.js";
import type { BlockingCallOptions, BlockingClient, BlockingClientOptions } from "../types/client.js";

/**
 * Creates a client whose calls block the calling thread until they are answered. Nothing else runs on the thread
 * meanwhile: no timer, no promise, no other call.
 *
 * The client has a connection of its own over shared memory. The first call makes it; if it is lost, the next call
 * makes it again. A call polls for its response for a moment, then waits in the kernel. The client belongs to the
 * thread that created it, and does not keep the process alive between calls.
 *
 * Received `bytes` are copies on the heap. `bytes` to be sent are copied once; those of a region are not copied.
 *
 * A call that is in flight when the connection is lost throws `Unavailable`. If the server had not taken the request,
 * it is sent once more. The server must run in another process or thread: it could never answer on this one, so calls
 * throw `FailedPrecondition` at once.
 *
 * @throws ConnectError `InvalidArgument` if the address is malformed or a memory size is out of range;
 * `FailedPrecondition` if the address is not a Unix socket, or if shared memory is not available on this machine
 * @example
 * ```ts
 * using client = createBlockingClient(EchoService, { address: "/run/echo.sock" });
 * const { text } = client.echo({ text: "hi" }, { timeoutMs: 1000 });
 * ```
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

/** Closes the connection of a client that was garbage-collected without `close`. */
const forgotten = new FinalizationRegistry<Link>(({ connection }) =>
  connection?.close("the client was garbage-collected"),
);

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
  /** Cancels the call that has its signal. Replaced after it has been used. */
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
    // A message's getter or a codec may make a call.
    if (this.busy)
      throw new ConnectError(
        "this client is in the middle of another call; create another client for nested calls",
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
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- `connected` sets it
      const driver = this.link.driver!;
      const { outcome } = this;
      outcome.begin();
      driver.beginRequest();
      const request = {
        method,
        input,
        header,
        timeoutMs: timeoutMs === undefined ? undefined : Math.max(deadline - nowMs(), 1),
        signal: timeoutMs === undefined ? undefined : this.givingUp.signal,
        contextValues: undefined,
        wantsMessage: false,
      };
      connection.start(request, outcome.resolve, outcome.reject);
      if (!driver.serve(outcome, deadline)) this.abandon(connection);
      const { response, error } = outcome;
      if (response !== undefined) return response;
      // The server had ended before it saw the request.
      if (isFirst && driver.isUntaken && !this.closed) continue;
      throw error ?? new ConnectError("the call was not settled", Code.Internal);
    }
  }

  /** Publishes the cancellation at once, because the event loop of this thread does not turn. */
  private abandon(connection: ClientConnection): void {
    this.givingUp.abort(timedOut());
    this.givingUp = new AbortController();
    connection.carrier.publish();
  }

  private connected(deadline: number): ClientConnection {
    if (this.closed) throw new ConnectError("the client is closed", Code.Unavailable);
    const { options, link } = this;
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it is set before the connection
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
    // SUBTLE: the connection refers to the link only, so that an abandoned client can become garbage.
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
    // SUBTLE: copied, not leased. V8 reports freed leases through the event loop, which a blocked thread never turns.
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
      `${NEEDS_SHARED_MEMORY}: ${rawMessage}; use createIsthmusTransport, whose calls are awaited`,
      Code.FailedPrecondition,
      undefined,
      undefined,
      error,
    );
  }
}

/** The result of the current call. Reused for the next one. */
class Outcome {
  settled = false;
  response: UnaryResponse | undefined;
  error: ConnectError | undefined;
  readonly resolve = (response: unknown) => {
    this.settled = true;
    this.response = response as UnaryResponse;
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
