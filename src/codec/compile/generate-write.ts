/**
 * The encoder as generated code: a pair of functions per message type, with a few lines for each field. Rare kinds of
 * fields are left to the closures, which write the same bytes.
 */
import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { create, ScalarType } from "@bufbuild/protobuf";
import {
  beginPart,
  changed,
  checkType,
  endPart,
  fieldWriter,
  listOf,
  mapKeyOf,
  putUnknown,
  readableListOf,
  unknownSize,
} from "./closure-write.js";
import type { ListField, MapField } from "../wire/fields.js";
import {
  byNumber,
  hasOwn,
  isJsonField,
  isUnwrapped,
  labelOf,
  PRESENCE,
  scalarOf,
  tagOf,
  widthOf,
  WIRE,
  wireTypeOf,
} from "../wire/fields.js";
import { property, Scope } from "./generate.js";
import type { MessageWriter, Resolve } from "./message-type.js";
import { keptArray } from "../wire/packed.js";
import { emptyMap, emptyOneof, isUnset, keysOf, requiredError, zeroOf } from "../wire/presence.js";
import { putVarint32, varint32Length } from "../wire/utf8.js";
import { fixedFieldOf, fixedListSize, putFixedList } from "../wire/write-fixed.js";
import { bytes8, float64, putLength, requireAttached, reserve, SCALAR_WRITERS, W } from "../wire/write.js";

const FUNCTIONS = {
  beginPart,
  bytes8,
  changed,
  checkType,
  emptyMap,
  emptyOneof,
  endPart,
  fixedListSize,
  float64,
  hasOwn,
  isUnset,
  keptArray,
  keysOf,
  listOf,
  putFixedList,
  putLength,
  putUnknown,
  putVarint32,
  readableListOf,
  requireAttached,
  reserve,
  unknownSize,
  varint32Length,
  W,
};

/** Statements that add the bytes of a value to `n`, and that write the value at `p`. */
interface Code {
  readonly size: string;
  readonly write: string;
}

export function generateWriter(desc: DescMessage, resolve: Resolve): MessageWriter {
  const scope = new Scope(FUNCTIONS);
  const fields = byNumber(desc).map((field) => fieldCode(field, scope, resolve));
  const oneofs = desc.oneofs
    .map(
      (oneof) =>
        `const ${oneofName(oneof.localName, desc)} = ${property("m", oneof.localName)} ?? emptyOneof(${scope.constant(labelOf(oneof.fields[0]))});`,
    )
    .join("\n");
  const typeName = JSON.stringify(desc.typeName);
  const check = `if (m.$typeName !== ${typeName}) checkType(m, ${scope.constant(desc)});`;
  return scope.evaluate(`
return {
  size(m) {
    ${check}
    let n = 0, v;
    ${oneofs}
    ${fields.map(({ size }) => size).join("\n")}
    return m.$unknown === undefined ? n : n + unknownSize(m, ${typeName});
  },
  write(m, b, p, limit) {
    ${check}
    const { sized } = W;
    let v;
    ${oneofs}
    ${fields.map(({ write }) => write).join("\n")}
    return m.$unknown === undefined ? p : putUnknown(m, ${typeName}, b, p, limit);
  },
};`);
}

function oneofName(localName: string, desc: DescMessage): string {
  return `oneof${desc.oneofs.findIndex((oneof) => oneof.localName === localName)}`;
}

function fieldCode(field: DescField, scope: Scope, resolve: Resolve): Code {
  if (isRare(field)) {
    const name = scope.constant(fieldWriter(field, resolve));
    return { size: `n += ${name}.size(m);`, write: `p = ${name}.write(m, b, p, limit); if (p < 0) return -1;` };
  }
  if (field.fieldKind === "list") return listCode(field, scope, resolve);
  if (field.fieldKind === "map") return mapCode(field, scope, resolve);
  const value = valueCode(field, { number: field.number, name: "v", isSized: "sized" }, scope, resolve);
  if (field.oneof !== undefined) {
    const oneof = oneofName(field.oneof.localName, field.parent);
    const condition = `if (${oneof}.case === ${JSON.stringify(field.localName)}) { v = ${oneof}.value;`;
    return { size: `${condition} ${value.size} }`, write: `${condition} ${value.write} }` };
  }
  const load = `v = ${property("m", field.localName)};`;
  const condition = presenceCode(field, scope);
  const isRequired = (field.presence as number) === PRESENCE.required;
  const otherwise = isRequired ? `else throw ${scope.constant(requiredError)}(${scope.constant(field)});` : "";
  return {
    size: `${load} if (${condition}) { ${value.size} } ${otherwise}`,
    write: `${load} if (${condition}) { ${value.write} } ${otherwise}`,
  };
}

function isRare(field: DescField): boolean {
  if (field.message === undefined) return false;
  if (isJsonField(field) || isUnwrapped(field)) return true;
  return field.fieldKind !== "map" && (field as { delimitedEncoding?: boolean }).delimitedEncoding === true;
}

/** An expression that tells whether the singular field with the value `v` is set; see `presenceOf`. */
function presenceCode(field: DescField, scope: Scope): string {
  if ((field.presence as number) !== PRESENCE.implicit) {
    const isSet = "v !== undefined && (v !== null || !W.lenient)";
    const inherits =
      field.localName in Object.prototype || Object.getPrototypeOf(create(field.parent)) !== Object.prototype;
    return inherits ? `${isSet} && hasOwn(m, ${JSON.stringify(field.localName)})` : isSet;
  }
  const zero = JSON.stringify(zeroOf(field));
  switch (field.scalar) {
    case undefined:
      return `v !== ${zero} && (typeof v === "number" || !isUnset(v, false))`;
    case ScalarType.BOOL:
      return `v !== false && (v === true || !isUnset(v, false))`;
    case ScalarType.STRING:
      return `v !== "" && (typeof v === "string" || !isUnset(v, false))`;
    case ScalarType.BYTES:
      return `v instanceof Uint8Array ? v.length > 0 || requireAttached(v, ${scope.constant(labelOf(field))}) : !isUnset(v, false)`;
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      return `!Object.is(v, 0) && (typeof v === "number" || !isUnset(v, false))`;
    case ScalarType.INT64:
    case ScalarType.UINT64:
    case ScalarType.SINT64:
    case ScalarType.FIXED64:
    case ScalarType.SFIXED64:
      return `v !== 0n && (typeof v === "bigint" || !isUnset(v, true))`;
    default:
      return `v !== 0 && (typeof v === "number" || !isUnset(v, true))`;
  }
}

/** The value that code is generated for. */
interface Value {
  /** Its field number. */
  readonly number: number;
  /** The variable that has it. */
  readonly name: string;
  /** An expression that tells whether the lengths in it are known already. */
  readonly isSized: string;
}

/** Code for a value with its tag. */
function valueCode(field: DescField, { number, name, isSized }: Value, scope: Scope, resolve: Resolve): Code {
  const type = scalarOf(field);
  if (type !== undefined) return scalarCode(type, number, name, scope.constant(labelOf(field)), scope);
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- a field without a scalar type has one
  const childType = resolve(field.message!);
  const child = scope.constant(childType);
  const tag = tagOf(number, WIRE.lengthDelimited);
  const load = `const message = ${name} === undefined ? ${child}.create() : ${name};`;
  const exact = `
      const { top, keysTop } = W;
      let k;
      if (${isSized}) k = W.memo[W.next++]; else { beginPart(); k = ${child}.size(message); W.sized = true; }
      ${tagCode(tag)}
      p = putLength(b, p, limit, k); if (p < 0) return -1;
      const end = p + W.spanBytes + k;
      p = ${child}.write(message, b, p, limit); if (p < 0) return -1;
      if (p + W.spanBytes !== end) throw changed(${scope.constant(labelOf(field))});
      if (!${isSized}) endPart(top, keysTop);`;
  return {
    size: `{ ${load} const slot = reserve(); const k = ${child}.size(message); W.memo[slot] = k; n += ${varint32Length(tag)} + varint32Length(k) + k; }`,
    write:
      isSized === "true" ? `{ ${load} ${exact} }` : `{ ${load} ${guessCode(tag, child, scope.variable("1"), exact)} }`,
  };
}

/** At most this many bytes of a nested message are written again; with more, measuring the whole message is faster. */
const REWRITTEN_BYTES_MAX = 1024;

/**
 * Writes a message that was not sized, with as much room for its length as the last message here needed. That usually
 * fits, and then nothing is measured at all. If it does not fit, or there is not enough room, the message is measured
 * and written again.
 */
function guessCode(tag: number, child: string, lastWidth: string, exact: string): string {
  return `
      let isDone = false;
      // Copied, because a message of the same type within this one may change the remembered width.
      const width = ${lastWidth};
      if (!sized && p + ${varint32Length(tag)} + width <= limit) {
        const start = p;
        ${tagBytes(tag)}
        const stop = ${child}.write(message, b, p + width, limit);
        // The outermost caller then measures the whole message, once.
        if (stop < 0) return -1;
        const k = stop - p - width;
        ${lastWidth} = varint32Length(k);
        isDone = ${lastWidth} === width;
        if (isDone) putVarint32(b, p, k);
        else if (k > ${REWRITTEN_BYTES_MAX}) return -1;
        p = isDone ? stop : start;
      }
      if (!isDone) { ${exact} }`;
}

function scalarCode(type: ScalarType, number: number, name: string, label: string, scope: Scope): Code {
  const tag = tagOf(number, wireTypeOf(type));
  const put = `p = ${scope.constant(SCALAR_WRITERS[type].put)}(b, p, limit, ${name}, ${label}); if (p < 0) return -1;`;
  const size = `n += ${varint32Length(tag)} + ${sizeExpression(type, name, label, scope)};`;
  if (type === ScalarType.DOUBLE) {
    // Inline, because V8 would have to allocate a number object to pass it to a function.
    return {
      size,
      write: `if (typeof ${name} === "number" && p + ${varint32Length(tag) + 8} <= limit) {
        ${tagBytes(tag)} float64[0] = ${name};
        b[p] = bytes8[0]; b[p + 1] = bytes8[1]; b[p + 2] = bytes8[2]; b[p + 3] = bytes8[3];
        b[p + 4] = bytes8[4]; b[p + 5] = bytes8[5]; b[p + 6] = bytes8[6]; b[p + 7] = bytes8[7];
        p += 8;
      } else { ${tagCode(tag)} ${put} }`,
    };
  }
  if (type !== ScalarType.INT32 && type !== ScalarType.UINT32) return { size, write: `${tagCode(tag)} ${put}` };
  return {
    size,
    write: `if (${smallUnsigned(name)} && p + ${varint32Length(tag) + 5} <= limit) { ${tagBytes(tag)} ${varintCode(name)} }
      else { ${tagCode(tag)} ${put} }`,
  };
}

/** An expression that tells whether a value is a number of at most four bytes, as nearly all are. */
function smallUnsigned(name: string): string {
  return `typeof ${name} === "number" && ${name} >>> 0 === ${name} && ${name} < 0x10000000`;
}

/** Writes such a number. The caller has checked that there is room. */
function varintCode(name: string): string {
  return `if (${name} < 0x80) b[p++] = ${name};
    else if (${name} < 0x4000) { b[p] = ${name} & 0x7f | 0x80; b[p + 1] = ${name} >>> 7; p += 2; }
    else p = putVarint32(b, p, ${name});`;
}

function sizeExpression(type: ScalarType, name: string, label: string, scope: Scope): string {
  if (type === ScalarType.BOOL) return "1";
  const width = widthOf(type);
  if (width > 0) return String(width);
  const size = `${scope.constant(SCALAR_WRITERS[type].size)}(${name}, ${label})`;
  if (type !== ScalarType.INT32 && type !== ScalarType.UINT32) return size;
  return `(${smallUnsigned(name)} ? (352 - Math.clz32(${name} | 1) * 9) >>> 6 : ${size})`;
}

/** Writes a tag, if there is room for it. */
function tagCode(tag: number): string {
  return `if (p + ${varint32Length(tag)} > limit) return -1; ${tagBytes(tag)}`;
}

/** Writes a tag, byte by byte. */
function tagBytes(tag: number): string {
  let code = "";
  for (let rest = tag; ; rest >>>= 7) {
    if (rest < 0x80) return `${code}b[p++] = ${rest};`;
    code += `b[p++] = ${(rest & 0x7f) | 0x80}; `;
  }
}

function listCode(field: ListField, scope: Scope, resolve: Resolve): Code {
  const type = scalarOf(field);
  const label = scope.constant(labelOf(field));
  const name = JSON.stringify(field.localName);
  if (type !== undefined && field.packed && widthOf(type) > 0) {
    const fixed = scope.constant(fixedFieldOf(field, type));
    const load = `const list = keptArray(m, ${name}) ?? listOf(m[${name}], ${label});`;
    return {
      size: `{ ${load} n += fixedListSize(list, ${fixed}); }`,
      write: `{ ${load} p = putFixedList(b, p, limit, list, ${fixed}); if (p < 0) return -1; }`,
    };
  }
  const load = `const list = readableListOf(m[${name}], ${label}); const count = list.length;`;
  if (type !== undefined && field.packed) {
    const tag = tagOf(field.number, WIRE.lengthDelimited);
    const sizeAll = `let k = 0; for (let i = 0; i < count; i++) { const x = list[i]; k += ${sizeExpression(type, "x", label, scope)}; }`;
    return {
      size: `{ ${load} if (count > 0) { ${sizeAll} n += ${varint32Length(tag)} + varint32Length(k) + k; } }`,
      write: `{ ${load} if (count > 0) {
        ${sizeAll}
        ${tagCode(tag)}
        p = putLength(b, p, limit, k); if (p < 0) return -1;
        const end = p + k;
        for (let i = 0; i < count; i++) { const x = list[i]; ${packedValueCode(type, label, scope)} }
        if (p !== end) throw changed(${label});
      } }`,
    };
  }
  const value = valueCode(field, { number: field.number, name: "x", isSized: "sized" }, scope, resolve);
  return {
    size: `{ ${load} for (let i = 0; i < count; i++) { const x = list[i]; ${value.size} } }`,
    write: `{ ${load} for (let i = 0; i < count; i++) { const x = list[i]; ${value.write} } }`,
  };
}

/**
 * Writes the value `x` of a packed list that ends at `end`. The processor cannot predict how many bytes a value has, so
 * no branch depends on it: four bytes are written, and the next value overwrites those that are too many.
 */
function packedValueCode(type: ScalarType, label: string, scope: Scope): string {
  const put = `p = ${scope.constant(SCALAR_WRITERS[type].put)}(b, p, limit, x, ${label}); if (p < 0) return -1;`;
  if (type !== ScalarType.INT32 && type !== ScalarType.UINT32) return put;
  return `if (${smallUnsigned("x")} && p + 4 <= end && end <= limit) {
      b[p] = (x & 0x7f) | ((0x7f - x) >>> 31) << 7;
      b[p + 1] = (x >>> 7) & 0x7f | ((0x3fff - x) >>> 31) << 7;
      b[p + 2] = (x >>> 14) & 0x7f | ((0x1fffff - x) >>> 31) << 7;
      b[p + 3] = x >>> 21;
      p += (352 - Math.clz32(x | 1) * 9) >>> 6;
    } else { ${put} }`;
}

function mapCode(field: MapField, scope: Scope, resolve: Resolve): Code {
  const label = scope.constant(labelOf(field));
  const tag = tagOf(field.number, WIRE.lengthDelimited);
  const key = scalarCode(field.mapKey, 1, "key", label, scope);
  // An entry is sized as a whole, so its lengths are known when the value is written.
  const value = valueCode(field, { number: 2, name: "x", isSized: "true" }, scope, resolve);
  const toKey = field.mapKey === ScalarType.STRING ? "names[i]" : `${scope.constant(mapKeyOf(field.mapKey))}(names[i])`;
  const load = `const map = ${property("m", field.localName)} ?? emptyMap(${label});`;
  const each = `for (let i = 0; i < names.length; i++) { const key = ${toKey}; const x = map[names[i]];`;
  return {
    size: `{ ${load} const names = keysOf(map); W.keys[W.keysTop++] = names; ${each}
      const slot = reserve(); const before = n;
      ${key.size} ${value.size}
      const k = n - before; W.memo[slot] = k; n += ${varint32Length(tag)} + varint32Length(k);
    } }`,
    write: `{ ${load} const { top, keysTop } = W; const names = sized ? W.keys[W.keysNext++] : keysOf(map); ${each}
      ${shortEntryCode(field, tag, key, value)}
      let k;
      if (sized) k = W.memo[W.next++]; else { beginPart(); let n = 0; ${key.size} ${value.size} k = n; W.sized = true; }
      ${tagCode(tag)}
      p = putLength(b, p, limit, k); if (p < 0) return -1;
      const end = p + W.spanBytes + k;
      ${key.write} ${value.write}
      if (p + W.spanBytes !== end) throw changed(${label});
      if (!sized) endPart(top, keysTop);
    } }`,
  };
}

/**
 * Writes an entry of at most 127 bytes. Its length takes one byte, so the entry can be written without measuring it.
 */
function shortEntryCode(field: MapField, tag: number, key: Code, value: Code): string {
  const type = scalarOf(field);
  if (type === undefined || type === ScalarType.BYTES) return "";
  const bound = (scalar: ScalarType, name: string) => (scalar === ScalarType.STRING ? `2 + 3 * ${name}.length` : "11");
  const isText = type === ScalarType.STRING ? `typeof x === "string" && ` : "";
  return `if (!sized && ${isText}${bound(field.mapKey, "key")} + ${bound(type, "x")} < 0x80 && p + ${varint32Length(tag) + 128} <= limit) {
      ${tagBytes(tag)}
      const at = p++;
      ${key.write} ${value.write}
      b[at] = p - at - 1;
      continue;
    }`;
}
