/** How a view is told from a message. */

/** In every view of a message. */
export const VIEW = Symbol("isthmus.view");

/** @throws TypeError if `value` is a view, which is no message */
export function refuseView(value: unknown): void {
  if ((value as { [VIEW]?: unknown })[VIEW] !== undefined) throw viewRefused();
}

export function viewRefused(): TypeError {
  return new TypeError("a view of a message is not a message, and cannot be encoded: decode the bytes instead, or send them as they are");
}
