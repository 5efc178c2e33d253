/** A client's calls through its interceptors, which see requests and responses as in Connect's transports. */
import type { DescMessage, DescMethodStreaming, DescMethodUnary, MessageInitShape } from "@bufbuild/protobuf";
import { create, isMessage } from "@bufbuild/protobuf";
import type {
  ContextValues,
  Interceptor,
  StreamRequest,
  StreamResponse,
  UnaryRequest,
  UnaryResponse,
} from "@connectrpc/connect";
import { Code, ConnectError, createContextValues } from "@connectrpc/connect";
import { clearTimeout, nowMs, setTimeout } from "../../os/timers.js";
import { onAbortOf } from "../../rpc/abort.js";
import type { CallRequest, StreamCallRequest } from "../../rpc/client/call-request.js";
import type { ClientMethod } from "../../rpc/client/client-method.js";
import { URL_BASE } from "../../rpc/server/context.js";
import { boundedTimeout, timedOut } from "../../rpc/deadline.js";
import { abortError, connectErrorOf } from "../../rpc/errors.js";
import { closeIterator } from "../../rpc/stream/stream-writer.js";
import { chain, checkResponse, drain, mapMessages } from "../interception.js";
import type { HeadersInit } from "../types/client.js";

/** Starts a call inside all interceptors. */
export type Start<Input, Response> = (request: CallRequest<Input>) => Promise<Response>;

export async function callIntercepted(
  interceptors: readonly Interceptor[],
  start: Start<unknown, UnaryResponse>,
  { method, input, header, timeoutMs, signal, contextValues }: CallRequest<unknown, HeadersInit>,
): Promise<UnaryResponse> {
  const schema = method.method.input;
  const message = isMessage(input, schema) ? input : create(schema, input as MessageInitShape<DescMessage>);
  const scope = new CallScope(boundedTimeout(timeoutMs), signal);
  const innermost = async (request: UnaryRequest): Promise<UnaryResponse> => {
    checkRequest(request, method.path);
    const response = await start(startedWith(method, request.message, request, scope.leftMs));
    // A plain object, because interceptors may spread it.
    const { stream, service, header, trailer } = response;
    return { stream, service, method: response.method, message: response.message, header, trailer };
  };
  try {
    const request: UnaryRequest = {
      ...requestOf(method, header, contextValues, scope),
      stream: false,
      method: method.method as DescMethodUnary,
      message,
    };
    const response = await chain(interceptors, innermost)(request);
    checkResponse(response, method.path, false);
    scope.finish();
    return response as UnaryResponse;
  } catch (error) {
    throw scope.fail(error);
  }
}

/**
 * A stream through its interceptors. They learn of its end as in Connect since version 2.3, whichever version is
 * installed: when the call is over, for whatever reason, the stream that they read from the transport ends with the
 * call's outcome, and they are pulled until they have ended too. If the reader leaves before the end, the outcome is
 * success.
 */
export async function streamIntercepted(
  interceptors: readonly Interceptor[],
  start: Start<AsyncIterator<unknown>, StreamResponse>,
  { method, input, header, timeoutMs, signal, contextValues }: StreamCallRequest,
): Promise<StreamResponse> {
  const streaming = method.method as DescMethodStreaming;
  const scope = new CallScope(boundedTimeout(timeoutMs), signal);
  // An interceptor may not propagate the early end of the stream.
  scope.onEnd(() => void closeIterator(input, scope.failure));
  const innermost = async (request: StreamRequest): Promise<StreamResponse> => {
    checkRequest(request, method.path);
    const response = await start(startedWith(method, request.message[Symbol.asyncIterator](), request, scope.leftMs));
    return {
      ...response,
      message: new TransportMessages(response.message[Symbol.asyncIterator](), scope) as StreamResponse["message"],
    };
  };
  try {
    const message = mapMessages({ [Symbol.asyncIterator]: () => input }, streaming.input);
    const request: StreamRequest = {
      ...requestOf(method, header, contextValues, scope),
      stream: true,
      method: streaming,
      message,
    };
    const response = (await chain(interceptors, innermost)(request)) as StreamResponse;
    checkResponse(response, method.path, true);
    return {
      ...response,
      message: new ScopedMessages(response.message[Symbol.asyncIterator](), scope) as StreamResponse["message"],
    };
  } catch (error) {
    throw scope.fail(error);
  }
}

/** The call that the innermost function starts. */
function startedWith<Input>(
  method: ClientMethod,
  input: Input,
  { header, signal, contextValues }: UnaryRequest | StreamRequest,
  timeoutMs: number | undefined,
): CallRequest<Input> {
  return { method, input, header, timeoutMs, signal, contextValues, wantsMessage: false };
}

function requestOf(
  { method, path }: ClientMethod,
  header: HeadersInit | undefined,
  contextValues: ContextValues | undefined,
  scope: CallScope,
) {
  return {
    service: method.parent,
    requestMethod: "POST",
    url: URL_BASE + path,
    header: new Headers(header),
    contextValues: contextValues ?? createContextValues(),
    signal: scope.signal,
  };
}

/**
 * @throws ConnectError if the interceptors changed the URL, which would be another call over HTTP and cannot be one
 * here, or removed the message, which would be sent as an empty one
 */
function checkRequest({ url, stream, message }: UnaryRequest | StreamRequest, path: string): void {
  if (url !== undefined && url !== URL_BASE + path) {
    throw new ConnectError(
      `an interceptor changed the URL of the call ${path} to ${url}; this transport calls the method and cannot call another URL`,
      Code.Unimplemented,
    );
  }
  if (typeof message !== "object" || message === null)
    throw new ConnectError(
      `an interceptor passed on the call ${path} without ${stream ? "messages" : "a message"}`,
      Code.Internal,
    );
}

type Result = IteratorResult<unknown>;
const DONE: Result = Object.freeze({ done: true, value: undefined });

/**
 * The messages that interceptors read from the transport. SUBTLE: the transport's iterator ends with the call, so no
 * interceptor waits for it forever.
 */
class TransportMessages implements AsyncIterableIterator<unknown> {
  private readonly iterator: AsyncIterator<unknown>;
  private readonly scope: CallScope;
  private isRead = false;

  constructor(iterator: AsyncIterator<unknown>, scope: CallScope) {
    this.iterator = iterator;
    this.scope = scope;
    scope.onEnd(() => {
      if (!this.isRead) void iterator.return?.();
    });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<Result> {
    const { scope } = this;
    try {
      const result = scope.isOver ? DONE : await this.iterator.next();
      if (result.done === true) this.isRead = true;
      if (!scope.isOver) return result;
    } catch (error) {
      this.isRead = true;
      if (!scope.isOver) throw error;
    }
    return scope.outcome();
  }
}

/**
 * Ends the scopes of streams that were garbage-collected by their users. With Connect older than 2.3, a loop left with
 * `break` is such a stream, because its clients do not propagate the end.
 */
const forgotten = new FinalizationRegistry<CallScope>((scope) => scope.finish());

/**
 * The messages of a stream with interceptors. Its scope ends with them. SUBTLE: no object that lives longer refers to
 * it.
 */
class ScopedMessages implements AsyncIterableIterator<unknown> {
  private readonly iterator: AsyncIterator<unknown>;
  private readonly scope: CallScope;
  /** Resolves when the interceptors have ended after the call. */
  private readonly drained: Promise<void>;

  constructor(iterator: AsyncIterator<unknown>, scope: CallScope) {
    this.iterator = iterator;
    this.scope = scope;
    this.drained = new Promise((resolve) => scope.onEnd(() => resolve(drain(iterator))));
    forgotten.register(this, scope);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<Result> {
    const { scope } = this;
    if (scope.isOver) {
      await this.drained;
      return scope.outcome();
    }
    try {
      const result = await this.iterator.next();
      if (result.done === true) scope.finish();
      return result;
    } catch (error) {
      throw scope.fail(error);
    }
  }

  async return(value?: unknown): Promise<Result> {
    this.scope.finish();
    await this.drained;
    return { done: true, value };
  }

  async throw(reason?: unknown): Promise<Result> {
    const failure = this.scope.fail(reason);
    await this.drained;
    throw failure;
  }
}

/**
 * Deadline and signal of a call with interceptors, as one signal that they can see. The signal also aborts when the
 * call is over.
 */
class CallScope {
  private readonly controller = new AbortController();
  private readonly deadline: number | undefined;
  private readonly timer: NodeJS.Timeout | undefined;
  private readonly outer: AbortSignal | undefined;
  /** Whether the call succeeded. */
  private isFinished = false;
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it listens to this signal
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

  get isOver(): boolean {
    return this.signal.aborted;
  }

  /** Time left for the call, in milliseconds; undefined if it has no deadline. */
  get leftMs(): number | undefined {
    return this.deadline === undefined ? undefined : Math.max(this.deadline - nowMs(), 1);
  }

  /** The error of the call once it has failed. */
  get failure(): ConnectError | undefined {
    return this.isOver && !this.isFinished ? abortError(this.signal) : undefined;
  }

  /** The result of a read after the call is over. @throws ConnectError if the call failed */
  outcome(): Result {
    if (!this.isFinished) throw abortError(this.signal);
    return DONE;
  }

  onEnd(listener: () => void): void {
    if (this.isOver) listener();
    else onAbortOf(this.signal, listener);
  }

  /** The call failed with `error`. @returns the error for the caller */
  fail(error: unknown): ConnectError {
    // An interceptor that noticed the deadline or the abort itself may have thrown anything.
    const failure = this.failure ?? connectErrorOf(error);
    this.end(failure);
    return failure;
  }

  /** The call succeeded, or its reader wants no more messages. */
  finish(): void {
    if (this.isOver) return;
    this.isFinished = true;
    this.end(undefined);
  }

  private end(reason: ConnectError | undefined): void {
    clearTimeout(this.timer);
    this.outer?.removeEventListener("abort", this.onAbort);
    this.controller.abort(reason);
  }
}
