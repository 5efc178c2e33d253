/** The runner's service: every answer is what the request asks for, and tells what was received. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Message } from "@bufbuild/protobuf";
import type { ConnectRouter, HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { ConnectError } from "@connectrpc/connect";
import type {
  BidiRequest,
  Header,
  RpcError,
  Schema,
  StreamRequest,
  StreamResponseDefinition,
  UnaryRequest,
  UnaryResponseDefinition,
} from "./schema.js";

export function routesOf(schema: Schema): (router: ConnectRouter) => void {
  /** What the handler sees of the call; a client gets it with the first answer, or with the error. */
  function requestInfo(requests: readonly Message[], context: HandlerContext): Message {
    const timeoutMs = context.timeoutMs();
    return schema.create("ConformancePayload.RequestInfo", {
      requestHeaders: headersOf(context.requestHeader),
      requests: requests.map((request) => schema.pack(request)),
      ...(timeoutMs === undefined ? {} : { timeoutMs: BigInt(Math.round(timeoutMs)) }),
    });
  }

  function errorOf({ code, message = "", details }: RpcError, more: readonly Message[]): ConnectError {
    const messages = [...details.map((detail) => schema.unpack(detail)), ...more];
    const outgoing = messages.map((value) => ({ desc: schema.typeOf(value), value }));
    return new ConnectError(message, code, undefined, outgoing);
  }

  async function unary(
    definition: UnaryResponseDefinition | undefined,
    requests: readonly Message[],
    context: HandlerContext,
  ) {
    setMetadata(definition, context);
    const { response, responseDelayMs = 0 } = definition ?? {};
    if (responseDelayMs > 0) await sleep(responseDelayMs);
    const info = requestInfo(requests, context);
    if (response?.case === "error") throw errorOf(response.value, [info]);
    return { payload: { requestInfo: info, ...(response?.case === "responseData" ? { data: response.value } : {}) } };
  }

  /** The answers from number `first` on, and the error after the last. */
  async function* answers(
    definition: StreamResponseDefinition | undefined,
    first: number,
    requests: readonly Message[],
    context: HandlerContext,
  ) {
    if (definition === undefined) return;
    const { responseData, responseDelayMs, error } = definition;
    for (let number = first; number < responseData.length; number++) {
      if (responseDelayMs > 0) await sleep(responseDelayMs);
      yield {
        payload: {
          data: responseData[number],
          ...(number === 0 ? { requestInfo: requestInfo(requests, context) } : {}),
        },
      };
    }
    if (error !== undefined) throw errorOf(error, responseData.length === 0 ? [requestInfo(requests, context)] : []);
  }

  const implementation = {
    unary: (request: UnaryRequest, context: HandlerContext) => unary(request.responseDefinition, [request], context),
    idempotentUnary: (request: UnaryRequest, context: HandlerContext) =>
      unary(request.responseDefinition, [request], context),
    async clientStream(requests: AsyncIterable<UnaryRequest>, context: HandlerContext) {
      const received: UnaryRequest[] = [];
      for await (const request of requests) received.push(request);
      return unary(received[0]?.responseDefinition, received, context);
    },
    async *serverStream(request: StreamRequest, context: HandlerContext) {
      setMetadata(request.responseDefinition, context);
      yield* answers(request.responseDefinition, 0, [request], context);
    },
    async *bidiStream(requests: AsyncIterable<BidiRequest>, context: HandlerContext) {
      let first: BidiRequest | undefined;
      let answered = 0;
      const received: Message[] = [];
      for await (const request of requests) {
        if (first === undefined) setMetadata(request.responseDefinition, context);
        first ??= request;
        received.push(request);
        if (!first.fullDuplex) continue;
        const { responseData = [], responseDelayMs = 0 } = first.responseDefinition ?? {};
        if (answered >= responseData.length) break;
        if (responseDelayMs > 0) await sleep(responseDelayMs);
        yield { payload: { data: responseData[answered], requestInfo: requestInfo(received.splice(0), context) } };
        answered++;
      }
      yield* answers(first?.responseDefinition, answered, received, context);
    },
  };
  return (router) => {
    router.service(schema.service, implementation as unknown as ServiceImpl<typeof schema.service>);
  };
}

export function headersOf(headers: Headers): Header[] {
  return [...headers].map(([name, value]) => ({ name, value: [value] }));
}

export function addHeaders(headers: Headers, more: readonly Header[]): Headers {
  for (const { name, value } of more) for (const one of value) headers.append(name, one);
  return headers;
}

function setMetadata(
  definition: UnaryResponseDefinition | StreamResponseDefinition | undefined,
  context: HandlerContext,
): void {
  addHeaders(context.responseHeader, definition?.responseHeaders ?? []);
  addHeaders(context.responseTrailer, definition?.responseTrailers ?? []);
}
