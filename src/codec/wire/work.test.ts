import assert from "node:assert/strict";
import { test } from "node:test";
import type { DescMessage } from "@bufbuild/protobuf";
import { create, toBinary } from "@bufbuild/protobuf";
import { KindsSchema } from "../../../test/proto/kinds_pb.js";
import { closureType } from "../compile/message-type.js";
import { messageUnits } from "../compile/message-units.js";
import { decode, decodeRope, decodeType } from "../decode.js";
import { MAP_ENTRY_UNITS, UNITS_PER_VALUE } from "./work.js";

const COUNT = 1000;
const filled = <T>(value: T) => Array.from({ length: COUNT }, () => value);

/** Messages of many values of one kind, and what each value counts at least. */
const KINDS: [what: string, bytes: Uint8Array, unitsEach: number][] = [
  ["nested messages", toBinary(KindsSchema, create(KindsSchema, { children: filled({}) })), messageUnits(KindsSchema)],
  ["texts", toBinary(KindsSchema, create(KindsSchema, { strings: filled("") })), UNITS_PER_VALUE],
  ["bytes", toBinary(KindsSchema, create(KindsSchema, { blobs: filled(new Uint8Array(0)) })), UNITS_PER_VALUE],
  ["bigints", toBinary(KindsSchema, create(KindsSchema, { int64s: filled(1n) })), 4],
  [
    "entries of maps",
    toBinary(
      KindsSchema,
      create(KindsSchema, { stringMap: Object.fromEntries(filled("").map((_, i) => [`k${i}`, ""])) }),
    ),
    MAP_ENTRY_UNITS,
  ],
  ["unknown fields", Uint8Array.from({ length: 3 * COUNT }, (_, i) => [0xf8, 0x3e, 1][i % 3]), 48],
  ["characters", toBinary(KindsSchema, create(KindsSchema, { string: "x".repeat(8 * COUNT) })), 1],
];

const closures = (schema: DescMessage, bytes: Uint8Array, valuesMax: number) =>
  decodeType(closureType(schema), bytes, 0, bytes.length, { valuesMax });

for (const [what, bytes, unitsEach] of KINDS) {
  test(`a message of too many ${what} is refused, in generated code and without, whole and as a rope`, () => {
    const own = messageUnits(KindsSchema);
    // Fields are counted too, and generated code counts them late.
    const enough = Math.ceil((own + COUNT * (unitsEach + 9) + 1024) / UNITS_PER_VALUE);
    const tooFew = Math.floor((COUNT * unitsEach) / UNITS_PER_VALUE) - 1;
    const split = { inline: bytes, spans: [], byteLength: bytes.length };
    for (const read of [
      (valuesMax: number) => decode(KindsSchema, bytes, { valuesMax }),
      (valuesMax: number) => decodeRope(KindsSchema, split, { valuesMax }),
      (valuesMax: number) => closures(KindsSchema, bytes, valuesMax),
    ]) {
      read(enough);
      assert.throws(() => read(tooFew), new RegExp(`more than ${tooFew} values \\(valuesMax\\)`));
    }
  });
}

test("a message that is refused leaves nothing behind for the next one, and without a limit nothing is refused", () => {
  const many = KINDS[0][1];
  for (let i = 0; i < 3; i++) {
    assert.throws(() => decode(KindsSchema, many, { valuesMax: 10 }), /valuesMax/);
    assert.equal(decode(KindsSchema, many).children.length, COUNT);
  }
});
