/** Fields that the reader's schema does not have. */
import { EmptySchema, TreeSchema } from "../proto/conformance/proto3_pb.js";
import { lengthField } from "./bytes.js";
import type { Case, Group } from "./case.js";
import { REFUSED } from "./case.js";

// Field 100: a0 06 varint, a1 06 eight bytes, a2 06 length, a3 06 group, a4 06 its end, a5 06 four bytes.
const rows: readonly Omit<Case, "schema">[] = [
  { name: "a varint", input: "a0 06 96 01" },
  { name: "a varint longer than need be keeps its bytes", input: "a0 06 81 80 00" },
  { name: "a varint of ten bytes", input: "a0 06 ff ff ff ff ff ff ff ff ff 01" },
  { name: "eight bytes", input: "a1 06 01 02 03 04 05 06 07 08" },
  { name: "four bytes", input: "a5 06 01 02 03 04" },
  { name: "bytes with a length", input: "a2 06 03 01 02 03" },
  { name: "no bytes", input: "a2 06 00" },
  { name: "a length longer than need be keeps its bytes", input: "a2 06 83 00 01 02 03" },
  { name: "a tag longer than need be is written short", input: "a0 86 00 01", output: "a0 06 01" },
  { name: "a group", input: "a3 06 08 01 a4 06" },
  { name: "an empty group", input: "a3 06 a4 06" },
  {
    name: "a group with everything in it",
    input: "a3 06 08 81 00 11 01 02 03 04 05 06 07 08 1a 02 01 02 23 08 01 24 2d 01 02 03 04 a4 06",
  },
  { name: "a group in a group of the same number", input: "a3 06 a3 06 a4 06 a4 06" },
  { name: "an end of a group longer than need be", input: "a3 06 a4 86 00" },
  { name: "several, in their order", input: "a8 06 01 a0 06 02 a8 06 03 a2 06 01 61" },
  { name: "a group without an end", input: "a3 06 08 01", output: REFUSED },
  { name: "a group with another's end", input: "a3 06 08 01 ac 06", output: REFUSED },
  { name: "a group closed in the wrong order", input: "a3 06 ab 06 a4 06 ac 06", output: REFUSED },
  { name: "a group with a cut field", input: "a3 06 12 05 61 a4 06", output: REFUSED },
  { name: "a varint without an end", input: "a0 06 80 80", output: REFUSED },
  { name: "seven bytes of eight", input: "a1 06 01 02 03 04 05 06 07", output: REFUSED },
  { name: "three bytes of four", input: "a5 06 01 02 03", output: REFUSED },
  { name: "a length without an end", input: "a2 06 80", output: REFUSED },
  { name: "a length of eleven bytes", input: "a2 06 80 80 80 80 80 80 80 80 80 80 00", output: REFUSED },
  {
    name: "dropped when reading, if asked for",
    input: "a0 06 01 a2 06 01 61 a3 06 a4 06",
    decodeOptions: { readUnknownFields: false },
    output: "",
  },
  {
    name: "checked, even if dropped",
    input: "a3 06 ac 06",
    decodeOptions: { readUnknownFields: false },
    output: REFUSED,
  },
  {
    name: "kept out when writing, if asked for",
    input: "a0 06 01 a2 06 01 61",
    encodeOptions: { writeUnknownFields: false },
    output: "",
  },
  {
    name: "a varint of eleven bytes",
    input: "a0 06 80 80 80 80 80 80 80 80 80 80 00",
    specified: "refused: the length of an unknown varint is not checked",
  },
];

export const unknownGroups: readonly Group[] = [
  { name: "unknown fields of a message without fields", cases: rows.map((row) => ({ schema: EmptySchema, ...row })) },
  { name: "unknown fields of a message with fields", cases: rows.map((row) => ({ schema: TreeSchema, ...row })) },
  {
    name: "unknown fields of a message in a message",
    cases: rows.map((row) => ({
      ...row,
      schema: TreeSchema,
      input: lengthField(3, row.input),
      ...(typeof row.output === "string" ? { output: lengthField(3, row.output) } : {}),
    })),
  },
  {
    name: "unknown fields among known ones",
    cases: [
      { name: "they are written last", schema: TreeSchema, input: "a0 06 01 08 05", output: "08 05 a0 06 01" },
      {
        name: "they keep their order",
        schema: TreeSchema,
        input: "a8 06 01 08 05 a0 06 02 12 01 61",
        output: "08 05 12 01 61 a8 06 01 a0 06 02",
      },
      {
        name: "they stay in their message",
        schema: TreeSchema,
        input: "1a 05 a0 06 01 08 05 a8 06 02",
        output: "1a 05 08 05 a0 06 01 a8 06 02",
      },
      { name: "they stay in each message of a list", schema: TreeSchema, input: "22 03 a0 06 01 22 03 a0 06 02" },
      {
        name: "dropped at every level, if asked for",
        schema: TreeSchema,
        input: "1a 05 a0 06 01 08 05 a8 06 02",
        decodeOptions: { readUnknownFields: false },
        output: "1a 02 08 05",
      },
      {
        name: "kept out at every level, if asked for",
        schema: TreeSchema,
        input: "1a 05 a0 06 01 08 05 a8 06 02",
        encodeOptions: { writeUnknownFields: false },
        output: "1a 02 08 05",
      },
    ],
  },
];
