/** What interceptors on both ends need: their order, and streams of messages as they see them. */
import type { DescMessage, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { create, isMessage } from "@bufbuild/protobuf";
import type { Interceptor, StreamRequest, StreamResponse, UnaryRequest, UnaryResponse } from "@connectrpc/connect";

/** The functions that interceptors wrap: `innermost` behind all of them, the first one outermost. */
export function chain(interceptors: readonly Interceptor[], innermost: ((request: UnaryRequest) => Promise<UnaryResponse>) | ((request: StreamRequest) => Promise<StreamResponse>)): ReturnType<Interceptor> {
  return interceptors.reduceRight((next, interceptor) => interceptor(next), innermost as ReturnType<Interceptor>);
}

/** The same stream with messages in place of what `create` takes for one. */
export function mapMessages<D extends DescMessage>(input: AsyncIterable<unknown>, schema: D): AsyncIterable<MessageShape<D>> {
  const transform = (result: IteratorResult<unknown>): IteratorResult<MessageShape<D>> => {
    if (result.done === true) return { done: true, value: undefined };
    const { value } = result;
    return { done: false, value: isMessage(value, schema) ? value : create(schema, value as MessageInitShape<D>) };
  };
  return {
    [Symbol.asyncIterator]() {
      const iterator = input[Symbol.asyncIterator]();
      const mapped: AsyncIterator<MessageShape<D>> = { next: () => iterator.next().then(transform) };
      if (iterator.throw !== undefined) mapped.throw = (error: unknown) => iterator.throw!(error).then(transform);
      if (iterator.return !== undefined) mapped.return = () => iterator.return!().then(transform);
      return mapped;
    },
  };
}
