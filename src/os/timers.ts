/**
 * The only source of timers, microtasks and clocks in this package. They are taken when the module loads, because test runners and fake-timer libraries
 * replace them later on `globalThis`, `process`, `performance` and the exports of `node:timers`. A faked `setImmediate` that never fires would stop every
 * connection of the process.
 *
 * `node:timers` is read instead of the globals, since a runner such as jest gives a test file globals of its own, which may be faked before this loads.
 */
import { performance } from "node:perf_hooks";
import * as timers from "node:timers";
import * as timersPromises from "node:timers/promises";

export const setTimeout: typeof globalThis.setTimeout = timers.setTimeout;
export const clearTimeout: typeof globalThis.clearTimeout = timers.clearTimeout;
export const setInterval: typeof globalThis.setInterval = timers.setInterval;
export const clearInterval: typeof globalThis.clearInterval = timers.clearInterval;
export const setImmediate: typeof globalThis.setImmediate = timers.setImmediate;
export const queueMicrotask: typeof globalThis.queueMicrotask = globalThis.queueMicrotask;

/** Resolves after `delayMs`. Rejects with an `AbortError` if `options.signal` aborts before. */
export const sleep: (delayMs: number, value?: undefined, options?: { readonly signal?: AbortSignal; readonly ref?: boolean }) => Promise<void> = timersPromises.setTimeout;

/** Milliseconds since the process started, of a clock that never goes back. Taken off `performance`, whose global is a getter and slow on Node 20. */
export const nowMs: () => number = performance.now.bind(performance);
