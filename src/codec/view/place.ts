/**
 * Where the message of a view lies, and how fields are skipped without decoding them.
 *
 * VIEW-1  A field is skipped by the schema, like the decoder reads it, and never past the end of the message. A value
 *         that reaches past the end of what contains it is an error, where the decoder would read on.
 */
import type { DescField, DescMessage } from "@bufbuild/protobuf";
import type { MessageField } from "../wire/fields.js";
import { isPackable, scalarOf, widthOf, WIRE, wireTypeOf } from "../wire/fields.js";
import { eof, R, skip, takeLength, takeTag } from "../wire/read.js";

/** The place of a message: [start, end), and further ranges if its field occurs more than once. */
export interface Place {
  readonly b: Uint8Array;
  readonly start: number;
  readonly end: number;
  /** Start, end, start, end, … */
  readonly more: readonly number[] | undefined;
  /** How many levels of messages may be nested in it. */
  readonly room: number;
}

/** Skips the value whose tag was just read. */
type Skipper = (b: Uint8Array, tag: number, room: number) => void;
/** By field number. */
export type Skippers = ReadonlyMap<number, Skipper>;

/** Checks an empty array. @throws TypeError if it is empty because it is detached */
export function checkAttached(b: Uint8Array): void {
  try {
    // Returns undefined for an empty array, and throws for a detached one.
    b.at(0);
  } catch {
    throw new TypeError(
      "cannot read the view: its memory is gone, because the ArrayBuffer was transferred or given away, and so is detached",
    );
  }
}

export function tooDeep(typeName: string): never {
  throw new Error(`cannot read the view of ${typeName}: its messages are nested deeper than recursionLimit allows`);
}

const skippersOf = new WeakMap<DescMessage, Skippers>();

export function skippers(desc: DescMessage): Skippers {
  let made = skippersOf.get(desc);
  if (made === undefined) {
    made = new Map(desc.fields.map((field) => [field.number, skipperOf(field)]));
    skippersOf.set(desc, made);
  }
  return made;
}

export function isGroup(field: DescField): field is MessageField {
  return field.fieldKind !== "map" && (field as { delimitedEncoding?: boolean }).delimitedEncoding === true;
}

function skipperOf(field: DescField): Skipper {
  if (isGroup(field)) return (b, _tag, room) => void skipGroup(b, field, room - 1);
  const type = field.fieldKind === "map" ? undefined : scalarOf(field);
  if (type === undefined) return skipDelimited;
  const wireType = wireTypeOf(type);
  const skipOne = (b: Uint8Array): void => skip(b, wireType, 0);
  if (field.fieldKind !== "list" || !isPackable(type)) return skipOne;
  const width = widthOf(type);
  return (b, tag) => {
    if ((tag & 7) === WIRE.lengthDelimited) skipPacked(b, width);
    else skipOne(b);
  };
}

function skipDelimited(b: Uint8Array): void {
  const n = takeLength(b);
  R.pos += n;
}

/** @param width bytes of a value; 0: the values are varints. @throws RangeError if the last value is incomplete */
export function skipPacked(b: Uint8Array, width: number): void {
  const n = takeLength(b);
  R.pos += n;
  if (n > 0 && (width === 0 ? b[R.pos - 1] > 127 : n % width !== 0)) eof();
}

/** Skips a field's group, and returns the end of its contents. @param room how deep the group itself may be nested */
export function skipGroup(b: Uint8Array, { number, message }: MessageField, room: number): number {
  if (room < 0) tooDeep(message.typeName);
  const fields = skippers(message);
  for (;;) {
    const end = R.pos;
    if (end >= R.len) throw new Error("invalid end group tag");
    const tag = takeTag(b);
    if ((tag & 7) === WIRE.endGroup) {
      if (tag >>> 3 !== number) throw new Error("invalid end group tag");
      return end;
    }
    skipField(b, tag, fields, room);
  }
}

/** Skips the value whose tag was just read, of a known or unknown field. */
export function skipField(b: Uint8Array, tag: number, fields: Skippers, room: number): void {
  const skipper = fields.get(tag >>> 3);
  if (skipper === undefined) skip(b, tag, room);
  else skipper(b, tag, room);
}

/** Finds a field's values, in order: position, tag, position, tag, … */
export function occurrences(place: Place, fields: Skippers, number: number): number[] {
  const found: number[] = [];
  collect(found, place, fields, number, { from: place.start, end: place.end, lengthMax: Infinity });
  const { more } = place;
  if (more !== undefined)
    for (let i = 0; i < more.length; i += 2)
      collect(found, place, fields, number, { from: more[i], end: more[i + 1], lengthMax: Infinity });
  return found;
}

/** Like `occurrences`, if the position of the first tag and the number of values are known. */
export function occurrencesFrom(
  place: Place,
  fields: Skippers,
  number: number,
  first: number,
  count: number,
): number[] {
  if (place.more !== undefined) return occurrences(place, fields, number);
  const found: number[] = [];
  collect(found, place, fields, number, { from: first, end: place.end, lengthMax: 2 * count });
  return found;
}

/** What `collect` looks through: [from, end), until `found` is `lengthMax` long. */
interface Stretch {
  readonly from: number;
  readonly end: number;
  readonly lengthMax: number;
}

function collect(
  found: number[],
  { b, room }: Place,
  fields: Skippers,
  number: number,
  { from, end, lengthMax }: Stretch,
): void {
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- the type's skippers have all its fields
  const skipOwn = fields.get(number)!;
  R.pos = from;
  R.len = end;
  while (R.pos < end && found.length < lengthMax) {
    const tag = takeTag(b);
    if (tag >>> 3 === number) {
      found.push(R.pos, tag);
      skipOwn(b, tag, room);
    } else {
      skipField(b, tag, fields, room);
    }
  }
}
