/** Waiting with an end, and what is expected of failures. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { inspect } from "node:util";
import { Code, ConnectError, createContextValues } from "@connectrpc/connect";
import { waitForReady } from "../../src/index.js";

/** For what comes soon, but on a busy machine not at once. */
const PATIENCE_MS = 60_000;

/** Options of a call that fails with the attempt to connect. */
export const FAIL_FAST = { contextValues: createContextValues().set(waitForReady, false) };

/** Waits until `done` says so; fails after a minute, naming `what` and what `done` returned last. */
export async function waitUntil(what: string, done: () => unknown): Promise<void> {
  let last: unknown;
  for (const end = performance.now() + PATIENCE_MS; performance.now() < end; await sleep(5)) {
    last = await done();
    if (last === true) return;
  }
  assert.fail(`waited ${PATIENCE_MS} ms for: ${what}; the last look gave ${String(last)}`);
}

/** The value of `promise`; fails if it takes longer than `withinMs`. */
export async function within<T>(withinMs: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${withinMs} ms`)), withinMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** `promise` settles in this turn of the event loop: for what nothing else has to happen first. */
export async function assertSettled(promise: Promise<unknown>): Promise<void> {
  let settled = false;
  const note = () => void (settled = true);
  promise.then(note, note);
  await new Promise((resolve) => setImmediate(resolve));
  assert.ok(settled, "it is not settled yet");
}

/** The ConnectError that `promise` rejects with, which must have this code and text. */
export async function failure(promise: Promise<unknown>, code: Code, message: RegExp): Promise<ConnectError> {
  let error: unknown;
  try {
    await within(PATIENCE_MS, "the failure", promise);
  } catch (thrown) {
    error = thrown;
  }
  assert.ok(error !== undefined, `expected a failure with ${Code[code]} ${String(message)}, but it succeeded`);
  assert.ok(error instanceof ConnectError, `expected a ConnectError, got ${inspect(error)}`);
  assert.match(error.message, message);
  assert.equal(Code[error.code], Code[code], error.message);
  return error;
}
