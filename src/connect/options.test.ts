import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { MESSAGE_BYTES_MAX } from "../wire/frame.js";
import { createIsthmusServer } from "./server.js";
import { createIsthmusTransport } from "./transport.js";
import { checkLimits, geometryOf, handshakeTimeoutOf } from "./options.js";

test("limits default to protobuf's, and larger ones mean no more", () => {
  const most = { readMaxBytes: MESSAGE_BYTES_MAX, writeMaxBytes: MESSAGE_BYTES_MAX };
  assert.deepEqual(checkLimits({ readMaxBytes: undefined, writeMaxBytes: undefined }), most);
  assert.deepEqual(checkLimits({ readMaxBytes: 2 ** 32 - 1, writeMaxBytes: Infinity }), most);
  assert.deepEqual(checkLimits({ readMaxBytes: 1, writeMaxBytes: 2 }), { readMaxBytes: 1, writeMaxBytes: 2 });
});

test("limits that allow nothing are refused by name", () => {
  for (const value of [0, -1, NaN]) {
    assert.throws(() => checkLimits({ readMaxBytes: value, writeMaxBytes: undefined }), /readMaxBytes/);
    assert.throws(() => checkLimits({ readMaxBytes: undefined, writeMaxBytes: value }), /writeMaxBytes/);
  }
});

test("sizes of memory default to a ring of 256 KiB and an arena of 256 MiB, and wrong ones are refused", () => {
  assert.deepEqual(geometryOf({}), { ringBytes: 262144, arenaBytes: 268435456, releaseSlots: 4096 });
  assert.equal(geometryOf({ memory: { ringBytes: 65536 } }).arenaBytes, 268435456);
  for (const memory of [{ ringBytes: 65535 }, { arenaBytes: 1 }]) {
    assert.throws(() => geometryOf({ memory }), (error) => error instanceof ConnectError && error.code === Code.InvalidArgument);
  }
});

test("a handshake may take five seconds, and never longer than a timer counts", () => {
  assert.equal(handshakeTimeoutOf({}), 5000);
  assert.equal(handshakeTimeoutOf({ handshakeTimeoutMs: Infinity }), 2 ** 31 - 1);
});

test("a handshake's time that is none is refused by name, wherever it is given", () => {
  for (const handshakeTimeoutMs of [0, -1, NaN, "5" as never, null as never]) {
    const refused = (error: unknown) => error instanceof ConnectError && error.code === Code.InvalidArgument && /handshakeTimeoutMs.*milliseconds above 0/.test(error.message);
    assert.throws(() => handshakeTimeoutOf({ handshakeTimeoutMs }), refused);
    assert.throws(() => createIsthmusServer({ routes: () => {}, handshakeTimeoutMs }), refused);
    assert.throws(() => createIsthmusTransport({ address: "/run/app.sock", handshakeTimeoutMs }), refused);
    assert.throws(() => createIsthmusTransport({ address: "http://127.0.0.1:1", handshakeTimeoutMs }), refused);
  }
});

test("limits of a server that are no numbers, and so would hold nothing, are refused by name", () => {
  for (const value of [0, -1, NaN, "many" as never]) {
    assert.throws(() => createIsthmusServer({ routes: () => {}, maxConnections: value }), /option maxConnections: expected a number above 0/);
    assert.throws(() => createIsthmusServer({ routes: () => {}, maxTimeoutMs: value }), /option maxTimeoutMs: expected a number of milliseconds above 0/);
  }
  createIsthmusServer({ routes: () => {}, maxConnections: Infinity, maxTimeoutMs: 0.5 });
});
