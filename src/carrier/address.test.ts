import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { formatAddress, nameOf, parseAddress, reachable } from "./address.js";

const invalid = (message: RegExp) => (error: unknown) =>
  error instanceof ConnectError && error.code === Code.InvalidArgument && message.test(error.message);

const here = process.cwd();

test("a path stands for itself, with or without unix:", () => {
  for (const [address, path] of [
    ["/run/app.sock", "/run/app.sock"],
    ["unix:/run/app.sock", "/run/app.sock"],
    ["unix:///run/app.sock", "/run/app.sock"],
    ["UNIX:/run/app.sock", "/run/app.sock"],
    ["app.sock", `${here}/app.sock`],
    ["./a b/ü.sock", `${here}/a b/ü.sock`],
    ["unix:app.sock", `${here}/app.sock`],
    [".//./with:colon", `${here}/with:colon`],
    ["../.hidden/app.sock", `${here}/../.hidden/app.sock`],
    ["/with:colon", "/with:colon"],
  ]) {
    assert.deepEqual(parseAddress(address), { kind: "unix", path });
  }
});

test("other schemes are refused, each with what to do", () => {
  assert.throws(() => parseAddress("vsock:1"), invalid(/unknown scheme "vsock"/));
});

test("a bare IP address with a port is refused, since nobody means a path by it", () => {
  for (const bare of ["127.0.0.1:8080", "0.0.0.0:0", "[::1]:8080"]) {
    assert.throws(() => parseAddress(bare), invalid(/need a scheme: tcp:.*http:.*unix:/));
    assert.deepEqual(parseAddress(`unix:${bare}`), { kind: "unix", path: `${here}/${bare}` });
    assert.deepEqual(parseAddress(`./${bare}`), { kind: "unix", path: `${here}/${bare}` });
  }
});

test("what is no address is refused, of whatever type it is", () => {
  for (const wrong of [undefined, null, 1, 1n, true, {}, [], Symbol("x"), () => {}]) {
    assert.throws(() => parseAddress(wrong as never), invalid(/expected a socket path/));
  }
  assert.throws(() => parseAddress(""), invalid(/expected a socket path/));
  assert.throws(() => parseAddress("unix:"), invalid(/empty/));
  assert.throws(() => parseAddress("/a\0b"), invalid(/zero byte/));
});

test("an address of another type is refused with how to write it", () => {
  for (const [wrong, hint] of [
    [8080, /address 8080: .* "tcp:127\.0\.0\.1:8080"/],
    [new URL("http://127.0.0.1:80/api"), /a URL object: .* as a string: "http:\/\/127\.0\.0\.1\/api"/],
    [new URL("file:///run/app.sock"), /as a string: fileURLToPath\(new URL\("file:\/\/\/run\/app\.sock"\)\)/],
    [["/a", "/b"], /address an array: /],
    [Object.create(null), /address an object: /],
  ] as const) {
    assert.throws(() => parseAddress(wrong as never), invalid(hint));
  }
});

test("a name of an abstract socket is refused, with what to write instead", () => {
  for (const name of ["unix:@app", "@app", "unix:\0app", "unix-abstract:app"])
    assert.throws(() => parseAddress(name), invalid(/abstract socket.*use a path, such as unix:\/run\/app\.sock/));
  assert.throws(() => parseAddress("unix:@app"), invalid(/for a file of this name write unix:\.\/@app/));
  assert.deepEqual(parseAddress("unix:./@app"), { kind: "unix", path: `${here}/@app` });
});

test("a path that is longer than sockets allow is reached from the working directory, if that is near", () => {
  assert.equal(reachable("/run/app.sock"), "/run/app.sock");
  const deep = `${here}/${"d".repeat(100)}`;
  assert.equal(reachable(deep), "d".repeat(100));
  assert.throws(
    () => reachable(`${here}/${"d".repeat(108)}`),
    invalid(/the path has \d+ bytes, also from the working directory more than the 107/),
  );
});

test("a path may have 107 bytes of UTF-8", () => {
  const path = `/${"x".repeat(106)}`;
  assert.deepEqual(parseAddress(path), { kind: "unix", path });
  assert.throws(() => parseAddress(`/${"x".repeat(107)}`), invalid(/108 bytes.*allow 107/));
  assert.throws(() => parseAddress(`/${"ü".repeat(54)}`), invalid(/109 bytes/));
});

test("a TCP address has a host and a port", () => {
  for (const [address, host, port] of [
    ["tcp:127.0.0.1:0", "127.0.0.1", 0],
    ["tcp:localhost:65535", "localhost", 65535],
    ["TCP://host.example:80", "host.example", 80],
    ["tcp:[::1]:7000", "::1", 7000],
  ] as const) {
    assert.deepEqual(parseAddress(address), { kind: "tcp", host, port });
    assert.deepEqual(parseAddress(formatAddress(parseAddress(address))), { kind: "tcp", host, port });
  }
  for (const wrong of [
    "tcp:",
    "tcp:localhost",
    "tcp::80",
    "tcp:localhost:",
    "tcp:localhost:65536",
    "tcp:localhost:8o",
    "tcp:::1:80",
    "tcp:[::1]",
    "tcp:/run/x.sock",
  ]) {
    assert.throws(() => parseAddress(wrong), invalid(/expected tcp:HOST:PORT/), wrong);
  }
});

test("a URL has a host, a port or its scheme's own, and perhaps a path", () => {
  for (const [address, secure, host, port, prefix] of [
    ["http://127.0.0.1:8080", false, "127.0.0.1", 8080, ""],
    ["HTTP://localhost:0/", false, "localhost", 0, ""],
    ["http://api.example.com", false, "api.example.com", 80, ""],
    ["https://api.example.com/v1/rpc/", true, "api.example.com", 443, "/v1/rpc"],
    ["https://[::1]:8443", true, "::1", 8443, ""],
  ] as const) {
    assert.deepEqual(parseAddress(address), { kind: "http", secure, host, port, prefix });
    assert.deepEqual(parseAddress(formatAddress(parseAddress(address))), { kind: "http", secure, host, port, prefix });
  }
  for (const wrong of ["http://", "http://:80", "http://localhost:99999", "https://a b", "http:localhost:80"]) {
    assert.throws(() => parseAddress(wrong), invalid(/for example http:\/\/127\.0\.0\.1:8080/), wrong);
  }
  assert.throws(() => parseAddress("http://me:secret@localhost"), invalid(/header/));
  for (const wrong of ["http://localhost/?a=1", "http://localhost/#a"])
    assert.throws(() => parseAddress(wrong), invalid(/only a path may follow/));
});

test("an address is written as it can be read again, and named in errors as users know it", () => {
  assert.equal(formatAddress({ kind: "unix", path: "/run/a.sock" }), "unix:/run/a.sock");
  assert.equal(nameOf({ kind: "unix", path: "/run/a.sock" }), "/run/a.sock");
  assert.equal(nameOf({ kind: "tcp", host: "::1", port: 1 }), "tcp:[::1]:1");
});
