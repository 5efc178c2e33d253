/** What a failed attempt to connect says about the next one. */
import type { ConnectError } from "@connectrpc/connect";
import { Code } from "@connectrpc/connect";

/**
 * - "permanent": the next attempt would fail too, until something is changed: a mistyped address, missing rights, the
 *   socket of another program.
 * - "unavailable": no server listens there now, or it does not answer.
 * - "draining": there was a server, which went away during the attempt.
 */
export type Retryability = "permanent" | "unavailable" | "draining";

const known = new WeakMap<Error, Retryability>();

/** Marks what `error` says about the next attempt. Errors that it is the cause of say the same. */
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

/** Whether a system call failed because the peer went away. */
export function isPeerGone(error: Error): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ECONNRESET" || code === "EPIPE";
}
