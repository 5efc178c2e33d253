/**
 * The decoder without generated code: a closure per field, found by field number. The generated decoder falls back to
 * it for unusual input, and ropes are always decoded by it.
 *
 * Like protobuf-es, it goes by the field number alone. The wire type matters only for repeated fields, which may be
 * packed.
 */
import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { create, ScalarType } from "@bufbuild/protobuf";
import { scalarZeroValue } from "@bufbuild/protobuf/reflect";
import type { ListField, MapField, MessageField, Values } from "../wire/fields.js";
import {
  hasOwn,
  isBigint,
  isJsonField,
  isPackable,
  isUnwrapped,
  scalarOf,
  setOwn,
  widthOf,
  WIRE,
  wireTypeOf,
} from "../wire/fields.js";
import { jsonOf, structOf } from "./json-struct.js";
import type { MessageReader, Resolve } from "./message-type.js";
import { keeperOf, worthKeeping } from "../wire/packed.js";
import type { ScalarReader } from "../wire/read.js";
import {
  bytesAt,
  eof,
  R,
  SCALAR_READERS,
  skip,
  takeInt32,
  takeLength,
  takeTag,
  takeText,
  takeVarint32,
  tooDeep,
} from "../wire/read.js";
import { ANY_BUT_GROUP, JOIN, takeSpan } from "../wire/read-span.js";
import { takeString } from "../wire/utf8.js";
import {
  BIGINT_UNITS,
  countWork,
  MAP_ENTRY_UNITS,
  NUMBER_UNITS,
  UNITS_PER_VALUE,
  UNKNOWN_FIELD_UNITS,
} from "../wire/work.js";
import { messageUnits } from "./message-units.js";

/** Reads the value of a field whose tag was just read into a message. */
export interface FieldReader {
  read: (message: Values, b: Uint8Array, wireType: number) => void;
  /** Takes a span as the field's value; absent if the rope has to be joined instead. */
  takeSpan?: ((message: Values, bytes: Uint8Array) => void) | undefined;
  /** Whether the value is itself read field by field, so that spans may lie within it. */
  readonly nests: boolean;
  /** The wire types with which the value is read in the form in which it was written: bits, by wire type. */
  readonly wireTypes: number;
}

const VARINT = 1 << WIRE.varint;
const LENGTH_DELIMITED = 1 << WIRE.lengthDelimited;
const START_GROUP = 1 << WIRE.startGroup;

export interface ClosureReader extends MessageReader {
  /** By field number. */
  readonly fields: Map<number, FieldReader>;
  readonly desc: DescMessage;
  /** What an empty message counts (WORK-1). */
  readonly units: number;
}

const readersOf = new WeakMap<Resolve, WeakMap<DescMessage, ClosureReader>>();

export function closureReader(desc: DescMessage, resolve: Resolve): ClosureReader {
  let readers = readersOf.get(resolve);
  if (readers === undefined) readersOf.set(resolve, (readers = new WeakMap()));
  const known = readers.get(desc);
  if (known !== undefined) return known;
  const fields = new Map<number, FieldReader>();
  const reader: ClosureReader = {
    desc,
    fields,
    units: messageUnits(desc),
    create: () => create(desc),
    read(message, b, p, end) {
      R.pos = p;
      readMessage(message, b, end + R.shift, reader);
      return R.pos;
    },
  };
  readers.set(desc, reader);
  for (const field of desc.fields) fields.set(field.number, fieldReader(field, resolve));
  return reader;
}

/** Reads fields up to `end`, a position in the joined message. */
function readMessage(message: Values, b: Uint8Array, end: number, reader: ClosureReader): void {
  if (++R.depth > R.depthMax) tooDeep(reader.desc.toString());
  countWork(reader.units);
  while (R.pos + R.shift < end) readField(message, b, takeTag(b), reader);
  // The last value reaches past the end, so its bytes are known only in the joined message.
  if (R.pos + R.shift > end && R.spanAt !== Infinity) throw JOIN;
  R.depth--;
}

/** Reads fields up to the end of the group with this field number. */
function readGroup(message: Values, b: Uint8Array, number: number, reader: ClosureReader): void {
  if (++R.depth > R.depthMax) tooDeep(reader.desc.toString());
  countWork(reader.units);
  for (;;) {
    if (R.pos >= R.len) throw new Error("invalid end group tag");
    const tag = takeTag(b);
    if ((tag & 7) === WIRE.endGroup) {
      if (tag >>> 3 !== number) throw new Error("invalid end group tag");
      break;
    }
    readField(message, b, tag, reader);
  }
  R.depth--;
}

/** Reads the field whose tag was just read, known or not. */
export function readField(message: Values, b: Uint8Array, tag: number, reader: ClosureReader): void {
  countWork(1);
  const number = tag >>> 3;
  const wireType = tag & 7;
  const field = reader.fields.get(number);
  if (R.spanAt !== Infinity && readSpan(message, b, tag, field)) return;
  if (field !== undefined) {
    field.read(message, b, wireType);
  } else {
    const start = R.pos;
    // Groups in it may be as deep as the rest of the limit.
    skip(b, tag, R.depthMax - R.depth);
    if (R.keepUnknown) addUnknown(message, number, wireType, bytesAt(b, start, R.pos - start));
  }
  // A value that reaches past the end of its message may have passed the place of a span.
  if (R.pos > R.spanAt) throw JOIN;
}

/** Takes the value of a field if it is a span of the rope. @throws RopeViolation, JOIN */
function readSpan(message: Values, b: Uint8Array, tag: number, field: FieldReader | undefined): boolean {
  const start = R.pos;
  const bytes =
    field === undefined ? takeSpan(b, tag, ANY_BUT_GROUP, false) : takeSpan(b, tag, field.wireTypes, field.nests);
  if (bytes === undefined) return false;
  if (field === undefined) {
    if (R.keepUnknown) addUnknown(message, tag >>> 3, WIRE.lengthDelimited, concat(b.subarray(start, R.pos), bytes));
  } else if (field.takeSpan !== undefined) {
    field.takeSpan(message, bytes);
  } else {
    throw JOIN;
  }
  return true;
}

/** The data of an unknown field starts with its length, as it was written. */
function concat(length: Uint8Array, payload: Uint8Array): Uint8Array {
  const data = new Uint8Array(length.length + payload.length);
  data.set(length);
  data.set(payload, length.length);
  return data;
}

function addUnknown(message: Values, no: number, wireType: number, data: Uint8Array): void {
  countWork(UNKNOWN_FIELD_UNITS);
  (message.$unknown ??= []).push({ no, wireType, data });
}

function fieldReader(field: DescField, resolve: Resolve): FieldReader {
  switch (field.fieldKind) {
    case "list":
      return field.message === undefined ? scalarListReader(field) : messageListReader(field, resolve);
    case "map":
      return mapReader(field, resolve);
    case "message":
      return messageReader(field, resolve);
    case "enum":
      return enumReader(field);
    case "scalar":
      return scalarReader(field);
  }
}

/** Makes the function that sets a singular field. */
function setter(field: DescField): (message: Values, value: unknown) => void {
  const name = field.localName;
  if (field.oneof === undefined) {
    return (message, value) => {
      message[name] = value;
    };
  }
  const oneofName = field.oneof.localName;
  return (message, value) => {
    message[oneofName] = { case: name, value };
  };
}

/** Makes the function that reads a single value of a field's type. */
export function valueReader(type: ScalarType, field: DescField): ScalarReader {
  const read = type === ScalarType.STRING && !isStrict(field) ? takeText : SCALAR_READERS[type];
  return field.fieldKind !== "map" && (field as { longAsString?: boolean }).longAsString
    ? (b) => String(read(b))
    : read;
}

export function isStrict(field: DescField): boolean {
  return (field as { utf8Validation?: boolean }).utf8Validation === true;
}

/** Makes the function that converts a span to a value. Text is decoded from a copy (UTF8-1). */
function spanReader(type: ScalarType, field: DescField): ((bytes: Uint8Array) => unknown) | undefined {
  if (type === ScalarType.BYTES) return (bytes) => (R.spanViews ? bytes : new Uint8Array(bytes));
  if (type === ScalarType.STRING) return (bytes) => takeString(new Uint8Array(bytes), 0, bytes.length, isStrict(field));
  return undefined;
}

function scalarReader(field: DescField & { fieldKind: "scalar" }): FieldReader {
  const read = valueReader(field.scalar, field);
  const fromSpan = spanReader(field.scalar, field);
  const set = setter(field);
  return {
    nests: false,
    wireTypes: 1 << wireTypeOf(field.scalar),
    read: (message, b) => set(message, read(b)),
    takeSpan: fromSpan && ((message, bytes) => set(message, fromSpan(bytes))),
  };
}

function enumReader(field: DescField & { fieldKind: "enum" }): FieldReader {
  const set = setter(field);
  if (field.enum.open) return { nests: false, wireTypes: VARINT, read: (message, b) => set(message, takeInt32(b)) };
  const numbers = new Set(field.enum.values.map((value) => value.number));
  return {
    nests: false,
    wireTypes: VARINT,
    read(message, b, wireType) {
      const value = takeInt32(b);
      if (numbers.has(value)) set(message, value);
      else if (R.keepUnknown) addUnknown(message, field.number, wireType, int32Bytes(value));
    },
  };
}

function int32Bytes(value: number): Uint8Array {
  const bytes: number[] = [];
  if (value < 0) {
    for (let i = 0; i < 9; i++, value >>= 7) bytes.push((value & 0x7f) | 0x80);
    bytes.push(1);
  } else {
    for (; value > 0x7f; value >>>= 7) bytes.push((value & 0x7f) | 0x80);
    bytes.push(value);
  }
  return new Uint8Array(bytes);
}

/** Makes the function that merges a value on the wire into a message of a field's type. */
function childReader(field: MessageField, resolve: Resolve): (child: Values, b: Uint8Array) => void {
  const closures = closureReader(field.message, resolve);
  if (field.fieldKind !== "map" && field.delimitedEncoding)
    return (child, b) => readGroup(child, b, field.number, closures);
  const type = resolve(field.message);
  return (child, b) => {
    if (R.spanAt === Infinity) {
      const n = takeLength(b);
      R.pos = type.read(child, b, R.pos, R.pos + n);
    } else {
      const n = takeVarint32(b);
      const end = R.pos + R.shift + n;
      if (end > R.joinedLen) eof();
      readMessage(child, b, end, closures);
    }
  };
}

/** Converts between a field's value and its message. */
interface Mapper {
  /** Returns a new message if there is no value. */
  toMessage: (value: unknown) => Values;
  toValue: (message: Values) => unknown;
}

function mapperOf(field: MessageField, resolve: Resolve): Mapper {
  if (isJsonField(field)) return { toMessage: structOf, toValue: jsonOf };
  const type = resolve(field.message);
  if (isUnwrapped(field)) {
    const name = field.message.fields[0].localName;
    return {
      toMessage(value) {
        const message = type.create();
        if (value !== undefined) message[name] = value;
        return message;
      },
      toValue: (message) => message[name],
    };
  }
  return {
    toMessage: (value) => (value === undefined ? type.create() : (value as Values)),
    toValue: (message) => message,
  };
}

function messageReader(field: DescField & { fieldKind: "message" }, resolve: Resolve): FieldReader {
  const { toMessage, toValue } = mapperOf(field, resolve);
  const readChild = childReader(field, resolve);
  const set = setter(field);
  const name = field.localName;
  const oneofName = field.oneof?.localName;
  return {
    nests: !field.delimitedEncoding,
    wireTypes: field.delimitedEncoding ? START_GROUP : LENGTH_DELIMITED,
    read(message, b) {
      let value = hasOwn(message, name) ? message[name] : undefined;
      if (oneofName !== undefined) {
        const oneof = message[oneofName] as { case?: string; value?: unknown };
        value = oneof.case === name ? oneof.value : undefined;
      }
      const child = toMessage(value);
      readChild(child, b);
      set(message, toValue(child));
    },
  };
}

function messageListReader(field: ListField & MessageField, resolve: Resolve): FieldReader {
  const { toMessage, toValue } = mapperOf(field, resolve);
  const readChild = childReader(field, resolve);
  const name = field.localName;
  return {
    nests: !field.delimitedEncoding,
    wireTypes: field.delimitedEncoding ? START_GROUP : LENGTH_DELIMITED,
    read(message, b) {
      const child = toMessage(undefined);
      readChild(child, b);
      (message[name] as unknown[]).push(toValue(child));
    },
  };
}

function scalarListReader(field: ListField & { message: undefined }): FieldReader {
  const name = field.localName;
  const type = scalarOf(field);
  const read = valueReader(type, field);
  const fromSpan = spanReader(type, field);
  const width = widthOf(type);
  const units = elementUnits(type);
  const keep = keeperOf(field, type);
  const keeps = (message: Values, n: number) => width > 0 && n % width === 0 && worthKeeping(message, name, n);
  return {
    nests: false,
    wireTypes: (1 << wireTypeOf(type)) | LENGTH_DELIMITED,
    read(message, b, wireType) {
      if (wireType !== WIRE.lengthDelimited || !isPackable(type)) {
        countWork(units);
        (message[name] as unknown[]).push(read(b));
        return;
      }
      const n = takeLength(b);
      if (n >= R.viewsFrom && keeps(message, n)) {
        keep(message, bytesAt(b, R.pos, n));
        R.pos += n;
        return;
      }
      const list = message[name] as unknown[];
      // SUBTLE: like in protobuf-es, a last value that reaches past the end is read whole.
      const end = R.pos + n;
      while (R.pos < end) {
        countWork(units);
        list.push(read(b));
      }
      if (R.pos > end && R.spanAt !== Infinity) throw JOIN;
    },
    takeSpan(message, bytes) {
      if (fromSpan !== undefined) (message[name] as unknown[]).push(fromSpan(bytes));
      else if (keeps(message, bytes.length)) keep(message, R.spanViews ? bytes : new Uint8Array(bytes));
      else throw JOIN;
    },
  };
}

/** What an element of a list of scalars counts besides its field (WORK-1). */
export function elementUnits(type: ScalarType): number {
  if (!isPackable(type)) return UNITS_PER_VALUE;
  return isBigint(type) ? BIGINT_UNITS : NUMBER_UNITS;
}

function mapReader(field: MapField, resolve: Resolve): FieldReader {
  const name = field.localName;
  const readKey = valueReader(field.mapKey, field);
  const keySpan = spanReader(field.mapKey, field);
  const value = mapValueReader(field, resolve);
  const keyZero = scalarZeroValue(field.mapKey, false);
  return {
    nests: true,
    wireTypes: LENGTH_DELIMITED,
    read(message, b) {
      countWork(MAP_ENTRY_UNITS);
      let key: unknown;
      let item: unknown;
      const n = takeVarint32(b);
      const end = R.pos + R.shift + n;
      while (R.pos + R.shift < end) {
        const tag = takeTag(b);
        const number = tag >>> 3;
        const wireTypes = number === 1 ? 1 << wireTypeOf(field.mapKey) : number === 2 ? value.wireTypes : ANY_BUT_GROUP;
        const span = R.spanAt === Infinity ? undefined : takeSpan(b, tag, wireTypes, number === 2 && value.nests);
        if (number === 1) {
          if (span === undefined) key = readKey(b);
          else if (keySpan !== undefined) key = keySpan(span);
          else throw JOIN;
        } else if (number === 2) {
          if (span === undefined) item = value.read(b, item);
          else if (value.fromSpan !== undefined) item = value.fromSpan(span);
          else throw JOIN;
        } else if (span === undefined) {
          skip(b, tag, R.depthMax - R.depth);
        }
      }
      // See the end of `readMessage`.
      if (R.pos + R.shift > end && R.spanAt !== Infinity) throw JOIN;
      setOwn(
        message[name] as Record<string, unknown>,
        (key ?? keyZero) as string,
        item === undefined ? value.empty() : item,
      );
    },
  };
}

interface MapValueReader {
  /** @param existing the value read before in the same entry, if any */
  read: (b: Uint8Array, existing: unknown) => unknown;
  fromSpan: ((bytes: Uint8Array) => unknown) | undefined;
  empty: () => unknown;
  nests: boolean;
  wireTypes: number;
}

function mapValueReader(field: MapField, resolve: Resolve): MapValueReader {
  if (field.mapKind === "message") {
    const { toMessage, toValue } = mapperOf(field, resolve);
    const readChild = childReader(field, resolve);
    return {
      read(b, existing) {
        const child = toMessage(existing);
        readChild(child, b);
        return toValue(child);
      },
      fromSpan: undefined,
      empty: () => toValue(toMessage(undefined)),
      nests: true,
      wireTypes: LENGTH_DELIMITED,
    };
  }
  const type = scalarOf(field);
  const read = valueReader(type, field);
  const zero = field.mapKind === "enum" ? field.enum.values[0].number : scalarZeroValue(type, false);
  return {
    read: (b) => read(b),
    fromSpan: spanReader(type, field),
    empty: type === ScalarType.BYTES ? () => new Uint8Array(0) : () => zero,
    nests: false,
    wireTypes: 1 << wireTypeOf(type),
  };
}
