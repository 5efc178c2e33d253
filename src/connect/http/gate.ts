/**
 * `requestGate` over HTTP. Connect calls the gate itself since version 2.3. For older versions, an interceptor outside
 * all others does. By then Connect has decoded the message of a unary call, but not passed it on.
 */
import type { HandlerContext, Interceptor, StreamRequest, UnaryRequest } from "@connectrpc/connect";
import { ConnectError } from "@connectrpc/connect";
import { handlerError } from "../../rpc/errors.js";
import type { RequestGate } from "../../rpc/server/gate.js";

/** Whether the installed version of Connect calls gates. */
export async function connectKnowsGates(): Promise<boolean> {
  const { validateUniversalHandlerOptions } = await import("@connectrpc/connect/protocol");
  const requestGate: RequestGate = () => undefined;
  return "requestGate" in validateUniversalHandlerOptions({ requestGate } as object);
}

/** The gate as a server's interceptor. */
export function gateInterceptor(gate: RequestGate): Interceptor {
  return (next) => async (request) => {
    const context = contextOf(request);
    const { responseHeader, responseTrailer } = context;
    try {
      await gate(context);
    } catch (error) {
      throw withMetadata(handlerError(error), [responseHeader, responseTrailer]);
    }
    const response = await next(request);
    add(responseHeader, response.header);
    add(responseTrailer, response.trailer);
    return response;
  };
}

function contextOf({
  method,
  service,
  requestMethod,
  url,
  signal,
  header,
  contextValues,
}: UnaryRequest | StreamRequest): HandlerContext {
  const type = header.get("content-type") ?? "";
  return {
    method,
    service,
    requestMethod,
    url,
    signal,
    requestHeader: header,
    responseHeader: new Headers(),
    responseTrailer: new Headers(),
    values: contextValues,
    protocolName: type.startsWith("application/grpc-web")
      ? "grpc-web"
      : type.startsWith("application/grpc")
        ? "grpc"
        : "connect",
    // Interceptors do not know the timeout.
    timeoutMs: () => undefined,
  };
}

/** Adds headers that the handler has not set itself. */
function add(from: Headers, to: Headers): void {
  from.forEach((value, name) => {
    if (!to.has(name)) to.set(name, value);
  });
}

/** Adds the headers that the gate has set to its error. */
function withMetadata(error: ConnectError, all: readonly Headers[]): ConnectError {
  const metadata = new Headers(error.metadata);
  for (const headers of all) headers.forEach((value, name) => metadata.append(name, value));
  const { rawMessage, code, details, cause } = error;
  const copy = new ConnectError(rawMessage, code, metadata, undefined, cause);
  copy.details = details;
  return copy;
}
