/**
 * Values that users pass where a promise may be: promises of other realms and libraries, and some that misbehave. They
 * are treated as `await` treats them.
 */

// eslint-disable-next-line @typescript-eslint/unbound-method -- it is compared, not called
const { then } = Promise.prototype;

/**
 * The value as a promise that settles once, asynchronously, and has the built-in `then`; undefined if the value is not
 * a promise.
 * @throws whatever reading its `then` throws
 */
export function adopt<T>(value: T | PromiseLike<T>): Promise<T> | undefined {
  if (typeof value !== "object" ? typeof value !== "function" : value === null) return undefined;
  const own = (value as Partial<PromiseLike<T>>).then;
  if (own === then && value instanceof Promise) return value as Promise<T>;
  if (typeof own !== "function") return undefined;
  // SUBTLE: not `Promise.resolve`. It returns a promise as it is, even if the promise's own `then` has been replaced.
  return new Promise<T>((resolve) => resolve(value));
}
