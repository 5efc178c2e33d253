/**
 * One direction of a stream as its sender sees it: pulls the user's iterable, a message at a time, whenever the last
 * one is out and there is credit.
 *
 * CREDIT-1  A message is begun only with credit left. It may cost more than that: then the next one waits until the
 *           receiver has granted the debt, too. So any message can be sent, and what the receiver has to keep is
 *           bounded by its window and one message.
 * STREAM-W  SUBTLE: the iterable is never pulled from within a send, a drain or a pump: a writer that waits goes on in
 *           a microtask, in the async context in which it came to wait, which is that of its user. It is closed in a
 *           context of the stream's own, too (CONTEXT-2): closing runs the iterable's `finally`.
 */
import { AsyncResource } from "node:async_hooks";
import { Violation } from "../../memory/shared/violation.js";
import { MESSAGE_COST_BYTES } from "../../wire/frame.js";
import { adopt } from "../foreign.js";
import { KEPT } from "../../send/send-queue.js";
import { inNextTurn, pullBudgetLeft } from "./pull-budget.js";

/** Who the messages are sent for. */
export interface MessageSource {
  /** As `SendQueue.send`; if the message is kept, `StreamWriter.onSent` is to be called when it is out. */
  sendMessage(message: unknown): number;
  /** The iterable has come to its end, and all messages are out. */
  onDrained(): void;
  /** The iterable threw, or a message could not be sent. */
  onBroken(error: unknown, isSending: boolean): void;
}

// One executor for all: no closure each time a writer waits.
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
  /** A message is in the sendQueue. */
  private held = false;
  private stopped = false;
  private ended = false;
  /** Goes on, while it waits for something. */
  private wake: (() => void) | undefined;
  /** The context in which the stream was begun. */
  private readonly context = new AsyncResource("IsthmusStream", { requireManualDestroy: true });

  /** @param windowBytes the credit to start with, and the most that there may ever be */
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

  /** Waits as if a message was in the sendQueue, before the first: `onSent` goes on. */
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
      result = this.iterator!.next();
      promise = adopt(result);
    } catch (error) {
      return this.fail(error);
    }
    // One that answers without a promise does not keep its turn either.
    (promise ?? Promise.resolve(result)).then(this.onNext, this.onThrown);
  };

  private readonly onNext = (result: IteratorResult<unknown>): void => {
    if (this.stopped) return;
    let done: boolean | undefined;
    let message: unknown;
    try {
      // The user's: it may be no object, or have getters. SUBTLE: text has no `done` either, and would be a stream
      // without an end.
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

  /** The message that was kept is out. */
  onSent(messageLength: number): void {
    this.held = false;
    this.credit -= messageLength + MESSAGE_COST_BYTES;
    if (this.credit > 0) this.goOn();
  }

  /** What was held for has happened; it cost nothing. */
  release(): void {
    this.held = false;
    this.goOn();
  }

  /** The receiver grants more. @throws Violation */
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
   * Nothing more is sent.
   * @param error why, if the stream broke: the iterable is told
   * @returns settles when the iterable has ended; undefined if it has, or has not begun
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
    // Both at once: the first may wait for what never comes.
    const thrown = error === undefined ? undefined : iterator.throw?.(error);
    void Promise.resolve(thrown).catch(nothing);
    await iterator.return?.();
  } catch {
    // It is over anyway.
  }
}
