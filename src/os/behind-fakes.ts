/**
 * Timers for the case that this package loads after a test runner has faked `node:timers`, so that the real functions
 * are not available any more. The timers here are slower, but real: they use the timer that every socket of Node has,
 * and a message port for turns of the event loop.
 */
import { Socket } from "node:net";
import { MessageChannel } from "node:worker_threads";

/** Whether a function is still the runtime's own. Fakes have another name, or a property with the clock they follow. */
export function isGenuine(found: { readonly name: string }, name: string): boolean {
  return found.name === name && !("clock" in found);
}

/** Replaces Node's `setTimeout`. */
export function setTimeoutOfSocket(
  act: (...values: unknown[]) => void,
  delayMs = 1,
  ...values: unknown[]
): NodeJS.Timeout {
  const socket = new Socket();
  // 0 would turn the socket's timer off.
  socket.setTimeout(Math.max(delayMs, 1)).on("timeout", () => act(...values));
  return timerOf(socket).ref();
}

/** Replaces Node's `setInterval`. */
export function setIntervalOfSocket(
  act: (...values: unknown[]) => void,
  delayMs = 1,
  ...values: unknown[]
): NodeJS.Timeout {
  const timer = setTimeoutOfSocket(() => {
    timer.refresh();
    act(...values);
  }, delayMs);
  return timer;
}

export function clearTimer(timer: NodeJS.Timeout | string | number | undefined): void {
  if (typeof timer === "object") timer.close();
}

/** Replaces Node's `setImmediate`, but cannot be cleared. */
export function setImmediateOfPort(act: (...values: unknown[]) => void, ...values: unknown[]): void {
  const { port1, port2 } = new MessageChannel();
  port1.once("message", () => {
    port1.close();
    act(...values);
  });
  port2.postMessage(undefined);
}

/**
 * Resolves after `delayMs`. If the signal aborts, rejects with its reason, unlike `setTimeout` of
 * `node:timers/promises`.
 */
export function sleepOfSocket(
  delayMs: number,
  _value?: undefined,
  { signal }: { readonly signal?: AbortSignal } = {},
): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimer(timer);
      reject(signal?.reason as Error);
    };
    const timer = setTimeoutOfSocket(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, delayMs);
    if (signal?.aborted === true) abort();
    else signal?.addEventListener("abort", abort, { once: true });
  });
}

function timerOf(socket: Socket): NodeJS.Timeout {
  const fields = socket as unknown as Record<symbol, unknown>;
  const timer = Object.getOwnPropertySymbols(socket)
    .map((key) => fields[key])
    .find((value) => typeof (value as Partial<NodeJS.Timeout> | null | undefined)?.refresh === "function");
  if (timer === undefined)
    throw new Error(
      "isthmus was loaded while timers are faked, and it found no real ones: load it before timers are faked",
    );
  return timer as NodeJS.Timeout;
}
