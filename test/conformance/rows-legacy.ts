/**
 * What proto2 and editions have: groups, closed enums, required fields, strings without a check, presence field by
 * field.
 */
import { ChosenSchema } from "../proto/conformance/edition2023_pb.js";
import { LegacySchema, StrictSchema } from "../proto/conformance/proto2_pb.js";
import { lengthField } from "./bytes.js";
import type { Case, Group } from "./case.js";
import { REFUSED, UNWRITABLE } from "./case.js";

const legacy = (rows: readonly Omit<Case, "schema">[]): Case[] => rows.map((row) => ({ schema: LegacySchema, ...row }));
const strict = (rows: readonly Omit<Case, "schema">[]): Case[] => rows.map((row) => ({ schema: StrictSchema, ...row }));
const chosen = (rows: readonly Omit<Case, "schema">[]): Case[] => rows.map((row) => ({ schema: ChosenSchema, ...row }));

// Legacy.inner is 1b to 1c, item 23 to 24, item.deep 13 to 14, choice_group 6b to 6c.
const groups: Group = {
  name: "groups",
  cases: legacy([
    { name: "a group", input: "1b 08 01 12 01 61 1c" },
    { name: "an empty group", input: "1b 1c" },
    { name: "groups are merged", input: "1b 08 01 1c 1b 12 01 61 1c", output: "1b 08 01 12 01 61 1c" },
    { name: "a message in a group", input: "1b 1a 02 08 05 1c" },
    { name: "a group in a message in a group", input: "1b 1a 04 1b 08 01 1c 1c" },
    { name: "groups of a list", input: "23 08 01 24 23 24 23 08 02 24" },
    { name: "a group in a group", input: "23 13 08 05 14 24" },
    {
      name: "groups in groups are merged",
      input: "23 13 08 05 14 08 01 13 08 06 14 24",
      output: "23 08 01 13 08 06 14 24",
    },
    { name: "a group of a oneof", input: "6b 08 01 6c" },
    { name: "groups of a oneof are merged", input: "6b 08 01 6c 6b 10 02 6c", output: "6b 08 01 10 02 6c" },
    {
      name: "groups of a oneof are not merged across another",
      input: "6b 08 01 6c 58 05 6b 10 02 6c",
      output: "6b 10 02 6c",
    },
    { name: "unknown fields in a group", input: "1b a0 06 01 08 05 1c", output: "1b 08 05 a0 06 01 1c" },
    { name: "an unknown group in a group", input: "1b a3 06 08 01 a4 06 1c" },
    { name: "a start longer than need be", input: "9b 00 08 01 1c", output: "1b 08 01 1c" },
    { name: "an end longer than need be", input: "1b 08 01 9c 80 00", output: "1b 08 01 1c" },
    { name: "a group without an end", input: "1b 08 01", output: REFUSED },
    { name: "a group that only starts", input: "1b", output: REFUSED },
    { name: "an end without a group", input: "1c", output: REFUSED },
    { name: "a group with another's end", input: "1b 08 01 24", output: REFUSED },
    { name: "an inner group with the outer's end", input: "23 13 08 05 24", output: REFUSED },
    { name: "an end of group zero", input: "1b 08 01 04", output: REFUSED },
    { name: "a cut value in a group", input: "1b 08 80 1c", output: REFUSED },
    { name: "a cut string in a group", input: "1b 12 03 61 1c", output: REFUSED },
    { name: "a group cut by the message around it, and by the input", input: "1b 1a 01 1b", output: REFUSED },
  ]),
};

// Legacy.closed is 28, closed_list 30, closed_packed 3a, closed_value 42, choice_closed 60.
const closedEnums: Group = {
  name: "closed enums",
  cases: [
    ...legacy([
      { name: "a number that exists", input: "28 02", fields: { closed: 2 } },
      { name: "a negative number that exists", input: "28 ff ff ff ff ff ff ff ff ff 01", fields: { closed: -1 } },
      {
        name: "a number that exists, in 32 bits",
        input: "28 ff ff ff ff 0f",
        output: "28 ff ff ff ff ff ff ff ff ff 01",
        fields: { closed: -1 },
      },
      { name: "a number that exists, wider than 32 bits", input: "28 82 80 80 80 10", output: "28 02" },
      {
        name: "a number that does not exist becomes an unknown field",
        input: "28 63",
        fields: { $unknown: [{ no: 5, wireType: 0, data: Uint8Array.of(0x63) }] },
      },
      { name: "zero, if it does not exist", input: "28 00" },
      { name: "a negative number that does not exist", input: "28 fe ff ff ff ff ff ff ff ff 01" },
      { name: "a number that does not exist, longer than need be", input: "28 e3 00", output: "28 63" },
      {
        name: "a number that does not exist, after one that does",
        input: "28 02 28 63",
        output: "28 02 28 63",
        fields: { closed: 2 },
      },
      {
        name: "a number that exists, after one that does not",
        input: "28 63 28 02",
        output: "28 02 28 63",
        fields: { closed: 2 },
      },
      {
        name: "a number that does not exist leaves a oneof alone",
        input: "58 05 60 63",
        output: "58 05 60 63",
        fields: { choice: { case: "choiceNumber", value: 5 } },
      },
      {
        name: "a number that does not exist, dropped if asked for",
        input: "28 63",
        decodeOptions: { readUnknownFields: false },
        output: "",
      },
      { name: "a list", input: "30 01 30 02", fields: { closedList: [1, 2] } },
      { name: "a list that came packed", input: "32 02 01 02", output: "30 01 30 02" },
      { name: "a packed list", input: "3a 02 01 02", fields: { closedPacked: [1, 2] } },
      { name: "a map", input: "42 04 08 05 10 02" },
      { name: "no value in a map is the first", input: "42 02 08 05", output: "42 04 08 05 10 01" },
      ...[
        {
          name: "a number that does not exist, in a list",
          input: "30 01 30 63 30 02",
          fields: { closedList: [1, 99, 2] },
        },
        {
          name: "a number that does not exist, in a packed list",
          input: "3a 03 01 63 02",
          fields: { closedPacked: [1, 99, 2] },
        },
        {
          name: "a number that does not exist, in a map",
          input: "42 04 08 05 10 63",
          fields: { closedValue: { 5: 99 } },
        },
      ].map((row) => ({
        ...row,
        specified: "made an unknown field: lists and maps of closed enums take every number",
      })),
    ]),
    ...chosen([
      { name: "a number that exists, in an edition", input: "60 01" },
      {
        name: "a number that does not exist, in an edition",
        input: "60 02",
        fields: { $unknown: [{ no: 12, wireType: 0, data: Uint8Array.of(2) }] },
      },
    ]),
  ],
};

const presence: Group = {
  name: "presence",
  cases: [
    ...legacy([
      { name: "a default that was not sent is not written", input: "", fields: { number: 7 } },
      { name: "a default that was sent is written", input: "08 07", fields: { number: 7 } },
      { name: "a zero is written", input: "08 00 12 00" },
      { name: "lists are not packed", input: "48 01 48 02 52 02 01 02" },
      { name: "lists that came the other way", input: "4a 02 01 02 50 01 50 02", output: "48 01 48 02 52 02 01 02" },
      { name: "an extension is kept", input: "a0 06 05" },
      { name: "extensions are kept in their order", input: "a0 06 05 a0 06 06" },
    ]),
    ...strict([
      { name: "a required field", input: "08 00" },
      { name: "a required field in a message", input: "08 01 12 02 08 02" },
      ...[
        { name: "no required field", input: "" },
        { name: "no required field, but others", input: "12 02 08 01" },
        { name: "no required field in a message", input: "08 01 12 00" },
      ].map((row) => ({ ...row, output: UNWRITABLE, specified: "refused when read" }) as const),
    ]),
    ...chosen([
      { name: "a zero of a field with presence is written", input: "08 00" },
      { name: "a zero of a field without presence is not", input: "10 00", output: "" },
      { name: "packed and not packed", input: "2a 02 01 02 30 01 30 02" },
      {
        name: "packed and not packed, the other way",
        input: "28 01 28 02 32 02 01 02",
        output: "2a 02 01 02 30 01 30 02",
      },
    ]),
  ],
};

const texts: Group = {
  name: "strings without a check",
  cases: [
    ...legacy([
      { name: "UTF-8", input: "12 02 c3 a9", fields: { text: "é" } },
      ...[
        { name: "a byte that is not UTF-8 is replaced", input: "12 03 61 ff 62", output: "12 05 61 ef bf bd 62" },
        { name: "a cut sequence is replaced", input: "12 02 e2 82", output: "12 03 ef bf bd" },
        {
          name: "each byte of a surrogate is replaced",
          input: "12 03 ed a0 80",
          output: "12 09 ef bf bd ef bf bd ef bf bd",
        },
        {
          name: "a long text with a byte that is not UTF-8",
          input: `12 3d ${"61".repeat(60)} ff`,
          output: `12 3f ${"61".repeat(60)} ef bf bd`,
        },
        { name: "in a list", input: "72 01 ff 72 01 61", output: "72 03 ef bf bd 72 01 61" },
        {
          name: "in a map",
          input: lengthField(15, "0a 01 ff 12 01 ff"),
          output: lengthField(15, "0a 03 ef bf bd 12 03 ef bf bd"),
        },
        { name: "in a group", input: "1b 12 01 ff 1c", output: "1b 12 03 ef bf bd 1c" },
      ].map((row) => ({ ...row, specified: "kept as it is: a JavaScript string cannot hold such bytes" })),
      { name: "a text that starts with U+FEFF", input: "12 03 ef bb bf" },
      { name: "a text longer than the input", input: "12 03 ff ff", output: REFUSED },
    ]),
    ...chosen([
      { name: "not UTF-8 where it is checked", input: "1a 01 ff", output: REFUSED },
      {
        name: "not UTF-8 where it is not checked",
        input: "22 01 ff",
        output: "22 03 ef bf bd",
        specified: "kept as it is",
      },
      { name: "not UTF-8 where it is checked, in a message", input: "3a 03 1a 01 ff", output: REFUSED },
    ]),
  ],
};

const delimited: Group = {
  name: "delimited messages",
  cases: chosen([
    { name: "prefixed", input: "3a 02 08 01" },
    { name: "delimited", input: "43 08 01 44" },
    { name: "a list", input: "4b 08 01 4c 4b 4c" },
    { name: "a oneof", input: "53 08 01 54" },
    { name: "a oneof, merged", input: "53 08 01 54 53 10 02 54", output: "53 08 01 10 02 54" },
    { name: "each in the other", input: "43 3a 04 43 08 01 44 44" },
    { name: "delimited ones in each other", input: "43 43 43 44 44 44" },
    { name: "merged", input: "43 08 01 44 43 10 02 44", output: "43 08 01 10 02 44" },
    { name: "a map's values are prefixed", input: "6a 06 08 05 12 02 08 01" },
    { name: "another's end", input: "43 08 01 4c", output: REFUSED },
    { name: "an end in a prefixed message", input: "3a 01 44", output: REFUSED },
    { name: "no end", input: "43 08 01", output: REFUSED },
    { name: "no end before the end of the message around it", input: "3a 03 43 08 01", output: REFUSED },
    {
      name: "an end after the end of the message around it",
      input: "3a 03 43 08 01 44",
      output: "3a 04 43 08 01 44",
      specified: "refused",
    },
  ]),
};

export const legacyGroups: readonly Group[] = [groups, closedEnums, presence, texts, delimited];
