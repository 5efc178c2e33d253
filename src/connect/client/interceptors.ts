/** Calls of a client through its interceptors, which see a request and a response as Connect's transports show them. */
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

/** Starts a call behind all interceptors. */
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
    // Interceptors may spread it, so it has to be a plain object.
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
 * A stream through its interceptors. How its end is told to them is Connect's since version 2.3, whichever version is
 * installed: once the call is over, for whatever reason, what they read from the transport ends with the call's
 * outcome, and they are pulled until they have ended, too. If the reader has left before the end, the outcome is a good
 * one.
 */
export async function streamIntercepted(
  interceptors: readonly Interceptor[],
  start: Start<AsyncIterator<unknown>, StreamResponse>,
  { method, input, header, timeoutMs, signal, contextValues }: StreamCallRequest,
): Promise<StreamResponse> {
  const streaming = method.method as DescMethodStreaming;
  const scope = new CallScope(boundedTimeout(timeoutMs), signal);
  // An interceptor may not pass on that the stream ended early.
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

/** What the innermost function of the interceptors starts. */
function startedWith<Input>(
  method: ClientMethod,
  input: Input,
  { header, signal, contextValues }: UnaryRequest | StreamRequest,
  timeoutMs: number | undefined,
): CallRequest<Input> {
  return { method, input, header, timeoutMs, signal, contextValues };
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
 * @throws ConnectError for what would be another call over HTTP and cannot be one here, or would be sent as an empty
 * message
 */
function checkRequest({ url, stream, message }: UnaryRequest | StreamRequest, path: string): void {
  if (url !== undefined && url !== URL_BASE + path) {
    throw new ConnectError(
      `an interceptor changed the URL of the call ${path} to ${url}; here the method alone says what is called`,
      Code.Unimplemented,
    );
  }
  if (typeof message !== "object" || message === null)
    throw new ConnectError(
      `an interceptor handed on the call ${path} without ${stream ? "messages" : "a message"}`,
      Code.Internal,
    );
}

type Result = IteratorResult<unknown>;
const DONE: Result = Object.freeze({ done: true, value: undefined });

/**
 * What interceptors read from the transport. SUBTLE: the transport's iterator is ended with the call, so nobody waits
 * at it for ever.
 */
class TransportMessages implements AsyncIterableIterator<unknown> {
  private readonly iterator: AsyncIterator<unknown>;
  private readonly scope: CallScope;
  private isRead = false;

  constructor(iterator: AsyncIterator<unknown>, scope: CallScope) {
    this.iterator = iterator;
    this.scope = scope;
    scope.onEnd(() => {
      if (!this.isRead) void iterator.return!();
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
 * Scopes of streams that their users forgot. A loop that is left with `break` is one where Connect is older than 2.3:
 * its clients do not pass on that it ended.
 */
const forgotten = new FinalizationRegistry<CallScope>((scope) => scope.finish());

/**
 * The messages of a stream with interceptors: its scope ends with them. SUBTLE: nothing of ours that lasts refers to
 * it.
 */
class ScopedMessages implements AsyncIterableIterator<unknown> {
  private readonly iterator: AsyncIterator<unknown>;
  private readonly scope: CallScope;
  /** The interceptors have come to their end after the call's. */
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
 * Deadline and signal of a call with interceptors, as one signal that they can see; it also aborts when the call is
 * over.
 */
class CallScope {
  private readonly controller = new AbortController();
  private readonly deadline: number | undefined;
  private readonly timer: NodeJS.Timeout | undefined;
  private readonly outer: AbortSignal | undefined;
  /** The call came to a good end. */
  private isFinished = false;
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

  /** What is left of the timeout, in milliseconds; undefined without one. */
  get leftMs(): number | undefined {
    return this.deadline === undefined ? undefined : Math.max(this.deadline - nowMs(), 1);
  }

  /** Why the call failed, once it has. */
  get failure(): ConnectError | undefined {
    return this.isOver && !this.isFinished ? abortError(this.signal) : undefined;
  }

  /** How reading goes on once the call is over. @throws ConnectError if it failed */
  outcome(): Result {
    if (!this.isFinished) throw abortError(this.signal);
    return DONE;
  }

  onEnd(listener: () => void): void {
    if (this.isOver) listener();
    else onAbortOf(this.signal, listener);
  }

  /** The call failed with `error`. Returns what its caller is told. */
  fail(error: unknown): ConnectError {
    // An interceptor that noticed the deadline or the abort by itself may have thrown anything.
    const failure = this.failure ?? connectErrorOf(error);
    this.end(failure);
    return failure;
  }

  /** The call is done, or its reader wants no more. */
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
