/**
 * Values that users hand in by mistake, or that come from libraries of theirs: of any type, frozen, revoked, and with
 * properties that throw.
 */
import { create } from "@bufbuild/protobuf";
import { StringValueSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";

/** Makes a new value each time: some can be used only once. */
export type Make = () => unknown;

function refuse(): never {
  throw new Error("this cannot be read");
}

function throwingProxy(target: object): object {
  return new Proxy(target, {
    get: refuse,
    has: refuse,
    getPrototypeOf: refuse,
    ownKeys: refuse,
    getOwnPropertyDescriptor: refuse,
  });
}

function revokedProxy(target: object): object {
  const { proxy, revoke } = Proxy.revocable(target, {});
  revoke();
  return proxy;
}

export const ODD_VALUES: Record<string, Make> = {
  undefined: () => undefined,
  null: () => null,
  false: () => false,
  "a number": () => 42,
  NaN: () => NaN,
  "a bigint": () => 7n,
  text: () => "text",
  "an empty text": () => "",
  "a symbol": () => Symbol("odd"),
  "a function": () => () => undefined,
  "a list": () => [1, 2],
  "an object without a prototype": () => Object.create(null) as unknown,
  "a frozen object": () => Object.freeze({ a: 1 }),
  bytes: () => Uint8Array.of(1, 2, 3),
  "a proxy whose every trap throws": () => throwingProxy({}),
  "a proxy of a function whose every trap throws": () => throwingProxy(() => undefined),
  "a revoked proxy": () => revokedProxy({}),
  "an object that cannot be turned into text": () => ({ toString: refuse, [Symbol.toPrimitive]: refuse }),
  "an object whose `then` throws": () => ({ then: refuse }),
  "an object whose `then` cannot be read": () => Object.defineProperty({}, "then", { get: refuse }),
  "an error whose message cannot be read": () => Object.defineProperty(new Error("hidden"), "message", { get: refuse }),
  "an error whose name cannot be read": () => Object.defineProperty(new Error("hidden"), "name", { get: refuse }),
  "an error that is its own cause": () => {
    const error = new Error("round and round");
    error.cause = error;
    return error;
  },
};

/** A ConnectError with code NotFound and the text "no", one field of which is odd. */
export const ODD_ERRORS: Record<string, () => Error> = {};
for (const field of ["details", "metadata", "rawMessage", "message", "code", "cause", "name", "stack"]) {
  for (const [name, make] of Object.entries(ODD_VALUES)) {
    ODD_ERRORS[`${field} is ${name}`] = () =>
      Object.defineProperty(refusal(), field, { value: make(), configurable: true });
  }
  ODD_ERRORS[`${field} cannot be read`] = () =>
    Object.defineProperty(refusal(), field, { get: refuse, configurable: true });
}
Object.assign(ODD_ERRORS, {
  "a detail is a message, as they were in Connect 1": () =>
    withDetails([create(StringValueSchema, { value: "detail" })]),
  "a detail has an odd schema": () =>
    withDetails([
      { desc: {}, value: {} },
      { desc: null, value: {} },
    ]),
  "a detail has a value of another type": () => withDetails([{ desc: StringValueSchema, value: { value: 5 } }]),
  "a detail's bytes were JSON": () =>
    withDetails([JSON.parse(JSON.stringify({ type: "google.protobuf.StringValue", value: Uint8Array.of(1) }))]),
  "each detail is odd": () => withDetails(Object.values(ODD_VALUES).map((make) => make())),
  "details lie about their length": () =>
    withDetails(
      new Proxy([], { get: (target, name) => (name === "length" ? 2 ** 40 : (Reflect.get(target, name) as unknown)) }),
    ),
  "there are too many details": () =>
    withDetails(Array.from({ length: 5000 }, () => ({ desc: StringValueSchema, value: { value: "detail" } }))),
  "the details are too large": () => withDetails([{ type: "a.B", value: new Uint8Array(2 << 20) }]),
  "the text is too large": () => new ConnectError(`no ${"x".repeat(2 << 20)}`, Code.NotFound),
  "the text is no proper UTF-16": () => new ConnectError("no \ud800", Code.NotFound),
  "the metadata is too large": () => new ConnectError("no", Code.NotFound, { large: "x".repeat(100_000) }),
  "the metadata is a plain object": () =>
    Object.defineProperty(refusal(), "metadata", { value: { a: "b", "not a name": "c", "not-latin": "✓" } }),
  "it is frozen": () => Object.freeze(refusal()),
  "it is a proxy": () => new Proxy(refusal(), {}),
});

function refusal(): ConnectError {
  return new ConnectError("no", Code.NotFound);
}

function withDetails(details: unknown): ConnectError {
  const error = refusal();
  error.details = details as ConnectError["details"];
  return error;
}

/** Iterators that do not keep to their interface, each with a message in place of what `next` should give. */
export const LYING_ITERABLES: Record<string, (message: unknown) => unknown> = {
  nothing: () => undefined,
  text: () => "text",
  "an object without an iterator": () => ({}),
  "an iterator that is no object": () => ({ [Symbol.asyncIterator]: () => 5 }),
  "an iterator that cannot be had": () => ({ [Symbol.asyncIterator]: refuse }),
  "an iterator without `next`": () => ({ [Symbol.asyncIterator]: () => ({}) }),
  "a `next` that throws": () => ({ [Symbol.asyncIterator]: () => ({ next: refuse }) }),
  "a `next` that answers nothing": () => ({ [Symbol.asyncIterator]: () => ({ next: () => undefined }) }),
  "a `next` that answers text": () => ({ [Symbol.asyncIterator]: () => ({ next: () => Promise.resolve("text") }) }),
  "a `next` that answers a revoked proxy": () => ({ [Symbol.asyncIterator]: () => ({ next: () => revokedProxy({}) }) }),
  "results that cannot be read": () => ({
    [Symbol.asyncIterator]: () => ({
      next: () =>
        Promise.resolve({
          get done() {
            return refuse();
          },
        }),
    }),
  }),
  "values that cannot be read": () => ({
    [Symbol.asyncIterator]: () => ({
      next: () =>
        Promise.resolve({
          done: false,
          get value() {
            return refuse();
          },
        }),
    }),
  }),
  "a promise whose `then` throws": () => ({
    [Symbol.asyncIterator]: () => ({ next: () => Object.assign(Promise.resolve({ done: true }), { then: refuse }) }),
  }),
  "a promise whose `then` calls back twice": (message) => ({
    [Symbol.asyncIterator]() {
      let left = 1;
      const answer = () => (left-- > 0 ? { done: false, value: message } : { done: true, value: undefined });
      const then = (resolve: (result: unknown) => void) => {
        const result = answer();
        resolve(result);
        resolve(result);
      };
      return { next: () => Object.assign(Promise.resolve(), { then }) };
    },
  }),
  "a `return` and a `throw` that throw": (message) => ({
    [Symbol.asyncIterator]: () => ({
      next: () => Promise.reject(new ConnectError("no", Code.NotFound)),
      return: refuse,
      throw: refuse,
      message,
    }),
  }),
};

/** What is given where an AbortSignal is expected. */
export const ODD_SIGNALS: Record<string, () => unknown> = {
  ...Object.fromEntries(Object.entries(ODD_VALUES).filter(([name]) => !["undefined", "null"].includes(name))),
  "one that cannot be listened to": () => ({ aborted: false, addEventListener: refuse, removeEventListener: refuse }),
  "one that cannot be left": () => ({ aborted: false, addEventListener: () => undefined, removeEventListener: refuse }),
  "one whose `aborted` cannot be read": () => ({
    get aborted() {
      return refuse();
    },
    addEventListener: () => undefined,
    removeEventListener: refuse,
  }),
  "one that aborts as it is listened to, with a reason that cannot be read": () => ({
    aborted: false,
    get reason() {
      return refuse();
    },
    addEventListener: (_: string, listener: () => void) => listener(),
    removeEventListener: refuse,
  }),
  "one that aborts twice": () => ({
    aborted: false,
    reason: Symbol("why"),
    addEventListener(_: string, listener: () => void) {
      setImmediate(listener);
      setImmediate(listener);
    },
    removeEventListener: refuse,
  }),
  "Node's, with methods that throw": () =>
    Object.assign(new AbortController().signal, { addEventListener: refuse, removeEventListener: refuse }),
  "Node's, aborted with a revoked proxy": () => AbortSignal.abort(revokedProxy({})),
  "Node's, aborted with an object without a prototype": () => AbortSignal.abort(Object.create(null)),
};
