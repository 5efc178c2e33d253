/** Handlers inside their interceptors, which see requests and responses as in Connect's servers. */
import { create, isMessage } from "@bufbuild/protobuf";
import type { DescMethod } from "@bufbuild/protobuf";
import type {
  ContextValues,
  Interceptor,
  MethodImplSpec,
  StreamRequest,
  StreamResponse,
  UnaryRequest,
  UnaryResponse,
} from "@connectrpc/connect";
import type { CallContext } from "../../rpc/server/context.js";
import { URL_BASE } from "../../rpc/server/context.js";
import type { ServerMethod } from "../../rpc/server/server-method.js";
import { chain, checkedHeaders, checkedMessages, checkResponse, mapMessages } from "../interception.js";

export type UnarySpec = MethodImplSpec & { kind: "unary" };
export type StreamSpec = Exclude<MethodImplSpec, { kind: "unary" }>;
export type Handle = NonNullable<ServerMethod["handle"]>;
/** A handler as a function from a stream to a stream. */
export type StreamHandle = (
  requests: AsyncIterable<unknown>,
  context: CallContext,
) => AsyncIterable<unknown> | Promise<AsyncIterable<unknown>>;

/** Wraps a unary handler in its interceptors. */
export function intercept(spec: UnarySpec, path: string, interceptors: readonly Interceptor[]): Handle {
  const { method } = spec;
  return async (message, context) => {
    const next = chain(interceptors, async (request: UnaryRequest): Promise<UnaryResponse> => {
      const answer = await spec.impl(request.message, withRequest(context, request));
      return {
        stream: false,
        service: method.parent,
        method,
        message: isMessage(answer, method.output) ? answer : create(method.output, answer),
        header: context.responseHeader,
        trailer: context.responseTrailer,
      };
    });
    const response = await next(requestOf(method, path, context, false, message) as UnaryRequest);
    checkResponse(response, path, false);
    context.responseHeaderIfAny = checkedHeaders(response.header, path);
    context.responseTrailerIfAny = checkedHeaders(response.trailer, path);
    return response.message;
  };
}

/** Wraps a streaming handler in its interceptors, which may wrap the streams of both directions. */
export function interceptStream(
  method: StreamSpec["method"],
  implement: StreamHandle,
  path: string,
  interceptors: readonly Interceptor[],
): ServerMethod["open"] {
  return async (requests, context) => {
    let own: StreamResponse["message"] | undefined;
    const next = chain(interceptors, async (request: StreamRequest): Promise<StreamResponse> => {
      const message = mapMessages(await implement(request.message, withRequest(context, request)), method.output);
      own = message;
      return {
        stream: true,
        service: method.parent,
        method,
        message,
        header: context.responseHeader,
        trailer: context.responseTrailer,
      };
    });
    const response = (await next(requestOf(method, path, context, true, requests) as StreamRequest)) as StreamResponse;
    checkResponse(response, path, true);
    const header = checkedHeaders(response.header, path);
    const trailer = checkedHeaders(response.trailer, path);
    // The handler may set more headers until its first message.
    if (header !== context.responseHeader) header.forEach((value, name) => context.responseHeader.set(name, value));
    return { message: response.message === own ? own : checkedMessages(response.message, path), trailer };
  };
}

/**
 * The request for interceptors. Its accessors are own properties, so that `{ ...request }` keeps them, and cost nothing
 * unless they are read. Interceptors can assign to them, as in Connect's servers.
 */
function requestOf(method: DescMethod, path: string, context: CallContext, stream: boolean, message: unknown): object {
  let signal: AbortSignal | undefined;
  let header: Headers | undefined;
  let contextValues: ContextValues | undefined;
  return {
    stream,
    service: method.parent,
    method,
    requestMethod: context.requestMethod,
    url: URL_BASE + path,
    message,
    get signal() {
      return signal ?? context.signal;
    },
    set signal(value) {
      signal = value;
    },
    get header() {
      return header ?? context.requestHeader;
    },
    set header(value) {
      header = value;
    },
    get contextValues() {
      return contextValues ?? context.values;
    },
    set contextValues(value) {
      contextValues = value;
    },
  };
}

/** The context for the handler, with the changes that interceptors made to the request. */
function withRequest(context: CallContext, request: UnaryRequest | StreamRequest): CallContext {
  return Object.create(context, {
    signal: { get: () => request.signal },
    requestHeader: { get: () => request.header },
    values: { get: () => request.contextValues },
    // SUBTLE: the inherited getters would create Headers on the new object, and what the handler sets would be lost.
    responseHeader: { get: () => context.responseHeader },
    responseTrailer: { get: () => context.responseTrailer },
  }) as CallContext;
}
