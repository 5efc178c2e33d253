/** One call as the runner describes it, and what came of it. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Message } from "@bufbuild/protobuf";
import type { CallOptions, Transport } from "@connectrpc/connect";
import { ConnectError, createClient } from "@connectrpc/connect";
import { addHeaders, headersOf } from "./service.js";
import type { CancelTiming, ClientCompatRequest, Header, Response, RpcError, Schema } from "./schema.js";
import { FULL_DUPLEX } from "./schema.js";

/** Of `ClientResponseResult`. */
export interface Result {
  responseHeaders: Header[];
  responseTrailers: Header[];
  readonly payloads: Message[];
  error?: RpcError;
  numUnsentRequests: number;
}

/** A client of the service, whose type is known at run time only. */
type Client = Readonly<
  Record<string, (request: unknown, options: CallOptions) => Promise<Response> & AsyncIterable<Response>>
>;

/** @throws Error if the call cannot be made at all */
export async function call(schema: Schema, transport: Transport, request: ClientCompatRequest): Promise<Result> {
  const method = schema.service.methods.find(({ name }) => name === request.method);
  if (method === undefined) throw new Error(`the service has no method ${request.method}`);
  const messages = request.requestMessages.map((any) => schema.unpack(any));
  const isSingle = method.methodKind === "unary" || method.methodKind === "server_streaming";
  if (isSingle && messages.length !== 1)
    throw new Error(`${messages.length} messages for ${method.name}, which takes one`);

  const result: Result = { responseHeaders: [], responseTrailers: [], payloads: [], numUnsentRequests: 0 };
  const abort = new AbortController();
  const timing = timingOf(request);
  const answer = new Turn();
  let sent = 0;

  async function* outgoing(): AsyncGenerator<Message> {
    for (const message of messages) {
      if (request.requestDelayMs > 0) await sleep(request.requestDelayMs);
      const answered = answer.next;
      yield message;
      sent++;
      if (request.streamType === FULL_DUPLEX) await answered;
    }
    if (timing.case === "beforeCloseSend") abort.abort();
    abortAfterClose();
  }
  function abortAfterClose(): void {
    if (timing.case === "afterCloseSendMs") setTimeout(() => abort.abort(), timing.value);
  }
  function take(response: Response): void {
    result.payloads.push(response.payload ?? schema.create("ConformancePayload", {}));
    if (timing.case === "afterNumResponses" && result.payloads.length === timing.value) abort.abort();
    answer.take();
  }

  const options: CallOptions = {
    headers: addHeaders(new Headers(), request.requestHeaders),
    signal: abort.signal,
    ...(request.timeoutMs === undefined ? {} : { timeoutMs: request.timeoutMs }),
    onHeader: (header) => void (result.responseHeaders = headersOf(header)),
    onTrailer: (trailer) => void (result.responseTrailers = headersOf(trailer)),
  };
  const client = createClient(schema.service, transport) as unknown as Client;
  if (isSingle && request.requestDelayMs > 0) await sleep(request.requestDelayMs);
  try {
    const responses = client[method.localName](isSingle ? messages[0] : outgoing(), options);
    if (isSingle) abortAfterClose();
    if (method.methodKind === "unary" || method.methodKind === "client_streaming") take(await responses);
    else for await (const response of responses) take(response);
  } catch (error) {
    describe(ConnectError.from(error), result);
    if (!isSingle) result.numUnsentRequests = messages.length - sent;
  } finally {
    answer.take();
  }
  return result;
}

function timingOf({ cancel }: ClientCompatRequest): CancelTiming {
  // Nothing said of the time means at once.
  return cancel !== undefined && cancel.cancelTiming.case === undefined
    ? { case: "afterCloseSendMs", value: 0 }
    : (cancel?.cancelTiming ?? { case: undefined });
}

function describe(error: ConnectError, result: Result): void {
  const details = error.details.map((detail) => {
    if ("desc" in detail) throw new Error("a client got an error with details that were never sent");
    return { typeUrl: `type.googleapis.com/${detail.type}`, value: detail.value };
  });
  result.error = { code: error.code, message: error.rawMessage, details };
  // The metadata of an error are headers and trailers in one.
  const metadata = headersOf(error.metadata);
  if (result.responseHeaders.length === 0) result.responseHeaders = metadata;
  result.responseTrailers = metadata;
}

/** What one party waits for until the other has taken its turn, again and again. */
class Turn {
  next!: Promise<void>;
  private resolve!: () => void;

  constructor() {
    this.renew();
  }

  take(): void {
    const { resolve } = this;
    this.renew();
    resolve();
  }

  private renew(): void {
    this.next = new Promise((resolve) => (this.resolve = resolve));
  }
}
