/**
 * Timers for a module that loads when a test runner has faked `node:timers` already, so that the real functions are not
 * to be had any more. They are slower than those, and real: what counts the time is the timer that every socket of Node
 * has, and a port of messages gives the turns.
 */
import { Socket } from "node:net";
import { MessageChannel } from "node:worker_threads";

/**
 * Whether a function of Node, or of a runtime like it, is still itself. Fakes have another name, or the clock that they
 * follow.
 */
export function isGenuine(found: { readonly name: string }, name: string): boolean {
  return found.name === name && !("clock" in found);
}

/** As `setTimeout` of Node. */
export function setTimeoutOfSocket(
  act: (...values: unknown[]) => void,
  delayMs = 1,
  ...values: unknown[]
): NodeJS.Timeout {
  const socket = new Socket();
  // 0 would be no time-out.
  socket.setTimeout(Math.max(delayMs, 1)).on("timeout", () => act(...values));
  return timerOf(socket).ref();
}

/** As `setInterval` of Node. */
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

/** As `setImmediate` of Node, without a way to take it back. */
export function setImmediateOfPort(act: (...values: unknown[]) => void, ...values: unknown[]): void {
  const { port1, port2 } = new MessageChannel();
  port1.once("message", () => {
    port1.close();
    act(...values);
  });
  port2.postMessage(undefined);
}

/** Rejects with the signal's reason, unlike `setTimeout` of `node:timers/promises`, if that aborts. */
export function sleepOfSocket(
  delayMs: number,
  _value?: undefined,
  { signal }: { readonly signal?: AbortSignal } = {},
): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimer(timer);
      reject(signal!.reason as Error);
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
      "isthmus was loaded while timers are faked, and there are no others: load it before timers are faked",
    );
  return timer as NodeJS.Timeout;
}
