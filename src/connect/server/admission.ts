/**
 * Admission of one client: whether the option `allow` lets it connect.
 *
 * ALLOW-2  Only `true`, or a promise of it, admits a client.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { OVERFLOW_UID } from "../../carrier/trust.js";
import { inRootContext } from "../../carrier/poll/root-context.js";
import type { PeerCredentials } from "../../os/addon.js";

/** Why a client is refused; undefined admits it. */
export type Verdict = ConnectError | undefined;

/** Asks `allow`. A promise means that `allow` returned one; it never rejects. */
export function verdictOn(
  peer: PeerCredentials,
  allow: (peer: PeerCredentials) => boolean | Promise<boolean>,
): Verdict | Promise<Verdict> {
  try {
    const answer: unknown = inRootContext(() => allow(peer));
    if (!isThenable(answer)) return refusalFor(peer, answer);
    return new Promise((resolve) => resolve(answer)).then((settled) => refusalFor(peer, settled), undecided);
  } catch (error) {
    return undecided(error);
  }
}

/** SUBTLE: includes promises of other realms. */
function isThenable(answer: unknown): answer is PromiseLike<unknown> {
  return (
    ((typeof answer === "object" && answer !== null) || typeof answer === "function") &&
    typeof (answer as Partial<PromiseLike<unknown>>).then === "function"
  );
}

function undecided(error: unknown): ConnectError {
  return new ConnectError(
    "the server could not decide whether to admit this client: its option `allow` threw",
    Code.Internal,
    undefined,
    undefined,
    error,
  );
}

/** If `allow` returned something other than a boolean, the error says so, to help the author of `allow`. */
function refusalFor(peer: PeerCredentials, answer: unknown): Verdict {
  if (answer === true) return undefined;
  const text = refusalText(peer);
  return new ConnectError(
    answer === false
      ? text
      : `${text}. \`allow\` returned ${answer === null ? "null" : typeof answer}; only true, or a promise of it, admits a client`,
    Code.PermissionDenied,
  );
}

function refusalText({ uid }: PeerCredentials): string {
  const text = `user ${uid} may not connect to this server; its option \`allow\` decides who may`;
  if (uid !== OVERFLOW_UID) return text;
  // `allow` sees the same number for all of them. Only the file system can tell them apart.
  return `${text}. 65534 stands for any user that has no number in the server's user namespace: admit it with \`allow\`, and restrict access by the socket's mode and its directory`;
}
