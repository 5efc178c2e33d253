/**
 * The decoder as generated code: a function per message type, with a case for each field number that reads the field in
 * its usual form. Other forms, and rare kinds of fields, are left to the closures.
 */
import type { DescField, DescMessage, DescOneof } from "@bufbuild/protobuf";
import { create, ScalarType } from "@bufbuild/protobuf";
import type { ClosureReader } from "./closure-read.js";
import { closureReader, elementUnits, isStrict, readField } from "./closure-read.js";
import type { ListField, MapField, Values } from "../wire/fields.js";
import {
  isBigint,
  isJsonField,
  isPackable,
  isUnwrapped,
  scalarOf,
  setOwn,
  tagOf,
  widthOf,
  WIRE,
  wireTypeOf,
} from "../wire/fields.js";
import { property, Scope } from "./generate.js";
import type { MessageReader, Resolve } from "./message-type.js";
import {
  bytes8,
  bytesAt,
  checkTag,
  eof,
  float64,
  R,
  SCALAR_READERS,
  takeBool,
  takePackedDoubles,
  takePackedFixed32,
  takePackedFloats,
  takePackedSfixed32,
  takeTag,
  takeVarint32,
  tooDeep,
} from "../wire/read.js";
import { takeString } from "../wire/utf8.js";
import { BIGINT_UNITS, MAP_ENTRY_UNITS, tooMuchWork, work } from "../wire/work.js";
import { messageUnits } from "./message-units.js";

const FUNCTIONS = {
  bytes8,
  bytesAt,
  checkTag,
  eof,
  float64,
  R,
  readField,
  setOwn,
  takeBool,
  takeString,
  takeTag,
  takeVarint32,
  tooDeep,
  tooMuchWork,
  work,
};

export function generateReader(desc: DescMessage, resolve: Resolve): MessageReader {
  const scope = new Scope(FUNCTIONS);
  const cases = desc.fields.map((field) => fieldCase(field, scope, resolve)).join("\n");
  let closures: ClosureReader | undefined;
  const others = scope.constant(() => (closures ??= closureReader(desc, resolve)));
  const read = scope.evaluate<MessageReader["read"]>(`
return function read(m, b, p, end) {
  if (++R.depth > R.depthMax) tooDeep(${JSON.stringify(desc.toString())});
  ${countCode(messageUnits(desc))}
  const len = R.len;
  let v, n = 0, fields = 0;
  while (p < end) {
    if (++fields > 1024) { fields = 1; ${countCode(1024)} }
    let t = b[p++];
    if (t > 127) { R.pos = p - 1; t = takeTag(b); p = R.pos; }
    switch (t >>> 3) {
      ${cases}
    }
    checkTag(t);
    R.pos = p; readField(m, b, t, ${others}()); p = R.pos;
  }
  ${countCode("fields")}
  R.depth--;
  return p;
};`);
  return { read, create: generateCreate(desc) };
}

/** Generates a function that makes the same as protobuf-es's `create` without an init object. */
function generateCreate(desc: DescMessage): () => Values {
  const model = create(desc) as Values;
  const prototype = Object.getPrototypeOf(model) as object;
  const scope = new Scope({});
  const properties = Object.entries(model).map(
    ([name, value]) => `${property("this", name)} = ${initialValue(value, scope)};`,
  );
  // Once V8 has seen a few objects of a constructor, it reserves room in them for properties that are set later, such
  // as optional fields. It does not for object literals. A constructor is also faster than Object.create.
  return scope.evaluate(`
function Message() { ${properties.join(" ")} }
Message.prototype = ${scope.constant(prototype)};
return function create() { return new Message(); };`);
}

function initialValue(value: unknown, scope: Scope): string {
  if (Array.isArray(value)) return "[]";
  if (value instanceof Uint8Array) return scope.constant(value);
  if (typeof value === "object" && value !== null) return "case" in value ? "{ case: undefined }" : "{}";
  if (typeof value === "bigint") return `${value}n`;
  return Object.is(value, -0) ? "-0" : JSON.stringify(value);
}

/** Counts units of work (WORK-1). */
function countCode(units: number | string): string {
  return `if ((work.units += ${units}) > work.unitsMax) tooMuchWork();`;
}

const NEXT_BYTE = "if (p >= len) eof();";

/** Reads a varint of 32 bits into a variable. */
function varintCode(name: string): string {
  return `${NEXT_BYTE} ${name} = b[p++];
    if (${name} > 127) {
      if (p < len && b[p] < 128) ${name} = (${name} & 127) | (b[p++] << 7);
      else { R.pos = p - 1; ${name} = takeVarint32(b); p = R.pos; }
    }`;
}

/** Reads a length into `n`, and checks that as many bytes follow. */
const LENGTH = `${varintCode("n")} if (n > len - p) eof();`;

/** Reads a scalar value into a variable. */
function scalarCode(type: ScalarType, field: DescField, name: string, scope: Scope): string {
  switch (type) {
    case ScalarType.INT32:
      return `${varintCode(name)} ${name} |= 0;`;
    case ScalarType.UINT32:
      return varintCode(name);
    case ScalarType.SINT32:
      return `${varintCode(name)} ${name} = (${name} >>> 1) ^ -(${name} & 1);`;
    case ScalarType.BOOL:
      return `${NEXT_BYTE} ${name} = b[p]; if (${name} < 128) { p++; ${name} = ${name} !== 0; } else { R.pos = p; ${name} = takeBool(b); p = R.pos; }`;
    case ScalarType.STRING:
      return `${LENGTH} ${name} = takeString(b, p, n, ${isStrict(field)}); p += n;`;
    case ScalarType.DOUBLE:
      // Inline, because V8 would have to allocate a number object to return it from a function.
      return `if (p + 8 > len) eof();
        bytes8[0] = b[p]; bytes8[1] = b[p + 1]; bytes8[2] = b[p + 2]; bytes8[3] = b[p + 3];
        bytes8[4] = b[p + 4]; bytes8[5] = b[p + 5]; bytes8[6] = b[p + 6]; bytes8[7] = b[p + 7];
        ${name} = float64[0]; p += 8;`;
    case ScalarType.BYTES:
      return `${LENGTH} ${name} = bytesAt(b, p, n); p += n;`;
    default: {
      const asString = field.fieldKind !== "map" && (field as { longAsString?: boolean }).longAsString === true;
      return `R.pos = p; ${name} = ${scope.constant(SCALAR_READERS[type])}(b); p = R.pos; ${asString ? `${name} = String(${name});` : ""}`;
    }
  }
}

function fieldCase(field: DescField, scope: Scope, resolve: Resolve): string {
  const code = isRare(field) ? "" : readCode(field, scope, resolve);
  return code === "" ? "" : `case ${field.number}: ${code} break;`;
}

function isRare(field: DescField): boolean {
  // A property inherited from Object.prototype would look like a set field.
  if (field.localName in Object.prototype) return true;
  if (field.enum !== undefined) return field.fieldKind === "enum" && !field.enum.open;
  if (field.message === undefined) return false;
  if (isJsonField(field) || isUnwrapped(field)) return true;
  return field.fieldKind !== "map" && (field as { delimitedEncoding?: boolean }).delimitedEncoding === true;
}

function readCode(field: DescField, scope: Scope, resolve: Resolve): string {
  if (field.fieldKind === "map") return mapCode(field, scope, resolve);
  const type = scalarOf(field);
  const tag = tagOf(field.number, type === undefined ? WIRE.lengthDelimited : wireTypeOf(type));
  if (field.fieldKind === "list") return listCode(field, type, tag, scope, resolve);
  const target = property("m", field.localName);
  if (type !== undefined) {
    const set = field.oneof === undefined ? `${target} = v;` : oneofCode(field.oneof, field.localName);
    return `if (t === ${tag}) { ${scalarCode(type, field, "v", scope)} ${set} continue; }`;
  }
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- a field without a scalar type has one
  const child = scope.constant(resolve(field.message!));
  if (field.oneof === undefined) {
    return `if (t === ${tag}) { ${LENGTH}
      v = ${target};
      if (v === undefined) { v = ${child}.create(); p = ${child}.read(v, b, p, p + n); ${target} = v; }
      else p = ${child}.read(v, b, p, p + n);
      continue; }`;
  }
  const oneof = property("m", field.oneof.localName);
  return `if (t === ${tag}) { ${LENGTH}
    v = ${oneof}.case === ${JSON.stringify(field.localName)} ? ${oneof}.value : undefined;
    if (v === undefined) v = ${child}.create();
    p = ${child}.read(v, b, p, p + n);
    ${oneofCode(field.oneof, field.localName)} continue; }`;
}

function oneofCode(oneof: DescOneof, name: string): string {
  return `${property("m", oneof.localName)} = { case: ${JSON.stringify(name)}, value: v };`;
}

const PACKED_READERS: Partial<Record<ScalarType, (b: Uint8Array, n: number, list: number[]) => number[]>> = {
  [ScalarType.DOUBLE]: takePackedDoubles,
  [ScalarType.FLOAT]: takePackedFloats,
  [ScalarType.SFIXED32]: takePackedSfixed32,
  [ScalarType.FIXED32]: takePackedFixed32,
};

function listCode(field: ListField, type: ScalarType | undefined, tag: number, scope: Scope, resolve: Resolve): string {
  const list = property("m", field.localName);
  if (type === undefined) {
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- a field without a scalar type has one
    const child = scope.constant(resolve(field.message!));
    return `if (t === ${tag}) { ${LENGTH} v = ${child}.create(); p = ${child}.read(v, b, p, p + n); ${list}.push(v); continue; }`;
  }
  const count = `work.units += ${elementUnits(type)};`;
  const single = `if (t === ${tag}) { ${scalarCode(type, field, "v", scope)} ${list}.push(v); ${count} continue; }`;
  return isPackable(type) ? `${packedCode(field, type, scope)} else ${single}` : single;
}

function packedCode(field: ListField, type: ScalarType, scope: Scope): string {
  const tag = tagOf(field.number, WIRE.lengthDelimited);
  const list = property("m", field.localName);
  const width = widthOf(type);
  if (width === 0) {
    return `if (t === ${tag}) { ${LENGTH}
      const list = ${list};
      ${isBigint(type) ? "" : countCode("n >>> 1")}
      for (const stop = p + n; p < stop; ) { ${packedValueCode(type, field, scope)} list.push(v); ${isBigint(type) ? countCode(BIGINT_UNITS) : ""} }
      continue; }`;
  }
  const reader = PACKED_READERS[type];
  if (reader === undefined) return `if (t === ${tag}) {}`;
  return `if (t === ${tag}) {
    const start = p;
    ${LENGTH}
    if (n < R.viewsFrom && n % ${width} === 0) { ${countCode("n >>> 2")} R.pos = p; ${list} = ${scope.constant(reader)}(b, n, ${list}); p = R.pos; continue; }
    p = start;
  }`;
}

/**
 * Reads a value of a packed list that ends at `stop` into `v`. The processor cannot predict how many bytes a value has,
 * so no branch depends on it: four bytes are loaded, and those after the value's last byte are masked out.
 */
function packedValueCode(type: ScalarType, field: ListField, scope: Scope): string {
  const code = scalarCode(type, field, "v", scope);
  if (type !== ScalarType.INT32 && type !== ScalarType.UINT32 && type !== ScalarType.SINT32) return code;
  return `let last = 0;
    if (p + 4 <= stop) {
      v = b[p] | b[p + 1] << 8 | b[p + 2] << 16 | b[p + 3] << 24;
      last = ~v & 0x80808080;
      last &= -last;
    }
    if (last !== 0) {
      v &= (last << 1) - 1;
      v = v & 0x7f | v >>> 1 & 0x3f80 | v >>> 2 & 0x1fc000 | v >>> 3 & 0xfe00000;
      p += (39 - Math.clz32(last)) >>> 3;
      ${type === ScalarType.SINT32 ? "v = (v >>> 1) ^ -(v & 1);" : ""}
    } else { ${code} }`;
}

/** Reads an entry that consists of key and value, in this order. Other entries are left to the closures. */
function mapCode(field: MapField, scope: Scope, resolve: Resolve): string {
  const valueType = scalarOf(field);
  const keyTag = tagOf(1, wireTypeOf(field.mapKey));
  const valueTag = tagOf(2, valueType === undefined ? WIRE.lengthDelimited : wireTypeOf(valueType));
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- a field without a scalar type has one
  const child = valueType === undefined ? scope.constant(resolve(field.message!)) : "";
  const readValue =
    valueType === undefined
      ? `${LENGTH} v = ${child}.create(); p = ${child}.read(v, b, p, p + n);`
      : scalarCode(valueType, field, "v", scope);
  return `if (t === ${tagOf(field.number, WIRE.lengthDelimited)}) {
    const start = p;
    ${LENGTH}
    work.units += ${MAP_ENTRY_UNITS};
    const stop = p + n;
    if (p < stop && b[p] === ${keyTag}) {
      p++;
      let key;
      ${scalarCode(field.mapKey, field, "key", scope)}
      if (p < stop && b[p] === ${valueTag}) {
        p++;
        ${readValue}
        if (p === stop) {
          if (key === "__proto__") setOwn(${property("m", field.localName)}, key, v);
          else ${property("m", field.localName)}[key] = v;
          continue;
        }
      }
    }
    p = start;
  }`;
}
