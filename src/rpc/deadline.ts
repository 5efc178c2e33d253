/** Timeouts as users and peers give them, and how a call that ran out of time fails. */
import { Code, ConnectError } from "@connectrpc/connect";

/** What a timer can count: 24.8 days. SUBTLE: given more, Node's timers fire at once. */
export const TIMER_MS_MAX = 2 ** 31 - 1;

/** The timeout in milliseconds, or undefined where there is none: not given, not positive, or longer than any timer. */
export function boundedTimeout(timeoutMs: number | undefined): number | undefined {
  return timeoutMs !== undefined && timeoutMs > 0 && timeoutMs <= TIMER_MS_MAX ? timeoutMs : undefined;
}

export function timedOut(when = ""): ConnectError {
  return new ConnectError(`the operation timed out${when}`, Code.DeadlineExceeded);
}
