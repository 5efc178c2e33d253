/**
 * Async contexts (what `AsyncLocalStorage` reads) for everything that no user's call leads to: connections, listeners,
 * requests.
 *
 * CONTEXT-1  Whatever runs here starts with the stores of this module's load, never with those of the code that happens
 *            to call. SUBTLE: a connection made in the context of a user's call would show that user's stores to
 *            whatever its events start, and would keep them alive.
 * CONTEXT-2  What a function does to its context (`AsyncLocalStorage.enterWith`) ends with it. So every request, and
 *            every other call into code of the user's from a loop of ours, goes through here: else the store would be
 *            seen by all that the loop runs later, requests of other clients among it.
 */
import { AsyncLocalStorage, AsyncResource } from "node:async_hooks";

/** No `destroy` hook: these end with their call. */
const OPTIONS = { requireManualDestroy: true };
/** SUBTLE: where stores are kept in resources, nothing of the user's may run in this one. */
const root = new AsyncResource("IsthmusRoot", OPTIONS);
type Runnable = (this: undefined, ...args: unknown[]) => never;
const makeResource = () => new AsyncResource("IsthmusContext", OPTIONS);

/**
 * Whether contexts are values that are restored when a function returns (Node 24 on); else stores are kept in the
 * resource that runs, and stay there.
 */
const contextsAreRestored = (() => {
  const probe = new AsyncLocalStorage<boolean>();
  const resource = makeResource();
  resource.runInAsyncScope(() => probe.enterWith(true));
  const isClean = resource.runInAsyncScope(() => probe.getStore()) === undefined;
  // Else Node would go on tracking every promise for it.
  probe.disable();
  return isClean;
})();

/** Calls `run` with `argument` in a context of its own, and returns what it returns. Makes no closure. */
export const inOwnContext: <A, R>(run: (argument: A) => R, argument: A) => R = contextsAreRestored
  ? (run, argument) => root.runInAsyncScope(run as Runnable, undefined, argument)
  : (run, argument) => root.runInAsyncScope(makeResource).runInAsyncScope(run as Runnable, undefined, argument);

/** The same for a function that needs nothing. */
export function inRootContext<R>(run: () => R): R {
  return inOwnContext(run as (argument: undefined) => R, undefined);
}
