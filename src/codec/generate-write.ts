/**
 * The encoder as generated code: one pair of functions per message type, in which every field is a few lines of its own.
 * Rare kinds of fields are left to the closures, which write the same bytes.
 */
import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { create, ScalarType } from "@bufbuild/protobuf";
import { changed, checkType, fieldWriter, fixedListSize, listOf, mapKeyOf, putFixedList, putUnknown, requiredError, unknownSize, zeroOf } from "./closure-write.js";
import type { ListField, MapField, MessageField } from "./fields.js";
import { byNumber, hasOwn, isJsonField, isUnwrapped, labelOf, PRESENCE, scalarOf, tagOf, widthOf, WIRE, wireTypeOf } from "./fields.js";
import { property, Scope } from "./generate.js";
import type { MessageWriter, Resolve } from "./message-type.js";
import { keptArray } from "./packed.js";
import { varint32Length } from "./utf8.js";
import { isUnset, putLength, requireAttached, reserve, SCALAR_WRITERS, W } from "./write.js";

const FUNCTIONS = { changed, checkType, fixedListSize, hasOwn, isUnset, keptArray, listOf, putFixedList, putLength, putUnknown, requireAttached, reserve, unknownSize, varint32Length, W };

/** Statements that add a value's bytes to `n`, and that write it at `p`. */
interface Code {
  readonly size: string;
  readonly write: string;
}

export function generateWriter(desc: DescMessage, resolve: Resolve): MessageWriter {
  const scope = new Scope(FUNCTIONS);
  const fields = byNumber(desc).map((field) => fieldCode(field, scope, resolve));
  const oneofs = desc.oneofs
    .map((oneof) => `const ${oneofName(oneof.localName, desc)} = ${property("m", oneof.localName)} ?? ${scope.constant({ case: undefined })};`)
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
  const value = valueCode(field, field.number, "v", scope, resolve);
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
  if (isJsonField(field as MessageField) || isUnwrapped(field as MessageField)) return true;
  return field.fieldKind !== "map" && (field as { delimitedEncoding?: boolean }).delimitedEncoding === true;
}

/** Whether the singular field with the value `v` is set; see `presenceOf` of the closures. */
function presenceCode(field: DescField, scope: Scope): string {
  if ((field.presence as number) !== PRESENCE.implicit) {
    const isSet = "v !== undefined && (v !== null || !W.lenient)";
    const inherits = field.localName in Object.prototype || Object.getPrototypeOf(create(field.parent)) !== Object.prototype;
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

/** Code for the value in the variable `name`, its tag included. */
function valueCode(field: DescField, number: number, name: string, scope: Scope, resolve: Resolve): Code {
  const type = scalarOf(field);
  if (type !== undefined) return scalarCode(type, number, name, scope.constant(labelOf(field)), scope);
  const child = scope.constant(resolve(field.message!));
  const tag = tagOf(number, WIRE.lengthDelimited);
  const message = `${name} === undefined ? ${child}.create() : ${name}`;
  return {
    size: `{ const slot = reserve(); const k = ${child}.size(${message}); W.memo[slot] = k; n += ${varint32Length(tag)} + varint32Length(k) + k; }`,
    write: `{
      const k = W.memo[W.next++];
      ${tagCode(tag)}
      p = putLength(b, p, limit, k); if (p < 0) return -1;
      const end = p + W.spanBytes + k;
      p = ${child}.write(${message}, b, p, limit); if (p < 0) return -1;
      if (p + W.spanBytes !== end) throw changed(${scope.constant(labelOf(field))});
    }`,
  };
}

function scalarCode(type: ScalarType, number: number, name: string, label: string, scope: Scope): Code {
  const tag = tagOf(number, wireTypeOf(type));
  return {
    size: `n += ${varint32Length(tag)} + ${sizeExpression(type, name, label, scope)};`,
    write: `${tagCode(tag)} p = ${scope.constant(SCALAR_WRITERS[type].put)}(b, p, limit, ${name}, ${label}); if (p < 0) return -1;`,
  };
}

function sizeExpression(type: ScalarType, name: string, label: string, scope: Scope): string {
  if (type === ScalarType.BOOL) return "1";
  const width = widthOf(type);
  return width > 0 ? String(width) : `${scope.constant(SCALAR_WRITERS[type].size)}(${name}, ${label})`;
}

/** Writes a tag, byte by byte. */
function tagCode(tag: number): string {
  const length = varint32Length(tag);
  let code = `if (p + ${length} > limit) return -1; `;
  for (let rest = tag; length > 0; rest >>>= 7) {
    if (rest < 0x80) return `${code}b[p++] = ${rest};`;
    code += `b[p++] = ${(rest & 0x7f) | 0x80}; `;
  }
  return code;
}

function listCode(field: ListField, scope: Scope, resolve: Resolve): Code {
  const type = scalarOf(field);
  const label = scope.constant(labelOf(field));
  const name = JSON.stringify(field.localName);
  if (type !== undefined && field.packed && widthOf(type) > 0) {
    const tag = tagOf(field.number, WIRE.lengthDelimited);
    const load = `const list = keptArray(m, ${name}) ?? listOf(m[${name}], ${label});`;
    return {
      size: `{ ${load} n += fixedListSize(list, ${tag}, ${widthOf(type)}); }`,
      write: `{ ${load} p = putFixedList(b, p, limit, list, ${tag}, ${type}, ${widthOf(type)}, ${label}); if (p < 0) return -1; }`,
    };
  }
  const load = `const list = listOf(m[${name}], ${label}); const count = list.length;`;
  if (type !== undefined && field.packed) {
    const tag = tagOf(field.number, WIRE.lengthDelimited);
    return {
      size: `{ ${load} if (count > 0) {
        const slot = reserve(); let k = 0;
        for (let i = 0; i < count; i++) { const x = list[i]; k += ${sizeExpression(type, "x", label, scope)}; }
        W.memo[slot] = k; n += ${varint32Length(tag)} + varint32Length(k) + k;
      } }`,
      write: `{ ${load} if (count > 0) {
        const k = W.memo[W.next++];
        ${tagCode(tag)}
        p = putLength(b, p, limit, k); if (p < 0) return -1;
        const end = p + k;
        for (let i = 0; i < count; i++) { p = ${scope.constant(SCALAR_WRITERS[type].put)}(b, p, limit, list[i], ${label}); if (p < 0) return -1; }
        if (p !== end) throw changed(${label});
      } }`,
    };
  }
  const value = valueCode(field, field.number, "x", scope, resolve);
  return {
    size: `{ ${load} for (let i = 0; i < count; i++) { const x = list[i]; ${value.size} } }`,
    write: `{ ${load} for (let i = 0; i < count; i++) { const x = list[i]; ${value.write} } }`,
  };
}

function mapCode(field: MapField, scope: Scope, resolve: Resolve): Code {
  const label = scope.constant(labelOf(field));
  const tag = tagOf(field.number, WIRE.lengthDelimited);
  const key = scalarCode(field.mapKey, 1, "key", label, scope);
  const value = valueCode(field, 2, "x", scope, resolve);
  const toKey = field.mapKey === ScalarType.STRING ? "names[i]" : `${scope.constant(mapKeyOf(field.mapKey))}(names[i])`;
  const load = `const map = ${property("m", field.localName)}; const names = map === undefined || map === null ? [] : Object.keys(map);`;
  const each = `for (let i = 0; i < names.length; i++) { const key = ${toKey}; const x = map[names[i]];`;
  return {
    size: `{ ${load} ${each}
      const slot = reserve(); const before = n;
      ${key.size} ${value.size}
      const k = n - before; W.memo[slot] = k; n += ${varint32Length(tag)} + varint32Length(k);
    } }`,
    write: `{ ${load} ${each}
      const k = W.memo[W.next++];
      ${tagCode(tag)}
      p = putLength(b, p, limit, k); if (p < 0) return -1;
      const end = p + W.spanBytes + k;
      ${key.write} ${value.write}
      if (p + W.spanBytes !== end) throw changed(${label});
    } }`,
  };
}
