import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { decodeMessage, encodeMessage, LineSplitter } from "./lines.js";

describe("lines of native peers", () => {
  test("a load is one line of words", () => {
    const load = { byteLength: 64, inFlight: 1, echo: false, pauseMs: 2, callsMax: 1_000, durationMs: 50 };
    assert.equal(encodeMessage({ type: "run", load }), "run 64 1 2 1000 50\n");
    assert.equal(encodeMessage({ type: "run", load: { ...load, callsMax: null } }), "run 64 1 2 0 50\n");
    assert.equal(encodeMessage({ type: "stop" }), "stop\n");
    assert.throws(() => encodeMessage({ type: "copy" }), /do not know "copy"/);
  });

  test("samples become typed arrays, other messages stay as they are", () => {
    const line = '{"type":"stretch","stretch":{"calls":2,"elapsedMs":1,"cpuMicros":3,"heapBytes":null,';
    const message = decodeMessage(`${line}"callMs":[0.5,0.25],"payloadMs":[1,2]}}`);
    assert.deepEqual(message, {
      type: "stretch",
      stretch: {
        calls: 2,
        elapsedMs: 1,
        cpuMicros: 3,
        heapBytes: null,
        callMs: Float64Array.of(0.5, 0.25),
        payloadMs: Float64Array.of(1, 2),
      },
    });
    const delays = decodeMessage('{"type":"delays","lines":2,"delaysMs":[0.5,2]}');
    assert.deepEqual(delays, { type: "delays", lines: 2, delaysMs: Float64Array.of(0.5, 2) });
    assert.deepEqual(decodeMessage('{"type":"ready"}'), { type: "ready" });
  });

  test("lines are cut wherever the chunks end", () => {
    const text = "first\n\nsecond – line\nunfinished";
    for (let size = 1; size <= text.length; size++) {
      const lines: string[] = [];
      const splitter = new LineSplitter((line) => lines.push(line));
      const bytes = Buffer.from(text);
      for (let at = 0; at < bytes.length; at += size) splitter.add(bytes.subarray(at, at + size));
      assert.deepEqual(lines, ["first", "", "second – line"]);
    }
  });
});
