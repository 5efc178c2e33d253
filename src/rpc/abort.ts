/**
 * Signals from users. A signal may be shared by any number of calls, and may come from another implementation.
 *
 * ABORT-1  Properties and methods of a signal that is not Node's own may throw. So they are used only when a call is
 *          made, where the caller can be told. From then on, one of Node's signals that follows it is used instead.
 */
import { setMaxListeners } from "node:events";
import { Code, ConnectError } from "@connectrpc/connect";
import { abortError, textOf } from "./errors.js";

/** Signals for which Node does not limit the number of listeners. */
const uncounted = new WeakSet<AbortSignal>();
/** Signals of other implementations, with the controllers that follow them. */
const followers = new WeakMap<AbortSignal, AbortController>();

/**
 * Calls `onAbort` once when one of Node's own signals (see `ownSignal`) aborts. The caller removes the listener with
 * `removeEventListener`.
 */
export function onAbortOf(signal: AbortSignal, onAbort: () => void): void {
  if (!uncounted.has(signal)) {
    uncounted.add(signal);
    // Otherwise Node warns of a leak at the eleventh call.
    setMaxListeners(0, signal);
  }
  signal.addEventListener("abort", onAbort, { once: true });
}

/**
 * The signal itself if it is Node's own, otherwise one that follows it (ABORT-1).
 * @throws ConnectError `InvalidArgument` if it is not a signal
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
      `expected an AbortSignal, but this one does not take a listener: ${textOf(thrown)}`,
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
    // Only one listener as long as the signal lives, however many calls it is given to.
    signal.addEventListener("abort", () => made.abort(abortError(signal)), { once: true });
    followers.set(signal, made);
    controller = made;
  }
  // Some implementations abort without an event.
  if (signal.aborted && !controller.signal.aborted) controller.abort(abortError(signal));
  return controller.signal;
}
