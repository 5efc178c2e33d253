/** Decides which fields of a message are set, and so written, and what replaces the ones that are left out. */
import type { DescField } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import type { Values } from "./fields.js";
import { hasOwn, labelOf, PRESENCE } from "./fields.js";
import { refuseView } from "./view-mark.js";
import { fault, requireAttached, W } from "./write.js";

/** Makes the function that tells whether a singular field has to be written. */
export function presenceOf(field: DescField): (message: Values) => boolean {
  const name = field.localName;
  if (field.oneof !== undefined) {
    const oneofName = field.oneof.localName;
    const label = labelOf(field);
    return (message) => ((message[oneofName] ?? emptyOneof(label)) as { case?: string }).case === name;
  }
  if ((field.presence as number) !== PRESENCE.implicit) {
    const isRequired = (field.presence as number) === PRESENCE.required;
    return (message) => {
      // Default values are properties of the prototype.
      const value = message[name];
      if (value !== undefined && !(value === null && W.lenient) && hasOwn(message, name)) return true;
      if (isRequired) throw requiredError(field);
      return false;
    };
  }
  const zero = zeroOf(field);
  const label = labelOf(field);
  switch (field.scalar) {
    case ScalarType.BYTES:
      return (message) => {
        const value = message[name];
        if (!(value instanceof Uint8Array) || value.length > 0) return !isUnset(value, false);
        requireAttached(value, label);
        return false;
      };
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      return (message) => !Object.is(message[name], 0) && !isUnset(message[name], false);
    case ScalarType.BOOL:
    case ScalarType.STRING:
    case undefined:
      return (message) => message[name] !== zero && !isUnset(message[name], false);
    default:
      return (message) => !isUnset(message[name], true);
  }
}

/** Replaces a missing oneof, which only a plain object may leave out. @throws Error if a message does */
export function emptyOneof(label: string): { readonly case: undefined } {
  if (!W.lenient) throw fault(label, "the oneof is missing");
  return { case: undefined };
}

/** Replaces a missing map. @throws Error if a message leaves it out */
export function emptyMap(label: string): Record<string, never> {
  if (!W.lenient) throw fault(label, "the map is missing");
  return {};
}

/** The keys of a map. @throws TypeError if it is the map of a view, which looks empty */
export function keysOf(map: object): string[] {
  const keys = Object.keys(map);
  if (keys.length === 0) refuseView(map);
  return keys;
}

export function requiredError(field: DescField): Error {
  return new Error(`cannot encode ${field.toString()} to binary: required field not set`);
}

/** The value of an implicit field in an empty message. */
export function zeroOf(field: DescField): unknown {
  if (field.enum !== undefined) return field.enum.values[0].number;
  return field.scalar === ScalarType.BOOL ? false : field.scalar === ScalarType.STRING ? "" : 0;
}

/**
 * Whether an implicit field counts as unset although its value is not the plain zero value: because a plain object
 * leaves it out, or (`loosely`) because it equals zero in another form, such as "0".
 */
export function isUnset(value: unknown, loosely: boolean): boolean {
  if (W.lenient && (value === undefined || value === null)) return true;
  return loosely && value == 0; // eslint-disable-line eqeqeq
}
