/** Views must not take much longer than decoding, and must not get into a message that is sent. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { DescMessage } from "@bufbuild/protobuf";
import { create, createFileRegistry, fromBinary, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { PayloadsSchema, TreeSchema } from "../../../test/proto/codec/modern_pb.js";
import type { MapView } from "../index.js";
import { encodeInto, encodeRope, isViewFieldSet, sizeOf, view } from "../index.js";
import { encodeType } from "../encode.js";
import { closureType } from "../compile/message-type.js";
import { closureViewType, viewType } from "./type.js";

const LABEL_OPTIONAL = 1;
const LABEL_REPEATED = 3;
const TYPE_INT32 = 5;

/** A message type with `count` fields of type int32. */
function wideType(count: number, label: number): DescMessage {
  const field = Array.from({ length: count }, (_, i) => ({
    name: `f${i}`,
    jsonName: `f${i}`,
    number: i + 1,
    label,
    type: TYPE_INT32,
  }));
  const file = create(FileDescriptorProtoSchema, {
    name: `wide${count}.proto`,
    package: "wide",
    syntax: "proto3",
    messageType: [{ name: "Wide", field }],
  });
  return createFileRegistry(file, () => undefined).getMessage("wide.Wide")!;
}

/** Processor time of this process, in ms. Other processes on the machine do not count. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** The processor time of the shortest of a few runs, in ms. */
function shortest(run: () => unknown): number {
  let best = Infinity;
  for (let i = 0; i < 5; i++) {
    const start = cpuMs();
    run();
    best = Math.min(best, cpuMs() - start);
  }
  return best;
}

function varint(value: number): number[] {
  const bytes: number[] = [];
  for (; value > 127; value >>>= 7) bytes.push((value & 127) | 128);
  return [...bytes, value];
}

/** A map entry whose value is a message that occurs `fragments` times. */
function entryInFragments(fragments: number): Uint8Array {
  const field = TreeSchema.field.named;
  const value = new Array<readonly number[]>(fragments).fill([0x12, 0]).flat();
  return Uint8Array.from([...varint((field.number << 3) | 2), ...varint(value.length), ...value]);
}

describe("the time that a view takes", () => {
  test("grows with the fragments of a map's value, and not with their square", () => {
    const few = entryInFragments(1_000);
    const many = entryInFragments(16_000);
    const read = (bytes: Uint8Array) => view(TreeSchema, bytes).named.get("")?.number;
    assert.equal(read(many), 0);
    const ratio = shortest(() => read(many)) / shortest(() => read(few));
    // 16 times the input. Quadratic time would be 256 times as long.
    assert.ok(ratio < 100, `${ratio.toFixed(0)} times as long`);
  });

  for (const [what, count, label] of [
    ["many fields", 1500, LABEL_OPTIONAL],
    ["many lists", 500, LABEL_REPEATED],
  ] as const) {
    test(`is less than that of decoding for a message of ${what}`, () => {
      const schema = wideType(count, label);
      const message = create(schema) as unknown as Record<string, unknown>;
      for (let i = 0; i < count; i += 7) message[`f${i}`] = label === LABEL_REPEATED ? [i + 1] : i + 1;
      const bytes = toBinary(schema, message as never);
      const read = (i: number) => (view(schema, bytes) as unknown as Record<string, unknown>)[`f${i}`];
      assert.equal(label === LABEL_REPEATED ? (read(7) as { at(i: number): unknown }).at(0) : read(7), 8);
      const times = (run: () => unknown) => () => {
        for (let i = 0; i < 100; i++) run();
      };
      const viewed = shortest(times(() => read(7)));
      const decoded = shortest(times(() => fromBinary(schema, bytes)));
      assert.ok(viewed < decoded, `${viewed.toFixed(2)} ms, protobuf-es ${decoded.toFixed(2)} ms`);
    });
  }
});

describe("what a message must not have in it", () => {
  const shown = view(
    PayloadsSchema,
    toBinary(
      PayloadsSchema,
      create(PayloadsSchema, {
        lines: ["a"],
        floats: [1],
        bools: [true],
        parts: [new Uint8Array(1)],
        named: { key: new Uint8Array(1) },
        more: [{ text: "x" }],
      }),
    ),
  );
  const target = new Uint8Array(1000);
  const plan = { type: closureType(PayloadsSchema), writeUnknown: true, measures: true };
  const encoders: [string, (message: never) => unknown][] = [
    ["encodeInto", (message) => encodeInto(PayloadsSchema, message, target)],
    [
      "encodeInto, without unknown fields",
      (message) => encodeInto(PayloadsSchema, message, target, 0, target.length, { writeUnknownFields: false }),
    ],
    ["sizeOf", (message) => sizeOf(PayloadsSchema, message)],
    ["encodeRope", (message) => encodeRope(PayloadsSchema, message)],
    ["the writer without generated code", (message) => encodeType(plan, message, target, 0, target.length)],
  ];
  for (const [how, encode] of encoders) {
    test(`is refused by ${how}`, () => {
      for (const name of ["lines", "floats", "bools", "parts", "more", "named"] as const) {
        // The size of such a list follows from its length.
        if (name === "floats" && how === "sizeOf") continue;
        const part = { [name]: shown[name] };
        for (const message of [part, Object.assign(create(PayloadsSchema), part)])
          assert.throws(() => encode(message as never), { name: "TypeError", message: /of a view|a view of/ }, name);
      }
      for (const message of [
        { inner: shown },
        Object.assign(create(PayloadsSchema), { inner: shown }),
        { more: [shown] },
        { choice: { case: "payloads", value: shown } },
        shown.named,
        shown.lines,
      ]) {
        assert.throws(() => encode(message as never), { name: "TypeError", message: /of a view|a view of/ });
      }
    });
  }

  test("is what has no message's type: a list or map is not a view that has fields", () => {
    for (const part of [shown.lines, shown.named])
      assert.throws(() => isViewFieldSet(part, PayloadsSchema.field.lines), /not a view/);
  });
});

test("going on through a map whose bytes are gone throws at its end, too", () => {
  for (const type of [viewType(PayloadsSchema), closureViewType(PayloadsSchema)]) {
    for (const items of ["keys", "values", "entries"] as const) {
      const bytes = toBinary(PayloadsSchema, create(PayloadsSchema, { named: { key: new Uint8Array(1) } })).slice();
      const { named } = type.make(bytes, 0, bytes.length, undefined, 1) as { named: MapView<string, Uint8Array> };
      const going = named[items]();
      assert.equal(going.next().done, false);
      structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
      assert.throws(() => going.next(), { name: "TypeError", message: /detached/ }, items);
    }
  }
});
