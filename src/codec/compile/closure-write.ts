/**
 * The encoder without generated code: a closure per field, in the order of field numbers. See docs/internals/codec.md.
 */
import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import { bytesHooks } from "../rope/bytes-hooks.js";
import type { ListField, MapField, MessageField, UnknownValue, Values } from "../wire/fields.js";
import {
  byNumber,
  isJsonField,
  isUnwrapped,
  labelOf,
  scalarOf,
  tagOf,
  widthOf,
  WIRE,
  wireTypeOf,
} from "../wire/fields.js";
import { structOf } from "./json-struct.js";
import type { MessageType, MessageWriter, Resolve } from "./message-type.js";
import { keptArray } from "../wire/packed.js";
import { emptyMap, keysOf, presenceOf } from "../wire/presence.js";
import { fixedFieldOf, fixedListSize, putFixedList } from "../wire/write-fixed.js";
import {
  fault,
  putLength,
  putRaw,
  putTag,
  readableList,
  requireAttached,
  reserve,
  SCALAR_WRITERS,
  W,
} from "../wire/write.js";
import { varint32Length } from "../wire/utf8.js";
import { refuseView } from "../wire/view-mark.js";

/** Sizes and writes one field of a message, if it is set. */
export interface FieldWriter {
  size: (message: Values) => number;
  write: (message: Values, b: Uint8Array, p: number, limit: number) => number;
}

/** Sizes and writes one value with its tag. */
interface ValueWriter {
  size: (value: unknown) => number;
  put: (b: Uint8Array, p: number, limit: number, value: unknown) => number;
}

export function closureWriter(desc: DescMessage, resolve: Resolve): MessageWriter {
  const fields = byNumber(desc).map((field) => fieldWriter(field, resolve));
  return {
    size(message) {
      checkType(message, desc);
      let n = unknownSize(message, desc.typeName);
      for (const field of fields) n += field.size(message);
      return n;
    },
    write(message, b, p, limit) {
      checkType(message, desc);
      for (const field of fields) {
        p = field.write(message, b, p, limit);
        if (p < 0) return -1;
      }
      return putUnknown(message, desc.typeName, b, p, limit);
    },
  };
}

/** @throws Error if `message` is of another type, or a view */
export function checkType(message: Values, desc: DescMessage): void {
  if (message.$typeName === desc.typeName || W.lenient || desc.fields.length === 0) return;
  refuseView(message);
  throw new Error(`cannot use ${byNumber(desc)[0].toString()} with message ${message.$typeName}`);
}

export function unknownSize(message: Values, typeName: string): number {
  if (!writesUnknown(message, typeName)) return 0;
  let n = 0;
  for (const { no, wireType, data } of message.$unknown) n += varint32Length(tagOf(no, wireType)) + dataOf(data).length;
  return n;
}

/** @throws Error if the memory of the data is gone, which shows because no unknown field has empty data */
function dataOf(data: Uint8Array): Uint8Array {
  if (data.length === 0) requireAttached(data, "$unknown");
  return data;
}

/** Whether a message's unknown fields are written. Like for `create`, a plain object has none. */
function writesUnknown(message: Values, typeName: string): message is Values & { $unknown: UnknownValue[] } {
  return message.$unknown !== undefined && W.writeUnknown && (!W.lenient || message.$typeName === typeName);
}

export function putUnknown(message: Values, typeName: string, b: Uint8Array, p: number, limit: number): number {
  if (!writesUnknown(message, typeName)) return p;
  for (const { no, wireType, data } of message.$unknown) {
    p = putTag(b, p, limit, tagOf(no, wireType));
    if (p < 0 || p + data.length > limit) return -1;
    putRaw(b, p, W.tracking ? bytesHooks.readable(dataOf(data)) : dataOf(data));
    p += data.length;
  }
  return p;
}

export function fieldWriter(field: DescField, resolve: Resolve): FieldWriter {
  if (field.fieldKind === "list") return listWriter(field, resolve);
  if (field.fieldKind === "map") return mapWriter(field, resolve);
  const { size, put } = valueWriter(field, field.number, resolve);
  const isSet = presenceOf(field);
  const read = reading(field);
  return {
    size: (message) => (isSet(message) ? size(read(message)) : 0),
    write: (message, b, p, limit) => (isSet(message) ? put(b, p, limit, read(message)) : p),
  };
}

function reading(field: DescField): (message: Values) => unknown {
  const name = field.localName;
  if (field.oneof === undefined) return (message) => message[name];
  const oneofName = field.oneof.localName;
  return (message) => (message[oneofName] as { value: unknown }).value;
}

function valueWriter(field: DescField, number: number, resolve: Resolve): ValueWriter {
  const type = scalarOf(field);
  return type === undefined
    ? messageValueWriter(field as MessageField, number, resolve)
    : scalarValueWriter(type, number, labelOf(field));
}

function scalarValueWriter(type: ScalarType, number: number, label: string): ValueWriter {
  const tag = tagOf(number, wireTypeOf(type));
  const tagLength = varint32Length(tag);
  const writer = SCALAR_WRITERS[type];
  return {
    size: (value) => tagLength + writer.size(value, label),
    put(b, p, limit, value) {
      p = putTag(b, p, limit, tag);
      return p < 0 ? -1 : writer.put(b, p, limit, value, label);
    },
  };
}

function messageValueWriter(field: MessageField, number: number, resolve: Resolve): ValueWriter {
  const type = resolve(field.message);
  const toMessage = messageOf(field, type);
  if (field.fieldKind !== "map" && field.delimitedEncoding) {
    const start = tagOf(number, WIRE.startGroup);
    const end = tagOf(number, WIRE.endGroup);
    const tagsLength = 2 * varint32Length(start);
    return {
      size: (value) => tagsLength + type.size(toMessage(value)),
      put(b, p, limit, value) {
        p = putTag(b, p, limit, start);
        if (p >= 0) p = type.write(toMessage(value), b, p, limit);
        return p < 0 ? -1 : putTag(b, p, limit, end);
      },
    };
  }
  const tag = tagOf(number, WIRE.lengthDelimited);
  const tagLength = varint32Length(tag);
  const label = labelOf(field);
  return {
    size(value) {
      const slot = reserve();
      const n = type.size(toMessage(value));
      W.memo[slot] = n;
      return tagLength + varint32Length(n) + n;
    },
    put(b, p, limit, value) {
      const message = toMessage(value);
      const { sized, top, keysTop } = W;
      const n = sized ? W.memo[W.next++] : sizePart(type, message);
      p = putTag(b, p, limit, tag);
      if (p >= 0) p = putLength(b, p, limit, n);
      if (p < 0) return -1;
      const end = p + W.spanBytes + n;
      W.sized = true;
      p = type.write(message, b, p, limit);
      if (p >= 0 && p + W.spanBytes !== end) throw changed(label);
      if (!sized) endPart(top, keysTop);
      return p;
    },
  };
}

/** Sizes a nested part that is to be written next. */
function sizePart(type: MessageType, message: Values): number {
  beginPart();
  return type.size(message);
}

/** Begins a part: the lengths stored from now on are used next. */
export function beginPart(): void {
  W.next = W.top;
  W.keysNext = W.keysTop;
}

/** Ends a nested part: its lengths are not needed any more. */
export function endPart(top: number, keysTop: number): void {
  W.sized = false;
  W.top = top;
  W.keysTop = keysTop;
}

export function changed(label: string): Error {
  return new Error(`cannot encode field ${label} to binary: the message changed while it was encoded`);
}

/** Makes the function that converts a field's value to the message that is written. */
function messageOf(field: MessageField, type: MessageType): (value: unknown) => Values {
  if (isJsonField(field)) return structOf;
  if (isUnwrapped(field)) {
    const { typeName, fields } = field.message;
    const name = fields[0].localName;
    return (value) => ({ $typeName: typeName, [name]: value });
  }
  // An element of a list, or the value of a oneof, may be undefined.
  return (value) => (value === undefined ? type.create() : (value as Values));
}

function listWriter(field: ListField, resolve: Resolve): FieldWriter {
  const name = field.localName;
  const type = scalarOf(field);
  if (type !== undefined && field.packed)
    return widthOf(type) > 0 ? fixedListWriter(field, type) : packedListWriter(field, type);
  const label = labelOf(field);
  const { size, put } = valueWriter(field, field.number, resolve);
  return {
    size(message) {
      const list = readableListOf(message[name], label);
      let n = 0;
      for (let i = 0; i < list.length; i++) n += size(list[i]);
      return n;
    },
    write(message, b, p, limit) {
      const list = readableListOf(message[name], label);
      for (let i = 0; i < list.length && p >= 0; i++) p = put(b, p, limit, list[i]);
      return p;
    },
  };
}

const NOTHING: readonly unknown[] = [];

/** The elements of a repeated field, as an array or a typed array. */
export function listOf(value: unknown, label: string): ArrayLike<unknown> {
  const list = value as ArrayLike<unknown> | undefined | null;
  if (list === undefined || list === null) {
    if (W.lenient) return NOTHING;
    throw fault(label, "not a list");
  }
  if (typeof list !== "object" || typeof list.length !== "number") throw fault(label, "not a list");
  if (list.length === 0 && ArrayBuffer.isView(list)) requireAttached(list as unknown as Uint8Array, label);
  return list;
}

/** The elements of a repeated field that is read element by element. */
export function readableListOf(value: unknown, label: string): ArrayLike<unknown> {
  const list = listOf(value, label);
  return W.tracking ? readableList(list) : list;
}

function packedListWriter(field: ListField, type: ScalarType): FieldWriter {
  const name = field.localName;
  const label = labelOf(field);
  const tag = tagOf(field.number, WIRE.lengthDelimited);
  const tagLength = varint32Length(tag);
  const { size, put } = SCALAR_WRITERS[type];
  const sizeAll = (list: ArrayLike<unknown>) => {
    let n = 0;
    for (let i = 0; i < list.length; i++) n += size(list[i], label);
    return n;
  };
  return {
    size(message) {
      const list = readableListOf(message[name], label);
      if (list.length === 0) return 0;
      const n = sizeAll(list);
      return tagLength + varint32Length(n) + n;
    },
    write(message, b, p, limit) {
      const list = readableListOf(message[name], label);
      if (list.length === 0) return p;
      const n = sizeAll(list);
      p = putTag(b, p, limit, tag);
      if (p >= 0) p = putLength(b, p, limit, n);
      const end = p + n;
      for (let i = 0; i < list.length && p >= 0; i++) p = put(b, p, limit, list[i], label);
      if (p >= 0 && p !== end) throw changed(label);
      return p;
    },
  };
}

function fixedListWriter(field: ListField, type: ScalarType): FieldWriter {
  const name = field.localName;
  const fixed = fixedFieldOf(field, type);
  return {
    size: (message) => fixedListSize(keptArray(message, name) ?? listOf(message[name], fixed.label), fixed),
    write: (message, b, p, limit) =>
      putFixedList(b, p, limit, keptArray(message, name) ?? listOf(message[name], fixed.label), fixed),
  };
}

function mapWriter(field: MapField, resolve: Resolve): FieldWriter {
  const name = field.localName;
  const label = labelOf(field);
  const tag = tagOf(field.number, WIRE.lengthDelimited);
  const tagLength = varint32Length(tag);
  // A map is a list of entries with the key in field 1 and the value in field 2.
  const key = scalarValueWriter(field.mapKey, 1, label);
  const value = valueWriter(field, 2, resolve);
  const toKey = mapKeyOf(field.mapKey);
  return {
    size(message) {
      const map = (message[name] ?? emptyMap(label)) as Record<string, unknown>;
      const properties = keysOf(map);
      W.keys[W.keysTop++] = properties;
      let n = 0;
      for (const property of properties) {
        const slot = reserve();
        const entry = key.size(toKey(property)) + value.size(map[property]);
        W.memo[slot] = entry;
        n += tagLength + varint32Length(entry) + entry;
      }
      return n;
    },
    write(message, b, p, limit) {
      const map = (message[name] ?? emptyMap(label)) as Record<string, unknown>;
      const { sized, top, keysTop } = W;
      for (const property of sized ? W.keys[W.keysNext++] : keysOf(map)) {
        if (!sized) beginPart();
        const n = sized ? W.memo[W.next++] : key.size(toKey(property)) + value.size(map[property]);
        p = putTag(b, p, limit, tag);
        if (p >= 0) p = putLength(b, p, limit, n);
        const end = p + W.spanBytes + n;
        W.sized = true;
        if (p >= 0) p = key.put(b, p, limit, toKey(property));
        if (p >= 0) p = value.put(b, p, limit, map[property]);
        if (p < 0) return -1;
        if (p + W.spanBytes !== end) throw changed(label);
        if (!sized) endPart(top, keysTop);
      }
      return p;
    },
  };
}

/** Makes the function that converts a property name to a map key. Writers of 64-bit integers accept strings. */
export function mapKeyOf(type: ScalarType): (property: string) => unknown {
  switch (type) {
    case ScalarType.BOOL:
      return (property) => (property === "true" ? true : property === "false" ? false : property);
    case ScalarType.INT32:
    case ScalarType.UINT32:
    case ScalarType.SINT32:
    case ScalarType.FIXED32:
    case ScalarType.SFIXED32:
      return integerKeyOf;
    default:
      return (property) => property;
  }
}

/** A property name as parsed by `Number.parseInt`. If it is not a number, the name itself, which the writer refuses. */
function integerKeyOf(property: string): number | string {
  const digits = property.length;
  if (digits > 0 && digits < 10) {
    let number = 0;
    let i = 0;
    for (; i < digits; i++) {
      const digit = property.charCodeAt(i) - 0x30;
      if (digit < 0 || digit > 9) break;
      number = number * 10 + digit;
    }
    if (i === digits) return number;
  }
  const number = Number.parseInt(property);
  return Number.isFinite(number) ? number : property;
}
