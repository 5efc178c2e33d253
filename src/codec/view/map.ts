/** Views of map fields. */
import { ScalarType } from "@bufbuild/protobuf";
import { scalarZeroValue } from "@bufbuild/protobuf/reflect";
import type { MapField, MessageField } from "../wire/fields.js";
import { isJsonField, scalarOf, wireTypeOf } from "../wire/fields.js";
import { R, skip, takeLength, takeTag } from "../wire/read.js";
import { valueReader } from "../compile/closure-read.js";
import { VIEW } from "../wire/view-mark.js";
import type { Place, Skippers } from "./place.js";
import { checkAttached, occurrencesFrom } from "./place.js";
import type { ResolveView } from "./type.js";
import { jsonOver, readerOf, viewOver } from "./value.js";

/**
 * A map field of a view. All keys are decoded on the first use, and values on demand. The order of the entries is that
 * of the wire, which can differ from the order of a decoded message's properties.
 *
 * A map is valid as long as the bytes are attached. Afterwards, all of its members throw a TypeError.
 */
export interface MapView<K extends string | number, V> extends Iterable<[K, V]> {
  /** The number of different keys. */
  readonly size: number;
  /** The value of a key; undefined if there is none. For a message, each call returns a new view. */
  get(key: K): V | undefined;
  has(key: K): boolean;
  keys(): IterableIterator<K>;
  values(): IterableIterator<V>;
  entries(): IterableIterator<[K, V]>;
}

/** Positions of an entry's values: none, one, or several if it is a message that occurs several times. */
type Found = undefined | number | number[];
type Key = string | number;

/** Reads the entries of a field. */
interface Entries {
  readonly find: (place: Place, first: number, count: number) => Map<Key, Found>;
  readonly value: (place: Place, found: Found) => unknown;
}

/** Makes the view of a map whose first tag is at `first` and whose field occurs `count` times. */
export function mapMaker(
  field: MapField,
  fields: () => Skippers,
  resolve: ResolveView,
): (place: Place, first: number, count: number) => MapView<Key, unknown> {
  const readKey = valueReader(field.mapKey, field);
  const keyZero = scalarZeroValue(field.mapKey, false);
  const isNumeric = typeof keyZero === "number";
  const type = scalarOf(field);
  const skipTag = type === undefined ? 2 : wireTypeOf(type);
  const entries: Entries = {
    find(place, first, count) {
      const { b, room } = place;
      const map = new Map<Key, Found>();
      const found = occurrencesFrom(place, fields(), field.number, first, count);
      for (let i = 0; i < found.length; i += 2) {
        R.pos = found[i];
        R.len = b.length;
        const end = takeLength(b) + R.pos;
        R.len = end;
        let key: unknown = keyZero;
        let value: Found;
        while (R.pos < end) {
          const tag = takeTag(b);
          if (tag >>> 3 === 1) {
            key = readKey(b);
          } else if (tag >>> 3 === 2) {
            // A message that occurs twice is merged.
            if (value === undefined || type !== undefined) value = R.pos;
            else if (typeof value === "number") value = [value, R.pos];
            else value.push(R.pos);
            skip(b, skipTag, 0);
          } else {
            skip(b, tag, room);
          }
        }
        map.set(isNumeric ? (key as number) : String(key), value);
      }
      return map;
    },
    value: mapValue(field, type, resolve),
  };
  return (place, first, count) => new EntryMap(place, first, count, entries);
}

function mapValue(field: MapField, type: ScalarType | undefined, resolve: ResolveView): Entries["value"] {
  if (type !== undefined) {
    const read = readerOf(type, field);
    const zero = field.mapKind === "enum" ? field.enum.values[0].number : scalarZeroValue(type, false);
    return ({ b }, found) => {
      if (found === undefined) return type === ScalarType.BYTES ? new Uint8Array(0) : zero;
      R.pos = found as number;
      R.len = b.length;
      return read(b);
    };
  }
  const over = isJsonField(field as MapField & MessageField)
    ? jsonOver(field as MapField & MessageField)
    : viewOver(field as MapField & MessageField, resolve);
  return (place, found) =>
    over(place, found === undefined ? [0, 0] : rangesAt(place.b, typeof found === "number" ? [found] : found));
}

function rangesAt(b: Uint8Array, positions: readonly number[]): number[] {
  return positions.flatMap((position) => {
    R.pos = position;
    R.len = b.length;
    const n = takeLength(b);
    return [R.pos, R.pos + n];
  });
}

class EntryMap implements MapView<Key, unknown> {
  readonly #place: Place;
  readonly #first: number;
  readonly #count: number;
  readonly #entries: Entries;
  #map: Map<Key, Found> | undefined;

  constructor(place: Place, first: number, count: number, entries: Entries) {
    this.#place = place;
    this.#first = first;
    this.#count = count;
    this.#entries = entries;
  }

  get [VIEW](): null {
    return null;
  }

  #found(): Map<Key, Found> {
    const { b } = this.#place;
    if (b.length === 0) checkAttached(b);
    return (this.#map ??= this.#entries.find(this.#place, this.#first, this.#count));
  }

  get size(): number {
    return this.#found().size;
  }

  get(key: Key): unknown {
    const map = this.#found();
    const found = map.get(key);
    return found === undefined && !map.has(key) ? undefined : this.#entries.value(this.#place, found);
  }

  has(key: Key): boolean {
    return this.#found().has(key);
  }

  *keys(): Generator<Key, undefined> {
    for (const key of this.#found().keys()) {
      this.#found();
      yield key;
    }
    this.#found();
  }

  *values(): Generator<unknown, undefined> {
    for (const [, value] of this.entries()) yield value;
  }

  *entries(): Generator<[Key, unknown], undefined> {
    for (const [key, found] of this.#found()) {
      this.#found();
      yield [key, this.#entries.value(this.#place, found)];
    }
    this.#found();
  }

  [Symbol.iterator](): Generator<[Key, unknown], undefined> {
    return this.entries();
  }
}
