import assert from "node:assert/strict";
import { test } from "node:test";
import { METADATA_BYTES_MAX } from "./frame.js";
import { decodeHeaders, encodeMetadata, metadataComplaint, readMetadata } from "./metadata.js";

const there = (headers: Headers) => [...decodeHeaders(encodeMetadata(headers))];

test("headers are read as they were written, in latin1", () => {
  const headers = new Headers({ "X-Name": "value", empty: "", latin1: "ü\xff", "a-bin": "AAEC" });
  headers.append("many", "1");
  headers.append("many", "2");
  headers.append("set-cookie", "a=1");
  headers.append("set-cookie", "b=2");
  assert.deepEqual(there(headers), [...headers]);
  assert.deepEqual(there(new Headers()), []);
  assert.deepEqual([...decodeHeaders(undefined)], []);
});

test("bytes that are cut off anywhere give the entries before, and say what is wrong", () => {
  const bytes = encodeMetadata(new Headers({ a: "1", bb: "22" }));
  const whole = bytes.length;
  for (let byteLength = 0; byteLength <= whole; byteLength++) {
    const seen: string[] = [];
    const complaint = readMetadata(bytes.subarray(0, byteLength), (name, value) => seen.push(`${name}=${value}`));
    if (byteLength === 0 || byteLength === 8 || byteLength === whole) assert.equal(complaint, undefined);
    else assert.match(complaint!, /cut off/);
    assert.deepEqual(seen, ["a=1", "bb=22"].slice(0, byteLength === whole ? 2 : byteLength >= 8 ? 1 : 0));
    assert.equal([...decodeHeaders(bytes.subarray(0, byteLength))].length, seen.length);
  }
});

test("lengths of the largest numbers are cut off, not followed", () => {
  assert.match(readMetadata(Uint8Array.of(255, 255, 1), () => assert.fail())!, /cut off/);
  assert.match(readMetadata(Uint8Array.of(0, 0, 255, 255, 255, 255), () => assert.fail())!, /value is cut off/);
});

test("entries that no Headers could hold are left out, the others are not", () => {
  const entry = (name: string, value: string) => {
    const bytes = Buffer.alloc(6 + name.length + value.length);
    bytes.writeUInt16LE(name.length, 0);
    bytes.write(name, 2, "latin1");
    bytes.writeUInt32LE(value.length, 2 + name.length);
    bytes.write(value, 6 + name.length, "latin1");
    return bytes;
  };
  const bytes = Buffer.concat([
    entry("", "x"),
    entry("with space", "x"),
    entry("good", "1"),
    entry("newline", "a\nb"),
    entry("also-good", "2"),
  ]);
  assert.deepEqual(
    [...decodeHeaders(bytes)],
    [
      ["also-good", "2"],
      ["good", "1"],
    ],
  );
});

test("metadata may be as large as a frame has room for beside a small message", () => {
  assert.equal(metadataComplaint(METADATA_BYTES_MAX), undefined);
  assert.match(
    metadataComplaint(METADATA_BYTES_MAX + 1)!,
    new RegExp(`larger than the limit of ${METADATA_BYTES_MAX}`),
  );
});
