/**
 * Whether two decoded messages are the same in everything that a program can see: prototypes, own keys, the order of
 * map keys, -0 and NaN, contents of bytes, unknown fields in order. Stricter than `equals` of protobuf-es.
 */
import { createRegistry, type UnknownField } from "@bufbuild/protobuf";
import { schemas } from "./schemas.js";

const registry = createRegistry(...schemas);

/** Undefined if they are the same, else where and how they differ. */
export function difference(actual: unknown, expected: unknown): string | undefined {
  return compare(actual, expected);
}

/** Paths are put together on the way out, so that equal messages cost no text. */
function compare(actual: unknown, expected: unknown): string | undefined {
  if (Object.is(actual, expected)) return undefined;
  if (typeof actual !== "object" || typeof expected !== "object" || actual === null || expected === null) {
    return `: ${show(actual)} instead of ${show(expected)}`;
  }
  if (Object.getPrototypeOf(actual) !== Object.getPrototypeOf(expected)) return ": another prototype";
  if (expected instanceof Uint8Array) return compareBytes(actual as Uint8Array, expected);
  if (Array.isArray(expected)) return compareLists(actual as unknown[], expected);
  return compareObjects(actual as Record<PropertyKey, unknown>, expected as Record<PropertyKey, unknown>);
}

function compareBytes(actual: Uint8Array, expected: Uint8Array): string | undefined {
  if (actual.length !== expected.length) return `: ${actual.length} bytes instead of ${expected.length}`;
  for (let i = 0; i < expected.length; i++)
    if (actual[i] !== expected[i]) return `: byte ${i} is ${actual[i]} instead of ${expected[i]}`;
  return undefined;
}

function compareLists(actual: readonly unknown[], expected: readonly unknown[]): string | undefined {
  if (actual.length !== expected.length) return `: ${actual.length} items instead of ${expected.length}`;
  for (let i = 0; i < expected.length; i++) {
    if (!(i in actual)) return `: a hole at ${i}`;
    const below = compare(actual[i], expected[i]);
    if (below !== undefined) return `[${i}]${below}`;
  }
  return undefined;
}

function compareObjects(
  actual: Record<PropertyKey, unknown>,
  expected: Record<PropertyKey, unknown>,
): string | undefined {
  const keys = Reflect.ownKeys(expected);
  const actualKeys = Reflect.ownKeys(actual);
  if (actualKeys.length !== keys.length)
    return `: keys ${actualKeys.map(String).join()} instead of ${keys.map(String).join()}`;
  // The order of a map's keys is the order in which they are written again; that of a message's properties is not seen.
  const ordered = !isMessage(expected);
  for (let i = 0; i < keys.length; i++) {
    const key = keys[i];
    if (ordered && actualKeys[i] !== key) return `: key ${String(actualKeys[i])} where ${String(key)} should be`;
    if (!Object.prototype.propertyIsEnumerable.call(actual, key)) return `: no enumerable own property ${String(key)}`;
    const below =
      key === "$unknown" && !ordered ? compareUnknown(actual, expected) : compare(actual[key], expected[key]);
    if (below !== undefined) return `.${String(key)}${below}`;
  }
  return undefined;
}

/** A map, or the object of a `Struct`, can have the same keys: only a message's name is that of a type. */
function isMessage(value: Record<PropertyKey, unknown>): boolean {
  const typeName = Object.hasOwn(value, "$typeName") ? value["$typeName"] : undefined;
  return typeof typeName === "string" && registry.getMessage(typeName) !== undefined;
}

/**
 * protobuf-es loses the unknown values of closed enums in a message that has other unknown fields too; the codec keeps
 * them, as the specification asks. Nothing else may differ.
 */
function compareUnknown(
  actual: Record<PropertyKey, unknown>,
  expected: Record<PropertyKey, unknown>,
): string | undefined {
  const enums = closedEnumsOf(expected["$typeName"] as string);
  const expectedFields = expected["$unknown"] as UnknownField[];
  const actualFields = actual["$unknown"] as UnknownField[];
  let matched = 0;
  for (const field of actualFields) {
    if (matched < expectedFields.length && compare(field, expectedFields[matched]) === undefined) matched++;
    else if (!enums.has(field.no)) return compare(actualFields, expectedFields);
  }
  return matched === expectedFields.length ? undefined : compare(actualFields, expectedFields);
}

const closedEnums = new Map<string, ReadonlySet<number>>();

/** Numbers of the singular fields of a closed enum's type. */
function closedEnumsOf(typeName: string): ReadonlySet<number> {
  let numbers = closedEnums.get(typeName);
  if (numbers === undefined) {
    const fields = registry.getMessage(typeName)?.fields ?? [];
    numbers = new Set(
      fields.filter((field) => field.fieldKind === "enum" && !field.enum.open).map((field) => field.number),
    );
    closedEnums.set(typeName, numbers);
  }
  return numbers;
}

function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value);
  if (typeof value === "bigint") return `${value}n`;
  if (Object.is(value, -0)) return "-0";
  return typeof value === "object" && value !== null ? "an object" : String(value);
}
