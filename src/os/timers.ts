/**
 * The only source of timers, microtasks and clocks in this package. They are captured when the module loads, because
 * test runners and fake-timer libraries replace them later on `globalThis`, `process`, `performance` and the exports of
 * `node:timers`. A faked `setImmediate` that never fires would stop every connection of the process.
 *
 * `node:timers` is used instead of the globals, because a runner such as jest gives a test file its own globals, which
 * may be faked before this module loads. If `node:timers` is faked by then too, behind-fakes.ts has replacements.
 * `Date` is not captured: a deadline that a user gives as a date follows the user's clock, and is converted to a
 * duration at once.
 */
import { performance } from "node:perf_hooks";
import * as timers from "node:timers";
import * as timersPromises from "node:timers/promises";
import {
  clearTimer,
  isGenuine,
  setImmediateOfPort,
  setIntervalOfSocket,
  setTimeoutOfSocket,
  sleepOfSocket,
} from "./behind-fakes.js";

type Sleep = (
  delayMs: number,
  value?: undefined,
  options?: { readonly signal?: AbortSignal; readonly ref?: boolean },
) => Promise<void>;

const areGenuine = isGenuine(timers.setTimeout, "setTimeout") && isGenuine(timers.clearTimeout, "clearTimeout");

export const setTimeout = areGenuine
  ? timers.setTimeout
  : (setTimeoutOfSocket as unknown as typeof globalThis.setTimeout);
export const clearTimeout = areGenuine ? timers.clearTimeout : clearTimer;
const areIntervalsGenuine =
  isGenuine(timers.setInterval, "setInterval") && isGenuine(timers.clearInterval, "clearInterval");
export const setInterval = areIntervalsGenuine
  ? timers.setInterval
  : (setIntervalOfSocket as unknown as typeof globalThis.setInterval);
export const clearInterval = areIntervalsGenuine ? timers.clearInterval : clearTimer;
export let setImmediate: typeof globalThis.setImmediate = isGenuine(timers.setImmediate, "setImmediate")
  ? timers.setImmediate
  : (setImmediateOfPort as unknown as typeof globalThis.setImmediate);
const settled = Promise.resolve();
export const queueMicrotask = isGenuine(globalThis.queueMicrotask, "queueMicrotask")
  ? globalThis.queueMicrotask
  : (act: () => void) => void settled.then(act);

/** For tests that explore interleavings: until the returned function is called, `setImmediate` does nothing. */
export function withholdImmediates(): () => void {
  const genuine = setImmediate;
  setImmediate = (() => undefined) as unknown as typeof setImmediate;
  return () => {
    setImmediate = genuine;
  };
}

/**
 * Resolves after `delayMs`. Rejects if `options.signal` aborts before. SUBTLE: Node's own function captures
 * `clearTimeout` of `node:timers` when it is loaded, which may be only now. With a fake one, its timer would keep the
 * process alive.
 */
export const sleep: Sleep =
  areGenuine && isGenuine(timersPromises.setTimeout, "setTimeout") ? timersPromises.setTimeout : sleepOfSocket;

/**
 * Milliseconds since the process started, by a clock that never goes back. Taken from the prototype of `performance`,
 * because fakes are properties of the object, and because the global is a getter, which is slow on Node 20.
 */
export const nowMs: () => number = (
  (Object.getPrototypeOf(performance) as Partial<typeof performance>).now ?? performance.now
).bind(performance);
