/**
 * Text: every length around a fast path or a longer length prefix, every kind of character, and every class of bytes
 * that is no UTF-8.
 */
import assert from "node:assert/strict";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { describe, test } from "node:test";
import { Utf8Schema } from "../proto/codec/editions_pb.js";
import { LegacyScalarsSchema } from "../proto/codec/legacy_pb.js";
import { PayloadsSchema } from "../proto/codec/modern_pb.js";
import { scaled, seedOf } from "../stress/settings.js";
import { loadApi } from "./api.js";
import { checkInput, checkMessage } from "./checks.js";
import { difference } from "./compare.js";
import { NOT_UTF8 } from "./mutate.js";
import { Random } from "./random.js";
import { pushTag, pushVarint } from "./unknown.js";

const CHARACTERS = {
  ASCII: "a",
  "Latin-1": "é",
  CJK: "漢",
  emoji: "😀",
  "a first half of a pair": "\ud83d",
  "a second half of a pair": "\ude00",
};
/** Fields of `Utf8`: three that must be UTF-8, three that need not. */
const VERIFIED = [1, 3, 7];
const UNVERIFIED = [2, 4, 8];

describe("text", async () => {
  const api = await loadApi();

  for (const [name, character] of Object.entries(CHARACTERS)) {
    test(`of 0 to 300 characters is what protobuf-es makes of it, in ${name}`, (context) => {
      const random = new Random(seedOf(context));
      for (let length = 0; length <= 300; length++) {
        const text = character.repeat(length);
        for (const variant of [
          text,
          random.pick([`x${text}`, `${text}x`, `${text.slice(0, length >> 1)}~${text.slice(length >> 1)}`]),
        ]) {
          checkMessage(
            api,
            Utf8Schema,
            create(Utf8Schema, { verified: variant, unverifiedList: [variant, ""] }),
            random,
          );
        }
        checkMessage(api, PayloadsSchema, create(PayloadsSchema, { text, lines: [text], inner: { text } }), random);
        checkMessage(api, LegacyScalarsSchema, create(LegacyScalarsSchema, { stringField: text }), random);
        checkMessage(
          api,
          Utf8Schema,
          create(Utf8Schema, { verifiedMap: { [text]: text }, choice: { case: "verifiedChoice", value: text } }),
          random,
        );
      }
    });

    test(`whose length prefix grows is what protobuf-es makes of it, in ${name}`, (context) => {
      const random = new Random(seedOf(context));
      const width = Buffer.byteLength(character);
      for (const byteLength of [127, 128, 16383, 16384, ...scaled<readonly number[]>([], [2097151, 2097152])]) {
        for (let more = -2; more <= 2; more++) {
          const count = Math.floor((byteLength + more) / width);
          const text = "x".repeat(byteLength + more - count * width) + character.repeat(count);
          checkMessage(api, PayloadsSchema, create(PayloadsSchema, { text }), random);
        }
      }
    });

    test(`is never cut by a limit, in ${name}`, () => {
      for (const length of [1, 2, 9, 33, 50]) {
        const message = create(PayloadsSchema, { data: Uint8Array.of(1), text: character.repeat(length) });
        const expected = toBinary(PayloadsSchema, message);
        const target = new Uint8Array(expected.length + 50);
        for (let limit = 20; limit <= 20 + expected.length; limit++) {
          target.fill(0xa5);
          const written = api.encodeInto(PayloadsSchema, message, target, 20, limit);
          assert.equal(written, limit === 20 + expected.length ? expected.length : -1 - expected.length);
          assert.ok(
            target.every((byte, i) => (i >= 20 && i < limit) || byte === 0xa5),
            `limit ${limit} of ${expected.length}`,
          );
        }
        assert.deepEqual(target.subarray(20, 20 + expected.length), expected);
      }
    });
  }

  test("with a byte-order mark keeps it", (context) => {
    const random = new Random(seedOf(context));
    for (const text of ["\ufeff", "\ufeffabc", "a\ufeff", "\ufeff\ufeff", "\ufeff" + "a".repeat(200), "\ufffe"]) {
      const message = create(Utf8Schema, { verified: text, unverified: text, verifiedMap: { [text]: text } });
      checkMessage(api, Utf8Schema, message, random);
      const decoded = api.decode(Utf8Schema, toBinary(Utf8Schema, message));
      assert.equal(difference(decoded, message), undefined);
    }
  });

  test("that is not UTF-8 is refused or replaced where protobuf-es does so", (context) => {
    const random = new Random(seedOf(context));
    for (const sequence of NOT_UTF8) {
      for (const before of [0, 1, 2, 7, 29, 30, 31, 32, 33, 64, 127]) {
        for (const after of [0, 1, 2, 3, 40]) {
          const text = [...Array<number>(before).fill(0x61), ...sequence, ...Array<number>(after).fill(0x7a)];
          for (const number of scaled([random.pick(VERIFIED)], VERIFIED)) {
            const input = field(number, text);
            assert.throws(() => fromBinary(Utf8Schema, input), `${text.join()} should not be UTF-8`);
            checkInput(api, Utf8Schema, input, random);
          }
          for (const number of scaled([random.pick(UNVERIFIED)], UNVERIFIED)) {
            const input = field(number, text);
            assert.doesNotThrow(() => fromBinary(Utf8Schema, input));
            checkInput(api, Utf8Schema, input, random);
          }
        }
      }
      for (const map of [5, 6]) {
        checkInput(api, Utf8Schema, field(map, [...field(1, sequence), ...field(2, [0x61])]), random);
        checkInput(api, Utf8Schema, field(map, [...field(1, [0x61]), ...field(2, sequence)]), random);
      }
      checkInput(api, LegacyScalarsSchema, field(14, sequence), random);
      checkInput(api, PayloadsSchema, field(3, sequence), random);
    }
  });

  test("of any two bytes is decoded as protobuf-es does", () => {
    let refused = 0;
    for (let pair = 0; pair < 65536; pair += 1) {
      const bytes = [pair >> 8, pair & 0xff];
      const verified = outcome(() => fromBinary(Utf8Schema, field(1, bytes)));
      assert.equal(
        difference(
          outcome(() => api.decode(Utf8Schema, field(1, bytes))),
          verified,
        ),
        undefined,
      );
      const input = field(2, bytes);
      assert.equal(difference(api.decode(Utf8Schema, input), fromBinary(Utf8Schema, input)), undefined);
      if (verified === "refused") refused++;
    }
    // Well formed are 128² pairs of ASCII and the 1920 characters of two bytes.
    assert.equal(refused, 65536 - 128 * 128 - 1920);
  });

  test("of any bytes is decoded as protobuf-es does", (context) => {
    const random = new Random(seedOf(context));
    for (let i = 0; i < 20_000; i++) {
      const bytes = Array.from({ length: random.below(50) }, () =>
        random.once(2) ? random.below(128) : 128 + random.below(128),
      );
      if (random.once(2)) bytes.splice(random.below(bytes.length + 1), 0, ...Buffer.from("漢字😀é"));
      for (const number of [1, 2]) {
        const input = field(number, bytes);
        const expected = outcome(() => fromBinary(Utf8Schema, input));
        assert.equal(
          difference(
            outcome(() => api.decode(Utf8Schema, input)),
            expected,
          ),
          undefined,
        );
      }
    }
  });
});

/** A length-delimited field. */
function field(number: number, payload: ArrayLike<number>): Uint8Array {
  const bytes: number[] = [];
  pushTag(bytes, number, 2);
  pushVarint(bytes, payload.length);
  return Uint8Array.from([...bytes, ...Array.from(payload)]);
}

function outcome(run: () => unknown): unknown {
  try {
    return run();
  } catch {
    return "refused";
  }
}
