/**
 * Values of every scalar type, and of an open enum, as their bytes stand behind a tag; tried in every place where a
 * value of that type can stand. What is written back is in the row.
 */
import { ScalarsSchema } from "../proto/conformance/proto3_pb.js";
import { compact, FIXED32, FIXED64, LENGTH, lengthField, prefixed, tag, textHex, VARINT } from "./bytes.js";
import type { Case, Group } from "./case.js";
import { REFUSED } from "./case.js";

interface Type {
  readonly name: string;
  readonly wireType: number;
  readonly accepted: readonly Accepted[];
  /** Bytes that are no value, if nothing follows. */
  readonly refused: readonly string[];
}

/** The bytes read, the value, and the bytes written if they are others. */
type Accepted = readonly [input: string, value: unknown, output?: string];

const cutVarints = ["", "80", "ff ff ff ff ff", "80 80 80 80 80 80 80 80 80"];
// A varint has ten bytes at most.
const longVarints = [
  "80 80 80 80 80 80 80 80 80 80",
  "80 80 80 80 80 80 80 80 80 80 00",
  "ff ff ff ff ff ff ff ff ff ff 01",
];
const noVarints = [...cutVarints, ...longVarints];
const noLengths = [
  ...noVarints,
  "01",
  "02 61",
  "80 01 61",
  "ff ff ff ff 07",
  "ff ff ff ff 0f 61",
  "ff ff ff ff ff ff ff ff ff 01 61",
];
const long = "x".repeat(200);

const int32: Accepted[] = [
  ["00", 0],
  ["01", 1],
  ["7f", 127],
  ["80 01", 128],
  ["ff 7f", 16383],
  ["80 80 01", 16384],
  ["ff ff 7f", 2097151],
  ["80 80 80 01", 2097152],
  ["ff ff ff 7f", 268435455],
  ["80 80 80 80 01", 268435456],
  ["ff ff ff ff 07", 2147483647],
  ["80 80 80 80 f8 ff ff ff ff 01", -2147483648],
  ["ff ff ff ff ff ff ff ff ff 01", -1],
  // Longer than need be.
  ["80 00", 0, "00"],
  ["81 00", 1, "01"],
  ["81 80 80 80 00", 1, "01"],
  ["81 80 80 80 80 80 80 80 80 00", 1, "01"],
  // Wider than 32 bits: the low ones count.
  ["ff ff ff ff 0f", -1, "ff ff ff ff ff ff ff ff ff 01"],
  ["80 80 80 80 08", -2147483648, "80 80 80 80 f8 ff ff ff ff 01"],
  ["80 80 80 80 10", 0, "00"],
  ["81 80 80 80 10", 1, "01"],
  ["ff ff ff ff ff ff ff ff 7f", -1, "ff ff ff ff ff ff ff ff ff 01"],
  // Of the tenth byte one bit counts, for 64-bit numbers.
  ["ff ff ff ff ff ff ff ff ff 7f", -1, "ff ff ff ff ff ff ff ff ff 01"],
];

const types: readonly Type[] = [
  {
    name: "double",
    wireType: FIXED64,
    accepted: [
      ["00 00 00 00 00 00 00 00", 0],
      ["00 00 00 00 00 00 00 80", -0],
      ["00 00 00 00 00 00 f0 3f", 1],
      ["9a 99 99 99 99 99 b9 bf", -0.1],
      ["00 00 00 00 00 00 f0 7f", Infinity],
      ["00 00 00 00 00 00 f0 ff", -Infinity],
      ["00 00 00 00 00 00 f8 7f", NaN],
      ["01 00 00 00 00 00 00 00", 5e-324],
      ["ff ff ff ff ff ff ef 7f", Number.MAX_VALUE],
    ],
    refused: ["", "00", "00 00 00 00", "00 00 00 00 00 00 f0"],
  },
  {
    name: "float",
    wireType: FIXED32,
    accepted: [
      ["00 00 00 00", 0],
      ["00 00 00 80", -0],
      ["00 00 80 3f", 1],
      ["00 00 80 7f", Infinity],
      ["00 00 80 ff", -Infinity],
      ["00 00 c0 7f", NaN],
      ["01 00 00 00", 2 ** -149],
      ["ff ff 7f 7f", 2 ** 128 - 2 ** 104],
      ["cd cc cc 3d", Math.fround(0.1)],
    ],
    refused: ["", "00", "00 00 80"],
  },
  { name: "int32", wireType: VARINT, accepted: int32, refused: noVarints },
  {
    name: "int64",
    wireType: VARINT,
    accepted: [
      ["00", 0n],
      ["01", 1n],
      ["ff ff ff ff 07", 2147483647n],
      ["ff ff ff ff 0f", 4294967295n],
      ["80 80 80 80 10", 4294967296n],
      ["ff ff ff ff ff ff ff 0f", 2n ** 53n - 1n],
      ["80 80 80 80 80 80 80 10", 2n ** 53n],
      ["ff ff ff ff ff ff ff ff 7f", 2n ** 63n - 1n],
      ["80 80 80 80 80 80 80 80 80 01", -(2n ** 63n)],
      ["ff ff ff ff ff ff ff ff ff 01", -1n],
      ["81 00", 1n, "01"],
      ["80 80 80 80 80 80 80 80 80 00", 0n, "00"],
      ["ff ff ff ff ff ff ff ff ff 7f", -1n, "ff ff ff ff ff ff ff ff ff 01"],
    ],
    refused: noVarints,
  },
  {
    name: "uint32",
    wireType: VARINT,
    accepted: [
      ["00", 0],
      ["80 01", 128],
      ["80 80 80 80 08", 2147483648],
      ["ff ff ff ff 0f", 4294967295],
      ["81 80 80 00", 1, "01"],
      ["80 80 80 80 10", 0, "00"],
      ["ff ff ff ff ff ff ff ff ff 01", 4294967295, "ff ff ff ff 0f"],
    ],
    refused: noVarints,
  },
  {
    name: "uint64",
    wireType: VARINT,
    accepted: [
      ["00", 0n],
      ["01", 1n],
      ["80 80 80 80 10", 4294967296n],
      ["80 80 80 80 80 80 80 80 80 01", 2n ** 63n],
      ["ff ff ff ff ff ff ff ff ff 01", 2n ** 64n - 1n],
      ["81 80 00", 1n, "01"],
      ["80 80 80 80 80 80 80 80 80 02", 0n, "00"],
    ],
    refused: noVarints,
  },
  {
    name: "sint32",
    wireType: VARINT,
    accepted: [
      ["00", 0],
      ["01", -1],
      ["02", 1],
      ["fe ff ff ff 0f", 2147483647],
      ["ff ff ff ff 0f", -2147483648],
      ["82 00", 1, "02"],
      ["83 80 80 80 10", -2, "03"],
      ["fe ff ff ff ff ff ff ff ff 01", 2147483647, "fe ff ff ff 0f"],
    ],
    refused: noVarints,
  },
  {
    name: "sint64",
    wireType: VARINT,
    accepted: [
      ["00", 0n],
      ["01", -1n],
      ["02", 1n],
      ["ff ff ff ff 1f", -(2n ** 32n)],
      ["fe ff ff ff ff ff ff ff ff 01", 2n ** 63n - 1n],
      ["ff ff ff ff ff ff ff ff ff 01", -(2n ** 63n)],
      ["83 00", -2n, "03"],
    ],
    refused: noVarints,
  },
  {
    name: "fixed32",
    wireType: FIXED32,
    accepted: [
      ["00 00 00 00", 0],
      ["01 00 00 00", 1],
      ["00 00 00 80", 2147483648],
      ["ff ff ff ff", 4294967295],
    ],
    refused: ["", "01", "01 00 00"],
  },
  {
    name: "fixed64",
    wireType: FIXED64,
    accepted: [
      ["00 00 00 00 00 00 00 00", 0n],
      ["01 00 00 00 00 00 00 00", 1n],
      ["00 00 00 00 00 00 00 80", 2n ** 63n],
      ["ff ff ff ff ff ff ff ff", 2n ** 64n - 1n],
    ],
    refused: ["", "01", "01 00 00 00", "01 00 00 00 00 00 00"],
  },
  {
    name: "sfixed32",
    wireType: FIXED32,
    accepted: [
      ["00 00 00 00", 0],
      ["ff ff ff 7f", 2147483647],
      ["00 00 00 80", -2147483648],
      ["ff ff ff ff", -1],
    ],
    refused: ["", "01", "01 00 00"],
  },
  {
    name: "sfixed64",
    wireType: FIXED64,
    accepted: [
      ["00 00 00 00 00 00 00 00", 0n],
      ["ff ff ff ff ff ff ff 7f", 2n ** 63n - 1n],
      ["00 00 00 00 00 00 00 80", -(2n ** 63n)],
      ["ff ff ff ff ff ff ff ff", -1n],
    ],
    refused: ["", "01", "01 00 00 00", "01 00 00 00 00 00 00"],
  },
  {
    name: "bool",
    wireType: VARINT,
    accepted: [
      ["00", false],
      ["01", true],
      ["02", true, "01"],
      ["7f", true, "01"],
      ["80 00", false, "00"],
      ["80 80 80 80 80 80 80 80 80 00", false, "00"],
      ["81 00", true, "01"],
      ["80 01", true, "01"],
      ["80 80 80 80 10", true, "01"],
      ["80 80 80 80 80 80 80 80 80 01", true, "01"],
      ["ff ff ff ff ff ff ff ff ff 01", true, "01"],
    ],
    refused: noVarints,
  },
  {
    name: "string",
    wireType: LENGTH,
    accepted: [
      ["00", ""],
      ["01 61", "a"],
      ["01 00", "\0"],
      ["02 c3 a9", "é"],
      ["03 e2 82 ac", "€"],
      ["04 f0 9f 98 80", "😀"],
      ["04 f4 8f bf bf", "\u{10ffff}"],
      ["03 ef bf bd", "\ufffd"],
      // What elsewhere marks the byte order is text here.
      ["03 ef bb bf", "\ufeff"],
      ["04 ef bb bf 61", "\ufeffa"],
      ["81 00 61", "a", "01 61"],
      ["80 80 80 80 80 80 80 80 80 00", "", "00"],
      [prefixed(textHex(long)), long],
      [prefixed(textHex(`${long}é`)), `${long}é`],
    ],
    refused: [
      ...noLengths,
      // Not UTF-8: a lone continuation, a cut sequence, too long a form, a surrogate, beyond the last code point.
      "01 80",
      "01 ff",
      "01 c3",
      "02 c3 28",
      "02 e2 82",
      "03 f0 9f 98",
      "02 c0 af",
      "03 e0 80 af",
      "03 ed a0 80",
      "06 ed a0 bd ed b8 80",
      "04 f4 90 80 80",
      "05 f8 88 80 80 80",
      prefixed(`${textHex(long)}ff`),
      prefixed(`c3${textHex(long)}`),
    ],
  },
  {
    name: "bytes",
    wireType: LENGTH,
    accepted: [
      ["00", new Uint8Array(0)],
      ["01 ff", Uint8Array.of(0xff)],
      ["04 00 c3 28 80", Uint8Array.of(0, 0xc3, 0x28, 0x80)],
      ["82 80 00 01 02", Uint8Array.of(1, 2), "02 01 02"],
      [prefixed("5a".repeat(300)), new Uint8Array(300).fill(0x5a)],
    ],
    refused: noLengths,
  },
  {
    name: "open",
    wireType: VARINT,
    accepted: [
      ["00", 0],
      ["01", 1],
      ["ff ff ff ff ff ff ff ff ff 01", -1],
      ["63", 99],
      ["e3 00", 99, "63"],
      ["81 80 80 80 10", 1, "01"],
    ],
    refused: noVarints,
  },
];

/** Types that a list can pack, and types that can be keys. */
const packable = (type: Type): boolean => type.wireType !== LENGTH;
const keyable = (type: Type): boolean => !["double", "float", "bytes", "open"].includes(type.name);

// What follows in a map: `80` and up as values of key 5, `100` and up as keys of `true`.
const KEY = "08 05";
const TRUE = "10 01";

export const scalarGroups: readonly Group[] = types.map((type, index) => {
  const number = index + 1;
  return {
    name: `${type.name} values`,
    cases: [
      ...type.accepted.flatMap((accepted) => acceptedCases(type, number, accepted)),
      ...type.refused.flatMap((bytes) => refusedCases(type, number, bytes)),
    ],
  };
});

function acceptedCases(
  { name, wireType, ...type }: Type,
  number: number,
  [read, value, rewritten = read]: Accepted,
): Case[] {
  const schema = ScalarsSchema;
  const at = (base: number): string => tag(base + number, wireType);
  const [r, w] = [compact(read), compact(rewritten)];
  const isZero =
    Object.is(value, 0) ||
    value === 0n ||
    value === false ||
    value === "" ||
    (value instanceof Uint8Array && value.length === 0);
  const cases: Case[] = [
    {
      name: "without presence",
      schema,
      input: at(0) + r,
      output: isZero ? "" : at(0) + w,
      fields: { [`${name}Implicit`]: value },
    },
    { name: "with presence", schema, input: at(20) + r, output: at(20) + w, fields: { [`${name}Explicit`]: value } },
    {
      name: "in a oneof",
      schema,
      input: at(120) + r,
      output: at(120) + w,
      fields: { choice: { case: `${name}Choice`, value } },
    },
    {
      name: "in a map, as a value",
      schema,
      input: lengthField(80 + number, KEY + tag(2, wireType) + r),
      output: lengthField(80 + number, KEY + tag(2, wireType) + w),
      fields: { [`${name}Value`]: { 5: value } },
    },
  ];
  const list = { [`${name}List`]: [value, value] };
  if (packable({ name, wireType, ...type })) {
    const expanded = { [`${name}Expanded`]: [value, value] };
    cases.push(
      {
        name: "in a packed list",
        schema,
        input: lengthField(40 + number, r + r),
        output: lengthField(40 + number, w + w),
        fields: list,
      },
      {
        name: "in a packed list that came unpacked",
        schema,
        input: (at(40) + r).repeat(2),
        output: lengthField(40 + number, w + w),
        fields: list,
      },
      {
        name: "in a list that is not packed",
        schema,
        input: (at(60) + r).repeat(2),
        output: (at(60) + w).repeat(2),
        fields: expanded,
      },
      {
        name: "in a list that is not packed but came packed",
        schema,
        input: lengthField(60 + number, r + r),
        output: (at(60) + w).repeat(2),
        fields: expanded,
      },
    );
  } else {
    cases.push({
      name: "in a list",
      schema,
      input: (at(40) + r).repeat(2),
      output: (at(40) + w).repeat(2),
      fields: list,
    });
  }
  if (keyable({ name, wireType, ...type })) {
    const input = lengthField(100 + number, tag(1, wireType) + r + TRUE);
    cases.push({
      name: "in a map, as a key",
      schema,
      input,
      output: lengthField(100 + number, tag(1, wireType) + w + TRUE),
      fields: { [`${name}Key`]: { [String(value)]: true } },
    });
  }
  return cases;
}

function refusedCases(type: Type, number: number, bytes: string): Case[] {
  const { wireType } = type;
  const read = compact(bytes);
  const inputs: [name: string, input: string][] = [
    ["without presence", tag(number, wireType) + read],
    ["with presence", tag(20 + number, wireType) + read],
    ["in a list", tag(40 + number, wireType) + read],
    ["in a oneof", tag(120 + number, wireType) + read],
    ["in a map, as a value", lengthField(80 + number, KEY + tag(2, wireType) + read)],
  ];
  if (packable(type)) {
    inputs.push(["in a list that is not packed", tag(60 + number, wireType) + read]);
    if (read !== "")
      inputs.push(
        ["in a packed list", lengthField(40 + number, read)],
        ["in a list that is not packed but came packed", lengthField(60 + number, read)],
      );
  }
  if (keyable(type)) inputs.push(["in a map, as a key", lengthField(100 + number, tag(1, wireType) + read)]);
  return inputs.map(([name, input]) => ({ name: `no value, ${name}`, schema: ScalarsSchema, input, output: REFUSED }));
}
