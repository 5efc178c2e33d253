/** The messages of a stream's response, as its user pulls them. */
import type { ConnectError } from "@connectrpc/connect";
import { connectErrorOf } from "../errors.js";

/** The stream that the messages belong to. */
export interface ResponseStream {
  /** @param reading stays reachable while this waits for a message */
  next(reading: ResponseMessages): Promise<IteratorResult<unknown, undefined>>;
  /** The user wants no more messages. @param error the reason that the user gave */
  leave(error?: ConnectError): void;
}

/**
 * SUBTLE: nothing that lives longer refers to this object, except while it waits for a message. So it becomes garbage
 * once the user has dropped it.
 */
export class ResponseMessages implements AsyncIterableIterator<unknown> {
  private readonly stream: ResponseStream;

  constructor(stream: ResponseStream) {
    this.stream = stream;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<IteratorResult<unknown>> {
    return this.stream.next(this);
  }

  return(value?: unknown): Promise<IteratorResult<unknown>> {
    this.stream.leave();
    return Promise.resolve({ done: true, value });
  }

  throw(error?: unknown): Promise<IteratorResult<unknown>> {
    const failure = connectErrorOf(error);
    this.stream.leave(failure);
    return Promise.reject(failure);
  }
}
