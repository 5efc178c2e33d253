/**
 * Messages that one side pushes and the other pulls. A callback tells the pushing side when it may reuse a message's
 * memory: when the next message is asked for, because until then the pulling side may still be sending.
 */
import { queueMicrotask } from "../os/timers.js";
import { KEEPS_MESSAGES } from "../rpc/client/request-messages.js";

type Taken = (error?: Error | null) => void;

export class MessageQueue<T> implements AsyncIterable<T>, AsyncIterator<T, undefined> {
  readonly [KEEPS_MESSAGES] = true;
  private readonly waiting: { readonly message: T; readonly taken: Taken | undefined }[] = [];
  /** Callback of the message that was pulled last. */
  private taken: Taken | undefined;
  private ended = false;
  private failure: Error | undefined;
  private closed = false;
  private pull:
    | { readonly resolve: (result: IteratorResult<T, undefined>) => void; readonly reject: (error: Error) => void }
    | undefined;

  /** @param taken called when the message has been sent, so that the next one may be pushed, or never will be */
  push(message: T, taken?: Taken): void {
    if (this.closed || this.ended) {
      // Not an error: the end of the call reports it.
      if (taken !== undefined) queueMicrotask(taken);
      return;
    }
    this.waiting.push({ message, taken });
    this.serve();
  }

  /** No more messages follow. */
  end(failure?: Error): void {
    if (this.ended) return;
    this.ended = true;
    this.failure = failure;
    this.serve();
  }

  /** The reader wants no more messages. Waiting ones are dropped. */
  close(): void {
    this.closed = true;
    this.releaseTaken();
    for (const { taken } of this.waiting.splice(0)) if (taken !== undefined) queueMicrotask(taken);
    this.serve();
  }

  /** Whether exactly one message waits, and no more follow. */
  get isSingle(): boolean {
    return this.ended && this.failure === undefined && this.waiting.length === 1;
  }

  next(): Promise<IteratorResult<T, undefined>> {
    this.releaseTaken();
    return new Promise((resolve, reject) => {
      this.pull = { resolve, reject };
      this.serve();
    });
  }

  return(): Promise<IteratorResult<T, undefined>> {
    this.close();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  private releaseTaken(): void {
    const { taken } = this;
    this.taken = undefined;
    if (taken !== undefined) queueMicrotask(taken);
  }

  private serve(): void {
    const { pull } = this;
    if (pull === undefined) return;
    const first = this.waiting.shift();
    if (first === undefined && !this.ended && !this.closed) return;
    this.pull = undefined;
    if (first !== undefined) {
      this.taken = first.taken;
      pull.resolve({ done: false, value: first.message });
    } else if (this.failure !== undefined) {
      pull.reject(this.failure);
    } else {
      pull.resolve({ done: true, value: undefined });
    }
  }
}
