/** How a view is told from a message. */

/** In every view: its type; null in those of lists and maps. */
export const VIEW = Symbol("isthmus.view");

/** @throws TypeError if `value` is a view, which is no message */
export function refuseView(value: unknown): void {
  if ((value as { [VIEW]?: unknown })[VIEW] !== undefined) throw viewRefused();
}

/** For what a writer asks a list for. */
export function listRefused(): TypeError {
  return new TypeError("a list of a view is not an array, and cannot be indexed or encoded: use at() or toArray()");
}

export function viewRefused(): TypeError {
  return new TypeError(
    "a view of a message is not a message, and cannot be encoded, nor can its maps: decode the bytes instead, or send them as they are",
  );
}
