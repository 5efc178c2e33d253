/**
 * A method's gate (`requestGate` of Connect's routes): it decides by a call's context whether the call comes in.
 *
 * GATE-1  It is asked before anything else happens with a call: before interceptors and handler, before limits of the
 *         method are checked, and before any of its messages is decoded. What arrives while it is being asked is kept
 *         as bytes; what arrives for a call that it refused is dropped.
 */
import type { ConnectError, HandlerContext } from "@connectrpc/connect";
import { handlerError } from "../errors.js";
import { adopt } from "../foreign.js";

/**
 * Decides whether a call comes in, by its context: throws, or rejects with, the error that the caller is told. It may
 * set context values, and headers and trailers of the response.
 */
export type RequestGate = (context: HandlerContext) => void | Promise<void>;

/** @param onAnswer called once, at once if the gate answers at once. With an error: the call stays outside. */
export function askGate(
  gate: RequestGate,
  context: HandlerContext,
  onAnswer: (error: ConnectError | undefined) => void,
): void {
  let waiting: Promise<unknown> | undefined;
  try {
    waiting = adopt<unknown>(gate(context));
  } catch (error) {
    return onAnswer(handlerError(error));
  }
  if (waiting === undefined) return onAnswer(undefined);
  waiting.then(
    () => onAnswer(undefined),
    (error: unknown) => onAnswer(handlerError(error)),
  );
}
