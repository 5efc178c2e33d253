/** Connect's router, as the user's `routes` function sees it: collects implementations, makes no HTTP handlers. */
import type { DescMethod } from "@bufbuild/protobuf";
import { create, isMessage } from "@bufbuild/protobuf";
import type { ConnectRouter, Interceptor, MethodImplSpec, StreamRequest, StreamResponse, UnaryRequest, UnaryResponse } from "@connectrpc/connect";
import { createMethodImplSpec, createServiceImplSpec } from "@connectrpc/connect";
import type { MessageCodec, MessageCodecFactory } from "../codec/codec.js";
import type { LeaseLifetime } from "../memory/lease.js";
import { mapMessages } from "./messages.js";
import type { CallContext } from "../rpc/context.js";
import { URL_BASE } from "../rpc/context.js";
import type { ServerMethod, ServerMethodOptions, StreamAnswer } from "../rpc/server-method.js";
import { takeSingle } from "../rpc/stream-reader.js";
import type { CallLimits } from "./options.js";
import { checkLimits, lifetimeOf } from "./options.js";

/** Connect's, and Isthmus's own. */
type RouteOptions = Parameters<ConnectRouter["rpc"]>[2] & { readonly leases?: LeaseLifetime };

/** A codec of its own that a message's descriptor may have, for messages that are not protobuf-es's. */
export const OWN_CODEC = Symbol("isthmus.codec");

const ownRouters = new WeakSet<ConnectRouter>();

/** Whether what is registered here is served by Isthmus itself. */
export function isOwnRouter(router: ConnectRouter): boolean {
  return ownRouters.has(router);
}

/** Options of a service, as Connect's router takes them; those that concern HTTP only are ignored. */
export interface RouteDefaults extends CallLimits {
  readonly interceptors: readonly Interceptor[];
  readonly maxTimeoutMs: number;
  readonly shutdownSignal: AbortSignal | undefined;
  readonly leases: LeaseLifetime;
  readonly codecFor: (options: RouteOptions | undefined) => MessageCodecFactory;
}

/** Runs the user's `routes` and returns what is served, by path. */
export function collectRoutes(routes: (router: ConnectRouter) => void, defaults: RouteDefaults): Map<string, ServerMethod> {
  const served = new Map<string, ServerMethod>();
  const add = (spec: MethodImplSpec, options: RouteOptions | undefined) => {
    const path = methodPath(spec.method);
    served.set(path, serve(spec, path, defaults, options));
  };
  const router: ConnectRouter = {
    handlers: [],
    service(service, implementation, options) {
      for (const spec of Object.values(createServiceImplSpec(service, implementation).methods)) add(spec, options);
      return router;
    },
    rpc(method, implementation, options) {
      add(createMethodImplSpec(method, implementation), options);
      return router;
    },
  };
  ownRouters.add(router);
  routes(router);
  return served;
}

export function methodPath(method: DescMethod): string {
  return `/${method.parent.typeName}/${method.name}`;
}

function serve(spec: MethodImplSpec, path: string, defaults: RouteDefaults, options: RouteOptions | undefined): ServerMethod {
  const limits = checkLimits({
    readMaxBytes: options?.readMaxBytes ?? defaults.readMaxBytes,
    writeMaxBytes: options?.writeMaxBytes ?? defaults.writeMaxBytes,
  });
  const merged: ServerMethodOptions = {
    ...limits,
    maxTimeoutMs: options?.maxTimeoutMs ?? defaults.maxTimeoutMs,
    leases: options?.leases === undefined ? defaults.leases : lifetimeOf(options.leases),
    interceptors: options?.interceptors ?? defaults.interceptors,
    shutdownSignal: options?.shutdownSignal ?? defaults.shutdownSignal,
  };
  const codecOfAll = defaults.codecFor(options);
  const codec: MessageCodecFactory = (schema) => (schema as { [OWN_CODEC]?: MessageCodec })[OWN_CODEC] ?? codecOfAll(schema);
  const { interceptors } = merged;
  const handle = spec.kind === "unary" ? handleOf(spec, path, interceptors) : undefined;
  return {
    method: spec.method,
    path,
    handle,
    open: spec.kind === "unary" ? openUnary(handle!) : interceptors.length === 0 ? openStream(spec) : interceptStream(spec, path, interceptors),
    answersOnce: spec.kind === "unary" || spec.kind === "client_streaming",
    takesOne: spec.kind === "unary" || spec.kind === "server_streaming",
    input: codec(spec.method.input),
    output: codec(spec.method.output),
    options: merged,
    reception: { lifetime: merged.leases, taker: path },
  };
}

type UnarySpec = MethodImplSpec & { kind: "unary" };
type StreamSpec = Exclude<MethodImplSpec, { kind: "unary" }>;
type Handle = NonNullable<ServerMethod["handle"]>;

function handleOf(spec: UnarySpec, path: string, interceptors: readonly Interceptor[]): Handle {
  return interceptors.length === 0 ? (spec.impl as Handle) : intercept(spec, path, interceptors);
}

/** A unary method for a client that opens it as a stream. */
function openUnary(handle: Handle): ServerMethod["open"] {
  return async (requests, context) => answerOf(once(await handle(await takeSingle(requests), context)));
}

function openStream(spec: StreamSpec): ServerMethod["open"] {
  const implement = implementationOf(spec);
  if (spec.kind === "bidi_streaming") return (requests, context) => answerOf(implement(requests, context) as AsyncIterable<unknown>);
  return async (requests, context) => answerOf(await implement(requests, context));
}

/** The user's function as one from a stream to a stream. */
function implementationOf(spec: StreamSpec): (requests: AsyncIterable<unknown>, context: CallContext) => AsyncIterable<unknown> | Promise<AsyncIterable<unknown>> {
  const implement = spec.impl as (input: unknown, context: CallContext) => unknown;
  switch (spec.kind) {
    case "server_streaming":
      return async (requests, context) => implement(await takeSingle(requests), context) as AsyncIterable<unknown>;
    case "client_streaming":
      return async (requests, context) => once(await implement(requests, context));
    case "bidi_streaming":
      return implement as ReturnType<typeof implementationOf>;
  }
}

function answerOf(message: AsyncIterable<unknown>): StreamAnswer {
  return { message, trailer: undefined };
}

async function* once(message: unknown): AsyncGenerator<unknown> {
  yield await Promise.resolve(message);
}

/** A streaming handler behind its interceptors, which may wrap the streams of both directions. */
function interceptStream(spec: StreamSpec, path: string, interceptors: readonly Interceptor[]): ServerMethod["open"] {
  const { method } = spec;
  const implement = implementationOf(spec);
  return async (requests, context) => {
    const innermost = async (request: StreamRequest): Promise<StreamResponse> => ({
      stream: true,
      service: method.parent,
      method,
      message: mapMessages(await implement(request.message, withRequest(context, request)), method.output),
      header: context.responseHeader,
      trailer: context.responseTrailer,
    });
    let next = innermost as ReturnType<Interceptor>;
    for (const interceptor of [...interceptors].reverse()) next = interceptor(next);
    const response = await next({
      stream: true,
      service: method.parent,
      method,
      requestMethod: context.requestMethod,
      url: URL_BASE + path,
      message: requests as StreamRequest["message"],
      get signal() {
        return context.signal;
      },
      get header() {
        return context.requestHeader;
      },
      get contextValues() {
        return context.values;
      },
    });
    // The handler may yet set more, until its first message.
    if (response.header !== context.responseHeader) response.header.forEach((value, name) => context.responseHeader.set(name, value));
    return { message: response.message as AsyncIterable<unknown>, trailer: response.trailer };
  };
}

/** The handler behind its interceptors, which see a request and a response as Connect's servers show them. */
function intercept(spec: UnarySpec, path: string, interceptors: readonly Interceptor[]): Handle {
  const { method } = spec;
  return async (message, context) => {
    const innermost = async (request: UnaryRequest): Promise<UnaryResponse> => {
      const answer = await spec.impl(request.message, withRequest(context, request));
      return {
        stream: false,
        service: method.parent,
        method,
        message: (isMessage(answer, method.output) ? answer : create(method.output, answer)),
        header: context.responseHeader,
        trailer: context.responseTrailer,
      };
    };
    let next = innermost as ReturnType<Interceptor>;
    for (const interceptor of [...interceptors].reverse()) next = interceptor(next);
    // Own accessors, so that `{ ...request }` keeps them and none costs anything unless it is read.
    const response = await next({
      stream: false,
      service: method.parent,
      method,
      requestMethod: context.requestMethod,
      url: URL_BASE + path,
      message: message as UnaryRequest["message"],
      get signal() {
        return context.signal;
      },
      get header() {
        return context.requestHeader;
      },
      get contextValues() {
        return context.values;
      },
    });
    context.responseHeaderIfAny = response.header;
    context.responseTrailerIfAny = response.trailer;
    return response.message;
  };
}

/** The context as the handler sees it behind interceptors that handed on another request. */
function withRequest(context: CallContext, request: UnaryRequest | StreamRequest): CallContext {
  return Object.create(context, {
    signal: { get: () => request.signal },
    requestHeader: { get: () => request.header },
    values: { get: () => request.contextValues },
    // SUBTLE: inherited, these would make the Headers on the new object, and what the handler sets would be lost.
    responseHeader: { get: () => context.responseHeader },
    responseTrailer: { get: () => context.responseTrailer },
  }) as CallContext;
}
