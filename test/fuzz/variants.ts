/** Other things than messages that are given to encoders: initialisers, and messages with values of a wrong type. */
import type { DescMessage, Message } from "@bufbuild/protobuf";
import { setOwn, type Loose } from "./messages.js";
import type { Random } from "./random.js";

/** The message as plain objects without type names, and bytes as lists of numbers: `create` makes a message of it. */
export function toInit(message: Loose): Message {
  return plain(message) as Message;
}

function plain(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Uint8Array && value.length % 4 === 1) return [...value];
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) return value;
  const object = {};
  for (const key of Object.keys(value)) {
    if (key !== "$typeName" || !("$typeName" in value) || typeof value.$typeName !== "string")
      setOwn(object, key, plain((value as Record<string, unknown>)[key]));
  }
  return object;
}

const WRONG: readonly unknown[] = [
  ...[
    undefined,
    null,
    true,
    false,
    0,
    -0,
    1,
    -1,
    1.5,
    NaN,
    Infinity,
    2 ** 31,
    2 ** 32,
    -(2 ** 31) - 1,
    2 ** 53,
    1e39,
    1e300,
  ],
  ...[
    0n,
    1n,
    -1n,
    2n ** 63n,
    2n ** 64n,
    -(2n ** 63n) - 1n,
    "",
    "x",
    "12",
    "-1",
    "1.5",
    "18446744073709551616",
    "NaN",
    "true",
    "é",
  ],
];

/** Puts a value of a wrong type, or one out of range, somewhere into the message. protobuf-es takes some of them. */
export function corrupt(random: Random, schema: DescMessage, message: Loose): void {
  const field = schema.fields.length === 0 ? undefined : random.pick(schema.fields);
  if (field === undefined) return;
  const wrong = () =>
    random.once(12) ? random.pick([{}, [], new Uint8Array(2), { $typeName: "another.Message" }]) : random.pick(WRONG);
  if (field.oneof !== undefined) {
    message[field.oneof.localName] = random.once(16)
      ? random.pick([undefined, null, {}, { case: "another", value: 1 }])
      : { case: field.localName, value: wrong() };
  } else if (field.fieldKind === "list") {
    message[field.localName] = Array.from({ length: 1 + random.below(3) }, wrong);
  } else if (field.fieldKind === "map" && !random.once(8)) {
    message[field.localName] = {
      [random.pick(["", "a", "1", "-1", "1.5", "99999999999999999999", "true", "__proto", "1e3", " 7"])]: wrong(),
    };
  } else {
    message[field.localName] = wrong();
  }
}
