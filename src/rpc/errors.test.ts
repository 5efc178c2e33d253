import assert from "node:assert/strict";
import { test } from "node:test";
import { StringValueSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { encodeMetadata } from "../wire/metadata.js";
import { abortError, decodeError, handlerError, wireCode } from "./errors.js";
import { encodeError as encodeWhole } from "./outgoing-error.js";

const encodeError = (error: ConnectError) => encodeWhole(error, undefined, false).status;

test("an error is read as it was written, with details and metadata", () => {
  const sent = new ConnectError("message", Code.NotFound, undefined, [
    { desc: StringValueSchema, value: { value: "detail" } },
  ]);
  const received = decodeError(Code.NotFound, encodeError(sent), encodeMetadata(new Headers({ a: "1" })));
  assert.equal(received.rawMessage, "message");
  assert.equal(received.code, Code.NotFound);
  assert.deepEqual(
    received.findDetails(StringValueSchema).map(({ value }) => value),
    ["detail"],
  );
  assert.equal(received.metadata.get("a"), "1");
});

test("a received error can be passed on, details included", () => {
  const first = decodeError(
    5,
    encodeError(new ConnectError("m", Code.NotFound, undefined, [{ desc: StringValueSchema, value: { value: "d" } }])),
    undefined,
  );
  const second = decodeError(5, encodeError(first), undefined);
  assert.deepEqual(
    second.findDetails(StringValueSchema).map(({ value }) => value),
    ["d"],
  );
});

test("details of an error do not refer to the memory that they were read from", () => {
  const bytes = encodeError(
    new ConnectError("m", Code.NotFound, undefined, [{ desc: StringValueSchema, value: { value: "d" } }]),
  );
  const error = decodeError(5, bytes, undefined);
  bytes.fill(0);
  assert.equal(error.findDetails(StringValueSchema)[0].value, "d");
});

test("an unreadable status keeps its code and says that it was unreadable", () => {
  const error = decodeError(Code.Aborted, Uint8Array.of(0x12, 0xff), undefined);
  assert.equal(error.code, Code.Aborted);
  assert.match(error.message, /could not be read/);
});

test("only Connect's codes are codes; success is none", () => {
  for (let code = 1; code <= 16; code++) assert.equal(wireCode(code), code);
  for (const code of [0, 17, -1, 1.5, NaN, 65536 + 5]) assert.equal(wireCode(code), Code.Unknown);
});

test("a handler's ConnectError stays, everything else becomes an internal error without its text", () => {
  const own = new ConnectError("own", Code.Aborted);
  assert.equal(handlerError(own), own);
  for (const thrown of [new Error("secret"), "secret", undefined, null, 5]) {
    const error = handlerError(thrown);
    assert.equal(error.message, "[internal] internal error");
    assert.equal(error.cause, thrown);
  }
});

test("an abort is Canceled unless its reason is a ConnectError", () => {
  const abortedBy = (reason?: unknown) => {
    const controller = new AbortController();
    controller.abort(reason);
    return abortError(controller.signal);
  };
  assert.equal(abortedBy().code, Code.Canceled);
  assert.equal(abortedBy("why").code, Code.Canceled);
  assert.equal(abortedBy(new Error("why")).rawMessage, "why");
  assert.equal(abortedBy(new DOMException("slow", "TimeoutError")).code, Code.Canceled);
  const own = new ConnectError("own", Code.Aborted);
  assert.equal(abortedBy(own), own);
});
