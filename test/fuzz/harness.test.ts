/** That the harness finds what it is there to find: codecs with a defect, and messages that differ. */
import assert from "node:assert/strict";
import type { DescMessage } from "@bufbuild/protobuf";
import { create, toBinary } from "@bufbuild/protobuf";
import { describe, test } from "node:test";
import { DefaultsSchema } from "../proto/codec/legacy_pb.js";
import { MapsToStringSchema, OptionalScalarsSchema, PayloadsSchema } from "../proto/codec/modern_pb.js";
import { seedOf } from "../stress/settings.js";
import { loadApi, makesSpans } from "./api.js";
import { difference } from "./compare.js";
import { defectsOf } from "./defects.js";
import { runCampaign } from "./fuzz.js";
import { randomMessage } from "./messages.js";
import { Random } from "./random.js";
import { schemas } from "./schemas.js";

/** A rare defect takes some tens of thousands of cases; most take a hundred. */
const CASES_MAX = 40_000;

/** Defects of spans, which only a codec that makes some can have. */
const NEED_SPANS = [
  "a rope's length does not count its spans",
  "a span is one place too early",
  "a rope's last span is forgotten",
  "spans smaller than the minimum",
];

describe("the harness", async () => {
  const api = await loadApi();

  for (const [name, defective] of defectsOf(api)) {
    const skip = NEED_SPANS.includes(name) && !makesSpans(api) ? "this codec makes no spans" : false;
    test(`finds a codec in which ${name}`, { skip }, (context) => {
      const { failures } = runCampaign({
        api: defective,
        seed: seedOf(context),
        messages: CASES_MAX,
        mutations: CASES_MAX,
        failuresMax: 1,
      });
      assert.ok(failures.length > 0, "no case showed the defect");
      context.diagnostic(`case ${failures[0].case}: ${failures[0].check}; ${failures[0].shrunk}`);
    });
  }

  test("finds nothing in protobuf-es compared with itself", (context) => {
    const { failures } = runCampaign({ api, seed: seedOf(context), messages: 500, mutations: 500 });
    assert.deepEqual(failures, []);
  });

  test("repeats a case from its seed and number", (context) => {
    const seed = seedOf(context);
    for (let i = 0; i < 300; i++) {
      const schema = schemas[i % schemas.length];
      assert.equal(
        difference(randomMessage(new Random(seed, i), schema), randomMessage(new Random(seed, i), schema)),
        undefined,
      );
    }
    const schema: DescMessage = PayloadsSchema;
    const distinct = new Set(
      Array.from({ length: 100 }, (_, i) =>
        Buffer.from(toBinary(schema, randomMessage(new Random(seed, i), schema))).toString("hex"),
      ),
    );
    assert.ok(distinct.size > 50, `${distinct.size} different messages of 100`);
  });

  test("makes a failing message small", (context) => {
    const defective = defectsOf(api).get("unknown fields are dropped")!;
    const seed = seedOf(context);
    let shrunk: string;
    let first = 0;
    do {
      const [failure] = runCampaign({
        api: defective,
        seed,
        first,
        messages: CASES_MAX,
        mutations: 0,
        failuresMax: 1,
      }).failures;
      ({ shrunk } = failure);
      first = failure.case + 1;
      // Of a message with twenty required fields nothing can be left out.
    } while (shrunk.includes("legacy.Required"));
    const wireBytes = / = (?<hex>[0-9a-f]+) \(/.exec(shrunk)?.groups?.["hex"];
    assert.ok(wireBytes !== undefined && wireBytes.length <= 2 * 40, shrunk);
  });
});

describe("the comparison of messages", () => {
  const pairs: [string, unknown, unknown][] = [
    ["-0 and 0", { a: -0 }, { a: 0 }],
    ["a number and a bigint", { a: 1 }, { a: 1n }],
    ["a property that is undefined and none", { a: undefined }, {}],
    [
      "an own and an inherited property",
      create(DefaultsSchema, { int32Field: create(DefaultsSchema).int32Field }),
      create(DefaultsSchema),
    ],
    ["two prototypes", create(DefaultsSchema), { ...create(DefaultsSchema) }],
    ["a Buffer and a Uint8Array", Buffer.from([1]), Uint8Array.of(1)],
    ["bytes of two lengths", Uint8Array.of(1), Uint8Array.of(1, 0)],
    ["one byte", Uint8Array.of(1, 2), Uint8Array.of(1, 3)],
    ["two lists", { a: [1, 2] }, { a: [2, 1] }],
    ["a hole and an item that is undefined", new Array(1), [undefined]],
    ["null and an object", null, {}],
    [
      "the order of keys of a map",
      create(MapsToStringSchema, { stringKey: { a: "1", b: "2" } }),
      create(MapsToStringSchema, { stringKey: { b: "2", a: "1" } }),
    ],
    [
      "the order of keys of a map that look like a message's",
      create(MapsToStringSchema, { stringKey: { $typeName: "a", $unknown: "b" } }),
      create(MapsToStringSchema, { stringKey: { $unknown: "b", $typeName: "a" } }),
    ],
    ["objects whose keys look like a message's", { $typeName: 1, $unknown: 2 }, { $typeName: 1, $unknown: 3 }],
    ["unset and set to the default", create(OptionalScalarsSchema), create(OptionalScalarsSchema, { int32Field: 0 })],
    ["unknown fields and none", { $typeName: "x", $unknown: [] }, { $typeName: "x" }],
    ["a property that is not enumerable", Object.defineProperty({}, "a", { value: 1 }), { a: 1 }],
  ];
  for (const [name, actual, expected] of pairs) {
    test(`tells apart ${name}`, () => {
      assert.notEqual(difference(actual, expected), undefined);
      assert.equal(difference(actual, actual), undefined);
    });
  }

  test("takes copies for the same", () => {
    const message = create(PayloadsSchema, {
      data: Uint8Array.of(1),
      floats: [NaN, -0],
      named: { ["__proto__x"]: Uint8Array.of(2) },
      inner: { lines: ["a"] },
    });
    assert.equal(difference(structuredClone(message), message), undefined);
  });
});
