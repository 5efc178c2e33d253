/** Common parts of the tests of views: reading every getter, and checking that each message ends at its own length. */
import type { BinaryReadOptions, DescField, DescMessage, Message } from "@bufbuild/protobuf";
import { create, fromBinary, isFieldSet, toBinary } from "@bufbuild/protobuf";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { difference } from "../../../test/fuzz/compare.js";
import type { Loose } from "../../../test/fuzz/messages.js";
import { randomMessage, setOwn } from "../../../test/fuzz/messages.js";
import { mutate } from "../../../test/fuzz/mutate.js";
import { Random } from "../../../test/fuzz/random.js";
import { mismatched, schemas } from "../../../test/fuzz/schemas.js";
import { isJsonField, isPackable, isUnwrapped, scalarOf, wireTypeOf } from "../wire/fields.js";
import type { ListView, MapView, MessageView } from "../index.js";
import { isViewFieldSet, view } from "../index.js";

type Getters = Readonly<Record<string, unknown>>;

/** Down to this depth, items are read in every possible way. Each level at least doubles the work. */
const THOROUGH_DEPTH_MAX = 2;

/** Reads all of a view, and returns it as a message. @throws Error if two ways of reading differ */
export function messageOf(desc: DescMessage, shown: MessageView, depth = 0): Message {
  const message = create(desc) as Loose;
  const getters = shown as Getters;
  for (const member of desc.members) {
    const value = getters[member.localName];
    if (member.kind === "oneof") {
      const { case: name, value: inner } = value as { case?: string; value?: unknown };
      const field = member.fields.find(({ localName }) => localName === name);
      if (field !== undefined) message[member.localName] = { case: name, value: plainOf(field, inner, depth) };
      else expectSame(`${member.name} without a case`, Object.keys(value as object).join(), "case");
      continue;
    }
    if (isViewFieldSet(shown, member) || member.fieldKind === "list" || member.fieldKind === "map")
      message[member.localName] = fieldOf(member, value, depth);
    else if (Object.hasOwn(message, member.localName)) message[member.localName] = value;
    else if (!(member.localName in Object.prototype))
      expectSame(`${member.name} unset`, value, message[member.localName]);
  }
  for (const field of desc.fields)
    expectSame(`${field.name} is set`, isViewFieldSet(shown, field), isFieldSet(message, field));
  return message;
}

function fieldOf(field: DescField, value: unknown, depth: number): unknown {
  const plain = (item: unknown) => plainOf(field, item, depth);
  const thorough = depth <= THOROUGH_DEPTH_MAX;
  if (field.fieldKind === "list") {
    const list = value as ListView<unknown>;
    const items = [...list].map((item) => plain(item));
    if (!thorough) return items;
    const indexed = Array.from({ length: list.length }, (_, i) => plain(list.at(i)));
    expectSame(`${field.name} by index`, indexed, items);
    expectSame(
      `${field.name} as an array`,
      list.toArray().map((item) => plain(item)),
      items,
    );
    if (list.length > 0) expectSame(`${field.name} from the end`, plain(list.at(-1)), items.at(-1));
    expectSame(`${field.name} past the end`, [list.at(list.length), list.at(-1 - list.length)], [undefined, undefined]);
    return items;
  }
  if (field.fieldKind === "map") {
    const map = value as MapView<string | number, unknown>;
    const object = {};
    for (const [key, item] of map) {
      setOwn(object, String(key), plain(item));
      if (!thorough) continue;
      expectSame(`${field.name} has ${key}`, map.has(key), true);
      expectSame(`${field.name} by ${key}`, plain(map.get(key)), plain(item));
    }
    expectSame(
      `${field.name}'s keys`,
      [...map.keys()].map(String),
      [...map].map(([key]) => String(key)),
    );
    expectSame(`${field.name}'s values`, [...map.values()].length, map.size);
    expectSame(`${field.name}'s size`, Object.keys(object).length, map.size);
    return object;
  }
  return plain(value);
}

function plainOf(field: DescField, value: unknown, depth: number): unknown {
  if (field.message === undefined || isJsonField(field) || isUnwrapped(field)) return value;
  return messageOf(field.message, value as MessageView, depth + 1);
}

function expectSame(what: string, actual: unknown, expected: unknown): void {
  const found = difference(actual, expected);
  if (found !== undefined) throw new Disagreement(`${what}${found}`);
}

/** Thrown if two ways to read a view, or the view and the decoded message, differ. */
export class Disagreement extends Error {
  override readonly name = "Disagreement";
}

/** Whether messages and packed fields end where their lengths say. If one does not, protobuf-es reads past its end. */
export function isContained(desc: DescMessage, bytes: Uint8Array): boolean {
  try {
    const reader = new BinaryReader(bytes);
    pass(desc, reader, undefined);
    return true;
  } catch {
    return false;
  }
}

/** Reads up to the end of the input, or of a field's group. */
function pass(desc: DescMessage, reader: BinaryReader, group: number | undefined): void {
  while (reader.pos < reader.len) {
    const [number, wireType] = reader.tag();
    if (group !== undefined && wireType === WireType.EndGroup) return;
    const field = desc.fields.find((candidate) => candidate.number === number);
    if (field === undefined) reader.skip(wireType, number);
    else passField(field, reader, wireType);
  }
  if (group !== undefined) throw new Error("no end");
}

function passField(field: DescField, reader: BinaryReader, wireType: WireType): void {
  const type = field.fieldKind === "map" ? undefined : scalarOf(field);
  if (field.fieldKind === "map") {
    const entry = new BinaryReader(reader.bytes());
    while (entry.pos < entry.len) {
      const [number, entryWireType] = entry.tag();
      if (number > 2) entry.skip(entryWireType, number);
      else if (number === 1) entry.skip(wireTypeOf(field.mapKey));
      else if (field.message === undefined) entry.skip(wireTypeOf(scalarOf(field)));
      else pass(field.message, new BinaryReader(entry.bytes()), undefined);
    }
  } else if (type === undefined) {
    const delimited = (field as { delimitedEncoding?: boolean }).delimitedEncoding === true;
    if (delimited) pass(field.message!, reader, field.number);
    else pass(field.message!, new BinaryReader(reader.bytes()), undefined);
  } else if (field.fieldKind === "list" && wireType === WireType.LengthDelimited && isPackable(type)) {
    const packed = new BinaryReader(reader.bytes());
    while (packed.pos < packed.len) packed.skip(wireTypeOf(type));
  } else {
    reader.skip(wireTypeOf(type));
  }
}

type Outcome = { readonly message: Message } | { readonly error: string };

/** The result of reading everything. Errors other than those of decoding are thrown. */
function outcomeOf(
  desc: DescMessage,
  bytes: Uint8Array,
  options: Partial<BinaryReadOptions> | undefined,
  make: typeof view,
): Outcome {
  try {
    return { message: messageOf(desc, make(desc, bytes, options)) };
  } catch (error) {
    if (error instanceof Disagreement || !(error instanceof Error)) throw error;
    return { error: `${error.name}: ${error.message}` };
  }
}

/** Bytes before and after the input of a view, on which the view must not depend. */
const MARGIN = 24;

function placed(bytes: Uint8Array, around: number): Uint8Array {
  const memory = new Uint8Array(bytes.length + 2 * MARGIN).fill(around);
  memory.set(bytes, MARGIN);
  return memory.subarray(MARGIN, MARGIN + bytes.length);
}

/**
 * Compares a view of the bytes with the message that protobuf-es decodes. They have to be the same if protobuf-es finds
 * a message whose parts end where their lengths say.
 * @returns "same"; if protobuf-es finds no such message, "refused" if the view throws too, or "showed"
 */
export function checkView(
  desc: DescMessage,
  bytes: Uint8Array,
  options?: Partial<BinaryReadOptions>,
  make = view,
): "same" | "refused" | "showed" {
  const outcome = outcomeOf(desc, placed(bytes, 0), options, make);
  const otherwise = outcomeOf(desc, placed(bytes, 0xff), options, make);
  expectSame("with other bytes around it", outcome, otherwise);
  let expected: Message;
  try {
    expected = fromBinary(desc, new Uint8Array(bytes), { ...options, readUnknownFields: false });
  } catch {
    return "error" in outcome ? "refused" : "showed";
  }
  if (!isContained(desc, bytes)) return "error" in outcome ? "refused" : "showed";
  if ("error" in outcome) throw new Disagreement(`the view of ${desc.typeName} throws ${outcome.error}`);
  expectSame(`the view of ${desc.typeName}`, outcome.message, expected);
  return "same";
}

/** Counts of the inputs, by kind. */
export interface Campaign {
  messages: number;
  /** Damaged inputs that are still messages. */
  damaged: number;
  /** Damaged inputs that are not messages: views threw errors, or showed the undamaged parts. */
  refused: number;
  showed: number;
}

/** Checks random messages of every type: alone, merged and damaged. @throws Disagreement with the bytes */
export function runCampaign(seed: number, rounds: number): Campaign {
  const campaign: Campaign = { messages: 0, damaged: 0, refused: 0, showed: 0 };
  for (let round = 0; round < rounds; round++) {
    schemas.forEach((desc, i) => {
      const random = new Random(seed, round * schemas.length + i);
      const one = bytesOf(random, desc);
      const two = bytesOf(random, random.once(8) ? random.pick(mismatched) : desc);
      for (const bytes of [one, Uint8Array.from([...one, ...two])])
        if (check(desc, bytes, seed) === "same") campaign.messages++;
      const found = check(desc, mutate(random, one, two, desc), seed);
      campaign[found === "same" ? "damaged" : found]++;
    });
  }
  return campaign;
}

function check(desc: DescMessage, bytes: Uint8Array, seed: number): ReturnType<typeof checkView> {
  try {
    return checkView(desc, bytes);
  } catch (error) {
    throw new Error(`seed ${seed}: ${desc.typeName} ${Buffer.from(bytes).toString("hex")}`, { cause: error });
  }
}

/** The bytes of a random message that can be encoded. */
function bytesOf(random: Random, desc: DescMessage): Uint8Array {
  for (let i = 0; i < 20; i++) {
    try {
      return toBinary(desc, randomMessage(random, desc));
    } catch {
      // A required field is missing, or the message is too deep.
    }
  }
  return new Uint8Array(0);
}
