/** Views show what decoded messages have, field by field. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { DescMessage, JsonObject, MessageInitShape } from "@bufbuild/protobuf";
import { create, fromBinary, isMessage, toBinary } from "@bufbuild/protobuf";
import { scaled, seedOf } from "../../../test/stress/settings.js";
import { schemas } from "../../../test/fuzz/schemas.js";
import { Utf8Schema } from "../../../test/proto/codec/editions_pb.js";
import type { Structs } from "../../../test/proto/codec/known_pb.js";
import { StructsSchema, WrappersSchema } from "../../../test/proto/codec/known_pb.js";
import type { RequiredWithinSchema } from "../../../test/proto/codec/legacy_pb.js";
import {
  ClosedEnumsSchema,
  DefaultsSchema,
  GroupsSchema,
  LegacyScalarsSchema,
} from "../../../test/proto/codec/legacy_pb.js";
import type { Payloads } from "../../../test/proto/codec/modern_pb.js";
import {
  ImplicitScalarsSchema,
  MapsToMessageSchema,
  MapsToStringSchema,
  NothingSchema,
  OneofsSchema,
  OptionalScalarsSchema,
  PayloadsSchema,
  TreeSchema,
} from "../../../test/proto/codec/modern_pb.js";
import type { ListView, MapView, MessageView, ViewOf } from "../index.js";
import { encodeInto, encodeRope, isViewFieldSet, sizeOf, view } from "../index.js";
import { closureViewType } from "./type.js";
import { checkView, isContained, runCampaign } from "./view.test.util.js";

const payloads = create(PayloadsSchema, {
  data: new Uint8Array([1, 2, 3]),
  parts: [new Uint8Array([4]), new Uint8Array(0)],
  text: "text",
  lines: ["a", "é"],
  floats: [1.5, -0],
  doubles: [Math.PI],
  bools: [true, false],
  inner: { text: "within" },
  named: { key: new Uint8Array([5]) },
  choice: { case: "payloads", value: { lines: ["chosen"] } },
  more: [{ text: "first" }, { text: "second" }],
});

function bytesOfPayloads(): Uint8Array {
  return toBinary(PayloadsSchema, payloads);
}

describe("a view", () => {
  test("shows what a decoded message has, for random messages of every type, alone, merged and damaged", (context) => {
    const rounds = scaled(8, 400);
    const { messages, damaged, refused, showed } = runCampaign(seedOf(context), rounds);
    context.diagnostic(
      `${messages} messages; of damaged ones ${damaged} still were messages, ${refused} were refused, ${showed} showed something`,
    );
    assert.ok(messages > rounds * schemas.length, `only ${messages} messages were compared`);
    assert.ok(damaged > (rounds * schemas.length) / 4, `only ${damaged} damaged messages were compared`);
    // In rare cases a malformed value is replaced by a later one, and so is not read.
    assert.ok(showed <= 3 + refused / 50, `${showed} malformed messages were shown, ${refused} were refused`);
  });

  test("shows the same where code cannot be generated", (context) => {
    const peer = fileURLToPath(new URL("./view.test.peer.js", import.meta.url));
    const rounds = scaled(4, 200);
    const run = spawnSync(
      process.execPath,
      ["--disallow-code-generation-from-strings", peer, String(seedOf(context)), String(rounds)],
      { encoding: "utf8" },
    );
    assert.equal(run.status, 0, run.stderr);
    const { generates, messages } = JSON.parse(run.stdout) as { generates: boolean; messages: number };
    assert.equal(generates, false);
    assert.ok(messages > rounds * schemas.length, `only ${messages} messages were compared`);
  });

  test("that shows something else is found", () => {
    const bytes = bytesOfPayloads();
    for (const more of [
      { text: "x" },
      { lines: ["x"] },
      { floats: [0] },
      { bools: [false] },
      { inner: { text: "x" } },
      { named: { x: bytes } },
      { more: [{}] },
    ]) {
      const added = toBinary(PayloadsSchema, create(PayloadsSchema, more));
      const wrong: typeof view = (schema, given, options) =>
        view(schema, Uint8Array.from([...given, ...added]), options);
      assert.throws(
        () => checkView(PayloadsSchema, bytes, undefined, wrong),
        { name: "Disagreement" },
        Object.keys(more).join(),
      );
    }
    const throwing: typeof view = (schema, given, options) => view(schema, given.subarray(1), options);
    assert.throws(() => checkView(PayloadsSchema, bytes, undefined, throwing), { name: "Disagreement" });
    assert.ok(isContained(PayloadsSchema, bytes));
    // The inner message has two bytes. The second one is the length of a text of one byte.
    assert.ok(!isContained(PayloadsSchema, Uint8Array.from([0x4a, 2, 0x1a, 1, 0x41])));
  });

  test("shows defaults where nothing is set", () => {
    const defaults = view(DefaultsSchema, new Uint8Array(0));
    const message = create(DefaultsSchema);
    assert.equal(defaults.int64Field, message.int64Field);
    assert.equal(defaults.longString, "-42");
    assert.ok(Object.is(defaults.negativeZero, -0));
    assert.equal(view(OptionalScalarsSchema, new Uint8Array(0)).int32Field, undefined);
    assert.equal(view(PayloadsSchema, new Uint8Array(0)).inner, undefined);
    assert.deepEqual(view(PayloadsSchema, new Uint8Array(0)).choice, { case: undefined });
  });

  test("tells whether a field is set", () => {
    const zero = view(LegacyScalarsSchema, Uint8Array.from([0x18, 0]));
    assert.equal(isViewFieldSet(zero, LegacyScalarsSchema.field.int32Field), true);
    assert.equal(isViewFieldSet(zero, LegacyScalarsSchema.field.int64Field), false);
    const implicit = view(
      ImplicitScalarsSchema,
      toBinary(ImplicitScalarsSchema, create(ImplicitScalarsSchema, { doubleField: -0 })),
    );
    assert.equal(isViewFieldSet(implicit, ImplicitScalarsSchema.field.doubleField), true);
    assert.equal(isViewFieldSet(implicit, ImplicitScalarsSchema.field.stringField), false);
    assert.throws(() => isViewFieldSet(zero, PayloadsSchema.field.data), /is not a field of/);
    assert.throws(() => isViewFieldSet(payloads as never, PayloadsSchema.field.data), /not a view/);
  });

  test("keeps the views that its getters made, and makes items anew", () => {
    const shown = view(PayloadsSchema, bytesOfPayloads());
    assert.equal(shown.inner, shown.inner);
    assert.equal(shown.lines, shown.lines);
    assert.equal(shown.named, shown.named);
    assert.equal(shown.choice, shown.choice);
    assert.notEqual(shown.more.at(0), shown.more.at(0));
  });

  test("shows bytes where they lie", () => {
    const bytes = bytesOfPayloads();
    const shown = view(PayloadsSchema, bytes);
    for (const part of [shown.data, shown.parts.at(0)!, shown.named.get("key")!])
      assert.equal(part.buffer, bytes.buffer);
    shown.data[0] = 9;
    assert.equal(fromBinary(PayloadsSchema, bytes).data[0], 9);
  });

  test("does not see a malformed value until it is read, but a malformed message at once", () => {
    const shown = view(Utf8Schema, Uint8Array.from([0x0a, 1, 0xff, 0x12, 1, 0xff]));
    assert.equal(shown.unverified, "\ufffd");
    assert.throws(() => shown.verified, TypeError);
    assert.throws(() => view(Utf8Schema, Uint8Array.from([0x0a, 2, 0x41])), RangeError);
    const nested = view(PayloadsSchema, Uint8Array.from([0x4a, 2, 0x1a, 1, 0x1a, 1, 0x41]));
    assert.equal(nested.text, "A");
    assert.throws(() => nested.inner, RangeError);
  });

  test("goes as deep as recursionLimit allows", () => {
    let bytes = new Uint8Array(0);
    for (let depth = 1; depth < 10; depth++) bytes = Uint8Array.from([0x12, bytes.length, ...bytes]);
    assert.equal(checkView(TreeSchema, bytes, { recursionLimit: 10 }), "same");
    assert.equal(checkView(TreeSchema, bytes, { recursionLimit: 9 }), "refused");
    let tree: MessageView<typeof TreeSchema> | undefined = view(TreeSchema, bytes, { recursionLimit: 9 });
    for (let depth = 1; depth < 9; depth++) tree = tree?.left;
    assert.throws(() => tree?.left, /nested deeper than recursionLimit/);
    assert.throws(() => view(TreeSchema, bytes, { recursionLimit: 0 }), /recursionLimit/);
    const deep = create(StructsSchema, {
      struct: { a: { b: [1] } },
      structs: [{ a: [] }],
      structMap: { a: { b: {} } },
      value: { kind: { case: "boolValue", value: true } },
    });
    const groups = create(GroupsSchema, { one: { within: { many: [{ deeper: [{ again: {} }] }] } } });
    for (const [schema, message] of [
      [StructsSchema, deep],
      [GroupsSchema, groups],
    ] as const) {
      const found = Array.from({ length: 12 }, (_, recursionLimit) =>
        checkView(schema, toBinary(schema, message), { recursionLimit }),
      );
      assert.deepEqual([...new Set(found)], ["refused", "same"]);
    }
  });

  test("is no message, and cannot be encoded", () => {
    for (const [shown, schema] of [
      [view(PayloadsSchema, bytesOfPayloads()), PayloadsSchema],
      [view(NothingSchema, new Uint8Array(0)), NothingSchema],
    ] as const) {
      assert.equal(isMessage(shown), false);
      assert.equal("$typeName" in shown, false);
      const message = shown as never;
      const target = new Uint8Array(1000);
      for (const encode of [
        () => encodeInto(schema, message, target),
        () => sizeOf(schema, message),
        () => encodeRope(schema, message),
      ]) {
        assert.throws(encode, { name: "TypeError", message: /a view of a message is not a message/ });
      }
      assert.throws(() => toBinary(schema, message));
    }
    // Also within another message that is encoded.
    const inner = view(TreeSchema, Uint8Array.from([0x08, 1])) as never;
    assert.throws(
      () => encodeInto(TreeSchema, { left: inner }, new Uint8Array(100)),
      /a view of a message is not a message/,
    );
    assert.throws(() =>
      encodeInto(
        TreeSchema,
        create(TreeSchema, { number: 1, children: [] as never[] }),
        view(TreeSchema, new Uint8Array(0)) as never,
      ),
    );
  });

  test("has nothing to enumerate and nothing to set", () => {
    const shown = view(PayloadsSchema, bytesOfPayloads());
    assert.deepEqual(Object.keys(shown), []);
    assert.throws(() => {
      (shown as { text: string }).text = "other";
    }, TypeError);
  });
});

describe("a view of bytes that end too early", () => {
  const cases: [string, DescMessage, number[]][] = [
    ["within a tag", LegacyScalarsSchema, [0x18, 1, 0x80]],
    ["within a varint", LegacyScalarsSchema, [0x18, 0x80]],
    ["after a tag that is none", LegacyScalarsSchema, [0x1e, 1]],
    ["before a varint", LegacyScalarsSchema, [0x18]],
    ["within a double", LegacyScalarsSchema, [0x09, 0, 0, 0, 0, 0, 0, 0]],
    ["within a float", LegacyScalarsSchema, [0x15, 0, 0, 0]],
    ["before a length", PayloadsSchema, [0x0a]],
    ["within a length", PayloadsSchema, [0x0a, 0x80]],
    ["within a text", PayloadsSchema, [0x1a, 2, 0x41]],
    ["within a message", PayloadsSchema, [0x4a, 2, 0]],
    ["within an unknown field", PayloadsSchema, [0xa2, 6, 1]],
    ["within a packed varint", PayloadsSchema, [0x42, 2, 1, 0x80]],
    ["within a packed float", PayloadsSchema, [0x2a, 3, 0, 0, 0]],
    ["before the end of a group", GroupsSchema, [0x0b, 0x08, 1]],
    ["with the end of another group", GroupsSchema, [0x0b, 0x08, 1, 0x14]],
  ];
  for (const [name, schema, bytes] of cases) {
    test(`${name} is refused at once, and reads nothing after them`, () => {
      const memory = Uint8Array.from([...bytes, ...new Uint8Array(20).fill(1)]);
      assert.throws(() => view(schema, memory.subarray(0, bytes.length)), Error);
      assert.throws(() => view(schema, Uint8Array.from(bytes)), Error);
      assert.throws(() => closureViewType(schema).make(memory, 0, bytes.length, undefined, 99), Error);
    });
  }
});

describe("after the bytes are detached", () => {
  const readers: [string, (shown: MessageView<typeof PayloadsSchema>) => () => unknown][] = [
    ["a scalar", (shown) => () => shown.text],
    ["a list", (shown) => () => shown.lines],
    ["a map", (shown) => () => shown.named],
    ["a message", (shown) => () => shown.inner],
    ["a oneof", (shown) => () => shown.choice],
    ["a field's presence", (shown) => () => isViewFieldSet(shown, PayloadsSchema.field.inner)],
    [
      "the length of a list",
      ({ lines }) =>
        () =>
          lines.length,
    ],
    [
      "an item of a list",
      ({ lines }) =>
        () =>
          lines.at(0),
    ],
    [
      "an item of a packed list",
      ({ floats }) =>
        () =>
          floats.at(0),
    ],
    ["an item of a list that was decoded before", ({ bools }) => (bools.at(0), () => bools.at(0))],
    [
      "an array of a list",
      ({ doubles }) =>
        () =>
          doubles.toArray(),
    ],
    [
      "a list of messages",
      ({ more }) =>
        () => [...more],
    ],
    [
      "the next item",
      ({ lines }) => {
        const items = lines[Symbol.iterator]();
        return (items.next(), () => items.next());
      },
    ],
    [
      "the size of a map",
      ({ named }) =>
        () =>
          named.size,
    ],
    [
      "a value of a map",
      ({ named }) =>
        () =>
          named.get("key"),
    ],
    ["a key of a map that was looked up before", ({ named }) => (named.has("key"), () => named.has("key"))],
    [
      "the keys of a map",
      ({ named }) =>
        () => [...named.keys()],
    ],
    [
      "the entries of a map",
      ({ named }) =>
        () => [...named],
    ],
    [
      "a message within",
      ({ inner }) =>
        () =>
          inner!.text,
    ],
    [
      "an empty list within",
      ({ inner }) => {
        const list = inner!.floats;
        return () => list.length;
      },
    ],
    [
      "a message of a list",
      ({ more }) => {
        const first = more.at(0)!;
        return () => first.text;
      },
    ],
    [
      "a message of a oneof",
      ({ choice }) =>
        () =>
          choice.case === "payloads" && choice.value.lines,
    ],
  ];

  test("every getter throws", () => {
    for (const [name, reader] of readers) {
      const bytes = bytesOfPayloads().slice();
      const read = reader(view(PayloadsSchema, bytes));
      assert.doesNotThrow(reader(view(PayloadsSchema, bytes.slice())), name);
      structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
      assert.throws(read, { name: "TypeError", message: /detached/ }, name);
    }
  });

  test("the getters of an empty message throw, and it cannot be viewed", () => {
    const bytes = new Uint8Array(0);
    const shown = view(PayloadsSchema, bytes);
    const { lines, named } = shown;
    assert.equal(shown.text, "");
    structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
    for (const read of [
      () => shown.text,
      () => shown.lines,
      () => lines.length,
      () => named.size,
      () => shown.inner,
      () => shown.choice,
      () => view(PayloadsSchema, bytes),
    ]) {
      assert.throws(read, { name: "TypeError", message: /detached/ });
    }
  });
});

describe("a list or map of a view", () => {
  test("finds values that lie apart, packed or not", () => {
    const bytes = Uint8Array.from([0x2d, 0, 0, 0x80, 0x3f, 0x1a, 1, 0x41, 0x2a, 4, 0, 0, 0, 0x40, 0x2a, 0]);
    const { floats, text } = view(PayloadsSchema, bytes);
    assert.deepEqual(floats.toArray(), [1, 2]);
    assert.equal(text, "A");
    assert.equal(checkView(PayloadsSchema, bytes), "same");
  });

  test("merges a message that an entry has several times, and takes the last of other values", () => {
    const message = Uint8Array.from([0x62, 15, 0x0a, 1, 0x61, 0x12, 2, 0x18, 1, 0x12, 2, 0x28, 2, 0x12, 2, 0x18, 3]);
    const merged = view(MapsToMessageSchema, message).stringKey.get("a")!;
    assert.deepEqual([merged.int32Field, merged.uint32Field], [3, 2]);
    assert.equal(checkView(MapsToMessageSchema, message), "same");
    const text = Uint8Array.from([0x62, 9, 0x12, 1, 0x41, 0x12, 1, 0x42, 0x0a, 1, 0x61]);
    assert.equal(view(MapsToStringSchema, text).stringKey.get("a"), "B");
    assert.equal(view(MapsToStringSchema, Uint8Array.from([0x62, 0])).stringKey.get(""), "");
    assert.equal(view(MapsToMessageSchema, Uint8Array.from([0x0a, 0])).int32Key.get(0)?.int32Field, 0);
  });

  test("takes indices like an array does", () => {
    const { lines } = view(PayloadsSchema, bytesOfPayloads());
    for (const index of [0, 1, 2, -1, -2, -3, 0.9, -0.5, NaN, Infinity, -Infinity, 2 ** 32])
      assert.equal(lines.at(index), payloads.lines.at(index), String(index));
  });

  test("has keys as the message's type has them", () => {
    const message = create(MapsToStringSchema, {
      int32Key: { [-1]: "a" },
      int64Key: { "-2": "b" },
      boolKey: { true: "c" },
      stringKey: { __proto: "d" },
    });
    const shown = view(MapsToStringSchema, toBinary(MapsToStringSchema, message));
    assert.deepEqual([...shown.int32Key], [[-1, "a"]]);
    assert.deepEqual([...shown.int64Key], [["-2", "b"]]);
    assert.deepEqual([...shown.boolKey.keys()], ["true"]);
    assert.equal(shown.stringKey.get("__proto"), "d");
    assert.equal(shown.stringKey.get("constructor"), undefined);
  });
});

const closureView: typeof view = (schema, bytes, options) =>
  closureViewType(schema).make(bytes, 0, bytes.length, undefined, (options?.recursionLimit ?? 100) - 1) as MessageView<
    typeof schema
  >;

test("numbers that a closed enum does not have are ignored", () => {
  for (const make of [view, closureView]) {
    const shown = make(ClosedEnumsSchema, Uint8Array.from([0x08, 5, 0x08, 99, 0x28, 5, 0x28, 99]));
    assert.equal(shown.singular, 5);
    assert.deepEqual(shown.choice, { case: "chosen", value: 5 });
    assert.equal(
      isViewFieldSet(make(ClosedEnumsSchema, Uint8Array.from([0x08, 99])), ClosedEnumsSchema.field.singular),
      false,
    );
  }
});

test("messages that reach past their own end are refused when they are read", () => {
  for (const make of [view, closureView]) {
    const wrappers = make(WrappersSchema, Uint8Array.from([0x2a, 1, 0x08, 0x32, 2, 0x08, 5]));
    assert.equal(wrappers.uint32Single, 5);
    assert.throws(() => wrappers.int32Single, RangeError);
    const { named, more } = make(PayloadsSchema, Uint8Array.from([0x52, 3, 0x0a, 2, 0x61, 0x6a, 1, 0x1a, 0x08, 0]));
    assert.throws(() => named.size, RangeError);
    assert.throws(() => more.at(0), RangeError);
  }
});

test("messages that come in fragments are merged, in groups and oneofs too", () => {
  const parts = [
    { one: { number: 1 } },
    { one: { data: new Uint8Array([2]) } },
    { many: [{ text: "a" }] },
    { choice: { case: "chosen" as const, value: { number: 3 } } },
    { choice: { case: "chosen" as const, value: { map: { 1: new Uint8Array([4]) } } } },
  ];
  const bytes = Buffer.concat(parts.map((part) => toBinary(GroupsSchema, create(GroupsSchema, part))));
  const shown = view(GroupsSchema, bytes);
  assert.equal(shown.one?.number, 1);
  assert.deepEqual([...(shown.one?.data ?? [])], [2]);
  assert.ok(shown.choice.case === "chosen" && shown.choice.value.number === 3 && shown.choice.value.map.size === 1);
  assert.equal(checkView(GroupsSchema, bytes), "same");
  const switched = Buffer.concat(
    [0, 1, 0, 0].map((i) =>
      toBinary(
        OneofsSchema,
        create(OneofsSchema, {
          message: i === 0 ? { case: "tree", value: { number: 1, children: [{}] } } : { case: "nothing", value: {} },
        }),
      ),
    ),
  );
  assert.equal(checkView(OneofsSchema, switched), "same");
});

// The rest is only compiled, and never called.

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
/** Accepts only values of exactly this type. */
const is =
  <T>() =>
  <U>(value: U, exactly: Same<T, U>): void =>
    void [value, exactly];

export function types(
  shown: MessageView<typeof PayloadsSchema>,
  structs: ViewOf<Structs>,
  maps: MessageView<typeof MapsToStringSchema>,
): void {
  is<Uint8Array>()(shown.data, true);
  is<ListView<string>>()(shown.lines, true);
  is<ViewOf<Payloads> | undefined>()(shown.inner, true);
  is<ListView<ViewOf<Payloads>>>()(shown.more, true);
  is<MapView<string, Uint8Array>>()(shown.named, true);
  is<MapView<number, string>>()(maps.int32Key, true);
  is<MapView<string, string>>()(maps.int64Key, true);
  is<JsonObject | undefined>()(structs.struct, true);
  is<ListView<JsonObject>>()(structs.structs, true);
  is<MapView<string, JsonObject>>()(structs.structMap, true);
  if (shown.choice.case === "blob") is<Uint8Array>()(shown.choice.value, true);
  else if (shown.choice.case === "payloads") is<ViewOf<Payloads>>()(shown.choice.value, true);
  else is<undefined>()(shown.choice.value, true);
  // @ts-expect-error: it is read-only.
  shown.text = "";
  // @ts-expect-error: it has no such field.
  void shown.$unknown;
  // @ts-expect-error: it is not a message.
  void sizeOf(PayloadsSchema, shown);
  // @ts-expect-error: nor what a message is made of, not even where it has scalars only.
  const init: MessageInitShape<typeof OptionalScalarsSchema> = view(OptionalScalarsSchema, new Uint8Array(0));
  // @ts-expect-error: one type's view is not another's.
  const other: MessageView<typeof RequiredWithinSchema> = shown;
  void [init, other];
}
