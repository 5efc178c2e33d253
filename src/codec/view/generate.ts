/**
 * Views as generated code: the positions of the fields are private fields of the view, found by one function per
 * message type.
 */
import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { isPackable, scalarOf, widthOf, WIRE, wireTypeOf } from "../wire/fields.js";
import { Scope } from "../compile/generate.js";
import { checkTag, eof, R, skip, takeInt32, takeTag, takeVarint32 } from "../wire/read.js";
import { viewRefused } from "../wire/view-mark.js";
import type { CompositeMember, Member, OneofMember, ScalarMember } from "./members.js";
import { knownNumbers, membersOf } from "./members.js";
import { checkAttached, isGroup, skipField, skippers, skipPacked, tooDeep } from "./place.js";
import type { ResolveView, ViewClass } from "./type.js";

const FUNCTIONS = {
  checkAttached,
  checkTag,
  eof,
  R,
  skip,
  skipField,
  skipPacked,
  takeInt32,
  takeTag,
  takeVarint32,
  tooDeep,
  viewRefused,
};

/**
 * SUBTLE: V8 would share what it learns about private fields among classes of the same text, which makes them six times
 * slower. Messages with the same fields are not rare, so each class has a number in its text.
 */
let classes = 0;

/** Generates the class. Slots of a member: `#p` position, `#n` count, `#k` the case of a oneof, `#c` the value made. */
export function generateView(desc: DescMessage, resolve: ResolveView): ViewClass {
  const scope = new Scope(FUNCTIONS);
  const members = membersOf(desc, resolve);
  const fields = scope.constant(skippers(desc));
  const cases = members.flatMap((member, slot) =>
    member.kind === "oneof"
      ? member.fields.map((field) => scanCase(field, fields, scope, oneofRecord(field, slot)))
      : scanCase(member.field, fields, scope, fieldRecord(member, slot)),
  );
  const typeName = JSON.stringify(desc.typeName);
  return scope.evaluate<ViewClass>(`
class View { // ${++classes}
  #b; #start; #end; #more; #room;
  ${members.map(slots).join(" ")}
  constructor(b, start, end, more, room) {
    if (room < 0) tooDeep(${typeName});
    this.#b = b; this.#start = start; this.#end = end; this.#more = more; this.#room = room;
    View.#scan(this, b, start, end);
    if (more !== undefined) for (let i = 0; i < more.length; i += 2) View.#scan(this, b, more[i], more[i + 1]);
  }
  static #scan(v, b, p, end) {
    R.len = end;
    let n = 0;
    while (p < end) {
      const at = p;
      let t = b[p++];
      if (t > 127) {
        n = p < end ? b[p] : 128;
        if (n < 128) { t = (t & 127) | (n << 7); p++; }
        else { R.pos = at; t = takeTag(b); p = R.pos; }
      }
      if ((t & 7) > 5) checkTag(t);
      switch (t >>> 3) {
        ${cases.join("\n")}
      }
      checkTag(t);
      R.pos = p; skip(b, t, v.#room); p = R.pos;
    }
    if (p !== end) eof();
  }
  static #place(v) { return { b: v.#b, start: v.#start, end: v.#end, more: v.#more, room: v.#room }; }
  static holds(v, number) {
    switch (number) {
      ${members.map(holdsCase).join("\n")}
    }
    return false;
  }
  get $unknown() { throw viewRefused(); }
  ${members.map((member, slot) => getter(member, slot, scope)).join("\n")}
}
return { make: (b, start, end, more, room) => new View(b, start, end, more, room), holds: View.holds, prototype: View.prototype };`);
}

/** The number of slots of a class. */
export function slotsOf(desc: DescMessage): number {
  return desc.members.reduce((count, member) => count + (member.kind === "oneof" ? 4 : isComposite(member) ? 3 : 1), 0);
}

function isComposite({ fieldKind }: DescField): boolean {
  return fieldKind === "message" || fieldKind === "list" || fieldKind === "map";
}

function slots(member: Member, slot: number): string {
  switch (member.kind) {
    case "scalar":
      return `#p${slot} = 0;`;
    case "oneof":
      return `#k${slot} = 0; #p${slot} = 0; #n${slot} = 0; #c${slot} = undefined;`;
    default:
      return `#p${slot} = 0; #n${slot} = 0; #c${slot} = undefined;`;
  }
}

function fieldRecord(member: ScalarMember | CompositeMember, slot: number): string {
  switch (member.kind) {
    case "scalar":
      return `v.#p${slot} = p;`;
    case "message":
      return `v.#p${slot} = p; v.#n${slot}++;`;
    case "collection":
      return `if (v.#n${slot}++ === 0) v.#p${slot} = at;`;
  }
}

function oneofRecord({ number }: DescField, slot: number): string {
  return `if (v.#k${slot} === ${number}) v.#n${slot}++; else { v.#k${slot} = ${number}; v.#n${slot} = 1; } v.#p${slot} = p;`;
}

/** Records a value, and skips it like `skippers`. */
function scanCase(field: DescField, fields: string, scope: Scope, record: string): string {
  return `case ${field.number}: ${scanCode(field, fields, scope, record)} continue;`;
}

// Reading past the end is noticed afterwards, because the position is wrong then.
const PASS_VARINT = "while (b[p++] > 127);";
const PASS_DELIMITED = `n = b[p++];
  if (n > 127) { R.pos = p - 1; n = takeVarint32(b); p = R.pos; }
  if (n > end - p) eof();
  p += n;`;

function scanCode(field: DescField, fields: string, scope: Scope, record: string): string {
  if (isGroup(field)) return `${record} R.pos = p; skipField(b, t, ${fields}, v.#room); p = R.pos;`;
  const known = knownNumbers(field);
  if (known !== undefined) return `R.pos = p; if (${scope.constant(known)}.has(takeInt32(b))) { ${record} } p = R.pos;`;
  const type = field.fieldKind === "map" ? undefined : scalarOf(field);
  const wireType = type === undefined ? WIRE.lengthDelimited : wireTypeOf(type);
  const pass =
    wireType === WIRE.varint
      ? PASS_VARINT
      : wireType === WIRE.lengthDelimited
        ? PASS_DELIMITED
        : `p += ${wireType === WIRE.bit64 ? 8 : 4};`;
  if (field.fieldKind !== "list" || type === undefined || !isPackable(type)) return `${record} ${pass}`;
  return `${record} if ((t & 7) === ${WIRE.lengthDelimited}) { R.pos = p; skipPacked(b, ${widthOf(type)}); p = R.pos; } else { ${pass} }`;
}

function holdsCase(member: Member, slot: number): string {
  if (member.kind === "oneof")
    return member.fields.map(({ number }) => `case ${number}: return v.#k${slot} === ${number};`).join("\n");
  return `case ${member.field.number}: return v.#${member.kind === "scalar" ? "p" : "n"}${slot} !== 0;`;
}

function getter(member: Member, slot: number, scope: Scope): string {
  return `get [${JSON.stringify(member.name)}]() {
    const b = this.#b;
    if (b.length === 0) checkAttached(b);
    ${getterCode(member, slot, scope)}
  }`;
}

function getterCode(member: Member, slot: number, scope: Scope): string {
  switch (member.kind) {
    case "scalar":
      return `const p = this.#p${slot};
        if (p === 0) return ${scope.constant(member.initial)};
        R.pos = p; R.len = b.length;
        return ${scope.constant(member.read)}(b);`;
    case "oneof":
      return `return this.#c${slot} ??= ${makeCode(member, scope)}(View.#place(this), this.#k${slot}, this.#p${slot}, this.#n${slot});`;
    case "message":
      return `const n = this.#n${slot};
        return n === 0 ? undefined : this.#c${slot} ??= ${makeCode(member, scope)}(View.#place(this), this.#p${slot}, n);`;
    case "collection":
      return `return this.#c${slot} ??= ${makeCode(member, scope)}(View.#place(this), this.#p${slot}, this.#n${slot});`;
  }
}

function makeCode(member: CompositeMember | OneofMember, scope: Scope): string {
  return scope.constant(member.make);
}
