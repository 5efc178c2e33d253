/** Connect's client, with a shorter way for the calls that need neither a response object nor interceptors. */
import type { DescMethodUnary, DescService } from "@bufbuild/protobuf";
import type { CallOptions, Client, Transport } from "@connectrpc/connect";
import { createClient as createConnectClient } from "@connectrpc/connect";
import type { HeadersInit } from "../types/client.js";
import type { CalledMethod } from "./local-transport.js";
import { LocalTransport } from "./local-transport.js";

/**
 * Creates a client. It has the type and the behavior of the one that Connect's `createClient` makes, over any transport.
 *
 * Unary calls over shared memory or a socket take less time: such a call makes one promise, which resolves with the
 * message. Calls with `onHeader` or `onTrailer`, streams, and calls over other transports or through interceptors go
 * through Connect's client.
 *
 * @example
 * ```ts
 * const transport = createIsthmusTransport({ address: "/run/echo.sock" });
 * const client = createClient(EchoService, transport);
 * const { text } = await client.echo({ text: "hi" }, { timeoutMs: 1000 });
 * ```
 * @throws TypeError if an argument is missing or is not what it should be
 */
export function createClient<S extends DescService>(service: S, transport: Transport): Client<S> {
  checkArguments(service, transport);
  const client = createConnectClient(service, transport);
  if (!LocalTransport.isLocal(transport)) return client;
  const methods = client as Record<string, UnaryFunction>;
  for (const method of service.methods) {
    if (method.methodKind !== "unary") continue;
    const { localName } = method;
    methods[localName] = unaryFunction(transport, method as DescMethodUnary, methods[localName]);
  }
  return client;
}

/** @throws TypeError that says what to write */
function checkArguments(service: unknown, transport: unknown): void {
  if (isService(service) && isTransport(transport)) return;
  if (isTransport(service) && isService(transport))
    throw new TypeError("createClient: the arguments are swapped; write createClient(service, transport)");
  if (!isService(service))
    throw new TypeError(
      `createClient: the first argument must be a service, but is ${nameOf(service)}; write createClient(service, transport), with the service from your generated code (a file that ends with _pb)`,
    );
  throw new TypeError(
    `createClient: the second argument must be a transport, but is ${nameOf(transport)}; write createClient(service, createIsthmusTransport({ address }))`,
  );
}

function isService(value: unknown): boolean {
  return Array.isArray(fieldsOf(value).methods);
}

function isTransport(value: unknown): boolean {
  const { unary, stream } = fieldsOf(value);
  return typeof unary === "function" || typeof stream === "function";
}

function fieldsOf(value: unknown): { readonly [name in "kind" | "methods" | "unary" | "stream"]?: unknown } {
  return typeof value === "object" && value !== null ? value : {};
}

/** What a value is, for errors. */
function nameOf(value: unknown): string {
  if (value === undefined || value === null) return String(value);
  const { kind } = fieldsOf(value);
  if (isService(value)) return "a service";
  if (typeof kind === "string") return `a descriptor of kind "${kind}"`;
  return typeof value === "object" ? "another object" : `a ${typeof value}`;
}

type UnaryFunction = (input: unknown, options?: CallOptions) => Promise<unknown>;

/** @param connects the same method of Connect's client */
function unaryFunction(transport: LocalTransport, descriptor: DescMethodUnary, connects: UnaryFunction): UnaryFunction {
  const called: CalledMethod = { descriptor, clientMethod: undefined };
  return (input, options) => {
    try {
      if (transport.hasPlainUnary && (options?.onHeader ?? options?.onTrailer) === undefined)
        return transport.unaryMessage(
          called,
          options?.signal,
          options?.timeoutMs,
          options?.headers as HeadersInit | undefined,
          input,
          options?.contextValues,
        );
    } catch {
      // A property of the options cannot be read. Connect's client decides what becomes of the call.
    }
    return connects(input, options);
  };
}
