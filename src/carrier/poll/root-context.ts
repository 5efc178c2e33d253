/**
 * Async contexts (which `AsyncLocalStorage` reads) for work that belongs to no user's call: connections, listeners,
 * requests.
 *
 * CONTEXT-1  A function that runs here starts with the stores of this module's load, never with those of its caller.
 *            SUBTLE: a connection made in the context of a user's call would show that user's stores to everything that
 *            its events start, and would keep them alive.
 * CONTEXT-2  A function's changes to its context (`AsyncLocalStorage.enterWith`) end with it. So every request, and
 *            every other call into user code from a loop of ours, goes through here. Otherwise everything that the loop
 *            runs later, including requests of other clients, would see the store.
 */
import { AsyncLocalStorage, AsyncResource } from "node:async_hooks";

/** No `destroy` hook, because these resources end with their call. */
const OPTIONS = { requireManualDestroy: true };
/** SUBTLE: where stores are kept in resources, user code must not run in this one. */
const root = new AsyncResource("IsthmusRoot", OPTIONS);
type Runnable = (this: undefined, ...args: unknown[]) => never;
const makeResource = () => new AsyncResource("IsthmusContext", OPTIONS);

/**
 * Whether contexts are values that are restored when a function returns (since Node 24). Otherwise stores are kept in
 * the resource that runs, and stay there.
 */
const contextsAreRestored = (() => {
  const probe = new AsyncLocalStorage<boolean>();
  const resource = makeResource();
  resource.runInAsyncScope(() => probe.enterWith(true));
  const isClean = resource.runInAsyncScope(() => probe.getStore()) === undefined;
  // Otherwise Node would continue to track every promise for it.
  probe.disable();
  return isClean;
})();

/** Calls `run` with `argument` in a context of its own, and returns the result. Makes no closure. */
export const inOwnContext: <A, R>(run: (argument: A) => R, argument: A) => R = contextsAreRestored
  ? (run, argument) => root.runInAsyncScope(run as Runnable, undefined, argument)
  : (run, argument) => root.runInAsyncScope(makeResource).runInAsyncScope(run as Runnable, undefined, argument);

/** Calls `run` in a context of its own, and returns the result. */
export function inRootContext<R>(run: () => R): R {
  return inOwnContext(run as (argument: undefined) => R, undefined);
}
