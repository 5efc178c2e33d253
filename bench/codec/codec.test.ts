import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { equals, toBinary } from "@bufbuild/protobuf";
import { formatVerdicts, type Verdict } from "../bars.js";
import { PeerUnavailable } from "../peers/peer.js";
import { judgeCodecs } from "./bars.js";
import { check, loadContestant, type Subject } from "./contestants.js";
import { literals, patternOf } from "./literals.js";
import { formatCodecs } from "./report.js";
import { codecNames, geometricMean, timesFasterThan, type CodecName, type CodecRow, type Kind } from "./rows.js";
import { shapeNames, shapes, type Shape } from "./shapes.js";

/** Rows of all shapes, in which Isthmus takes 100 ns and the others this many times as long. */
function rowsOf(
  kind: Kind,
  times: Partial<Record<CodecName, number>>,
  heap: Partial<Record<CodecName, number>> = {},
): CodecRow[] {
  return (Object.keys(times) as CodecName[]).flatMap((codec) =>
    shapeNames.map(
      (shape): CodecRow => ({
        codec,
        kind,
        shape,
        wireBytes: 10,
        nsPerOp: 100 * times[codec]!,
        heapBytesPerOp: heap[codec] ?? 0,
        rounds: 3,
      }),
    ),
  );
}

const verdictOf = (rows: readonly CodecRow[], asked: string): Verdict =>
  judgeCodecs(rows).find((verdict) => verdict.asked === asked)!;

describe("the codec's benchmark", () => {
  test("the geometric mean of a ratio and its inverse is 1, and a missing ratio leaves no mean", () => {
    assert.ok(Math.abs(geometricMean([4, 0.25])! - 1) < 1e-12);
    assert.ok(Math.abs(geometricMean([2, 4, 8])! - 4) < 1e-12);
    assert.equal(geometricMean([2, null]), null);
    assert.equal(geometricMean([]), null);
  });

  test("a ratio above 1 means that Isthmus takes less time", () => {
    const rows = rowsOf("encode", { isthmus: 1, "protobuf-es": 3 });
    assert.ok(Math.abs(timesFasterThan(rows, "protobuf-es", "encode", "small")! - 3) < 1e-12);
    assert.equal(timesFasterThan(rows, "protobufjs", "encode", "small"), null);
    assert.equal(timesFasterThan(rows, "protobuf-es", "decode", "small"), null);
  });

  test("a bar of a mean holds from its ratio on, and is open while a shape is missing", () => {
    const asked = "codec: encode 2.5× faster than protobuf-es";
    assert.equal(verdictOf(rowsOf("encode", { isthmus: 1, "protobuf-es": 2.6 }), asked).holds, true);
    assert.equal(verdictOf(rowsOf("encode", { isthmus: 1, "protobuf-es": 2.4 }), asked).holds, false);
    assert.equal(verdictOf(rowsOf("encode", { isthmus: 1, "protobuf-es": 2.6 }).slice(1), asked).holds, null);
  });

  test("one slow shape misses the bar of no slow shape, and is named", () => {
    const asked = "codec: decode of no shape slower than any";
    const rows = rowsOf("decode", { isthmus: 1, "protobuf-es": 2, protobufjs: 1.5, "protobufjs-static": 1.2 });
    assert.equal(verdictOf(rows, asked).holds, true);
    const slow = rows.map((row) =>
      row.codec === "protobufjs" && row.shape === "maps" ? { ...row, nsPerOp: 80 } : row,
    );
    const verdict = verdictOf(slow, asked);
    assert.equal(verdict.holds, false);
    assert.equal(verdict.scenario, "maps, protobufjs");
    assert.ok(Math.abs(verdict.measured! - 0.8) < 1e-12);
  });

  test("garbage is judged in bytes when encoding, and against the literal when decoding", () => {
    const encoded = (bytes: number): Verdict =>
      verdictOf(rowsOf("encode", { isthmus: 1 }, { isthmus: bytes }), "codec: encode allocates nothing");
    assert.equal(encoded(0.2).holds, true);
    assert.equal(encoded(24).holds, false);
    assert.match(formatVerdicts([encoded(24)]), /MISSED .* measured 24\.0 B$/m);
    const decoded = (bytes: number): Verdict =>
      verdictOf(
        rowsOf("decode", { isthmus: 1, literal: 1 }, { isthmus: bytes, literal: 200 }),
        "codec: decode allocates at most 1.05× the literal",
      );
    assert.equal(decoded(209).holds, true);
    assert.equal(decoded(212).holds, false);
  });

  test("tables leave out what was not measured, and say why", () => {
    const rows: CodecRow[] = [
      ...rowsOf("encode", { isthmus: 1, "protobuf-es": 3 }),
      {
        codec: "isthmus",
        kind: "view",
        shape: "mixed",
        wireBytes: 1,
        nsPerOp: null,
        heapBytesPerOp: null,
        rounds: 0,
        skipped: "not there",
      },
      {
        codec: "protobufjs",
        kind: "encode",
        shape: "small",
        wireBytes: 0,
        nsPerOp: null,
        heapBytesPerOp: null,
        rounds: 0,
        failed: "it broke\n at",
      },
    ];
    const text = formatCodecs(rows);
    assert.match(text, /^ {2}geometric mean +3\.00×$/m);
    assert.match(text, /isthmus, view: skipped: not there/);
    assert.match(text, /protobufjs: FAILED: it broke$/m);
    assert.doesNotMatch(text, /decode|NaN|undefined/);
  });

  test("every shape has different messages that take turns evenly, the same in every process", () => {
    for (const { name, schema, messages } of shapes) {
      const some = messages();
      assert.ok(some.length >= 4 && (some.length & (some.length - 1)) === 0, name);
      assert.equal(
        new Set(some.map((message) => Buffer.from(toBinary(schema, message)).toString("base64"))).size,
        some.length,
        name,
      );
      messages().forEach((message, at) => assert.ok(equals(schema, message, some[at]), name));
    }
  });

  test("a literal has the members of the message that it stands for, in their order", () => {
    const layout = (value: unknown): unknown => {
      if (typeof value !== "object" || value === null || value instanceof Uint8Array) return typeof value;
      return Object.entries(value).map(([name, member]) => [name, layout(member)]);
    };
    for (const { name, messages } of shapes) {
      const build = literals[name];
      if (build === undefined) continue;
      for (const message of messages())
        assert.deepEqual(layout(build(patternOf(message) as never)), layout(message), name);
    }
  });

  for (const name of codecNames) {
    test(`${name} writes and reads every shape right, and reads the same as protobuf-es`, async (context) => {
      const contestant = await loadContestant(name).catch((error: unknown) => {
        if (!(error instanceof PeerUnavailable)) throw error;
        context.skip(error.message);
        return null;
      });
      if (contestant === null) return;
      const reference = await loadContestant("protobuf-es");
      for (const shape of shapes) {
        const messages = shape.messages();
        const inputs = messages.map((message) => toBinary(shape.schema, message));
        const subject: Subject = contestant(shape, messages, inputs);
        check(shape, messages, subject);
        const expected = reference(shape, messages, inputs);
        for (const kind of ["decode", "views", "packed", "packed-rope", "view"] as const) {
          const loop = subject.loops[kind];
          if (loop !== undefined)
            assert.equal(loop(0, messages.length), expected.loops[kind]!(0, messages.length), `${kind} ${shape.name}`);
        }
      }
    });
  }

  test("a codec that writes something else is found out", () => {
    const shape: Shape = shapes[0];
    const messages = shape.messages();
    const wrong = (at: number): Uint8Array => toBinary(shape.schema, messages[(at + 1) % messages.length]);
    const subject: Subject = { loops: {}, recoded: wrong };
    assert.throws(() => check(shape, messages, subject), /small 0 has become another message/);
  });
});
