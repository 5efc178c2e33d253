/** Views of repeated fields. */
import { isPackable, isJsonField, scalarOf, widthOf, WIRE } from "../wire/fields.js";
import type { ListField, MessageField } from "../wire/fields.js";
import type { ScalarReader } from "../wire/read.js";
import { R, takeLength, takeTag } from "../wire/read.js";
import { listRefused, VIEW } from "../wire/view-mark.js";
import type { Place, Skippers } from "./place.js";
import { checkAttached, occurrencesFrom } from "./place.js";
import type { ResolveView } from "./type.js";
import { jsonAt, readerOf, viewAt } from "./value.js";

/**
 * A repeated field of a view. Items are decoded on demand: `double`, `float` and fixed-width integers of a packed field
 * one by one, where they lie; other numbers all together on the first use; strings, bytes and messages one by one,
 * after their places have been found on the first use.
 *
 * A list is valid as long as the bytes are attached. Afterwards, all of its members throw a TypeError.
 */
export interface ListView<T> extends Iterable<T> {
  /** The number of items. */
  readonly length: number;
  /**
   * The item at an index, which counts from the end if it is negative; undefined if there is none. For a message, each
   * call returns a new view.
   */
  at(index: number): T | undefined;
  /** All items in a new array. */
  toArray(): T[];
}

/** Makes the view of a list whose first tag is at `first` and whose field occurs `count` times. */
export function listMaker(
  field: ListField,
  fields: () => Skippers,
  resolve: ResolveView,
): (place: Place, first: number, count: number) => ListView<unknown> {
  const type = scalarOf(field);
  const { number } = field;
  if (type === undefined) {
    const item = isJsonField(field as ListField & MessageField)
      ? jsonAt(field as ListField & MessageField)
      : viewAt(field as ListField & MessageField, resolve);
    return (place, first, count) =>
      new ItemList(place, count, () => occurrencesFrom(place, fields(), number, first, count), item);
  }
  const read = readerOf(type, field);
  if (!isPackable(type)) {
    const item = (place: Place, position: number) => readAt(place.b, position, read);
    return (place, first, count) =>
      new ItemList(place, count, () => occurrencesFrom(place, fields(), number, first, count), item);
  }
  const width = widthOf(type);
  return (place, first, count) => {
    const { b } = place;
    if (count === 0) return new FixedList(b, 0, 0, 0, read);
    if (count === 1 && width > 0) {
      R.pos = first;
      R.len = b.length;
      if ((takeTag(b) & 7) === WIRE.lengthDelimited) {
        const n = takeLength(b);
        return new FixedList(b, R.pos, n / width, width, read);
      }
    }
    return new ValueList(b, () => valuesOf(b, occurrencesFrom(place, fields(), number, first, count), read));
  };
}

function readAt<T>(b: Uint8Array, position: number, read: (b: Uint8Array) => T): T {
  R.pos = position;
  R.len = b.length;
  return read(b);
}

/** Decodes packed and single values, in order. */
function valuesOf(b: Uint8Array, found: readonly number[], read: ScalarReader): unknown[] {
  const values: unknown[] = [];
  for (let i = 0; i < found.length; i += 2) {
    R.pos = found[i];
    R.len = b.length;
    if ((found[i + 1] & 7) !== WIRE.lengthDelimited) {
      values.push(read(b));
      continue;
    }
    // The last value ends there: this was checked when the field was skipped (VIEW-1).
    const end = takeLength(b) + R.pos;
    while (R.pos < end) values.push(read(b));
  }
  return values;
}

abstract class List<T> implements ListView<T> {
  readonly #b: Uint8Array;

  constructor(b: Uint8Array) {
    this.#b = b;
  }

  /** An encoder reads this first. Without it, undefined would be encoded. */
  get 0(): never {
    throw listRefused();
  }

  get [VIEW](): null {
    return null;
  }

  protected abstract count(): number;
  /** @param index within the list */
  protected abstract item(index: number): T;

  get length(): number {
    if (this.#b.length === 0) checkAttached(this.#b);
    return this.count();
  }

  at(index: number): T | undefined {
    const { length } = this;
    const whole = Math.trunc(index) || 0;
    const i = whole < 0 ? whole + length : whole;
    return i >= 0 && i < length ? this.item(i) : undefined;
  }

  *[Symbol.iterator](): Generator<T, undefined> {
    for (let i = 0; i < this.length; i++) yield this.item(i);
  }

  toArray(): T[] {
    const { length } = this;
    const items: T[] = [];
    for (let i = 0; i < length; i++) items.push(this.item(i));
    return items;
  }
}

/** Values of the same width, one after the other. */
class FixedList<T> extends List<T> {
  readonly #b: Uint8Array;
  readonly #start: number;
  readonly #count: number;
  readonly #width: number;
  readonly #read: (b: Uint8Array) => T;

  constructor(b: Uint8Array, start: number, count: number, width: number, read: (b: Uint8Array) => T) {
    super(b);
    this.#b = b;
    this.#start = start;
    this.#count = count;
    this.#width = width;
    this.#read = read;
  }

  protected override count(): number {
    return this.#count;
  }

  protected override item(index: number): T {
    return readAt(this.#b, this.#start + index * this.#width, this.#read);
  }
}

/** Values that are decoded together. */
class ValueList<T> extends List<T> {
  readonly #decode: () => T[];
  #values: T[] | undefined;

  constructor(b: Uint8Array, decode: () => T[]) {
    super(b);
    this.#decode = decode;
  }

  protected override count(): number {
    return (this.#values ??= this.#decode()).length;
  }

  protected override item(index: number): T {
    return (this.#values ??= this.#decode())[index];
  }
}

/** Items that are found together, and decoded one by one. */
class ItemList<T> extends List<T> {
  readonly #place: Place;
  readonly #count: number;
  readonly #find: () => number[];
  readonly #read: (place: Place, position: number) => T;
  /** Position, tag, position, tag, … */
  #found: number[] | undefined;

  constructor(place: Place, count: number, find: () => number[], read: (place: Place, position: number) => T) {
    super(place.b);
    this.#place = place;
    this.#count = count;
    this.#find = find;
    this.#read = read;
  }

  protected override count(): number {
    return this.#count;
  }

  protected override item(index: number): T {
    return this.#read(this.#place, (this.#found ??= this.#find())[2 * index]);
  }
}
