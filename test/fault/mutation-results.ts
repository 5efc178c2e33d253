/**
 * Judges what came of a decode in the mutation proof. Looks at everything that a message holds, so that no read is
 * optimised away, and at where the memory of each value is: a message may refer to the input only where it was asked
 * to, and only to what is its own of it. An error has to be one that the codec means.
 */
import type { DescField, DescMessage, Message } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import { packed } from "../../src/codec/index.js";

/** What was met; a proof that never met one of these proves nothing about it. */
export interface Met {
  texts: number;
  textsOfMoreThanAscii: number;
  textsReplacedInPart: number;
  copies: number;
  viewsOfInline: number;
  viewsOfSpans: number;
  arraysOfSpans: number;
  /** Longer than all that was inline. */
  textsOfSpans: number;
  /** In ropes decoded to views, where only what was joined up is copied. */
  copiesJoined: number;
  unknownFieldsJoined: number;
  lists: number;
  maps: number;
  bigints: number;
  unknownFields: number;
}

export const met: Met = {
  texts: 0,
  textsOfMoreThanAscii: 0,
  textsReplacedInPart: 0,
  copies: 0,
  viewsOfInline: 0,
  viewsOfSpans: 0,
  arraysOfSpans: 0,
  textsOfSpans: 0,
  copiesJoined: 0,
  unknownFieldsJoined: 0,
  lists: 0,
  maps: 0,
  bigints: 0,
  unknownFields: 0,
};

/** Memory that a value of the message may lie in. */
export interface Room {
  readonly buffer: ArrayBufferLike;
  readonly start: number;
  readonly end: number;
}

export interface Rooms {
  readonly rope: boolean;
  readonly views: boolean;
  readonly inlineBytes: number;
  /** Memory of the input; whatever is not in it is the message's own. */
  readonly input: ReadonlySet<ArrayBufferLike>;
  /** Parts of the input that the message may refer to. */
  readonly inline: Room | undefined;
  readonly spans: readonly Room[];
}

let rooms: Rooms;

/** A number that stands for all of the message. @throws Misplaced */
export function touchAll(message: Message, schema: DescMessage, where: Rooms, arraysFirst: boolean): number {
  rooms = where;
  return (arraysFirst ? touchArrays(message, schema) : 0) ^ touch(message);
}

/** A value lies where it must not, or is not what its type says. */
export class Misplaced extends Error {
  override readonly name = "Misplaced";
}

const fixedFields = new WeakMap<DescMessage, readonly DescField[]>();
const FIXED: ReadonlySet<ScalarType> = new Set([
  ScalarType.DOUBLE,
  ScalarType.FLOAT,
  ScalarType.FIXED32,
  ScalarType.SFIXED32,
  ScalarType.FIXED64,
  ScalarType.SFIXED64,
]);

function touchArrays(message: Message, schema: DescMessage): number {
  let fields = fixedFields.get(schema);
  if (fields === undefined) {
    fields = schema.fields.filter(
      (field) => field.fieldKind === "list" && field.listKind === "scalar" && FIXED.has(field.scalar),
    );
    fixedFields.set(schema, fields);
  }
  let sum = 0;
  for (const field of fields) {
    const array = packed(message, field);
    if (roomOf(array) === "span") met.arraysOfSpans++;
    for (const value of array) sum = mix(sum, Number(value));
  }
  return sum;
}

function touch(value: unknown): number {
  switch (typeof value) {
    case "string":
      return touchText(value);
    case "number":
      return mix(1, value);
    case "bigint":
      met.bigints++;
      return mix(2, Number(value));
    case "boolean":
      return value ? 3 : 4;
    case "object":
      if (value === null) return 5;
      if (value instanceof Uint8Array) return touchBytes(value);
      return Array.isArray(value) ? touchList(value) : touchObject(value as Record<string, unknown>);
    case "undefined":
      return 6;
    default:
      throw new Misplaced(`a ${typeof value} in a message`);
  }
}

function touchText(text: string): number {
  met.texts++;
  let wide = 0;
  let sum = text.length;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    wide |= code;
    if (code === 0xfffd) met.textsReplacedInPart++;
    sum = mix(sum, code);
  }
  if (rooms.rope && text.length > rooms.inlineBytes) met.textsOfSpans++;
  if (wide > 0x7f) met.textsOfMoreThanAscii++;
  return sum;
}

function touchBytes(bytes: Uint8Array): number {
  switch (roomOf(bytes)) {
    case "span":
      met.viewsOfSpans++;
      break;
    case "inline":
      met.viewsOfInline++;
      break;
    default:
      met.copies++;
      if (bytes.length > 0 && rooms.rope && rooms.views) met.copiesJoined++;
  }
  return sumOf(bytes);
}

export function sumOf(bytes: Uint8Array): number {
  let sum = bytes.length;
  for (let i = 0; i < bytes.length; i++) sum = mix(sum, bytes[i]);
  return sum;
}

function touchList(list: readonly unknown[]): number {
  met.lists++;
  let sum = list.length;
  for (let i = 0; i < list.length; i++) {
    if (list[i] === undefined) throw new Misplaced("a hole in a list");
    sum = mix(sum, touch(list[i]));
  }
  return sum;
}

function touchObject(object: Record<string, unknown>): number {
  const keys = Object.keys(object);
  if (keys.length > 0 && object.$typeName === undefined && !("case" in object)) met.maps++;
  let sum = 0;
  for (const key of keys) {
    const before = met.copiesJoined;
    sum = mix(sum, touch(object[key]));
    if (key !== "$unknown") continue;
    met.unknownFields++;
    met.unknownFieldsJoined += met.copiesJoined - before;
  }
  return sum;
}

function mix(sum: number, value: number): number {
  return (Math.imul(sum, 31) + value) | 0;
}

function roomOf({ buffer, byteOffset, byteLength }: ArrayBufferView): "span" | "inline" | "own" {
  if (!rooms.input.has(buffer)) return "own";
  const end = byteOffset + byteLength;
  for (const span of rooms.spans)
    if (buffer === span.buffer && byteOffset >= span.start && end <= span.end) return "span";
  const { inline } = rooms;
  if (inline !== undefined && buffer === inline.buffer && byteOffset >= inline.start && end <= inline.end)
    return "inline";
  throw new Misplaced(`${byteLength} bytes at ${byteOffset} of the input, which are not the message's own`);
}

const EXPECTED: readonly { readonly kind: string; readonly code?: string; readonly text: RegExp }[] = [
  { kind: "RangeError", text: /^premature EOF$/ },
  { kind: "Error", text: /^invalid varint$|^illegal tag: |^invalid end group tag$|^cant skip wire type \d$/ },
  { kind: "Error", text: /: maximum recursion depth of 100 reached$|^maximum recursion depth reached$/ },
  { kind: "Error", text: /^invalid rope: / },
  { kind: "RopeViolation", text: /^invalid rope \(ROPE-[123]\): / },
  { kind: "TypeError", code: "ERR_ENCODING_INVALID_ENCODED_DATA", text: /./ },
];

/** What an error that the codec documents is counted as: its text without numbers. Undefined for any other. */
export function expectedError(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const { name, message } = error;
  const { code } = error as { code?: string };
  if (!EXPECTED.some((one) => one.kind === name && one.code === code && one.text.test(message))) return undefined;
  return `${name}: ${message.replaceAll(/\d+/g, "n").replace(/cannot decode .* from/, "cannot decode … from")}`;
}
