/**
 * A user's signal: who may give one to any number of calls, and one of any make.
 *
 * ABORT-1  A signal that is not Node's own may do anything when it is asked: its properties and methods may throw. It
 *          is asked when a call is made, where that can be told to the caller; from then on a signal of Node's that
 *          follows it is used.
 */
import { setMaxListeners } from "node:events";
import { Code, ConnectError } from "@connectrpc/connect";
import { abortError, textOf } from "./errors.js";

/** Signals that Node has been told not to count the listeners of. */
const uncounted = new WeakSet<AbortSignal>();
/** Those of another make, and what follows them. */
const followers = new WeakMap<AbortSignal, AbortController>();

/**
 * Calls `onAbort` once when the signal, which is Node's own (`ownSignal`), aborts. The caller takes the listener back
 * with `removeEventListener`.
 */
export function onAbortOf(signal: AbortSignal, onAbort: () => void): void {
  if (!uncounted.has(signal)) {
    uncounted.add(signal);
    // Else Node warns of a leak at the eleventh call.
    setMaxListeners(0, signal);
  }
  signal.addEventListener("abort", onAbort, { once: true });
}

/**
 * The signal if it is Node's own, else one that follows it (ABORT-1). @throws ConnectError `InvalidArgument` for what
 * is no signal
 */
export function ownSignal(signal: AbortSignal): AbortSignal {
  try {
    if (
      signal instanceof AbortSignal &&
      signal.addEventListener === EventTarget.prototype.addEventListener &&
      signal.removeEventListener === EventTarget.prototype.removeEventListener
    ) {
      return signal;
    }
    return follow(signal);
  } catch (thrown) {
    throw new ConnectError(
      `expected an AbortSignal, and this one cannot be listened to: ${textOf(thrown)}`,
      Code.InvalidArgument,
      undefined,
      undefined,
      thrown,
    );
  }
}

function follow(signal: AbortSignal): AbortSignal {
  let controller = followers.get(signal);
  if (controller === undefined) {
    const made = new AbortController();
    // One listener for as long as the signal lives, however many calls are given it.
    signal.addEventListener("abort", () => made.abort(abortError(signal)), { once: true });
    followers.set(signal, made);
    controller = made;
  }
  // Some abort without an event.
  if (signal.aborted && !controller.signal.aborted) controller.abort(abortError(signal));
  return controller.signal;
}
