import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { MESSAGE_BYTES_MAX } from "../../wire/frame.js";
import { callTimeout, checkLimits, geometryOf, handshakeTimeoutOf, keepAliveOf } from "./options.js";

test("limits default to protobuf's, and larger ones mean no more", () => {
  const most = { readMaxBytes: MESSAGE_BYTES_MAX, writeMaxBytes: MESSAGE_BYTES_MAX };
  assert.deepEqual(checkLimits({ readMaxBytes: undefined, writeMaxBytes: undefined }), most);
  assert.deepEqual(checkLimits({ readMaxBytes: 2 ** 32 - 1, writeMaxBytes: Infinity }), most);
  assert.deepEqual(checkLimits({ readMaxBytes: 1, writeMaxBytes: 2 }), { readMaxBytes: 1, writeMaxBytes: 2 });
});

test("sizes of memory default to a ring of 256 KiB and an arena of 256 MiB", () => {
  assert.deepEqual(geometryOf({}), { ringBytes: 262144, arenaBytes: 268435456, releaseSlots: 4096 });
  assert.equal(geometryOf({ memory: { ringBytes: 65536 } }).arenaBytes, 268435456);
});

test("a handshake may take five seconds, and never longer than a timer counts", () => {
  assert.equal(handshakeTimeoutOf({}), 5000);
  assert.equal(handshakeTimeoutOf({ handshakeTimeoutMs: Infinity }), 2 ** 31 - 1);
});

test("signs of life are asked for where they are wished, or by default", () => {
  assert.equal(keepAliveOf({}, false), undefined);
  assert.equal(keepAliveOf({ keepAlive: false }, true), undefined);
  assert.deepEqual(keepAliveOf({}, true), { intervalMs: 20_000, timeoutMs: 20_000, always: false });
  assert.deepEqual(keepAliveOf({ keepAlive: { timeoutMs: 5 } }, false), {
    intervalMs: 20_000,
    timeoutMs: 5,
    always: false,
  });
});

test("a call's timeout of 0 and less is none, also not the default, as in Connect; what is no number is refused", () => {
  assert.equal(callTimeout(undefined, 7), 7);
  assert.equal(callTimeout(5, 7), 5);
  assert.equal(callTimeout(Infinity, 7), Infinity);
  for (const none of [0, -1, -Infinity]) assert.equal(callTimeout(none, 7), undefined);
  for (const wrong of [NaN, "5s", "5", {}, true, 5n]) {
    const refused = (error: unknown) =>
      error instanceof ConnectError &&
      error.code === Code.InvalidArgument &&
      /timeoutMs of a call: expected a number of milliseconds, not/.test(error.message);
    assert.throws(() => callTimeout(wrong as never, 7), refused);
  }
});
