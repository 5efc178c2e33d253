import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { parseAddress } from "./address.js";

const invalid = (message: RegExp) => (error: unknown) => error instanceof ConnectError && error.code === Code.InvalidArgument && message.test(error.message);

test("a path stands for itself, with or without unix:", () => {
  for (const [address, path] of [
    ["/run/app.sock", "/run/app.sock"],
    ["unix:/run/app.sock", "/run/app.sock"],
    ["unix:///run/app.sock", "/run/app.sock"],
    ["UNIX:/run/app.sock", "/run/app.sock"],
    ["app.sock", "app.sock"],
    ["./a b/ü.sock", "./a b/ü.sock"],
    ["unix:app.sock", "app.sock"],
    ["./with:colon", "./with:colon"],
    ["/with:colon", "/with:colon"],
  ]) {
    assert.equal(parseAddress(address), path);
  }
});

test("other schemes are refused, each with what to do", () => {
  assert.throws(() => parseAddress("http://x"), invalid(/connect-node/));
  assert.throws(() => parseAddress("HTTPS://x"), invalid(/connect-node/));
  assert.throws(() => parseAddress("tcp:x:1"), invalid(/unix:PATH/));
  assert.throws(() => parseAddress("vsock:1"), invalid(/unknown scheme "vsock"/));
});

test("what is no address is refused, of whatever type it is", () => {
  for (const wrong of [undefined, null, 1, 1n, true, {}, [], Symbol("x"), () => {}]) {
    assert.throws(() => parseAddress(wrong as never), invalid(/expected a socket path/));
  }
  assert.throws(() => parseAddress(""), invalid(/expected a socket path/));
  assert.throws(() => parseAddress("unix:"), invalid(/empty/));
  assert.throws(() => parseAddress("/a\0b"), invalid(/zero byte/));
});

test("a path may have 107 bytes of UTF-8", () => {
  assert.equal(parseAddress(`/${"x".repeat(106)}`).length, 107);
  assert.throws(() => parseAddress(`/${"x".repeat(107)}`), invalid(/108 bytes.*allow 107/));
  assert.throws(() => parseAddress(`/${"ü".repeat(54)}`), invalid(/109 bytes/));
});
