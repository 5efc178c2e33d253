/** Calls of a client through its interceptors, which see a request and a response as Connect's transports show them. */
import type { DescMessage, DescMethodStreaming, DescMethodUnary, MessageInitShape } from "@bufbuild/protobuf";
import { create, isMessage } from "@bufbuild/protobuf";
import type { ContextValues, Interceptor, StreamRequest, StreamResponse, UnaryRequest, UnaryResponse } from "@connectrpc/connect";
import { Code, ConnectError, createContextValues } from "@connectrpc/connect";
import { clearTimeout, nowMs, setTimeout } from "../os/timers.js";
import { onAbortOf } from "../rpc/abort.js";
import type { ClientMethod } from "../rpc/client-call.js";
import { URL_BASE } from "../rpc/context.js";
import { boundedTimeout, timedOut } from "../rpc/deadline.js";
import { abortError, connectErrorOf } from "../rpc/errors.js";
import { closeIterator } from "../rpc/stream-writer.js";
import { chain, mapMessages } from "./interception.js";

/** What `new Headers` takes; Node's types do not name it. */
export type HeadersInit = NonNullable<ConstructorParameters<typeof Headers>[0]>;

/** A call behind all interceptors. */
export type Start<Input, Response> = (
  method: ClientMethod,
  input: Input,
  header: Headers | undefined,
  timeoutMs: number | undefined,
  signal: AbortSignal | undefined,
  contextValues: ContextValues | undefined,
) => Promise<Response>;

export async function callIntercepted(
  interceptors: readonly Interceptor[],
  start: Start<unknown, UnaryResponse>,
  method: ClientMethod,
  input: unknown,
  header: HeadersInit | undefined,
  timeoutMs: number | undefined,
  signal: AbortSignal | undefined,
  contextValues: ContextValues | undefined,
): Promise<UnaryResponse> {
  const schema = method.method.input;
  const message = isMessage(input, schema) ? input : create(schema, input as MessageInitShape<DescMessage>);
  const scope = new CallScope(boundedTimeout(timeoutMs), signal);
  const innermost = async (request: UnaryRequest): Promise<UnaryResponse> => {
    const response = await start(method, request.message, request.header, scope.leftMs, request.signal, request.contextValues);
    // Interceptors may spread it, so it has to be a plain object.
    const { stream, service, header, trailer } = response;
    return { stream, service, method: response.method, message: response.message, header, trailer };
  };
  try {
    const request: UnaryRequest = { ...requestOf(method, header, contextValues, scope), stream: false, method: method.method as DescMethodUnary, message };
    const response = await chain(interceptors, innermost)(request);
    scope.end(undefined);
    return response as UnaryResponse;
  } catch (error) {
    throw scope.fail(error);
  }
}

export async function streamIntercepted(
  interceptors: readonly Interceptor[],
  start: Start<AsyncIterator<unknown>, StreamResponse>,
  method: ClientMethod,
  input: AsyncIterator<unknown>,
  header: HeadersInit | undefined,
  timeoutMs: number | undefined,
  signal: AbortSignal | undefined,
  contextValues: ContextValues | undefined,
): Promise<StreamResponse> {
  const streaming = method.method as DescMethodStreaming;
  const scope = new CallScope(boundedTimeout(timeoutMs), signal);
  // An interceptor may not pass on that the stream ended early.
  onAbortOf(scope.signal, () => void closeIterator(input, scope.failure));
  const innermost = async (request: StreamRequest): Promise<StreamResponse> =>
    start(method, request.message[Symbol.asyncIterator](), request.header, scope.leftMs, request.signal, request.contextValues);
  try {
    const message = mapMessages({ [Symbol.asyncIterator]: () => input }, streaming.input);
    const request: StreamRequest = { ...requestOf(method, header, contextValues, scope), stream: true, method: streaming, message };
    const response = (await chain(interceptors, innermost)(request)) as StreamResponse;
    return { ...response, message: new ScopedMessages(response.message[Symbol.asyncIterator](), scope) as StreamResponse["message"] };
  } catch (error) {
    throw scope.fail(error);
  }
}

function requestOf({ method, path }: ClientMethod, header: HeadersInit | undefined, contextValues: ContextValues | undefined, scope: CallScope) {
  return {
    service: method.parent,
    requestMethod: "POST",
    url: URL_BASE + path,
    header: new Headers(header),
    contextValues: contextValues ?? createContextValues(),
    signal: scope.signal,
  };
}

/** Scopes of streams that their users forgot. A loop that is left with `break` is one: Connect's clients do not pass on that it ended. */
const forgotten = new FinalizationRegistry<CallScope>((scope) => scope.end(new ConnectError("nobody reads the stream any more", Code.Canceled)));

/** The messages of a stream with interceptors: its scope ends with them. SUBTLE: nothing of ours that lasts refers to it. */
class ScopedMessages implements AsyncIterableIterator<unknown> {
  private readonly iterator: AsyncIterator<unknown>;
  private readonly scope: CallScope;

  constructor(iterator: AsyncIterator<unknown>, scope: CallScope) {
    this.iterator = iterator;
    this.scope = scope;
    forgotten.register(this, scope);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<unknown>> {
    try {
      const result = await this.iterator.next();
      if (result.done === true) this.scope.end(undefined);
      return result;
    } catch (error) {
      throw this.scope.fail(error);
    }
  }

  async return(value?: unknown): Promise<IteratorResult<unknown>> {
    this.scope.end(new ConnectError("the stream was left before its end", Code.Canceled));
    await this.iterator.return?.();
    return { done: true, value };
  }
}

/** Deadline and signal of a call with interceptors, as one signal that they can see; it also aborts when the call is over. */
class CallScope {
  private readonly controller = new AbortController();
  private readonly deadline: number | undefined;
  private readonly timer: NodeJS.Timeout | undefined;
  private readonly outer: AbortSignal | undefined;
  /** Why the call failed, once it has. */
  failure: ConnectError | undefined;
  private readonly onAbort = () => this.controller.abort(abortError(this.outer!));

  constructor(timeoutMs: number | undefined, outer: AbortSignal | undefined) {
    this.outer = outer;
    if (outer?.aborted === true) this.onAbort();
    else if (outer !== undefined) onAbortOf(outer, this.onAbort);
    if (timeoutMs === undefined) return;
    this.deadline = nowMs() + timeoutMs;
    this.timer = setTimeout(() => this.controller.abort(timedOut()), timeoutMs);
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** What is left of the timeout, in milliseconds; undefined without one. */
  get leftMs(): number | undefined {
    return this.deadline === undefined ? undefined : Math.max(this.deadline - nowMs(), 1);
  }

  /** The call failed with `error`. Returns what its caller is told. */
  fail(error: unknown): ConnectError {
    // An interceptor that noticed the deadline or the abort by itself may have thrown anything.
    const failure = this.signal.aborted ? abortError(this.signal) : connectErrorOf(error);
    this.end(failure);
    return failure;
  }

  end(failure: ConnectError | undefined): void {
    this.failure ??= failure;
    clearTimeout(this.timer);
    this.outer?.removeEventListener("abort", this.onAbort);
    this.controller.abort(failure);
  }
}
