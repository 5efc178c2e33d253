/** What a failed attempt to connect says of the next one. */
import type { ConnectError } from "@connectrpc/connect";
import { Code } from "@connectrpc/connect";

/**
 * - "permanent": the next attempt would fail too, until somebody changes something: a mistyped address, missing rights,
 *   another program's socket.
 * - "unavailable": nobody serves there now, or nobody answers.
 * - "draining": there was a server, which went away meanwhile.
 */
export type Retryability = "permanent" | "unavailable" | "draining";

const known = new WeakMap<Error, Retryability>();

/** Notes what `error` says of the next attempt. Errors of which it is the cause say the same. */
export function withRetryability<E extends Error>(error: E, retryability: Retryability): E {
  known.set(error, retryability);
  return error;
}

export function retryabilityOf(error: ConnectError): Retryability {
  for (let one: unknown = error; one instanceof Error; one = one.cause) {
    const retryability = known.get(one);
    if (retryability !== undefined) return retryability;
    if (isPeerGone(one)) return "draining";
  }
  return error.code === Code.Unavailable ? "unavailable" : "permanent";
}

/** Whether a system call failed because the other end went away. */
export function isPeerGone(error: Error): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ECONNRESET" || code === "EPIPE";
}
