/**
 * Passes requests from Node to Connect's handlers and back, as `connectNodeAdapter` does. In addition, calls that
 * Connect gives up are answered (HTTP-4).
 */
import type { ConnectRouter, ContextValues } from "@connectrpc/connect";
import { createConnectRouter, createContextValues } from "@connectrpc/connect";
import type { UniversalHandler } from "@connectrpc/connect/protocol";
import type { ConnectNode } from "./connect-node.js";
import type { Request, Response } from "./answers.js";
import { answerFailed, answerUnserved } from "./answers.js";
import { soundErrors } from "./server-errors.js";
import { gateInterceptor } from "./gate.js";
import { ownResponses } from "./payloads.js";
import { checkLimits, omitUndefined } from "../options/options.js";
import type { IsthmusRouteOptions, IsthmusRouter } from "../types/routes.js";
import type { IsthmusServerOptions } from "../types/server.js";

/** Handles a request. May throw. */
export type Handler = (request: Request, response: Response) => void;

/**
 * @param prefix comes before the path of each method
 * @param knowsGates whether Connect's router calls `requestGate`
 */
export function handlerOf(
  connectNode: ConnectNode,
  options: IsthmusServerOptions,
  prefix: string,
  knowsGates: boolean,
): Handler {
  const { compressionBrotli, compressionGzip, universalRequestFromNodeRequest, universalResponseToNodeResponse } =
    connectNode;
  const router = createConnectRouter({
    ...checkLimits({ readMaxBytes: options.readMaxBytes, writeMaxBytes: options.writeMaxBytes }),
    ...omitUndefined({
      maxTimeoutMs: options.maxTimeoutMs,
      shutdownSignal: options.shutdownSignal,
      binaryOptions: options.binaryOptions,
    }),
    acceptCompression: [compressionGzip, compressionBrotli],
  });
  options.routes(prepared(router, options, knowsGates));
  const handlers = new Map<string, UniversalHandler>();
  for (const handler of router.handlers) handlers.set(prefix + handler.requestPath, handler);
  const answerCall = async (
    handler: UniversalHandler,
    call: Parameters<UniversalHandler>[0],
    request: Request,
    response: Response,
  ): Promise<void> => {
    try {
      await universalResponseToNodeResponse(await handler(call), response);
    } catch {
      // The client is gone, which needs no answer, or the response cannot be sent.
      answerFailed(request, response);
    }
  };
  return (request, response) => {
    const handler = handlers.get((request.url ?? "").split("?", 1)[0]);
    if (handler === undefined) return answerUnserved(request, response);
    // SUBTLE: makes a URL of the request's host, and throws if the host is invalid.
    const call = universalRequestFromNodeRequest(
      request,
      response as never,
      undefined,
      valuesFrom(options.contextValues),
    );
    void answerCall(handler, call, request, response);
  };
}

/**
 * The user's context values. If making them throws, reading them throws the same error, as with other carriers
 * (HTTP-4).
 */
function valuesFrom(make: IsthmusServerOptions["contextValues"]): ContextValues {
  try {
    return make?.(undefined) ?? createContextValues();
  } catch (error) {
    const fail = () => {
      throw error;
    };
    return { get: fail, set: fail, delete: fail };
  }
}

/**
 * Connect's router for the user's `routes`. Payloads of responses, and errors, are processed after all interceptors,
 * even if a service has its own.
 */
function prepared(
  router: ConnectRouter,
  { interceptors = [], requestGate }: IsthmusServerOptions,
  knowsGates: boolean,
): IsthmusRouter {
  const optionsOf = (own: IsthmusRouteOptions | undefined): IsthmusRouteOptions => {
    const gate = own?.requestGate ?? requestGate;
    const rest = own?.interceptors ?? interceptors;
    if (gate === undefined) return { ...own, interceptors: [soundErrors, ownResponses, ...rest] };
    return {
      ...own,
      requestGate: gate,
      interceptors: [soundErrors, ownResponses, ...(knowsGates ? [] : [gateInterceptor(gate)]), ...rest],
    };
  };
  const wrapped: IsthmusRouter = {
    handlers: router.handlers,
    service(service, implementation, options) {
      router.service(service, implementation, optionsOf(options));
      return wrapped;
    },
    rpc(method, implementation, options) {
      router.rpc(method, implementation, optionsOf(options));
      return wrapped;
    },
  };
  return wrapped;
}
