/**
 * The sending end of one direction of a stream: pulls one message at a time from the user's iterable, when the last one
 * has left and there is credit.
 *
 * CREDIT-1  A message begins only if there is credit left. It may cost more than that: then the next one waits until
 *           the receiver has granted the debt too. So any message can be sent, and the receiver keeps at most its
 *           window plus one message.
 * STREAM-W  SUBTLE: the iterable is never pulled from within a send, a drain or a pump. A writer that waited continues
 *           in a microtask, in the async context in which it began to wait, which is its user's. The iterable is also
 *           closed in a context of the stream's own (CONTEXT-2), because closing runs its `finally`.
 */
import { AsyncResource } from "node:async_hooks";
import { Violation } from "../../memory/shm/violation.js";
import { MESSAGE_COST_BYTES } from "../../wire/frame.js";
import { adopt } from "../foreign.js";
import { KEPT } from "../../send/send-queue.js";
import { inNextTurn, pullBudgetLeft } from "./pull-budget.js";

/** The call that the messages belong to. */
export interface MessageSource {
  /** As `SendQueue.send`. If the message is kept, `StreamWriter.onSent` must be called once it has left. */
  sendMessage(message: unknown): number;
  /** The iterable has ended, and all messages have left. */
  onDrained(): void;
  /** The iterable threw, or a message could not be sent. */
  onBroken(error: unknown, isSending: boolean): void;
}

// All writers share one executor, so waiting makes no closure.
let newResolve: () => void;
const executor = (resolve: () => void) => {
  newResolve = resolve;
};
const nothing = () => undefined;

export class StreamWriter {
  private readonly source: MessageSource;
  private readonly windowBytes: number;
  private credit: number;
  private iterator: AsyncIterator<unknown> | undefined;
  /** A message waits in the send queue. */
  private held = false;
  private stopped = false;
  private ended = false;
  /** Continues a writer that waits. */
  private wake: (() => void) | undefined;
  /** The async context in which the stream began. */
  private readonly context = new AsyncResource("IsthmusStream", { requireManualDestroy: true });

  /** @param windowBytes the initial credit, and its upper limit */
  constructor(source: MessageSource, windowBytes: number) {
    this.source = source;
    this.windowBytes = windowBytes;
    this.credit = windowBytes;
  }

  start(iterator: AsyncIterator<unknown>): void {
    this.iterator = iterator;
    if (this.stopped) void this.close(iterator, undefined);
    else this.pull();
  }

  /** Waits before the first message, as if a message were in the send queue. `release` continues. */
  hold(): void {
    this.held = true;
  }

  private readonly pull = (): void => {
    if (this.stopped) return;
    if (this.credit <= 0 || this.held) return this.wait();
    if (!pullBudgetLeft()) {
      inNextTurn(this.goOn);
      return this.wait();
    }
    let result: IteratorResult<unknown> | Promise<IteratorResult<unknown>>;
    let promise: Promise<IteratorResult<unknown>> | undefined;
    try {
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- `start` sets it
      result = this.iterator!.next();
      promise = adopt(result);
    } catch (error) {
      return this.fail(error);
    }
    // SUBTLE: an iterator that returns no promise continues in a microtask too.
    (promise ?? Promise.resolve(result)).then(this.onNext, this.onThrown);
  };

  private readonly onNext = (result: IteratorResult<unknown>): void => {
    if (this.stopped) return;
    let done: boolean | undefined;
    let message: unknown;
    try {
      // The result comes from user code: it may not be an object, or have getters. SUBTLE: a string has no `done` and
      // would be a stream without an end.
      if (typeof result !== "object" || result === null)
        throw new TypeError(`the iterator's result is not an object but ${result === null ? "null" : typeof result}`);
      done = result.done;
      if (done !== true) message = result.value;
    } catch (error) {
      return this.fail(error);
    }
    if (done === true) {
      this.ended = true;
      return this.source.onDrained();
    }
    let messageLength: number;
    try {
      messageLength = this.source.sendMessage(message);
    } catch (error) {
      return this.source.onBroken(error, true);
    }
    if (this.stopped) return;
    if (messageLength === KEPT) {
      this.held = true;
      return this.wait();
    }
    this.credit -= messageLength + MESSAGE_COST_BYTES;
    this.pull();
  };

  private readonly onThrown = (error: unknown): void => {
    if (!this.stopped) this.fail(error);
  };

  private fail(error: unknown): void {
    this.ended = true;
    this.source.onBroken(error, false);
  }

  private wait(): void {
    // STREAM-W
    const woken = new Promise<void>(executor);
    this.wake = newResolve;
    newResolve = nothing;
    void woken.then(this.pull);
  }

  private readonly goOn = (): void => {
    const { wake } = this;
    this.wake = undefined;
    wake?.();
  };

  /** The message that was kept has left. */
  onSent(messageLength: number): void {
    this.held = false;
    this.credit -= messageLength + MESSAGE_COST_BYTES;
    if (this.credit > 0) this.goOn();
  }

  /** Ends `hold`. The first frame costs no credit. */
  release(): void {
    this.held = false;
    this.goOn();
  }

  /** The receiver grants more credit. @throws Violation */
  onCredit(bytes: number): void {
    this.credit += bytes;
    if (this.credit > this.windowBytes)
      throw new Violation(
        "CREDIT-2",
        `a stream was granted ${bytes} bytes, ${this.credit - this.windowBytes} more than it had used`,
      );
    if (this.credit > 0 && !this.held) this.goOn();
  }

  /**
   * Sends nothing more.
   * @param error why the stream failed, for the iterable
   * @returns settles when the iterable has ended; undefined if it had ended before, or was not started
   */
  stop(error: Error | undefined): Promise<void> | undefined {
    if (this.stopped) return undefined;
    this.stopped = true;
    this.wake = undefined;
    return this.iterator === undefined || this.ended ? undefined : this.close(this.iterator, error);
  }

  /** Ends an iterable in the stream's context. Never rejects. */
  close(iterator: AsyncIterator<unknown>, error: Error | undefined): Promise<void> {
    return this.context.runInAsyncScope(closeIterator, undefined, iterator, error);
  }
}

/** Ends an iterable early, so that its `catch` and `finally` run. Never rejects. */
export async function closeIterator(iterator: AsyncIterator<unknown>, error: Error | undefined): Promise<void> {
  try {
    // SUBTLE: both at once, because `throw` may never settle.
    const thrown = error === undefined ? undefined : iterator.throw?.(error);
    void Promise.resolve(thrown).catch(nothing);
    await iterator.return?.();
  } catch {
    // The stream is over in any case.
  }
}
