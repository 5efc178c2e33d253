/** A call to an HTTP address, from its start until its messages have been read. */
import { Code, ConnectError } from "@connectrpc/connect";
import { onAbortOf, ownSignal } from "../../rpc/abort.js";
import { abortError } from "../../rpc/errors.js";
import { drain } from "../interception.js";

/**
 * Cancels calls whose messages were garbage-collected by their users. With Connect older than 2.3, a loop left with
 * `break` is such a call, because its clients do not propagate the end.
 */
const forgotten = new FinalizationRegistry<HttpCall>((call) => call.stopped());

/** The signal of a call. It aborts with the user's signal, and when the transport closes. */
export class HttpCall {
  private readonly controller = new AbortController();
  private readonly outer: AbortSignal | undefined;
  private readonly onEnd: (call: HttpCall) => void;
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it listens to this signal
  private readonly onAbort = () => this.controller.abort(abortError(this.outer!));

  constructor(outer: AbortSignal | undefined, onEnd: (call: HttpCall) => void) {
    this.outer = outer === undefined ? undefined : ownSignal(outer);
    this.onEnd = onEnd;
    if (this.outer?.aborted === true) this.onAbort();
    else if (this.outer !== undefined) onAbortOf(this.outer, this.onAbort);
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  abort(reason: ConnectError): void {
    this.controller.abort(reason);
  }

  end(): void {
    this.outer?.removeEventListener("abort", this.onAbort);
    this.onEnd(this);
  }

  /**
   * The messages of the call, which ends with them. A reader that stops early cancels the call, even if it has read
   * nothing.
   */
  endingWith<M>(messages: AsyncIterable<M>): AsyncIterable<M> {
    const iterator = new CallMessages(messages[Symbol.asyncIterator](), this);
    forgotten.register(iterator, this, iterator);
    return iterator;
  }

  stopped(): void {
    this.abort(new ConnectError("the client stopped reading", Code.Canceled));
    this.end();
  }
}

/**
 * The messages as their user sees them. SUBTLE: a pending `next` keeps this object alive, even if nothing else does.
 */
class CallMessages<M> implements AsyncIterableIterator<M> {
  private readonly iterator: AsyncIterator<M>;
  private readonly call: HttpCall;
  private isOver = false;

  constructor(iterator: AsyncIterator<M>, call: HttpCall) {
    this.iterator = iterator;
    this.call = call;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<M>> {
    if (this.isOver) return { done: true, value: undefined };
    try {
      const result = await this.iterator.next();
      if (result.done === true) this.end();
      return result;
    } catch (error) {
      this.end();
      throw error;
    }
  }

  /**
   * Connect's iterators have `return` since version 2.3. Without it, the call is aborted, and the interceptors get an
   * error.
   */
  async return(value?: unknown): Promise<IteratorResult<M>> {
    if (this.isOver) return { done: true, value };
    this.isOver = true;
    if (this.iterator.return === undefined) {
      this.call.stopped();
      await drain(this.iterator);
    } else {
      await this.iterator.return(value);
    }
    this.end();
    return { done: true, value };
  }

  async throw(reason?: unknown): Promise<IteratorResult<M>> {
    const error = ConnectError.from(reason);
    if (!this.isOver) {
      this.isOver = true;
      this.call.abort(error);
      await drain(this.iterator);
      this.end();
    }
    throw error;
  }

  private end(): void {
    this.isOver = true;
    forgotten.unregister(this);
    this.call.end();
  }
}
