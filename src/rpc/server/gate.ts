/**
 * A method's gate (`requestGate` of Connect's routes): decides by a call's context whether the call is admitted.
 *
 * GATE-1  The gate is called before anything else happens with a call: before interceptors and handler, before the
 *         method's limits are checked, and before any message is decoded. Frames that arrive meanwhile are kept as
 *         bytes. Frames of a refused call are dropped.
 */
import type { ConnectError, HandlerContext } from "@connectrpc/connect";
import { handlerError } from "../errors.js";
import { adopt } from "../foreign.js";

/**
 * Decides by a call's context whether the call is admitted. If it throws or rejects, the call fails with that error. It
 * may set context values, and headers and trailers of the response.
 *
 * @example
 * ```ts
 * const requestGate: RequestGate = (context) => {
 *   if (context.requestHeader.get("authorization") !== token)
 *     throw new ConnectError("wrong token", Code.Unauthenticated);
 * };
 * ```
 */
export type RequestGate = (context: HandlerContext) => void | Promise<void>;

/**
 * @param onAnswer called once, synchronously unless the gate returns a promise; with an error if the call is refused
 */
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
