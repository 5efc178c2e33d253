/** What the codec derives from a field's descriptor. Used by the generated and the interpreted form. */
import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import { isWrapperDesc } from "@bufbuild/protobuf/wkt";

/** Wire types: https://protobuf.dev/programming-guides/encoding/#structure */
export const WIRE = { varint: 0, bit64: 1, lengthDelimited: 2, startGroup: 3, endGroup: 4, bit32: 5 } as const;

/** `google.protobuf.FeatureSet.FieldPresence`, as far as it matters here. */
export const PRESENCE = { implicit: 2, required: 3 } as const;

/** A message as the codec sees it: properties by name. */
export type Values = Record<string, unknown> & { $typeName: string; $unknown?: UnknownValue[] | undefined };

export interface UnknownValue {
  readonly no: number;
  readonly wireType: number;
  readonly data: Uint8Array;
}

export type MessageField = DescField & { readonly message: DescMessage };
export type ListField = DescField & { fieldKind: "list" };
export type MapField = DescField & { fieldKind: "map" };

/** The name of the field in errors. */
export function labelOf(field: DescField): string {
  return `${field.parent.typeName}.${field.name}`;
}

/** The fields in the order in which they are written. */
export function byNumber(desc: DescMessage): DescField[] {
  return [...desc.fields].sort((a, b) => a.number - b.number);
}

/** The scalar type of a field's single values on the wire; undefined for messages. */
export function scalarOf(field: DescField & { message: undefined }): ScalarType;
export function scalarOf(field: DescField): ScalarType | undefined;
export function scalarOf(field: DescField): ScalarType | undefined {
  if (field.enum !== undefined) return ScalarType.INT32;
  return field.message === undefined ? field.scalar : undefined;
}

export function wireTypeOf(type: ScalarType): number {
  switch (type) {
    case ScalarType.BYTES:
    case ScalarType.STRING:
      return WIRE.lengthDelimited;
    case ScalarType.DOUBLE:
    case ScalarType.FIXED64:
    case ScalarType.SFIXED64:
      return WIRE.bit64;
    case ScalarType.FIXED32:
    case ScalarType.SFIXED32:
    case ScalarType.FLOAT:
      return WIRE.bit32;
    default:
      return WIRE.varint;
  }
}

/** Bytes of a value of a fixed-width type; 0 for other types. */
/** Whether values of this type are bigints. */
export function isBigint(type: ScalarType): boolean {
  return BIGINTS.has(type);
}

const BIGINTS: ReadonlySet<ScalarType> = new Set([
  ScalarType.INT64,
  ScalarType.UINT64,
  ScalarType.SINT64,
  ScalarType.FIXED64,
  ScalarType.SFIXED64,
]);

export function widthOf(type: ScalarType): 0 | 4 | 8 {
  const wireType = wireTypeOf(type);
  return wireType === WIRE.bit64 ? 8 : wireType === WIRE.bit32 ? 4 : 0;
}

export function isPackable(type: ScalarType): boolean {
  return type !== ScalarType.STRING && type !== ScalarType.BYTES;
}

export function tagOf(number: number, wireType: number): number {
  return ((number << 3) | wireType) >>> 0;
}

/**
 * Whether the field is a google.protobuf.Struct that messages hold as a plain JSON object: all but
 * google.protobuf.Value's.
 */
export function isJsonField(field: MessageField): boolean {
  return field.message.typeName === "google.protobuf.Struct" && field.parent.typeName !== "google.protobuf.Value";
}

/** Whether the field is a singular wrapper (google.protobuf.Int32Value, …) outside a oneof, held as its bare value. */
export function isUnwrapped(field: MessageField): boolean {
  return field.fieldKind === "message" && field.oneof === undefined && isWrapperDesc(field.message);
}

export function hasOwn(object: object, name: string): boolean {
  return Object.prototype.hasOwnProperty.call(object, name);
}

/** Sets a property by a key from the wire, where "__proto__" is a key like any other. */
export function setOwn(object: Record<string, unknown>, key: string | number | bigint | boolean, value: unknown): void {
  if (key === "__proto__")
    Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true });
  else object[key as string] = value;
}
