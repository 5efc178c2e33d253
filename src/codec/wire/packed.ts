/**
 * Packed fields of fixed-width values as typed arrays. They stay in place if they lie aligned in memory, and are
 * converted to protobuf-es's `number[]` only when the property is read.
 */
import type { DescField, Message } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import type { Values } from "./fields.js";
import { labelOf, scalarOf, widthOf } from "./fields.js";
import type { FixedArray } from "./write-fixed.js";
import { fixedArrayOf } from "./write-fixed.js";

export type { FixedArray };

/** A smaller field is converted at once: that is cheaper than a property that converts it later. */
const KEEP_BYTES_MIN = 512;

interface KeptArray {
  readonly name: string;
  readonly array: FixedArray;
}

/** The array of the field that was not read yet; if there are several, a map by local name. */
type KeptArrays = KeptArray | Map<string, FixedArray> | undefined;

/** Lets a subclass add private fields to an object that exists already. */
class Returned {
  constructor(target: object) {
    return target;
  }
}

/**
 * The arrays kept for a message, in a private field of the message. SUBTLE: not in a WeakMap. Once the table of a
 * WeakMap is old, collections of the young generation treat the values in it as used, and the memory of these arrays
 * may be awaited by a peer.
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

/** Whether a payload of `n` bytes is worth keeping: it is not small, and is the whole content of the field. */
export function worthKeeping(message: Values, name: string, n: number): boolean {
  return n >= KEEP_BYTES_MIN && keptArray(message, name) === undefined && (message[name] as unknown[]).length === 0;
}

/**
 * The values of a field as they were received; undefined if the property was read already.
 * @throws TypeError if their memory is gone. An empty array means just that, since only non-empty arrays are kept
 */
export function keptArray(message: object, name: string): FixedArray | undefined {
  const found = Kept.of(message);
  if (found === undefined) return undefined;
  const array = found instanceof Map ? found.get(name) : found.name === name ? found.array : undefined;
  if (array?.length === 0)
    throw new TypeError(`the memory of field ${name} is gone: the ArrayBuffer that it was decoded from is detached`);
  return array;
}

/** A property that converts the kept array when it is read. All messages with the field share it. */
function propertyOf(field: DescField): PropertyDescriptor {
  const name = field.localName;
  const longAsString = (field as { longAsString?: boolean }).longAsString === true;
  return {
    enumerable: true,
    configurable: true,
    get(this: object) {
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- the property exists as long as the array
      const values = toValues(keptArray(this, name)!, longAsString);
      settle(this, name, values);
      return values;
    },
    set(this: object, value: unknown) {
      settle(this, name, value);
    },
  };
}

/** Replaces the accessor by a plain property. */
function settle(message: object, name: string, value: unknown): void {
  const found = Kept.of(message);
  if (found instanceof Map) found.delete(name);
  else Kept.set(message, undefined);
  Object.defineProperty(message, name, { value, writable: true, enumerable: true, configurable: true });
}

/**
 * Makes the function that sets a field to the values in `bytes`, which are converted only when the property is read.
 */
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
 * Views `bytes` as values of a type: in place if aligned, else copied. The length is a multiple of the type's width.
 */
function fixedView(bytes: Uint8Array, type: ScalarType): FixedArray {
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- only fields of fixed width are kept
  const ArrayType = fixedArrayOf(type)!;
  const width = widthOf(type);
  if (bytes.byteOffset % width === 0) return new ArrayType(bytes.buffer, bytes.byteOffset, bytes.length / width);
  return new ArrayType(new Uint8Array(bytes).buffer);
}

/**
 * The values of a packed field of fixed-width values (`double`, `float`, `fixed32`, `sfixed32`, `fixed64`, `sfixed64`)
 * as a typed array. The array is in place if all of these hold, and otherwise a copy:
 *
 * - the message was decoded from a span, or with `bytes: "view"`;
 * - the values take at least 512 bytes and lie aligned to their width. Spans do; in contiguous bytes that is chance;
 * - the property was not read.
 *
 * An array in place lives as long as the memory that the message was decoded from.
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
 * Casts a typed array for use as the value of a packed field, whose generated type is `number[]` (or `bigint[]`). It is
 * encoded in one copy, or not copied at all if it becomes a span.
 *
 * The message then holds the typed array itself, without the methods that typed arrays lack, such as `push`.
 */
export function typedList(array: Float64Array | Float32Array | Int32Array | Uint32Array): number[];
export function typedList(array: BigInt64Array | BigUint64Array): bigint[];
export function typedList(array: FixedArray): number[] | bigint[] {
  return array as unknown as number[];
}
