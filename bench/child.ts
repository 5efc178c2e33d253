/** What both kinds of child process share: they say what happens to them, and never outlive the main process. */
import { PayloadMismatch } from "./payload.js";
import { PeerUnavailable } from "./peers/peer.js";
import type { FromChild, ToChild } from "./protocol.js";

export function send(message: FromChild): void {
  process.send?.(message);
}

/**
 * Runs a child: `start` gets the arguments and gives the handler of the main process's messages. A failure anywhere is
 * reported and ends the process.
 */
export function runChild(start: (args: string[]) => Promise<(message: ToChild) => Promise<void>>): void {
  process.on("disconnect", () => process.exit(1));
  process.on("uncaughtException", fail);
  process.on("unhandledRejection", fail);
  start(process.argv.slice(2)).then((handle) => {
    process.on("message", (message: ToChild) => void handle(message).catch(fail));
    send({ type: "ready" });
  }, fail);
}

/** Reports and exits. */
export function fail(error: unknown): void {
  let message: FromChild;
  if (error instanceof PeerUnavailable) {
    message = { type: "unavailable", reason: error.message };
  } else {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    // A server's mismatch reaches the client as text only, if the peer carries errors.
    message = {
      type: "failed",
      message: text,
      mismatch: error instanceof PayloadMismatch || text.includes("payload mismatch:"),
    };
  }
  if (process.send === undefined) {
    console.error(message);
    process.exit(1);
  }
  process.send(message, () => process.exit(1));
}

/** A number among a program's arguments. @throws Error if it is missing, or is none */
export function numberOf(argument: string | undefined, name: string): number {
  const number = argument === undefined || argument === "" ? NaN : Number(argument);
  if (Number.isNaN(number)) throw new Error(`${name}: expected a number, not ${argument}`);
  return number;
}
