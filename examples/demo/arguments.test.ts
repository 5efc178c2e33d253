import assert from "node:assert/strict";
import test from "node:test";
import { parseDemoArguments, UsageError } from "./arguments.js";

test("without a file the demo makes its own traffic", () => {
  assert.deepEqual(parseDemoArguments([]), { log: { kind: "traffic" }, quick: false });
  assert.deepEqual(parseDemoArguments(["--quick"]), { log: { kind: "traffic" }, quick: true });
});

test("a file is read once, or followed, or it is the standard input", () => {
  assert.deepEqual(parseDemoArguments(["a.log"])?.log, { kind: "file", path: "a.log", follow: false });
  assert.deepEqual(parseDemoArguments(["-f", "a.log"])?.log, { kind: "file", path: "a.log", follow: true });
  assert.deepEqual(parseDemoArguments(["a.log", "--follow"])?.log, { kind: "file", path: "a.log", follow: true });
  assert.deepEqual(parseDemoArguments(["-"])?.log, { kind: "stdin" });
  assert.deepEqual(parseDemoArguments(["--", "-f"])?.log, { kind: "file", path: "-f", follow: false });
});

test("help is help, whatever else is asked", () => {
  assert.equal(parseDemoArguments(["--help"]), undefined);
  assert.equal(parseDemoArguments(["-h", "a", "b"]), undefined);
});

test("wrong arguments are refused", () => {
  for (const args of [["a", "b"], ["-f"], ["--nope"], ["-x"], [""], ["--quick=1"]])
    assert.throws(() => parseDemoArguments(args), UsageError, args.join(" "));
});
