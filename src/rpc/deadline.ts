/** Timeouts from users and peers, and the error of a call that has timed out. */
import { Code, ConnectError } from "@connectrpc/connect";

/**
 * The longest time that timers count, in milliseconds: 24.8 days. SUBTLE: Node's timers fire at once if they are given
 * more.
 */
export const TIMER_MS_MAX = 2 ** 31 - 1;

/**
 * The timeout in milliseconds; undefined if there is none: not given, not positive, or longer than timers can count.
 */
export function boundedTimeout(timeoutMs: number | undefined): number | undefined {
  return timeoutMs !== undefined && timeoutMs > 0 && timeoutMs <= TIMER_MS_MAX ? timeoutMs : undefined;
}

export function timedOut(when = ""): ConnectError {
  return new ConnectError(`the operation timed out${when}`, Code.DeadlineExceeded);
}
