/** What went wrong with an attempt to connect, in the words of its user. */
import { lstatSync } from "node:fs";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Address } from "../address.js";
import { nameOf } from "../address.js";
import { withRetryability } from "../retryability.js";

export const BACKLOG_FULL = "the server's backlog of connections stays full; is its event loop alive?";

/** @param toCheck questions that help to find the reason */
export function noAnswer(timeoutMs: number, toCheck: string): string {
  return `no answer to the handshake within ${timeoutMs} ms; ${toCheck}`;
}

/**
 * Names the address in an error. A ConnectError keeps its code and text; an error of a system call that failed while
 * the socket was being opened is explained.
 */
export function connectError(address: Address, error: unknown): ConnectError {
  const make = (text: string, status: Code) =>
    new ConnectError(`connect to ${nameOf(address)}: ${text}`, status, undefined, undefined, error);
  if (error instanceof ConnectError) return make(error.rawMessage, error.code);
  const mistyped = (text: string) => withRetryability(make(text, Code.Unavailable), "permanent");
  switch ((error as NodeJS.ErrnoException).code) {
    case "ENOENT":
      return make("no such path; is the server running, and is this the path that it listens on?", Code.Unavailable);
    case "ENOTDIR":
      return mistyped("a part of the path is not a directory");
    case "EACCES":
    case "EPERM":
      return make(
        "permission denied; the server decides by the socket's mode and gid who may connect",
        Code.PermissionDenied,
      );
    case "ECONNREFUSED":
      if (address.kind === "tcp") return make("nobody listens there", Code.Unavailable);
      if (lstatSync(address.path, { throwIfNoEntry: false })?.isSocket() === false)
        return mistyped("this is not a socket");
      return make("nobody listens there; the server has stopped", Code.Unavailable);
    case "EMFILE":
    case "ENFILE": {
      const { code } = error as NodeJS.ErrnoException;
      return make(
        `no descriptor left for another connection (${code}); raise the limit of open files (ulimit -n)`,
        Code.ResourceExhausted,
      );
    }
    case "ENOTFOUND":
      return make("no such host", Code.Unavailable);
    default:
      return make(error instanceof Error ? error.message : String(error), Code.Unavailable);
  }
}
