/** Services that were written for grpc-js, served by Isthmus: generated definitions and their implementations as they are. */
import type { DescMessage, DescMethod } from "@bufbuild/protobuf";
import type { ConnectRouter, HandlerContext } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Metadata, MethodDefinition, ServiceDefinition, UntypedHandleCall, UntypedServiceImplementation } from "@grpc/grpc-js";
import { isOwnRouter, OWN_CODEC } from "../connect/routes.js";
import { serializeError } from "../rpc/errors.js";
import { createBytesCodec, methodOf } from "./bytes-codec.js";
import type { Failure } from "./server-call.js";
import { GrpcServerCall, toConnectError } from "./server-call.js";

/** A value of generated code, in a shape that passes for a message of a method without fields. */
interface Envelope {
  readonly $typeName: string;
  readonly value: unknown;
  /** Of an answer: what it was serialised to when the handler gave it. */
  readonly bytes?: Uint8Array;
}

type Handler = (call: GrpcServerCall, callback?: (error: Failure | null, value?: unknown, trailer?: Metadata) => void) => void;

/**
 * Registers a service of grpc-js with an Isthmus server: `routes: (router) => addGrpcService(router, EchoService, implementation)`, with what
 * `server.addService(EchoService, implementation)` takes. Calls of clients of all kinds, Connect's and grpc-js's, reach it.
 *
 * Handlers get calls as grpc-js makes them, but: metadata that they send goes out with the first answer, and `getMetricsRecorder` is missing.
 * @throws TypeError if the router is another's, such as Connect's for HTTP, or if a method has no implementation
 */
export function addGrpcService<T extends UntypedServiceImplementation>(router: ConnectRouter, definition: ServiceDefinition<T>, implementation: T): ConnectRouter {
  if (!isOwnRouter(router)) throw new TypeError("addGrpcService: this router is not an Isthmus server's, but one for HTTP; serve HTTP with grpc-js's own Server");
  for (const [name, method] of Object.entries(definition as ServiceDefinition)) {
    const found = implementation[name] ?? implementation[method.originalName ?? name];
    if (found === undefined) {
      throw new TypeError(`addGrpcService: the implementation lacks ${name} (${method.path})`);
    }
    register(router, method, found.bind(implementation));
  }
  return router;
}

// eslint-disable-next-line @typescript-eslint/no-explicit-any -- grpc-js's own type
type AnyMethod = MethodDefinition<any, any>;

function register(router: ConnectRouter, definition: AnyMethod, implementation: UntypedHandleCall): void {
  const kind = definition.requestStream ? (definition.responseStream ? "bidi_streaming" : "client_streaming") : definition.responseStream ? "server_streaming" : "unary";
  const method = methodOf(definition.path, kind);
  const [input, output] = [method.input.typeName, method.output.typeName];
  give(method.input, (envelope) => definition.requestSerialize(envelope.value), (bytes) => ({ $typeName: input, value: definition.requestDeserialize(bytes) }));
  // As grpc-js: at once, so the handler may change the answer; and the serialiser may use its memory again, so its bytes are copied.
  const serialize = (value: unknown): Uint8Array => Buffer.from(definition.responseSerialize(value));
  give(method.output, (envelope) => envelope.bytes ?? serialize(envelope.value), (bytes) => ({ $typeName: output, value: definition.responseDeserialize(bytes) }));
  const handle = implementation as unknown as Handler;
  const seal = (value: unknown): Envelope => ({ $typeName: output, value, bytes: serialize(value) });
  const open = (message: unknown) => (message as Envelope).value;
  const one = (call: GrpcServerCall) => askForOne(call, handle);
  const many = (call: GrpcServerCall) => answersOf(call, handle);
  const handlers: Record<DescMethod["methodKind"], unknown> = {
    unary: (request: unknown, context: HandlerContext) => one(new GrpcServerCall(context, open(request), undefined, seal)),
    server_streaming: (request: unknown, context: HandlerContext) => many(new GrpcServerCall(context, open(request), undefined, seal)),
    client_streaming: (requests: AsyncIterable<unknown>, context: HandlerContext) => one(new GrpcServerCall(context, undefined, opened(requests, open), seal)),
    bidi_streaming: (requests: AsyncIterable<unknown>, context: HandlerContext) => many(new GrpcServerCall(context, undefined, opened(requests, open), seal)),
  };
  router.rpc(method, handlers[kind] as Parameters<ConnectRouter["rpc"]>[1], { leases: "copied" } as Parameters<ConnectRouter["rpc"]>[2]);
}

function give(schema: DescMessage, write: (envelope: Envelope) => Uint8Array, read: (bytes: Buffer) => Envelope): void {
  Object.assign(schema, { [OWN_CODEC]: createBytesCodec((message) => write(message as Envelope), read) });
}

async function* opened(requests: AsyncIterable<unknown>, open: (message: unknown) => unknown): AsyncGenerator<unknown> {
  for await (const request of requests) yield open(request);
}

/** Runs a handler that answers by its callback. */
function askForOne(call: GrpcServerCall, handle: Handler): Promise<unknown> {
  const answer = new Promise<unknown>((resolve, reject) => {
    call.on("error", (error: Failure) => reject(toConnectError(error, undefined)));
    call.on("cancelled", () => reject(new ConnectError("the client canceled the call", Code.Canceled)));
    try {
      handle(call, (error, value, trailer) => {
        if (error !== null && error !== undefined) return reject(toConnectError(error, trailer));
        call.sendTrailers(trailer);
        try {
          resolve(call.seal(value));
        } catch (error) {
          reject(serializeError(error));
        }
      });
    } catch {
      // As grpc-js: what a handler throws is nobody's business but its own.
      reject(new ConnectError("Unknown error", Code.Unknown));
    }
  });
  return answer.finally(() => call.finish());
}

/** Runs a handler that writes its answers. */
async function* answersOf(call: GrpcServerCall, handle: Handler): AsyncGenerator<unknown> {
  try {
    try {
      handle(call);
    } catch {
      throw new ConnectError("Unknown error", Code.Unknown);
    }
    yield* call.answers;
  } finally {
    call.finish();
  }
}
