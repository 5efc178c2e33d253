/**
 * Packed fields of fixed-width values as typed arrays: in place where they lie aligned in memory, and only turned into
 * the `number[]` that protobuf-es has for them if somebody reads the property.
 */
import type { DescField, Message } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import type { Values } from "./fields.js";
import { labelOf, scalarOf, widthOf } from "./fields.js";
import type { FixedArray } from "./write-fixed.js";
import { fixedArrayOf } from "./write-fixed.js";

export type { FixedArray };

/** Below this size an array is made at once: that is cheaper than the property that makes it later. */
const KEEP_BYTES_MIN = 512;

interface KeptArray {
  readonly name: string;
  readonly array: FixedArray;
}

/** The array of a field that nobody has read yet, or, if there are several, of each by local name. */
type KeptArrays = KeptArray | Map<string, FixedArray> | undefined;

/** Makes a class's private fields fields of an object that is there already. */
class Returned {
  constructor(target: object) {
    return target;
  }
}

/**
 * What is kept of a message, in a field of it that nobody else can see. SUBTLE: not in a WeakMap. Once its table is
 * old, collections of the young generation take what it maps to for used, and these arrays may lie in memory that
 * somebody waits for.
 */
class Kept extends Returned {
  #arrays: KeptArrays;

  static of(message: object): KeptArrays {
    return #arrays in message ? message.#arrays : undefined;
  }

  static set(message: object, arrays: KeptArrays): void {
    (#arrays in message ? message : new Kept(message)).#arrays = arrays;
  }
}

/** Whether a payload of `n` bytes is worth keeping as it is: it is not small, and all that the field has. */
export function worthKeeping(message: Values, name: string, n: number): boolean {
  return n >= KEEP_BYTES_MIN && keptArray(message, name) === undefined && (message[name] as unknown[]).length === 0;
}

/**
 * The values of a field as they were received, if nobody has read them yet.
 * @throws TypeError if their memory is gone: nothing is kept that is empty
 */
export function keptArray(message: object, name: string): FixedArray | undefined {
  const found = Kept.of(message);
  if (found === undefined) return undefined;
  const array = found instanceof Map ? found.get(name) : found.name === name ? found.array : undefined;
  if (array?.length === 0)
    throw new TypeError(`the memory of field ${name} is gone: the ArrayBuffer that it was decoded from is detached`);
  return array;
}

/** A property that becomes an array of its own when it is read. One for all messages that have the field. */
function propertyOf(field: DescField): PropertyDescriptor {
  const name = field.localName;
  const longAsString = (field as { longAsString?: boolean }).longAsString === true;
  return {
    enumerable: true,
    configurable: true,
    get(this: object) {
      const values = toValues(keptArray(this, name)!, longAsString);
      settle(this, name, values);
      return values;
    },
    set(this: object, value: unknown) {
      settle(this, name, value);
    },
  };
}

/** From now on the property is a plain one. */
function settle(message: object, name: string, value: unknown): void {
  const found = Kept.of(message);
  if (found instanceof Map) found.delete(name);
  else Kept.set(message, undefined);
  Object.defineProperty(message, name, { value, writable: true, enumerable: true, configurable: true });
}

/** Makes the function that makes `bytes` a field's value. They stay as they are until somebody reads the property. */
export function keeperOf(field: DescField, type: ScalarType): (message: Values, bytes: Uint8Array) => void {
  const name = field.localName;
  const property = propertyOf(field);
  return (message, bytes) => {
    const array = fixedView(bytes, type);
    const found = Kept.of(message);
    if (found === undefined) Kept.set(message, { name, array });
    else if (found instanceof Map) found.set(name, array);
    else
      Kept.set(
        message,
        new Map([
          [found.name, found.array],
          [name, array],
        ]),
      );
    Object.defineProperty(message, name, property);
  };
}

function toValues(array: FixedArray, longAsString: boolean): unknown[] {
  return longAsString ? Array.from(array as BigInt64Array, String) : Array.from(array as Float64Array);
}

/**
 * `bytes` as an array of a type's values: in place if aligned, else copied. Their length is a multiple of the width.
 */
function fixedView(bytes: Uint8Array, type: ScalarType): FixedArray {
  const ArrayType = fixedArrayOf(type)!;
  const width = widthOf(type);
  if (bytes.byteOffset % width === 0) return new ArrayType(bytes.buffer, bytes.byteOffset, bytes.length / width);
  return new ArrayType(new Uint8Array(bytes).buffer);
}

/**
 * The values of a packed field of fixed-width values (`double`, `float`, `fixed32`, `sfixed32`, `fixed64`, `sfixed64`)
 * as a typed array: in place, if the message was decoded from a span or with `bytes: "view"`, the values take 512 bytes
 * or more and lie aligned to their width (spans do; in contiguous bytes that is chance), and nobody has read the
 * property; else a copy.
 *
 * In place, the array lives as long as the memory that the message was decoded from.
 * @param field the field's descriptor, such as `TensorSchema.field.values`
 * @throws TypeError if the field is not of that kind, or not of this message
 */
export function packed(message: Message, field: DescField): FixedArray {
  const type = scalarOf(field);
  const ArrayType = type === undefined || field.fieldKind !== "list" ? undefined : fixedArrayOf(type);
  if (ArrayType === undefined)
    throw new TypeError(
      `${labelOf(field)} is not a repeated field of a fixed-width type (double, float, fixed32, sfixed32, fixed64 or sfixed64)`,
    );
  if (message.$typeName !== field.parent.typeName)
    throw new TypeError(`${labelOf(field)} is not a field of ${message.$typeName}`);
  const array = keptArray(message, field.localName);
  if (array !== undefined) return array;
  const values = (message as unknown as Values)[field.localName] as number[] | bigint[] | string[] | FixedArray;
  if (values instanceof ArrayType) return values;
  const is64 = type === ScalarType.SFIXED64 || type === ScalarType.FIXED64;
  const items = is64 ? Array.from(values as bigint[], BigInt) : (values as number[]);
  return new (ArrayType as unknown as new (items: ArrayLike<unknown>) => FixedArray)(items);
}

/**
 * Lets a typed array be given for a packed field, whose generated type says `number[]` (or `bigint[]`). It is encoded
 * in one copy, or not copied at all where it becomes a span.
 *
 * The message then holds the typed array itself: methods of real arrays that typed arrays lack, such as `push`, are
 * missing.
 */
export function typedList(array: Float64Array | Float32Array | Int32Array | Uint32Array): number[];
export function typedList(array: BigInt64Array | BigUint64Array): bigint[];
export function typedList(array: FixedArray): number[] | bigint[] {
  return array as unknown as number[];
}
