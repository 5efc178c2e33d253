/** Makes a failing case small: takes away whatever can go while the case still fails. */
import { WIRE } from "../../src/codec/wire/fields.js";
import { setOwn } from "./messages.js";

const TRIES_MAX = 4000;

/** The smallest input found that still fails. */
export function shrinkBytes(bytes: Uint8Array, fails: (bytes: Uint8Array) => boolean): Uint8Array {
  let smallest = bytes;
  let tries = 0;
  for (let length = Math.ceil(bytes.length / 2); length > 0; length = length === 1 ? 0 : Math.ceil(length / 2)) {
    for (let at = 0; at < smallest.length && tries < TRIES_MAX; tries++) {
      const shorter = Buffer.concat([smallest.subarray(0, at), smallest.subarray(at + length)]);
      const candidate = new Uint8Array(shorter);
      if (fails(candidate)) smallest = candidate;
      else at += length;
    }
  }
  return smallest;
}

/** The smallest message found that still fails: fields away, lists, texts and bytes halved. */
export function shrinkMessage<T>(message: T, fails: (message: T) => boolean): T {
  let smallest = message;
  let tries = 0;
  for (let i = 0; tries < TRIES_MAX; tries++) {
    const step = { left: i };
    const simpler = simplified(smallest, step) as T;
    if (step.left >= 0) return smallest;
    if (fails(simpler)) smallest = simpler;
    else i++;
  }
  return smallest;
}

/** A copy in which one thing is simpler: the one that is reached when `left` has been counted down. */
function simplified(value: unknown, step: { left: number }): unknown {
  if (typeof value === "string" || ArrayBuffer.isView(value) || Array.isArray(value)) {
    const sequence = value as unknown as { readonly length: number; slice(start: number, end?: number): unknown };
    const { length } = sequence;
    const half = Math.ceil(length / 2);
    if (length > 0 && step.left-- === 0) return sequence.slice(0, length - half);
    if (length > 1 && step.left-- === 0) return sequence.slice(half);
    if (length > 2 && step.left-- === 0) return sequence.slice(0, length - 1);
    if (length > 2 && step.left-- === 0) return sequence.slice(1);
    return Array.isArray(value)
      ? value.map((item) => (step.left < 0 ? (item as unknown) : simplified(item, step)))
      : value;
  }
  if (typeof value !== "object" || value === null) return value;
  // An unknown field of its own length: cut anywhere, its bytes would not be one.
  const { wireType, data } = value as { readonly wireType?: unknown; readonly data?: unknown };
  if (wireType === WIRE.lengthDelimited && data instanceof Uint8Array)
    return data.length > 1 && step.left-- === 0 ? { ...value, data: Uint8Array.of(0) } : value;
  const prototype = Object.getPrototypeOf(value) as object;
  const copy = Object.create(prototype) as object;
  const isMessage = Object.hasOwn(value, "$typeName");
  for (const key of Object.keys(value)) {
    const property = (value as Record<string, unknown>)[key];
    if (step.left < 0 || key === "$typeName") {
      setOwn(copy, key, property);
    } else if (canGo(property, isMessage, key, prototype) && step.left-- === 0) {
      const reset = isMessage ? initial(property, Object.hasOwn(prototype, key)) : undefined;
      if (reset !== undefined) setOwn(copy, key, reset);
    } else {
      setOwn(copy, key, simplified(property, step));
    }
  }
  return copy;
}

function canGo(property: unknown, isMessage: boolean, key: string, prototype: object): boolean {
  if (!isMessage) return key !== "case" && key !== "value" && key !== "no" && key !== "wireType" && key !== "data";
  const reset = initial(property, Object.hasOwn(prototype, key));
  if (reset === undefined) return true;
  if (typeof reset !== "object") return !Object.is(reset, property);
  return Object.keys(property as object).length > 0 && (property as { case?: unknown }).case !== reset.case;
}

/** What `create` gives to a field that has such a value; undefined if the field is then no property. */
function initial(
  property: unknown,
  hasDefault: boolean,
): string | number | bigint | boolean | { case?: unknown } | undefined {
  if (hasDefault) return undefined;
  switch (typeof property) {
    case "string":
      return "";
    case "number":
      return 0;
    case "bigint":
      return 0n;
    case "boolean":
      return false;
    default:
      return typeof property === "object" && property !== null && "case" in property ? { case: undefined } : undefined;
  }
}
