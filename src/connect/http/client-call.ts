/** A call to an HTTP address, from its start until its messages have been read. */
import { Code, ConnectError } from "@connectrpc/connect";
import { onAbortOf, ownSignal } from "../../rpc/abort.js";
import { abortError } from "../../rpc/errors.js";
import { drain } from "../interception.js";

/**
 * Calls whose answers' users forgot them: a loop that is left with `break` is one where Connect is older than 2.3: its
 * clients do not pass on that it ended.
 */
const forgotten = new FinalizationRegistry<HttpCall>((call) => call.stopped());

/** A call's signal: the user's, and the transport's end. */
export class HttpCall {
  private readonly controller = new AbortController();
  private readonly outer: AbortSignal | undefined;
  private readonly onEnd: (call: HttpCall) => void;
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

  /** Messages of the call, with which it ends. A reader that stops early cancels it, also one that took nothing. */
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

/** What the user has of a stream. SUBTLE: who waits for a message holds it, also if nobody else does. */
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
   * Connect knows what it means since version 2.3. Before, the call is aborted, and the interceptors are told by an
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
