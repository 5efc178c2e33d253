/** What views derive from the members of a message. Used by the generated and the interpreted form. */
import type { DescField, DescMessage, DescOneof } from "@bufbuild/protobuf";
import { create } from "@bufbuild/protobuf";
import type { Values } from "../wire/fields.js";
import { hasOwn, scalarOf } from "../wire/fields.js";
import { listMaker } from "./list.js";
import { mapMaker } from "./map.js";
import type { Place } from "./place.js";
import { skippers } from "./place.js";
import type { ResolveView } from "./type.js";
import type { ScalarReader } from "../wire/read.js";
import { R } from "../wire/read.js";
import { messageMaker, readerOf } from "./value.js";

/** Makes the value that a getter returns. The view keeps the value. */
export type Make = (place: Place, position: number, count: number) => unknown;

/** A scalar or enum, decoded at every read. Its position is that of the last value. */
export interface ScalarMember {
  readonly kind: "scalar";
  readonly name: string;
  readonly field: DescField;
  readonly initial: unknown;
  readonly read: ScalarReader;
}

/** A message, whose position is that of the last value; or a list or map, whose position is that of the first tag. */
export interface CompositeMember {
  readonly kind: "message" | "collection";
  readonly name: string;
  readonly field: DescField;
  readonly make: Make;
}

/** A oneof. Its position is that of the last value. Its count is that of the values since another case was set. */
export interface OneofMember {
  readonly kind: "oneof";
  readonly name: string;
  readonly fields: readonly DescField[];
  readonly make: (place: Place, number: number, position: number, count: number) => unknown;
}

export type Member = ScalarMember | CompositeMember | OneofMember;

export function membersOf(desc: DescMessage, resolve: ResolveView): Member[] {
  const model = create(desc) as Values;
  return desc.members.map((member) =>
    member.kind === "oneof" ? oneofMember(member, resolve) : fieldMember(member, model, resolve),
  );
}

function fieldMember(field: DescField, model: Values, resolve: ResolveView): ScalarMember | CompositeMember {
  const name = field.localName;
  const fields = () => skippers(field.parent);
  switch (field.fieldKind) {
    case "list":
      return { kind: "collection", name, field, make: listMaker(field, fields, resolve) };
    case "map":
      return { kind: "collection", name, field, make: mapMaker(field, fields, resolve) };
    case "message":
      return { kind: "message", name, field, make: messageMaker(field, fields, resolve) };
    default:
      return {
        kind: "scalar",
        name,
        field,
        initial: initialValue(model, name),
        read: readerOf(scalarOf(field), field),
      };
  }
}

/** The value of an unset field: its default, or undefined. */
function initialValue(model: Values, name: string): unknown {
  const prototype = Object.getPrototypeOf(model) as Values;
  return hasOwn(model, name) || (prototype !== (Object.prototype as object) && hasOwn(prototype, name))
    ? model[name]
    : undefined;
}

function oneofMember(oneof: DescOneof, resolve: ResolveView): OneofMember {
  const makers = new Map(
    oneof.fields.map((field) => [field.number, { name: field.localName, make: caseMaker(field, resolve) }]),
  );
  return {
    kind: "oneof",
    name: oneof.localName,
    fields: oneof.fields,
    make(place, number, position, count) {
      const maker = makers.get(number);
      return maker === undefined
        ? { case: undefined }
        : { case: maker.name, value: maker.make(place, position, count) };
    },
  };
}

function caseMaker(field: DescField, resolve: ResolveView): Make {
  if (field.message !== undefined) return messageMaker(field, () => skippers(field.parent), resolve);
  const read = readerOf(scalarOf(field), field);
  return ({ b }, position) => {
    R.pos = position;
    R.len = b.length;
    return read(b);
  };
}

/** The numbers of a closed enum, whose fields ignore all others; undefined for other fields. */
export function knownNumbers(field: DescField): ReadonlySet<number> | undefined {
  if (field.fieldKind !== "enum" || field.enum.open) return undefined;
  return new Set(field.enum.values.map((value) => value.number));
}
