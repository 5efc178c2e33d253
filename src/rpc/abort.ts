/** Listening to a signal of the user's, who may give one to any number of calls. */
import { setMaxListeners } from "node:events";

/** Signals that Node has been told not to count the listeners of. */
const uncounted = new WeakSet<AbortSignal>();

/** Calls `onAbort` once when the signal aborts. The caller takes the listener back with `removeEventListener`. */
export function onAbortOf(signal: AbortSignal, onAbort: () => void): void {
  if (!uncounted.has(signal)) {
    uncounted.add(signal);
    // Else Node warns of a leak at the eleventh call. Signals of another make are not counted anyway.
    if (signal instanceof EventTarget) setMaxListeners(0, signal);
  }
  signal.addEventListener("abort", onAbort, { once: true });
}
