/** Inputs that are cut, that overrun, that have impossible tags, the wrong wire type or too much nesting. */
import { TreeSchema } from "../proto/conformance/proto3_pb.js";
import { LegacySchema } from "../proto/conformance/proto2_pb.js";
import { compact, groupField, lengthField, varint } from "./bytes.js";
import type { Case, Group } from "./case.js";
import { REFUSED } from "./case.js";

const tree = (rows: readonly Omit<Case, "schema">[]): Case[] => rows.map((row) => ({ schema: TreeSchema, ...row }));

const tags: Group = {
  name: "impossible tags",
  cases: tree([
    ...["00", "00 01", "01 01 01 01 01 01 01 01 01", "02 01 01", "03 04", "04", "05 01 01 01 01", "80 00 01"].map(
      (input) => ({ name: "field number zero", input, output: REFUSED }) as const,
    ),
    ...["0e", "0e 01", "0f 01", "a6 06 01", "a7 06 01"].map(
      (input) => ({ name: "a wire type that does not exist", input, output: REFUSED }) as const,
    ),
    { name: "a tag wider than 32 bits", input: "88 80 80 80 10 01", output: REFUSED },
    { name: "a tag with all bits set", input: "ff ff ff ff ff ff ff ff ff 01 01", output: REFUSED },
    { name: "a tag of six bytes", input: "88 80 80 80 80 00 01", output: REFUSED },
    { name: "a tag of eleven bytes", input: "88 80 80 80 80 80 80 80 80 80 00 01", output: REFUSED },
    { name: "a cut tag", input: "88", output: REFUSED },
    { name: "a cut tag after a field", input: "08 01 a0", output: REFUSED },
    { name: "the largest field number", input: "f8 ff ff ff 0f 05" },
    { name: "field number zero in a message", input: "1a 02 00 00", output: REFUSED },
    { name: "field number zero in an unknown group", input: "a3 06 00 00 a4 06", output: REFUSED },
    { name: "the end of a group that did not start", input: "a4 06", output: REFUSED },
    { name: "the end of a group that did not start, after a field", input: "08 01 a4 06", output: REFUSED },
    { name: "the end of a group that did not start, in a message", input: "1a 02 a4 06", output: REFUSED },
  ]),
};

const overruns: Group = {
  name: "lengths that do not fit",
  cases: tree([
    { name: "a message longer than the input", input: "1a 03 08 05", output: REFUSED },
    { name: "a message whose length has all bits set", input: "1a ff ff ff ff 0f 08 05", output: REFUSED },
    {
      name: "a message whose length would be negative",
      input: "1a ff ff ff ff ff ff ff ff ff 01 08 05",
      output: REFUSED,
    },
    {
      name: "a string longer than the message around it and than the input",
      input: "1a 04 12 05 61 62",
      output: REFUSED,
    },
    { name: "a packed list longer than the input", input: "5a 03 01 02", output: REFUSED },
    { name: "packed fixed-width values, cut", input: "62 05 01 00 00 00 02", output: REFUSED },
    { name: "packed fixed-width values, longer than the input", input: "62 08 01 00 00 00", output: REFUSED },
    { name: "packed fixed-width values, cut to less than one", input: "62 03 01 00 00", output: REFUSED },
    { name: "packed varints, the last without an end", input: "5a 02 01 80", output: REFUSED },
    { name: "unknown bytes longer than the input", input: "a2 06 05 01 02", output: REFUSED },
    { name: "unknown bytes whose length has all bits set", input: "a2 06 ff ff ff ff 0f 01", output: REFUSED },
    { name: "bytes longer than the input by four thousand million", input: "52 fc ff ff ff 0f 61 61", output: REFUSED },
    ...[
      { name: "a value that overruns the message around it", input: "1a 01 08 05", output: "1a 02 08 05" },
      {
        name: "a string that overruns the message around it",
        input: "1a 02 12 03 61 62 63",
        output: "1a 05 12 03 61 62 63",
      },
      {
        name: "a message that overruns the message around it",
        input: "1a 02 1a 02 08 01",
        output: "1a 04 1a 02 08 01",
      },
      { name: "a varint that overruns its packed list", input: "5a 01 80 01", output: "5a 02 80 01" },
      {
        name: "a fixed-width value that overruns its packed list",
        input: "62 05 01 00 00 00 02 00 00 00",
        output: "62 08 01 00 00 00 02 00 00 00",
      },
      { name: "a value that overruns its map entry", input: "2a 02 0a 01 61", output: "2a 05 0a 01 61 12 00" },
      {
        name: "an unknown field that overruns the message around it",
        input: "1a 02 a0 06 01",
        output: "1a 03 a0 06 01",
      },
      {
        name: "a value that overruns the message around it, and fields after it",
        input: "1a 01 08 05 12 01 61",
        output: "12 01 61 1a 02 08 05",
      },
    ].map((row) => ({
      ...row,
      specified: "refused: only the end of the whole input is checked, not that of the message around",
    })),
  ]),
};

const otherWireTypes: Group = {
  name: "other wire types than the field's",
  cases: [
    ...tree([
      { name: "a number with a length", input: "0a 01 61", output: REFUSED },
      { name: "a number of four bytes", input: "0d 01 00 00 00", output: REFUSED },
      { name: "a number of eight bytes", input: "09 01 00 00 00 00 00 00 00", output: REFUSED },
      { name: "a string as a number", input: "10 05", output: REFUSED },
      { name: "a string of four bytes", input: "15 61 62 63 64", output: REFUSED },
      { name: "a message as a number", input: "18 05", output: REFUSED },
      { name: "a message as a group", input: "1b 08 01 1c", output: REFUSED },
      { name: "a list of numbers as four bytes", input: "5d 01 00 00 00", output: REFUSED },
      { name: "a list of four bytes as a number", input: "60 01", output: REFUSED },
      { name: "a map entry as a number", input: "28 05", output: REFUSED },
      ...[
        { name: "a number with a length that reads as one", input: "0a 01 08 02", output: "08 02" },
        { name: "a number in a group that does not end", input: "0b 01", output: "08 01" },
        { name: "a number in the end of a group", input: "0c 01", output: "08 01" },
        { name: "a string as a number that reads as a length", input: "10 01 61", output: "12 01 61" },
        { name: "a message as a number that reads as a length", input: "18 02 08 01", output: "1a 02 08 01" },
        { name: "a message in the end of a group", input: "1c 02 08 01", output: "1a 02 08 01" },
        { name: "a list of four bytes as a number", input: "60 01 00 00 00", output: "62 04 01 00 00 00" },
        { name: "a list of four bytes as eight", input: "61 01 00 00 00", output: "62 04 01 00 00 00" },
        { name: "a list of numbers as the end of a group", input: "5c 05", output: "5a 01 05" },
        { name: "a oneof's number with a length", input: "32 05", output: "30 05" },
        { name: "a oneof's message as a number", input: "40 00", output: "42 00" },
        { name: "a map entry as a number", input: "28 00", output: "2a 04 0a 00 12 00" },
        {
          name: "a map's key as a number",
          input: lengthField(5, "08 01 61"),
          output: lengthField(5, "0a 01 61 12 00"),
        },
      ].map((row) => ({
        ...row,
        specified:
          "kept as an unknown field, or refused: a known field is read as its own type, whatever wire type its tag has",
      })),
    ]),
    { name: "a group with a length", schema: LegacySchema, input: "1a 02 08 01", output: REFUSED },
    {
      name: "a group with a length that reads as one",
      schema: LegacySchema,
      input: "1a 08 01 1c",
      output: "1b 08 01 1c",
      specified: "kept as an unknown field, or refused",
    },
    {
      name: "an enum's number that does not exist, with a length",
      schema: LegacySchema,
      input: "2a 63",
      specified: "refused: an unknown number of a closed enum is kept with the wire type of its tag",
    },
  ],
};

/** `count` messages, each in the one before, as a field of this number; the innermost is empty. */
function nested(count: number, number = 3): string {
  let content = "";
  for (let i = 1; i < count; i++) content = lengthField(number, content);
  return content;
}

/** `count` unknown groups, each in the one before. */
function nestedGroups(count: number): string {
  let content = "";
  for (let i = 0; i < count; i++) content = groupField(100, content);
  return content;
}

function nestedKnownGroups(count: number): string {
  let content = "";
  // Legacy.inner is a group with a message, Legacy.inner.legacy: two levels.
  for (let i = 0; i < count; i++) content = groupField(3, lengthField(3, content));
  return content;
}

function nestedEntries(count: number): string {
  let content = "";
  for (let i = 1; i < count; i++) content = lengthField(5, `0a00${lengthField(2, content)}`);
  return content;
}

const depths: Group = {
  name: "nesting",
  cases: [
    ...tree([
      { name: "100 messages", input: nested(100) },
      { name: "101 messages", input: nested(101), output: REFUSED },
      { name: "100 messages by oneofs", input: nested(100, 8) },
      { name: "101 messages by oneofs", input: nested(101, 8), output: REFUSED },
      { name: "101 messages by lists", input: nested(101, 4), output: REFUSED },
      { name: "100 messages by maps", input: nestedEntries(100) },
      { name: "101 messages by maps", input: nestedEntries(101), output: REFUSED },
      { name: "99 unknown groups", input: nestedGroups(99) },
      { name: "100 unknown groups", input: nestedGroups(100), output: REFUSED },
      { name: "98 unknown groups in a message", input: lengthField(3, nestedGroups(98)) },
      { name: "99 unknown groups in a message", input: lengthField(3, nestedGroups(99)), output: REFUSED },
      {
        name: "99 unknown groups in a map entry",
        input: lengthField(5, nestedGroups(99)),
        output: lengthField(5, "0a 00 12 00"),
      },
      { name: "100 unknown groups in a map entry", input: lengthField(5, nestedGroups(100)), output: REFUSED },
      { name: "many levels side by side", input: (lengthField(4, nested(60)) + lengthField(4, nested(60))).repeat(2) },
      { name: "as many messages as asked for", input: nested(5), decodeOptions: { recursionLimit: 5 } },
      { name: "more messages than asked for", input: nested(6), decodeOptions: { recursionLimit: 5 }, output: REFUSED },
      {
        name: "more unknown groups than asked for",
        input: nestedGroups(5),
        decodeOptions: { recursionLimit: 5 },
        output: REFUSED,
      },
    ]),
    { name: "99 levels of groups and messages", schema: LegacySchema, input: nestedKnownGroups(49) },
    { name: "101 levels of groups and messages", schema: LegacySchema, input: nestedKnownGroups(50), output: REFUSED },
  ],
};

/** Every cut of a message: between two fields it is a message, anywhere else it is not. */
function cuts(schema: Case["schema"], records: readonly string[]): Case[] {
  const whole = records.map(compact);
  return whole.flatMap((record, index) => {
    const before = whole.slice(0, index).join("");
    const rows: Case[] = [{ name: `cut after field ${index + 1}`, schema, input: before + record }];
    for (let length = 1; length < record.length / 2; length++) {
      rows.push({
        name: `cut after ${length} bytes of field ${index + 1}`,
        schema,
        input: before + record.slice(0, 2 * length),
        output: REFUSED,
      });
    }
    return rows;
  });
}

const cutEverywhere: Group = {
  name: "a message cut anywhere",
  cases: [
    ...cuts(TreeSchema, [
      "08 ff ff ff ff ff ff ff ff ff 01",
      "12 05 61 c3 a9 62 63",
      lengthField(3, `08 80 01 12 02 61 62 ${lengthField(3, "08 01 52 01 ff")} 5a 02 80 01`),
      lengthField(4, "08 01"),
      lengthField(4, "62 08 01 00 00 00 02 00 00 00"),
      lengthField(5, `0a 01 61 12 07 08 01 12 03 61 62 63`),
      "42 04 1a 02 08 03",
      "52 03 01 02 03",
      "5a 05 01 80 01 80 01",
      "62 08 01 00 00 00 ff ff ff ff",
      "a0 06 80 80 00",
      "a1 06 01 02 03 04 05 06 07 08",
      `a2 06 ${varint(3)} 01 02 03`,
      "a3 06 08 01 13 1d 01 02 03 04 14 22 02 61 62 a4 06",
      "a5 06 01 02 03 04",
    ]),
    ...cuts(LegacySchema, [
      "08 09",
      "12 02 61 62",
      "1b 08 01 12 01 61 1a 02 1b 1c 1c",
      "23 08 01 13 08 80 01 14 24",
      "23 24",
      "28 02",
      "6b 08 01 6c",
      "a0 06 05",
    ]),
  ],
};

export const malformedGroups: readonly Group[] = [tags, overruns, otherWireTypes, depths, cutEverywhere];
