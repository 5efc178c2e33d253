/**
 * What users hand in where a promise is expected, as `await` would take it: promises of other realms and libraries, and
 * some that lie.
 */

// eslint-disable-next-line @typescript-eslint/unbound-method -- it is compared, not called
const { then } = Promise.prototype;

/**
 * The value as a promise that settles once, later, and whose `then` is the language's own; undefined if it is no
 * promise.
 * @throws whatever asking for its `then` throws
 */
export function adopt<T>(value: T | PromiseLike<T>): Promise<T> | undefined {
  if (typeof value !== "object" ? typeof value !== "function" : value === null) return undefined;
  const own = (value as Partial<PromiseLike<T>>).then;
  if (own === then && value instanceof Promise) return value as Promise<T>;
  if (typeof own !== "function") return undefined;
  // SUBTLE: not `Promise.resolve`, which returns a promise as it is, also if its own `then` does as it likes.
  return new Promise<T>((resolve) => resolve(value));
}
