/**
 * Messages in messages, oneofs, maps and lists: what of several occurrences counts, and in which order things are
 * written.
 */
import { ScalarsSchema, TreeSchema } from "../proto/conformance/proto3_pb.js";
import { lengthField, prefixed } from "./bytes.js";
import type { Case, Group } from "./case.js";
import { REFUSED } from "./case.js";

// Tags of Tree: 08 id, 12 name, 1a child, 22 children, 2a by_name, 30 number, 3a text, 42 tree, 4a leaf, 52 data, 5a
// numbers, 62 words.
const tree = (rows: readonly Omit<Case, "schema">[]): Case[] => rows.map((row) => ({ schema: TreeSchema, ...row }));

const occurrences: Group = {
  name: "several occurrences",
  cases: tree([
    { name: "nothing at all", input: "", fields: { id: 0, name: "", child: undefined, children: [] } },
    { name: "the last of a scalar counts", input: "08 01 08 02", output: "08 02" },
    { name: "the last of a string counts", input: "12 01 61 12 01 62", output: "12 01 62" },
    { name: "a last zero counts", input: "08 01 08 00", output: "" },
    { name: "a last empty string counts", input: "12 01 61 12 00", output: "" },
    { name: "fields are written by number", input: "12 01 61 08 01", output: "08 01 12 01 61" },
    { name: "messages are merged", input: "1a 02 08 01 1a 03 12 01 61", output: "1a 05 08 01 12 01 61" },
    { name: "merging takes the last of a scalar", input: "1a 02 08 01 1a 02 08 02", output: "1a 02 08 02" },
    { name: "merging an empty message changes nothing", input: "1a 02 08 01 1a 00", output: "1a 02 08 01" },
    {
      name: "merging goes on after other fields",
      input: "1a 02 08 01 08 07 1a 03 12 01 61",
      output: "08 07 1a 05 08 01 12 01 61",
    },
    {
      name: "merging reaches messages within",
      input: "1a 04 1a 02 08 01 1a 05 1a 03 12 01 61",
      output: "1a 07 1a 05 08 01 12 01 61",
    },
    { name: "merging appends to lists", input: "1a 05 5a 03 01 02 03 1a 02 58 04", output: "1a 06 5a 04 01 02 03 04" },
    {
      name: "merging appends unknown fields",
      input: "1a 03 a0 06 01 1a 03 a0 06 02",
      output: "1a 06 a0 06 01 a0 06 02",
    },
    {
      name: "messages of a list are not merged",
      input: "22 02 08 01 22 03 12 01 61",
      output: "22 02 08 01 22 03 12 01 61",
    },
    { name: "a message that is empty is there", input: "1a 00" },
    { name: "empty messages of a list are there", input: "22 00 22 00" },
    { name: "a list goes on after other fields", input: "58 01 08 07 58 02", output: "08 07 5a 02 01 02" },
    { name: "packed and unpacked mix", input: "58 01 5a 02 02 03 58 04 5a 01 05", output: "5a 05 01 02 03 04 05" },
    { name: "a packed list may be empty", input: "5a 00", output: "" },
    { name: "an empty packed list adds nothing", input: "58 01 5a 00 58 02", output: "5a 02 01 02" },
    { name: "packed fixed-width values", input: "62 08 01 00 00 00 02 00 00 00", fields: { words: [1, 2] } },
    { name: "packed lists with too long varints", input: "5a 05 81 00 82 80 00", output: "5a 02 01 02" },
    { name: "too long lengths", input: "1a 82 00 08 01 12 81 80 00 61", output: "12 01 61 1a 02 08 01" },
    { name: "a length of ten bytes", input: "1a 82 80 80 80 80 80 80 80 80 00 08 01", output: "1a 02 08 01" },
    { name: "too long a tag", input: "88 00 01", output: "08 01" },
    { name: "a tag of five bytes", input: "88 80 80 80 00 01", output: "08 01" },
  ]),
};

const oneofs: Group = {
  name: "oneofs",
  cases: tree([
    { name: "a zero counts", input: "30 00", fields: { choice: { case: "number", value: 0 } } },
    { name: "an empty string counts", input: "3a 00", fields: { choice: { case: "text", value: "" } } },
    { name: "an empty message counts", input: "42 00" },
    { name: "the last counts", input: "30 05 3a 01 61", output: "3a 01 61" },
    { name: "the last counts, whatever its number", input: "3a 01 61 30 05", output: "30 05" },
    { name: "the last of the same counts", input: "30 05 30 06", output: "30 06" },
    { name: "messages are merged", input: "42 02 08 01 42 03 12 01 61", output: "42 05 08 01 12 01 61" },
    {
      name: "messages are not merged across another",
      input: "42 02 08 01 30 05 42 03 12 01 61",
      output: "42 03 12 01 61",
    },
    { name: "a message takes the place of a scalar", input: "30 05 42 02 08 01", output: "42 02 08 01" },
    { name: "a message takes the place of another type's", input: "4a 03 0a 01 61 42 02 08 01", output: "42 02 08 01" },
    { name: "two messages in turn", input: "42 02 08 01 4a 02 10 07 42 00", output: "42 00" },
    {
      name: "within a message that is merged, the last counts",
      input: "1a 02 30 05 1a 03 3a 01 61",
      output: "1a 03 3a 01 61",
    },
    {
      name: "merging within a message that is merged",
      input: "1a 04 42 02 08 01 1a 05 42 03 12 01 61",
      output: "1a 07 42 05 08 01 12 01 61",
    },
  ]),
};

// Entries of Tree.by_name: 0a the key, 12 the value.
const maps: Group = {
  name: "maps of messages",
  cases: [
    ...tree([
      { name: "an entry", input: lengthField(5, "0a 01 61 12 02 08 01") },
      {
        name: "the value before the key",
        input: lengthField(5, "12 02 08 01 0a 01 61"),
        output: lengthField(5, "0a 01 61 12 02 08 01"),
      },
      { name: "an empty entry", input: "2a 00", output: "2a 04 0a 00 12 00" },
      { name: "no key", input: lengthField(5, "12 02 08 01"), output: lengthField(5, "0a 00 12 02 08 01") },
      { name: "no value", input: lengthField(5, "0a 01 61"), output: lengthField(5, "0a 01 61 12 00") },
      {
        name: "two keys: the last counts",
        input: lengthField(5, "0a 01 61 0a 01 62 12 00"),
        output: lengthField(5, "0a 01 62 12 00"),
      },
      {
        name: "two values are merged",
        input: lengthField(5, "0a 01 61 12 02 08 01 12 03 12 01 62"),
        output: lengthField(5, "0a 01 61 12 05 08 01 12 01 62"),
      },
      {
        name: "a key between two values",
        input: lengthField(5, "12 02 08 01 0a 01 61 12 02 08 02"),
        output: lengthField(5, "0a 01 61 12 02 08 02"),
      },
      {
        name: "two entries of a key: the last counts, unmerged",
        input: lengthField(5, "0a 01 61 12 02 08 01") + lengthField(5, "0a 01 61 12 03 12 01 62"),
        output: lengthField(5, "0a 01 61 12 03 12 01 62"),
      },
      { name: "entries keep their order", input: lengthField(5, "0a 01 62 12 00") + lengthField(5, "0a 01 61 12 00") },
      {
        name: "the key of every object's prototype",
        input: lengthField(5, `0a ${prefixed("5f5f70726f746f5f5f")} 12 02 08 01`),
      },
      {
        name: "the key of every object's constructor",
        input: lengthField(5, `0a ${prefixed("636f6e7374727563746f72")} 12 02 08 01`),
      },
      {
        name: "unknown fields in an entry are dropped",
        input: lengthField(5, "18 05 0a 01 61 22 01 ff 12 00 2d 01 02 03 04"),
        output: lengthField(5, "0a 01 61 12 00"),
      },
      {
        name: "an unknown group in an entry is dropped",
        input: lengthField(5, "1b 08 01 1c 0a 01 61 12 00"),
        output: lengthField(5, "0a 01 61 12 00"),
      },
      { name: "unknown fields in a value stay", input: lengthField(5, "0a 01 61 12 03 a0 06 01") },
      { name: "an entry that is cut", input: "2a 07 0a 01 61 12 02 08", output: REFUSED },
      { name: "an entry longer than the message", input: "2a 08 0a 01 61 12 02 08 01", output: REFUSED },
      { name: "a tag of zero in an entry", input: lengthField(5, "00 0a 01 61"), output: REFUSED },
      { name: "an illegal wire type in an entry", input: lengthField(5, "1e 0a 01 61"), output: REFUSED },
      { name: "an end of a group in an entry", input: lengthField(5, "1c 0a 01 61"), output: REFUSED },
      { name: "a key that is not UTF-8", input: lengthField(5, "0a 01 ff 12 00"), output: REFUSED },
    ]),
    // SUBTLE: properties whose names are small whole numbers come first and in rising order, whatever was set first.
    {
      name: "numbers as keys are written in rising order",
      schema: ScalarsSchema,
      input: "9a 05 02 08 02 9a 05 02 08 01",
      output: "9a 05 04 08 01 10 00 9a 05 04 08 02 10 00",
    },
    {
      name: "negative numbers as keys come after the others",
      schema: ScalarsSchema,
      input: scalarKey("ff ff ff ff ff ff ff ff ff 01") + scalarKey("01"),
      output: scalarKey("01") + scalarKey("ff ff ff ff ff ff ff ff ff 01"),
    },
    {
      name: "two scalar values: the last counts",
      schema: ScalarsSchema,
      input: lengthField(83, "08 01 10 05 10 06"),
      output: lengthField(83, "08 01 10 06"),
    },
    {
      name: "a scalar value before the key",
      schema: ScalarsSchema,
      input: lengthField(83, "10 05 08 01"),
      output: lengthField(83, "08 01 10 05"),
    },
    {
      name: "no scalar value",
      schema: ScalarsSchema,
      input: lengthField(94, "08 01"),
      output: lengthField(94, "08 01 12 00"),
      fields: { stringValue: { 1: "" } },
    },
    {
      name: "no value of bytes",
      schema: ScalarsSchema,
      input: lengthField(95, "08 01"),
      output: lengthField(95, "08 01 12 00"),
      fields: { bytesValue: { 1: new Uint8Array(0) } },
    },
    {
      name: "no value of a 64-bit number",
      schema: ScalarsSchema,
      input: lengthField(84, "08 01"),
      output: lengthField(84, "08 01 10 00"),
      fields: { int64Value: { 1: 0n } },
    },
    {
      name: "no value of a double",
      schema: ScalarsSchema,
      input: lengthField(81, ""),
      output: lengthField(81, "08 00 11 00 00 00 00 00 00 00 00"),
      fields: { doubleValue: { 0: 0 } },
    },
    {
      name: "no key that is a bool",
      schema: ScalarsSchema,
      input: lengthField(113, "10 01"),
      output: lengthField(113, "08 00 10 01"),
      fields: { boolKey: { false: true } },
    },
    {
      name: "no key that is a 64-bit number",
      schema: ScalarsSchema,
      input: lengthField(104, "10 01"),
      output: lengthField(104, "08 00 10 01"),
      fields: { int64Key: { 0: true } },
    },
    {
      name: "no value of an enum",
      schema: ScalarsSchema,
      input: lengthField(96, "08 01"),
      output: lengthField(96, "08 01 10 00"),
      fields: { openValue: { 1: 0 } },
    },
  ],
};

/** An entry of Scalars.int32_value. */
function scalarKey(key: string): string {
  return lengthField(83, `08 ${key} 10 01`);
}

export const messageGroups: readonly Group[] = [occurrences, oneofs, maps];
