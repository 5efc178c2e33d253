/** Shared by the interceptors of both ends: their order, and the streams of messages that they see. */
import type { DescMessage, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { create, isMessage } from "@bufbuild/protobuf";
import type { Interceptor, StreamRequest, StreamResponse, UnaryRequest, UnaryResponse } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import { inNextTurn, pullBudgetLeft } from "../rpc/stream/pull-budget.js";

/** Wraps `innermost` in the interceptors, the first one outermost. */
export function chain(
  interceptors: readonly Interceptor[],
  innermost:
    | ((request: UnaryRequest) => Promise<UnaryResponse>)
    | ((request: StreamRequest) => Promise<StreamResponse>),
): ReturnType<Interceptor> {
  return interceptors.reduceRight((next, interceptor) => interceptor(next), innermost as ReturnType<Interceptor>);
}

/** @throws ConnectError if the interceptors' result is not a response. Its other properties are not checked. */
export function checkResponse(
  response: UnaryResponse | StreamResponse | null | undefined,
  path: string,
  isStream: boolean,
): asserts response is UnaryResponse | StreamResponse {
  if (typeof response !== "object" || response === null) throw odd(path, `${String(response)} instead of a response`);
  const { message } = response as { message: unknown };
  if (isStream) {
    if (typeof (message as AsyncIterable<unknown> | undefined)?.[Symbol.asyncIterator] !== "function")
      throw odd(path, "a response whose `message` is not an AsyncIterable");
  } else if (typeof message !== "object" || message === null) {
    throw odd(path, "a response without a message");
  }
}

/** Headers or trailers from a server's interceptors. @throws ConnectError if they are not Headers */
export function checkedHeaders(headers: unknown, path: string): Headers {
  if (headers instanceof Headers) return headers;
  if (typeof (headers as Partial<Headers> | null | undefined)?.forEach !== "function")
    throw odd(path, "a response whose `header` and `trailer` are not both Headers");
  return new Headers([...(headers as Headers)]);
}

/**
 * The same stream, which fails if an interceptor yields something that is not a message. It would be sent as an empty
 * one.
 */
export function checkedMessages(messages: AsyncIterable<unknown>, path: string): AsyncIterable<unknown> {
  const check = (result: IteratorResult<unknown>): IteratorResult<unknown> => {
    if (result.done !== true && (typeof result.value !== "object" || result.value === null))
      throw odd(path, `${String(result.value)} among the messages`);
    return result;
  };
  return {
    [Symbol.asyncIterator]() {
      const iterator = messages[Symbol.asyncIterator]();
      const checked: AsyncIterator<unknown> = { next: () => Promise.resolve(iterator.next()).then(check) };
      /* eslint-disable @typescript-eslint/no-non-null-assertion -- an iterator keeps its methods */
      if (iterator.throw !== undefined) checked.throw = (error: unknown) => iterator.throw!(error);
      if (iterator.return !== undefined) checked.return = () => iterator.return!();
      /* eslint-enable @typescript-eslint/no-non-null-assertion */
      return checked;
    },
  };
}

/**
 * Pulls until the interceptors of a finished call have ended too. An interceptor that never ends is pulled forever, but
 * does not keep anything else from running.
 */
export async function drain(iterator: AsyncIterator<unknown>): Promise<void> {
  try {
    while ((await iterator.next()).done !== true) {
      if (!pullBudgetLeft()) await new Promise<void>(inNextTurn);
    }
  } catch {
    // The call has an outcome already.
  }
}

function odd(path: string, what: string): ConnectError {
  return new ConnectError(`an interceptor answered the call ${path} with ${what}`, Code.Internal);
}

/** The same stream with its values converted to messages by `create`. */
export function mapMessages<D extends DescMessage>(
  input: AsyncIterable<unknown>,
  schema: D,
): AsyncIterable<MessageShape<D>> {
  const transform = (result: IteratorResult<unknown>): IteratorResult<MessageShape<D>> => {
    if (result.done === true) return { done: true, value: undefined };
    const { value } = result;
    return { done: false, value: isMessage(value, schema) ? value : create(schema, value as MessageInitShape<D>) };
  };
  return {
    [Symbol.asyncIterator]() {
      const iterator = input[Symbol.asyncIterator]();
      const mapped: AsyncIterator<MessageShape<D>> = { next: () => iterator.next().then(transform) };
      /* eslint-disable @typescript-eslint/no-non-null-assertion -- an iterator keeps its methods */
      if (iterator.throw !== undefined) mapped.throw = (error: unknown) => iterator.throw!(error).then(transform);
      if (iterator.return !== undefined) mapped.return = (value?: unknown) => iterator.return!(value).then(transform);
      /* eslint-enable @typescript-eslint/no-non-null-assertion */
      return mapped;
    },
  };
}
