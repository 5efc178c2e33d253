/** The mark by which a view differs from a message, and the errors for using a view as a message. */

/** A property of every view: the view's type, or null in views of lists and maps. */
export const VIEW = Symbol("isthmus.view");

/** @throws TypeError if `value` is a view */
export function refuseView(value: unknown): void {
  if ((value as { [VIEW]?: unknown })[VIEW] !== undefined) throw viewRefused();
}

/** The error for indexing or encoding the list of a view. */
export function listRefused(): TypeError {
  return new TypeError("a list of a view is not an array, and cannot be indexed or encoded: use at() or toArray()");
}

export function viewRefused(): TypeError {
  return new TypeError(
    "a view of a message is not a message, so neither it nor one of its maps can be encoded: decode the bytes instead, or send them as they are",
  );
}
