import assert from "node:assert/strict";
import { test } from "node:test";
import type { HandshakeMessage, Hello } from "./hello.js";
import {
  decodeHandshake,
  encodeHandshake,
  FEATURE,
  handshakeLength,
  negotiate,
  PREFIX_BYTES,
  PROTOCOL_VERSION_MAX,
  PROTOCOL_VERSION_MIN,
  reasonWithoutMemory,
} from "./hello.js";

const hello: Hello = {
  kind: "hello",
  minVersion: 1,
  maxVersion: 3,
  featuresSupported: 0xffffffff,
  featuresRequired: 0x80000000,
  maxStreams: 17,
  streamWindowBytes: 4096,
};
const messages: HandshakeMessage[] = [
  hello,
  { kind: "accepted", version: 65535, features: 5, maxStreams: 65536, streamWindowBytes: 1 << 30 },
  { ...hello, lack: "memfd_create: ✗" },
  { kind: "accepted", version: 1, features: 4, maxStreams: 1, streamWindowBytes: 65536, lack: "its option" },
  { kind: "refused", code: 7, message: "not you, Ünä 🌉" },
  { kind: "refused", code: 14, retryability: "permanent", message: "never" },
  { kind: "refused", code: 14, retryability: "draining", message: "not here" },
  { kind: "refused", code: 0, message: "" },
  { kind: "ready" },
  { kind: "memory" },
];

test("every message is read as it was written", () => {
  for (const message of messages) {
    const bytes = encodeHandshake(message);
    assert.equal(handshakeLength(bytes.subarray(0, PREFIX_BYTES)), bytes.length);
    assert.deepEqual(decodeHandshake(bytes), message);
  }
});

test("a message is read wherever its bytes lie in their buffer", () => {
  const bytes = encodeHandshake(hello);
  const shifted = new Uint8Array(bytes.length + 3);
  shifted.set(bytes, 3);
  assert.deepEqual(decodeHandshake(shifted.subarray(3)), hello);
});

test("bytes that a later version appends are ignored", () => {
  const lacking = { ...hello, lack: "none" };
  const bytes = encodeHandshake(lacking);
  const longer = new Uint8Array(bytes.length + 12).fill(9);
  longer.set(bytes);
  new DataView(longer.buffer).setUint32(4, longer.length, true);
  assert.deepEqual(decodeHandshake(longer), lacking);
});

test("no part of a message is a message", () => {
  for (const message of messages.slice(0, 2)) {
    const bytes = encodeHandshake(message);
    for (let byteLength = 0; byteLength < bytes.length; byteLength++) {
      const part = bytes.slice(0, byteLength);
      assert.equal(decodeHandshake(part), undefined, `${byteLength} bytes`);
      // Not even if its length field says that it is complete.
      if (byteLength >= PREFIX_BYTES) new DataView(part.buffer).setUint32(4, byteLength, true);
      assert.equal(decodeHandshake(part), undefined, `${byteLength} bytes`);
    }
  }
});

test("a wrong magic number, kind or length, or no streams, make no message", () => {
  const spoil = (at: number, value: number) => {
    const bytes = encodeHandshake(hello);
    new DataView(bytes.buffer).setUint32(at, value, true);
    return bytes;
  };
  for (const bytes of [
    spoil(0, 0),
    spoil(4, 27),
    spoil(4, 29),
    spoil(4, 0xffffffff),
    spoil(8, 0),
    spoil(8, 6),
    spoil(8, 0xffff),
    spoil(24, 0),
  ]) {
    assert.equal(decodeHandshake(bytes), undefined);
  }
  assert.equal(handshakeLength(spoil(4, 15)), undefined);
  assert.equal(handshakeLength(spoil(4, 4097)), undefined);
});

test("a greeting of a release without streams has no window, and one with streams needs one", () => {
  const bytes = encodeHandshake({ ...hello, featuresSupported: FEATURE.sharedMemory, streamWindowBytes: 7 }).slice(
    0,
    28,
  );
  new DataView(bytes.buffer).setUint32(4, 28, true);
  const read = decodeHandshake(bytes);
  assert.ok(read?.kind === "hello" && read.streamWindowBytes === 0 && read.maxStreams === 17);
  assert.equal(
    decodeHandshake(encodeHandshake({ ...hello, featuresSupported: FEATURE.streams, streamWindowBytes: 0 })),
    undefined,
  );
  assert.equal(
    decodeHandshake(encodeHandshake({ kind: "accepted", version: 1, features: FEATURE.streams, maxStreams: 1 })),
    undefined,
  );
  const large = decodeHandshake(encodeHandshake({ ...hello, streamWindowBytes: 0xffffffff }));
  assert.ok(large?.kind === "hello" && large.streamWindowBytes === 2 ** 30);
});

test("a refusal's text is cut to what a message may hold, and read even if a character was cut in half", () => {
  const bytes = encodeHandshake({ kind: "refused", code: 8, message: "ü".repeat(5000) });
  assert.equal(handshakeLength(bytes), bytes.length);
  const read = decodeHandshake(bytes);
  assert.ok(read?.kind === "refused" && read.message.startsWith("üüü") && read.message.length >= 2000);
});

test("more streams than there are slots count as all slots", () => {
  const read = decodeHandshake(encodeHandshake({ ...hello, maxStreams: 0xffffffff }));
  assert.ok(read?.kind === "hello" && read.maxStreams === 65536);
});

test("the newest version that both know is chosen, and features that both have", () => {
  const plain = { ...hello, featuresRequired: 0 };
  assert.deepEqual(negotiate({ ...plain, minVersion: 1, maxVersion: 65535 }, 0, 0, undefined), {
    version: PROTOCOL_VERSION_MAX,
    features: 0,
  });
  assert.deepEqual(
    negotiate({ ...plain, minVersion: PROTOCOL_VERSION_MIN, maxVersion: PROTOCOL_VERSION_MIN }, 0, 0, undefined),
    { version: PROTOCOL_VERSION_MIN, features: 0 },
  );
});

test("without a common version, or without a required feature, the refusal says so", () => {
  const refusalOf = (changes: Partial<Hello>) => {
    const answer = negotiate({ ...hello, featuresRequired: 0, ...changes }, FEATURE.sharedMemory, 0, undefined);
    assert.ok("refusal" in answer);
    return answer.refusal;
  };
  assert.match(
    refusalOf({ minVersion: PROTOCOL_VERSION_MAX + 1, maxVersion: 99 }),
    /the client speaks 2 to 99, this server 1 to 1/,
  );
  assert.match(refusalOf({ minVersion: 0, maxVersion: 0 }), /0 to 0/);
  assert.match(refusalOf({ minVersion: 5, maxVersion: 1 }), /no common protocol version/);
  assert.match(refusalOf({ featuresRequired: 0x80000000 }), /0x80000000/);
});

test("features are in use that both ends have, and what either end insists on must be among them", () => {
  const offering = (featuresSupported: number, featuresRequired = 0) => ({
    ...hello,
    featuresSupported,
    featuresRequired,
  });
  const { sharedMemory, spans } = FEATURE;
  const version = PROTOCOL_VERSION_MAX;
  assert.deepEqual(negotiate(offering(sharedMemory | spans), sharedMemory, 0, undefined), {
    version,
    features: sharedMemory,
  });
  assert.deepEqual(negotiate(offering(sharedMemory), 0, 0, undefined), { version, features: 0 });
  assert.deepEqual(negotiate(offering(0), sharedMemory, 0, undefined), { version, features: 0 });
  assert.deepEqual(negotiate(offering(sharedMemory, sharedMemory), sharedMemory, sharedMemory, undefined), {
    version,
    features: sharedMemory,
  });
  assert.deepEqual(negotiate(offering(sharedMemory, sharedMemory), 0, 0, "memfd_create: EPERM"), {
    refusal:
      'the client insists on shared memory (carrier: "shm"), and the server uses no shared memory: memfd_create: EPERM',
  });
  assert.deepEqual(negotiate({ ...offering(0), lack: "no addon" }, sharedMemory, sharedMemory, undefined), {
    refusal: 'the server insists on shared memory (carrier: "shm"), and the client uses no shared memory: no addon',
  });
  const silent = negotiate(offering(0), sharedMemory, sharedMemory, undefined);
  assert.ok(
    "refusal" in silent &&
      /the client uses no shared memory: it is of a version that does not say why$/.test(silent.refusal),
  );
});

test("a greeting whose reason reaches past its end is none, and a reason is cut to what there is room for", () => {
  const bytes = encodeHandshake({ ...hello, lack: "none" });
  new DataView(bytes.buffer).setUint16(32, 5, true);
  assert.equal(decodeHandshake(bytes), undefined);
  const long = decodeHandshake(encodeHandshake({ ...hello, lack: "ü".repeat(5000) }));
  assert.ok(long?.kind === "hello" && long.lack === "ü".repeat(512));
});

test("an retryability that this version does not know counts as none", () => {
  const bytes = encodeHandshake({ kind: "refused", code: 14, retryability: "draining", message: "" });
  new DataView(bytes.buffer).setUint16(14, 3, true);
  assert.deepEqual(decodeHandshake(bytes), { kind: "refused", code: 14, message: "" });
});

test("both ends say the same of why they share no memory, and name the end that lacks it", () => {
  assert.equal(reasonWithoutMemory(undefined, "x"), "the server uses no shared memory: x");
  assert.equal(reasonWithoutMemory("x", undefined), "the client uses no shared memory: x");
  assert.equal(
    reasonWithoutMemory("x", "y"),
    "the client uses no shared memory: x; the server uses no shared memory: y",
  );
  assert.equal(reasonWithoutMemory("x", "x"), "neither end uses shared memory: x");
});
