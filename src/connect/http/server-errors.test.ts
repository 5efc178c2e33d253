import assert from "node:assert/strict";
import { test } from "node:test";
import { StringValueSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { soundError } from "./server-errors.js";

test("an error that can be sent stays itself", () => {
  for (const error of [
    new ConnectError("plain", Code.NotFound),
    new ConnectError("", Code.Canceled, { "x-a": "1" }),
    new ConnectError("ü 😀", Code.Unauthenticated, undefined, [{ desc: StringValueSchema, value: { value: "v" } }]),
  ]) {
    assert.equal(soundError(error), error);
  }
});

test("what cannot be sent is left out and recorded, and what can is kept", () => {
  const error = new ConnectError("far", Code.OutOfRange, { "x-kept": "1", "transfer-encoding": "chunked" }, [
    { desc: StringValueSchema, value: { value: "v" } },
  ]);
  error.details.push({ type: 5 } as never, null as never);
  const sound = soundError(error);
  assert.deepEqual(
    [sound.message, sound.code, sound.cause],
    ["[out_of_range] far (2 of its details could not be sent)", Code.OutOfRange, error],
  );
  assert.deepEqual([...sound.metadata], [["x-kept", "1"]]);
  assert.equal(sound.findDetails(StringValueSchema)[0].value, "v");
  assert.match(
    soundError(Object.assign(new ConnectError("x"), { metadata: {} })).message,
    /x \(its metadata could not be sent\)/,
  );
  assert.equal(soundError(Object.assign(new ConnectError("x"), { code: 0 })).code, Code.Unknown);
  assert.equal(soundError(new ConnectError("a\udc00b")).rawMessage, "a\ufffdb");
});

test("anything else is an internal error, and nobody sees what it says", () => {
  const revoked = Proxy.revocable(new ConnectError("x"), {});
  revoked.revoke();
  for (const reason of [
    undefined,
    null,
    Symbol("s"),
    "text",
    new Error("secret"),
    revoked.proxy,
    Object.create(null),
  ]) {
    const error = soundError(reason);
    assert.deepEqual(
      [error.message, error.code, error.cause === reason],
      ["[internal] internal error", Code.Internal, true],
    );
  }
});
