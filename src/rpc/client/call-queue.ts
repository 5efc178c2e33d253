/**
 * Calls that wait because the server takes no more at once. They start in order of arrival. A call whose deadline
 * passes or whose signal aborts leaves the queue at once.
 */
import type { ConnectError } from "@connectrpc/connect";
import { clearTimeout, nowMs, setTimeout } from "../../os/timers.js";
import { onAbortOf } from "../abort.js";
import { timedOut } from "../deadline.js";
import { abortError } from "../errors.js";

interface QueuedCall {
  readonly start: (timeoutMs: number | undefined) => void;
  readonly deadline: number | undefined;
  readonly stopWatching: () => void;
  gone: boolean;
}

/** Slots of calls that left the queue are removed in batches of at least this size. */
const CLEAR_MIN = 1024;

export class CallQueue {
  /** The queued calls in order of arrival. Entries before index `first` have left. */
  private calls: QueuedCall[] = [];
  private first = 0;
  private waiting = 0;

  get size(): number {
    return this.waiting;
  }

  /**
   * @param timeoutMs undefined: no deadline
   * @param start called in the call's turn, with the time that is left
   * @param cancel called instead if the call ends while it waits
   */
  add(
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
    start: (timeoutMs: number | undefined) => void,
    cancel: (error: ConnectError) => void,
  ): void {
    if (signal?.aborted === true) return cancel(abortError(signal));
    const leave = (error: ConnectError) => {
      call.gone = true;
      call.stopWatching();
      this.waiting--;
      cancel(error);
    };
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it listens to this signal
    const onAbort = () => leave(abortError(signal!));
    const timer =
      timeoutMs === undefined
        ? undefined
        : setTimeout(() => leave(timedOut(" while it waited for other calls to end")), timeoutMs);
    if (signal !== undefined) onAbortOf(signal, onAbort);
    const call: QueuedCall = {
      start,
      deadline: timeoutMs === undefined ? undefined : nowMs() + timeoutMs,
      stopWatching() {
        clearTimeout(timer);
        signal?.removeEventListener("abort", onAbort);
      },
      gone: false,
    };
    this.calls.push(call);
    this.waiting++;
  }

  /** Starts the call that has waited longest. The queue must not be empty. */
  startNext(): void {
    while (this.calls[this.first].gone) this.first++;
    const call = this.calls[this.first++];
    if (this.first >= CLEAR_MIN && this.first * 2 >= this.calls.length) {
      this.calls = this.calls.slice(this.first);
      this.first = 0;
    }
    this.waiting--;
    call.stopWatching();
    call.start(call.deadline === undefined ? undefined : Math.max(call.deadline - nowMs(), 1));
  }
}
