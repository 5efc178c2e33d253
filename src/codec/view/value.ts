/**
 * Reads single values of views: scalars like the decoder does, and messages as further views, or as plain values where
 * a decoded message has plain values.
 */
import type { DescField } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import { valueReader } from "../compile/closure-read.js";
import type { MessageField, Values } from "../wire/fields.js";
import { isJsonField, isUnwrapped } from "../wire/fields.js";
import { jsonOf } from "../compile/json-struct.js";
import { messageType } from "../compile/message-type.js";
import type { ScalarReader } from "../wire/read.js";
import { R, takeLength } from "../wire/read.js";
import type { Place, Skippers } from "./place.js";
import { isGroup, occurrences, skipGroup } from "./place.js";
import type { ResolveView } from "./type.js";

/** Makes the function that reads a scalar. Bytes are parts of the input. */
export function readerOf(type: ScalarType, field: DescField): ScalarReader {
  return type === ScalarType.BYTES ? takePart : valueReader(type, field);
}

function takePart(b: Uint8Array): Uint8Array {
  const n = takeLength(b);
  return new Uint8Array(b.buffer, b.byteOffset + R.pos, n);
}

/** Makes the value of a field from the ranges that have its contents: start, end, start, end, … */
type Over = (place: Place, ranges: readonly number[]) => unknown;

export function viewOver(field: MessageField, resolve: ResolveView): Over {
  return ({ b, room }, ranges) =>
    resolve(field.message).make(b, ranges[0], ranges[1], ranges.length > 2 ? ranges.slice(2) : undefined, room - 1);
}

export function jsonOver(field: MessageField): Over {
  return (place, ranges) => jsonOf(decoded(field, place, ranges));
}

function unwrappedOver(field: MessageField): Over {
  const name = field.message.fields[0].localName;
  return (place, ranges) => decoded(field, place, ranges)[name];
}

function decoded(field: MessageField, { b, room }: Place, ranges: readonly number[]): Values {
  const type = messageType(field.message);
  const message = type.create();
  R.depth = 0;
  R.depthMax = room;
  R.keepUnknown = false;
  R.viewsFrom = 0;
  for (let i = 0; i < ranges.length; i += 2) {
    R.len = ranges[i + 1];
    type.read(message, b, ranges[i], ranges[i + 1]);
  }
  return message;
}

/** Makes the function that returns the item of a list at a position. */
export function viewAt(field: MessageField, resolve: ResolveView): (place: Place, position: number) => unknown {
  const { message } = field;
  if (isGroup(field))
    return (place, position) =>
      resolve(message).make(place.b, position, groupEnd(field, place, position), undefined, place.room - 1);
  return ({ b, room }, position) => {
    R.pos = position;
    R.len = b.length;
    const n = takeLength(b);
    return resolve(message).make(b, R.pos, R.pos + n, undefined, room - 1);
  };
}

export function jsonAt(field: MessageField): (place: Place, position: number) => unknown {
  const over = jsonOver(field);
  return (place, position) => over(place, rangeAt(field, place, position));
}

function groupEnd(field: MessageField, { b, room }: Place, position: number): number {
  R.pos = position;
  R.len = b.length;
  return skipGroup(b, field, room - 1);
}

function rangeAt(field: MessageField, place: Place, position: number): number[] {
  if (isGroup(field)) return [position, groupEnd(field, place, position)];
  R.pos = position;
  R.len = place.b.length;
  const n = takeLength(place.b);
  return [R.pos, R.pos + n];
}

/**
 * Makes the function that returns the value of a singular message field whose last value is at `position`, and whose
 * last `count` values have to be merged.
 */
export function messageMaker(
  field: MessageField,
  fields: () => Skippers,
  resolve: ResolveView,
): (place: Place, position: number, count: number) => unknown {
  const over = isJsonField(field)
    ? jsonOver(field)
    : isUnwrapped(field)
      ? unwrappedOver(field)
      : viewOver(field, resolve);
  return (place, position, count) => {
    if (count === 1) return over(place, rangeAt(field, place, position));
    const found = occurrences(place, fields(), field.number);
    const ranges: number[] = [];
    for (let i = found.length - 2 * count; i < found.length; i += 2) ranges.push(...rangeAt(field, place, found[i]));
    return over(place, ranges);
  };
}
