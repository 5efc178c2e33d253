/**
 * Messages that one side pushes, with a callback for when its bytes are its own again, and the other pulls. That is
 * when the next message is asked for: until then whoever pulled the last one may still be sending it.
 */
import { queueMicrotask } from "../os/timers.js";
import { KEEPS_MESSAGES } from "../rpc/client/request-messages.js";

type Taken = (error?: Error | null) => void;

export class MessageQueue<T> implements AsyncIterable<T>, AsyncIterator<T, undefined> {
  readonly [KEEPS_MESSAGES] = true;
  private readonly waiting: { readonly message: T; readonly taken: Taken | undefined }[] = [];
  /** Of the message that was pulled last. */
  private taken: Taken | undefined;
  private ended = false;
  private failure: Error | undefined;
  private closed = false;
  private pull:
    | { readonly resolve: (result: IteratorResult<T, undefined>) => void; readonly reject: (error: Error) => void }
    | undefined;

  /** @param taken called when the message was sent, so that the next may be pushed, or never will be */
  push(message: T, taken?: Taken): void {
    if (this.closed || this.ended) {
      // Not an error: the end of the call tells.
      if (taken !== undefined) queueMicrotask(taken);
      return;
    }
    this.waiting.push({ message, taken });
    this.serve();
  }

  /** No further messages. */
  end(failure?: Error): void {
    if (this.ended) return;
    this.ended = true;
    this.failure = failure;
    this.serve();
  }

  /** Nobody pulls any more: what waits is dropped. */
  close(): void {
    this.closed = true;
    this.releaseTaken();
    for (const { taken } of this.waiting.splice(0)) if (taken !== undefined) queueMicrotask(taken);
    this.serve();
  }

  /** One message is here, and no other will follow. */
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
