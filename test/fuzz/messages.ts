/**
 * Random messages of any descriptor, as protobuf-es would hold them. Most are small; a few are empty, full, large or
 * deep. Required fields are left out now and then: such a message cannot be encoded by anybody.
 */
import type {
  DescEnum,
  DescExtension,
  DescField,
  DescMessage,
  DescOneof,
  JsonObject,
  JsonValue,
  Message,
} from "@bufbuild/protobuf";
import { create, ScalarType, setExtension } from "@bufbuild/protobuf";
import { isWrapperDesc } from "@bufbuild/protobuf/wkt";
import type { Random } from "./random.js";
import { extensions } from "./schemas.js";
import { randomUnknownFields } from "./unknown.js";
import { keySource, randomText, scalarSource } from "./values.js";

/** A message looked at without its type. */
export type Loose = Message & Record<string, unknown>;

type Draw = (random: Random, room: Room) => unknown;

/** What is left of a message's size; nested messages share it. */
interface Room {
  values: number;
  depth: number;
}

interface Plan {
  readonly schema: DescMessage;
  readonly set: readonly ((message: Loose, random: Random, room: Room) => void)[];
  readonly required: readonly number[];
  /** A field of the message's own type. */
  readonly recursive: DescField | undefined;
}

// `FeatureSet.FieldPresence`, whose own enum is not exported.
const IMPLICIT = 2;
const LEGACY_REQUIRED = 3;
const DEPTH_MAX = 5;
const plans = new Map<DescMessage, Plan>();

/** A random message of the type. */
export function randomMessage(random: Random, schema: DescMessage): Loose {
  const plan = planOf(schema);
  let message = drawMessage(random, plan, { values: 4 + random.below(36), depth: DEPTH_MAX });
  if (plan.recursive !== undefined && random.once(1024)) {
    for (let depth = 85 + random.below(25); depth > 0; depth--) message = wrap(plan.recursive, message);
  }
  return message;
}

/** A message of the field's own type that has `inner` in the field. */
function wrap(field: DescField, inner: Loose): Loose {
  const outer = create(field.parent) as Loose;
  if (field.oneof !== undefined) outer[field.oneof.localName] = { case: field.localName, value: inner };
  else outer[field.localName] = field.fieldKind === "list" ? [inner] : inner;
  return outer;
}

function planOf(schema: DescMessage): Plan {
  let plan = plans.get(schema);
  if (plan === undefined) {
    plan = {
      schema,
      set: schema.fields.map(setter),
      required: schema.fields.flatMap((field, i) => ((field.presence as number) === LEGACY_REQUIRED ? [i] : [])),
      recursive: schema.fields.find(
        (field) => (field.fieldKind === "message" || field.fieldKind === "list") && field.message === schema,
      ),
    };
    plans.set(schema, plan);
  }
  return plan;
}

function drawMessage(random: Random, plan: Plan, room: Room): Loose {
  const { schema, set } = plan;
  const message = create(schema) as Loose;
  room.depth--;
  if (random.once(64)) {
    for (const setField of set) setField(message, random, room);
  } else if (set.length > 0) {
    for (let i = random.below(Math.min(7, set.length + 2)); i > 0 && room.values > 0; i--)
      random.pick(set)(message, random, room);
    if (plan.required.length > 0 && !random.once(32)) for (const i of plan.required) set[i](message, random, room);
  }
  if (random.once(16)) message.$unknown = randomUnknownFields(random, schema);
  if (random.once(8)) {
    const known = extensions.get(schema.typeName);
    if (known !== undefined)
      for (let i = random.below(4); i >= 0; i--) extend(random, message, random.pick(known), room);
  }
  room.depth++;
  return message;
}

function extend(random: Random, message: Loose, extension: DescExtension, room: Room): void {
  const value = sourceOf(extension)(random, room);
  if (value === undefined) return;
  try {
    setExtension(message, extension, value as never);
  } catch {
    // It reads what it has written, which fails if there are malformed unknown fields in the value.
  }
}

/** What puts a random value into one field of a message. */
function setter(field: DescField): (message: Loose, random: Random, room: Room) => void {
  const draw = sourceOf(field);
  const { localName } = field;
  const oneof: DescOneof | undefined = field.oneof;
  if (oneof !== undefined) {
    return (message, random, room) => {
      const value = draw(random, room);
      if (value !== undefined) message[oneof.localName] = { case: localName, value };
    };
  }
  return (message, random, room) => {
    const value = draw(random, room);
    // An own property that is undefined is not set, and easily taken for one that is.
    if (
      value !== undefined ||
      ((field.fieldKind === "message" || (field.presence as number) !== IMPLICIT) && random.once(8))
    )
      message[localName] = value;
  };
}

/** Draws values of the field as its message holds them; undefined where there is no room for a message. */
function sourceOf(field: DescField | DescExtension): Draw {
  switch (field.fieldKind) {
    case "scalar": {
      const draw = scalarSource(field.scalar, field.longAsString);
      const initial = field.getDefaultValue();
      const usual = initial === undefined ? undefined : field.longAsString ? String(initial) : initial;
      return spending((random) => (usual !== undefined && random.once(8) ? usual : draw(random)));
    }
    case "enum":
      return spending(enumSource(field.enum));
    case "message": {
      if (isWrapperDesc(field.message) && field.oneof === undefined) {
        const { scalar, longAsString } = field.message.fields[0] as DescField & { fieldKind: "scalar" };
        return spending(scalarSource(scalar, longAsString));
      }
      return messageSource(field.message, field.kind === "field" ? field.parent : undefined);
    }
    case "list":
      return listSource(field);
    case "map":
      return mapSource(field);
  }
}

function spending(draw: (random: Random) => unknown): Draw {
  return (random, room) => {
    room.values--;
    return draw(random);
  };
}

function enumSource(type: DescEnum): (random: Random) => number {
  const numbers = type.values.map((value) => value.number);
  // A closed enum may hold a number without a name, too; readers take it for an unknown field.
  const strange = type.open ? 4 : 24;
  return (random) => (random.once(strange) ? (random.bits() | 0) >> random.below(32) : random.pick(numbers));
}

function messageSource(schema: DescMessage, parent: DescMessage | undefined): Draw {
  if (schema.typeName === "google.protobuf.Struct" && parent?.typeName !== "google.protobuf.Value") {
    return (random, room) => {
      room.values -= 2;
      return randomJsonObject(random, 3);
    };
  }
  return (random, room) => {
    if (room.depth <= 0 || room.values <= 0) return undefined;
    room.values -= 2;
    return drawMessage(random, planOf(schema), room);
  };
}

function listSource(field: (DescField | DescExtension) & { fieldKind: "list" }): Draw {
  if (field.listKind === "message") {
    const draw = messageSource(field.message, field.kind === "field" ? field.parent : undefined);
    return (random, room) => {
      const items: unknown[] = [];
      for (let i = random.below(4); i > 0; i--) {
        const item = draw(random, room);
        if (item !== undefined) items.push(item);
      }
      return items;
    };
  }
  const draw = field.listKind === "enum" ? enumSource(field.enum) : scalarSource(field.scalar, field.longAsString);
  const textual =
    field.listKind === "scalar" && (field.scalar === ScalarType.STRING || field.scalar === ScalarType.BYTES);
  return (random, room) => {
    const length = random.once(32)
      ? random.below(textual ? 20 : 200)
      : !textual && random.once(2000)
        ? random.below(9000)
        : random.below(5);
    const items = Array.from({ length }, () => draw(random));
    room.values -= 1 + length;
    return field.listKind === "scalar" && random.once(16) ? (typedArray(field.scalar, items) ?? items) : items;
  };
}

/** The items in the typed array that fits them, which protobuf-es takes for a list as well. */
function typedArray(type: ScalarType, items: readonly unknown[]): unknown {
  switch (type) {
    case ScalarType.DOUBLE:
      return new Float64Array(items as number[]);
    case ScalarType.FLOAT:
      return new Float32Array(items as number[]);
    case ScalarType.FIXED32:
    case ScalarType.UINT32:
      return new Uint32Array(items as number[]);
    case ScalarType.SFIXED32:
    case ScalarType.INT32:
    case ScalarType.SINT32:
      return new Int32Array(items as number[]);
    case ScalarType.FIXED64:
    case ScalarType.UINT64:
      return new BigUint64Array(items.map((item) => BigInt(item as string)));
    case ScalarType.SFIXED64:
    case ScalarType.INT64:
    case ScalarType.SINT64:
      return new BigInt64Array(items.map((item) => BigInt(item as string)));
    default:
      return undefined;
  }
}

function mapSource(field: DescField & { fieldKind: "map" }): Draw {
  const drawKey = keySource(field.mapKey);
  const drawValue: Draw =
    field.mapKind === "message"
      ? messageSource(field.message, field.parent)
      : spending(field.mapKind === "enum" ? enumSource(field.enum) : scalarSource(field.scalar, false));
  return (random, room) => {
    const map: Record<string, unknown> = {};
    for (let i = random.once(64) ? random.below(40) : random.below(4); i > 0; i--) {
      const value = drawValue(random, room);
      if (value !== undefined) setOwn(map, drawKey(random), value);
    }
    return map;
  };
}

function randomJsonObject(random: Random, depth: number): JsonObject {
  const object: JsonObject = {};
  for (let i = random.below(4); i > 0; i--) setOwn(object, randomText(random), randomJson(random, depth - 1));
  return object;
}

function randomJson(random: Random, depth: number): JsonValue {
  switch (random.below(depth > 0 ? 7 : 5)) {
    case 0:
      return null;
    case 1:
      return random.once(2);
    case 2:
      return random.pick([0, -0, 1.5, -1e300, NaN, Infinity, 5e-324]);
    case 3:
    case 4:
      return randomText(random);
    case 5:
      return Array.from({ length: random.below(4) }, () => randomJson(random, depth - 1));
    default:
      return randomJsonObject(random, depth);
  }
}

/** Also for the key `__proto__`, which an assignment would not make a property. */
export function setOwn(object: object, key: string, value: unknown): void {
  if (key === "__proto__")
    Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true });
  else (object as Record<string, unknown>)[key] = value;
}
