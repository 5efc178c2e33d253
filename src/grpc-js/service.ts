/** Serves services that were written for grpc-js: generated definitions and their implementations as they are. */
import type { DescMessage, DescMethod } from "@bufbuild/protobuf";
import type { ConnectRouter, HandlerContext } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type {
  MethodDefinition,
  ServiceDefinition,
  UntypedHandleCall,
  UntypedServiceImplementation,
} from "@grpc/grpc-js";
import { Server } from "@grpc/grpc-js";
import { OWN_CODEC } from "../connect/descriptors.js";
import { isOwnRouter } from "../connect/server/routes.js";
import { adopt } from "../rpc/foreign.js";
import { createBytesCodec, methodOf } from "./bytes-codec.js";
import { MessageQueue } from "./queue.js";
import type { Answers, CallKind, Envelope } from "./server-call.js";
import { GrpcServerCall } from "./server-call.js";
import { thrownError } from "./status.js";

type Callback = (failure: unknown, value?: unknown, trailer?: unknown) => void;
type Handler = (call: GrpcServerCall, callback?: Callback) => unknown;

// eslint-disable-next-line @typescript-eslint/no-explicit-any -- grpc-js's own type
type AnyMethod = MethodDefinition<any, any>;

/**
 * Registers a service of grpc-js with an Isthmus server. Takes what `server.addService(definition, implementation)` of
 * grpc-js takes. Clients of Connect and of grpc-js can call it.
 *
 * Handlers get calls as in grpc-js, with two differences: metadata that they send goes out with the first response, and
 * `getMetricsRecorder` is missing. Methods that the implementation lacks respond with `UNIMPLEMENTED`.
 * @throws TypeError if the router is not an Isthmus server's, for example Connect's for HTTP; Error as grpc-js's
 * `addService`
 * @example
 * ```ts
 * const server = createIsthmusServer({
 *   routes: (router) => addGrpcService(router, EchoService, implementation),
 * });
 * ```
 */
export function addGrpcService<T extends UntypedServiceImplementation>(
  router: ConnectRouter,
  definition: ServiceDefinition<T>,
  implementation: T,
): ConnectRouter {
  if (!isOwnRouter(router))
    throw new TypeError(
      "addGrpcService: this router is not an Isthmus server's but one for HTTP; serve HTTP with grpc-js's own Server",
    );
  const registry = new Registry({ "grpc.enable_channelz": 0 });
  registry.addService(definition, implementation);
  for (const method of Object.values(definition as ServiceDefinition)) {
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- `addService` registered it
    register(router, method, registry.handlerOf(method.path)!);
  }
  return router;
}

/**
 * A server of grpc-js that never listens. grpc-js binds, checks and completes the implementations added to it.
 * Instrumentation that wraps `Server.prototype.register`, such as OpenTelemetry's, sees them.
 */
class Registry extends Server {
  private readonly registered = new Map<string, UntypedHandleCall>();

  override register<I, O>(...[path, handler, ...rest]: Parameters<typeof Server.prototype.register<I, O>>): boolean {
    this.registered.set(path, handler as UntypedHandleCall);
    return super.register(path, handler, ...rest);
  }

  handlerOf(path: string): UntypedHandleCall | undefined {
    // Not public, but instrumentation puts wrapped handlers here.
    const { handlers } = this as unknown as {
      readonly handlers?: ReadonlyMap<string, { readonly func: UntypedHandleCall }>;
    };
    return handlers?.get(path)?.func ?? this.registered.get(path);
  }
}

function register(router: ConnectRouter, definition: AnyMethod, implementation: UntypedHandleCall): void {
  const { path, requestStream, responseStream } = definition;
  const method = methodOf(
    path,
    requestStream
      ? responseStream
        ? "bidi_streaming"
        : "client_streaming"
      : responseStream
        ? "server_streaming"
        : "unary",
  );
  const [input, output] = [method.input.typeName, method.output.typeName];
  give(
    method.input,
    (envelope) => definition.requestSerialize(envelope.value),
    (bytes) => ({ $typeName: input, value: definition.requestDeserialize(bytes) as unknown }),
  );
  give(
    method.output,
    (envelope) => envelope.bytes ?? Buffer.from(definition.responseSerialize(envelope.value)),
    (bytes) => ({ $typeName: output, value: definition.responseDeserialize(bytes) as unknown }),
  );
  const kind: CallKind = {
    path,
    answerType: output,
    serialize: definition.responseSerialize,
    writesAnswers: responseStream,
  };
  const handle = implementation as unknown as Handler;
  const open = (message: unknown) => (message as Envelope).value;
  const handlers: Record<DescMethod["methodKind"], unknown> = {
    unary: (request: unknown, context: HandlerContext) => askForOne(kind, handle, context, open(request), undefined),
    server_streaming: (request: unknown, context: HandlerContext) =>
      askForMany(kind, handle, context, open(request), undefined),
    client_streaming: (requests: AsyncIterable<unknown>, context: HandlerContext) =>
      askForOne(kind, handle, context, undefined, opened(requests, open)),
    bidi_streaming: (requests: AsyncIterable<unknown>, context: HandlerContext) =>
      askForMany(kind, handle, context, undefined, opened(requests, open)),
  };
  router.rpc(
    method,
    handlers[method.methodKind] as Parameters<ConnectRouter["rpc"]>[1],
    { leases: "copied" } as Parameters<ConnectRouter["rpc"]>[2],
  );
}

function give(schema: DescMessage, write: (envelope: Envelope) => Uint8Array, read: (bytes: Buffer) => Envelope): void {
  Object.assign(schema, { [OWN_CODEC]: createBytesCodec((message) => write(message as Envelope), read) });
}

async function* opened(requests: AsyncIterable<unknown>, open: (message: unknown) => unknown): AsyncGenerator {
  for await (const request of requests) yield open(request);
}

/** Calls a handler. What it throws or rejects with ends the call. */
function run(handle: Handler, call: GrpcServerCall, callback?: Callback): void {
  try {
    adopt(handle(call, callback))?.catch((error: unknown) => call.fail(thrownError(error)));
  } catch (error) {
    call.fail(thrownError(error));
  }
}

/** Runs a handler that responds by its callback. */
function askForOne(
  kind: CallKind,
  handle: Handler,
  context: HandlerContext,
  request: unknown,
  requests: AsyncIterator<unknown> | undefined,
): Promise<Envelope> {
  return new Promise((resolve, reject) => {
    const call = new GrpcServerCall(kind, context, new SingleAnswer(resolve, reject), request, requests);
    run(handle, call, (failure, value, trailer) => call.respond(failure, value, trailer));
  });
}

/** Runs a handler that writes its responses. */
function askForMany(
  kind: CallKind,
  handle: Handler,
  context: HandlerContext,
  request: unknown,
  requests: AsyncIterator<unknown> | undefined,
): MessageQueue<Envelope> {
  const answers = new MessageQueue<Envelope>();
  run(handle, new GrpcServerCall(kind, context, answers, request, requests));
  return answers;
}

/** Takes the only response. The errors for none and for several are those of grpc-js. */
class SingleAnswer implements Answers {
  private readonly resolve: (answer: Envelope) => void;
  private readonly reject: (error: ConnectError) => void;
  private answer: Envelope | undefined;
  private hasTwo = false;

  constructor(resolve: (answer: Envelope) => void, reject: (error: ConnectError) => void) {
    this.resolve = resolve;
    this.reject = reject;
  }

  push(answer: Envelope, taken: (() => void) | undefined): void {
    this.hasTwo = this.answer !== undefined;
    this.answer ??= answer;
    taken?.();
  }

  end(error: ConnectError | undefined): void {
    if (error !== undefined) this.reject(error);
    else if (this.answer === undefined) this.reject(new ConnectError("No message received", Code.Unimplemented));
    else if (this.hasTwo) this.reject(new ConnectError("Too many responses received", Code.Unimplemented));
    else this.resolve(this.answer);
  }
}
