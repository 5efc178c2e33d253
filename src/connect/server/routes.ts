/** Connect's router for the user's `routes` function. Collects implementations, and makes no HTTP handlers. */
import type { ConnectRouter, Interceptor, MethodImplSpec } from "@connectrpc/connect";
import { createMethodImplSpec, createServiceImplSpec } from "@connectrpc/connect";
import type { MessageCodec, MessageCodecFactory } from "../../codec/codec.js";
import type { LeaseLifetime } from "../../memory/payload/lease.js";
import { ownSignal } from "../../rpc/abort.js";
import type { CallContext } from "../../rpc/server/context.js";
import type { RequestGate } from "../../rpc/server/gate.js";
import type { ServerMethod, ServerMethodOptions, StreamAnswer } from "../../rpc/server/server-method.js";
import { takeSingle } from "../../rpc/stream/stream-reader.js";
import { checkOptional } from "../options/check.js";
import { routeTable } from "../options/table.js";
import type { CallLimits } from "../options/options.js";
import { checkLimits } from "../options/options.js";
import { methodPath, OWN_CODEC } from "../descriptors.js";
import type { IsthmusRouteOptions, IsthmusRouter } from "../types/routes.js";
import type { Handle, StreamHandle, StreamSpec } from "./interceptors.js";
import { intercept, interceptStream } from "./interceptors.js";

const ownRouters = new WeakSet<ConnectRouter>();

/** Whether Isthmus itself serves what is registered with this router. */
export function isOwnRouter(router: ConnectRouter): boolean {
  return ownRouters.has(router);
}

/** The server's options for its services. Options that concern HTTP only are ignored. */
export interface RouteDefaults extends CallLimits {
  readonly interceptors: readonly Interceptor[];
  readonly requestGate: RequestGate | undefined;
  readonly maxTimeoutMs: number;
  readonly shutdownSignal: AbortSignal | undefined;
  readonly leases: LeaseLifetime;
  readonly codecFor: (options: IsthmusRouteOptions | undefined) => MessageCodecFactory;
}

/** Runs the user's `routes`. @returns the served methods by path */
export function collectRoutes(
  routes: (router: IsthmusRouter) => void,
  defaults: RouteDefaults,
): Map<string, ServerMethod> {
  const served = new Map<string, ServerMethod>();
  const add = (spec: MethodImplSpec, options: IsthmusRouteOptions | undefined) => {
    const path = methodPath(spec.method);
    served.set(path, serve(spec, path, defaults, options));
  };
  const router: IsthmusRouter = {
    handlers: [],
    service(service, implementation, options) {
      const checked = checkOptional<IsthmusRouteOptions>(routeTable, options, `service ${service.typeName}: `);
      for (const spec of Object.values(createServiceImplSpec(service, implementation).methods)) add(spec, checked);
      return router;
    },
    rpc(method, implementation, options) {
      add(
        createMethodImplSpec(method, implementation),
        checkOptional<IsthmusRouteOptions>(routeTable, options, `method ${methodPath(method)}: `),
      );
      return router;
    },
  };
  ownRouters.add(router);
  routes(router);
  return served;
}

function serve(
  spec: MethodImplSpec,
  path: string,
  defaults: RouteDefaults,
  options: IsthmusRouteOptions | undefined,
): ServerMethod {
  const limits = checkLimits({
    readMaxBytes: options?.readMaxBytes ?? defaults.readMaxBytes,
    writeMaxBytes: options?.writeMaxBytes ?? defaults.writeMaxBytes,
  });
  const merged: ServerMethodOptions = {
    ...limits,
    maxTimeoutMs: options?.maxTimeoutMs ?? defaults.maxTimeoutMs,
    leases: options?.leases ?? defaults.leases,
    interceptors: options?.interceptors ?? defaults.interceptors,
    shutdownSignal: options?.shutdownSignal === undefined ? defaults.shutdownSignal : ownSignal(options.shutdownSignal),
  };
  const codecOfAll = defaults.codecFor(options);
  const codec: MessageCodecFactory = (schema) =>
    (schema as { [OWN_CODEC]?: MessageCodec })[OWN_CODEC] ?? codecOfAll(schema);
  const { handle, open } = runnersOf(spec, path, merged.interceptors);
  return {
    method: spec.method,
    path,
    gate: options?.requestGate ?? defaults.requestGate,
    handle,
    open,
    answersOnce: spec.kind === "unary" || spec.kind === "client_streaming",
    takesOne: spec.kind === "unary" || spec.kind === "server_streaming",
    input: codec(spec.method.input),
    output: codec(spec.method.output),
    options: merged,
    receivePolicy: { lifetime: merged.leases, callLabel: path },
  };
}

/** The functions that run a method, with its interceptors. */
function runnersOf(
  spec: MethodImplSpec,
  path: string,
  interceptors: readonly Interceptor[],
): Pick<ServerMethod, "handle" | "open"> {
  const plain = interceptors.length === 0;
  if (spec.kind === "unary") {
    const handle = plain ? (spec.impl as Handle) : intercept(spec, path, interceptors);
    return { handle, open: openUnary(handle) };
  }
  const open = plain ? openStream(spec) : interceptStream(spec.method, implementationOf(spec), path, interceptors);
  return { handle: undefined, open };
}

/** A unary method for clients that open it as a stream. */
function openUnary(handle: Handle): ServerMethod["open"] {
  return async (requests, context) => answerOf(once(await handle(await takeSingle(requests), context)));
}

function openStream(spec: StreamSpec): ServerMethod["open"] {
  const implement = implementationOf(spec);
  if (spec.kind === "bidi_streaming")
    return (requests, context) => answerOf(implement(requests, context) as AsyncIterable<unknown>);
  return async (requests, context) => answerOf(await implement(requests, context));
}

/** The user's function as a function from a stream to a stream. */
function implementationOf(spec: StreamSpec): StreamHandle {
  const implement = spec.impl as (input: unknown, context: CallContext) => unknown;
  switch (spec.kind) {
    case "server_streaming":
      return async (requests, context) => implement(await takeSingle(requests), context) as AsyncIterable<unknown>;
    case "client_streaming":
      return async (requests, context) => once(await implement(requests, context));
    case "bidi_streaming":
      return implement as StreamHandle;
  }
}

function answerOf(message: AsyncIterable<unknown>): StreamAnswer {
  return { message, trailer: undefined };
}

async function* once(message: unknown): AsyncGenerator {
  yield await Promise.resolve(message);
}
