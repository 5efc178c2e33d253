/** Iterators of a stream's request messages. */
import { createAsyncIterable } from "@connectrpc/connect/protocol";

/** Property of iterators that leave a message as it is when the next one is asked for. */
export const KEEPS_MESSAGES = Symbol("isthmus.keepsMessages");

/** Whether an iterator leaves its messages as they are. Those of Connect's clients do. */
export function keepsMessages(iterator: AsyncIterator<unknown>): boolean {
  return Object.getPrototypeOf(iterator) === createAsyncIterable.prototype || KEEPS_MESSAGES in iterator;
}

/** An iterator from which some values have been pulled, with these values put back. */
export async function* resumed(values: readonly unknown[], iterator: AsyncIterator<unknown>): AsyncGenerator {
  try {
    yield* values;
    for (let result = await iterator.next(); result.done !== true; result = await iterator.next()) yield result.value;
  } finally {
    await iterator.return?.();
  }
}
