/** What a failed attempt to connect says of the next one. */
import type { ConnectError } from "@connectrpc/connect";
import { Code } from "@connectrpc/connect";

/**
 * - "lasting": the next attempt would fail too, until somebody changes something: a mistyped address, missing rights, another program's socket.
 * - "absent": nobody serves there now, or nobody answers.
 * - "leaving": there was a server, which went away meanwhile.
 */
export type Outlook = "lasting" | "absent" | "leaving";

const known = new WeakMap<Error, Outlook>();

/** Notes what `error` says of the next attempt. Errors of which it is the cause say the same. */
export function withOutlook<E extends Error>(error: E, outlook: Outlook): E {
  known.set(error, outlook);
  return error;
}

export function outlookOf(error: ConnectError): Outlook {
  for (let one: unknown = error; one instanceof Error; one = one.cause) {
    const outlook = known.get(one);
    if (outlook !== undefined) return outlook;
    if (isPeerGone(one)) return "leaving";
  }
  return error.code === Code.Unavailable ? "absent" : "lasting";
}

/** Whether a system call failed because the other end went away. */
export function isPeerGone(error: Error): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ECONNRESET" || code === "EPIPE";
}
