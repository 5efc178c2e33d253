/** The socket carrier against a raw socket: what it writes, what it reads, and when it waits. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { FLAG, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, KIND } from "../../wire/frame.js";
import { Parts } from "../../wire/parts.js";
import { collect, pair, send } from "../../../test/support/socket-carrier.js";
import { frameBytes } from "../../../test/support/stream-peer.js";
import { waitUntil } from "../../../test/support/waiting.js";

test("frames of one tick leave together, each at a multiple of 8 bytes, with their fragments right behind", async (context) => {
  const { carrier, raw } = await pair(context);
  const received = collect(raw);
  const parts = [Buffer.from("abc"), Buffer.from("defgh"), Buffer.from("ijklm")];
  send(carrier, 1, "one");
  send(carrier, 2, undefined, new Parts(parts), 13);
  send(carrier, 3, "three");
  const expected = Buffer.concat([
    frameBytes({ kind: KIND.message, streamId: 1, body: Buffer.from("one") }),
    frameBytes({ kind: KIND.message, flags: FLAG.follows, streamId: 2, messageLength: 13, fragmentLength: 13 }),
    Buffer.from("abcdefghijklm"),
    frameBytes({ kind: KIND.message, streamId: 3, body: Buffer.from("three") }),
  ]);
  assert.equal(carrier.stats().unsentBytes, expected.length);
  await waitUntil("all bytes", () => received.bytes().length === expected.length);
  // What lies in the padding has no meaning.
  const plain = (bytes: Buffer) =>
    [bytes.subarray(0, 35), bytes.subarray(40, 40 + 32 + 13 + 37)].map((part) => part.toString("hex"));
  assert.deepEqual(plain(received.bytes()), plain(expected));
  assert.equal(carrier.stats().framesSent, 3);
  assert.equal(carrier.stats().unsentBytes, 0);
});

test("fragments that begin with little or much leave whole and in order, wherever in the staging memory their frames are", async (context) => {
  const { carrier, raw } = await pair(context);
  const received = collect(raw);
  const expected: Buffer[] = [];
  let expectedBytes = 0;
  for (let count = 0; count < 4_000; ) {
    // As much as there is room for: the staging memory is used up at ever other places.
    for (; count < 4_000; count++) {
      const begin = Buffer.alloc([1, 3, 8, 200, 511, 512, 513, 700][count % 8], 1 + (count % 250));
      const rest = Buffer.alloc(count % 3, 0xfe);
      const byteLength = begin.length + rest.length;
      const body = count % 5 === 0 ? "x".repeat(8 * (count % 90)) : undefined;
      if (body !== undefined && !send(carrier, count, body)) break;
      if (body !== undefined)
        expected.push(frameBytes({ kind: KIND.message, streamId: count, body: Buffer.from(body) }));
      if (!send(carrier, count, undefined, new Parts([begin, rest]), byteLength)) {
        if (body === undefined) break;
        await waitUntil("room", () => send(carrier, count, undefined, new Parts([begin, rest]), byteLength));
      }
      expected.push(
        frameBytes({
          kind: KIND.message,
          flags: FLAG.follows,
          streamId: count,
          messageLength: byteLength,
          fragmentLength: byteLength,
        }),
        begin,
        rest,
      );
    }
    expectedBytes = expected.reduce((sum, { length }) => sum + length, 0);
    await waitUntil("all bytes", () => received.bytes().length >= expectedBytes);
  }
  assert.ok(received.bytes().equals(Buffer.concat(expected)), "what arrived is not what was sent");
  assert.equal(carrier.stats().unsentBytes, 0);
});

test("a fragment leaves whole behind a frame that ends with the staging memory, and what waits is counted to the byte", async (context) => {
  const { carrier, raw } = await pair(context);
  const received = collect(raw);
  const body = "y".repeat(FRAME_BYTES_MAX - FRAME_HEADER_BYTES);
  const fragment = [Buffer.alloc(100, 1), Buffer.alloc(5_000, 2)];
  const expected: Buffer[] = [];
  for (let streamId = 1; streamId <= 3; streamId++) {
    assert.equal(send(carrier, streamId, body), true);
    expected.push(frameBytes({ kind: KIND.message, streamId, body: Buffer.from(body) }));
  }
  assert.equal(send(carrier, 4, body, new Parts(fragment), 5_100), true);
  expected.push(
    frameBytes({
      kind: KIND.message,
      flags: FLAG.follows,
      streamId: 4,
      messageLength: 5_100,
      fragmentLength: 5_100,
      body: Buffer.from(body),
    }),
    ...fragment,
  );
  const joined = Buffer.concat(expected);
  assert.equal(carrier.stats().unsentBytes, joined.length);
  await waitUntil("all bytes", () => received.bytes().length >= joined.length);
  assert.ok(received.bytes().equals(joined), "what arrived is not what was sent");
  assert.equal(carrier.stats().unsentBytes, 0);
});

test("frames and fragments are read however they are cut up", async (context) => {
  const fragment = Buffer.alloc(100_003, 7);
  const bytes = Buffer.concat([
    frameBytes({ kind: KIND.message, streamId: 1, body: Buffer.from("first"), metadata: Buffer.from("meta") }),
    frameBytes({
      kind: KIND.message,
      streamId: 2,
      flags: FLAG.follows,
      messageLength: fragment.length,
      fragmentLength: fragment.length,
    }),
    fragment,
    frameBytes({ kind: KIND.message, streamId: 3, body: Buffer.from("third") }),
    frameBytes({
      kind: KIND.message,
      streamId: 0xdead,
      flags: FLAG.follows,
      messageLength: fragment.length,
      fragmentLength: fragment.length,
    }),
    fragment,
    frameBytes({ kind: KIND.message, streamId: 4, flags: FLAG.follows }),
    frameBytes({ kind: KIND.message, streamId: 5, body: Buffer.alloc(32_000, "x") }),
  ]);
  for (const step of [bytes.length, 65_536, 40_001, 1003, 97]) {
    const { carrier, recorder, raw } = await pair(context);
    for (let at = 0; at < bytes.length; at += step) {
      raw.write(bytes.subarray(at, at + step));
      if (step > 100 || at % (97 * 50) === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    await waitUntil("the last frame", () => recorder.seen.length === 6);
    assert.deepEqual(
      recorder.seen.map(({ streamId, metadata, fragment: text }) => [streamId, metadata, text.slice(0, 10)]),
      [
        [1, "meta", "first"],
        [2, "", "100003 fol"],
        [3, "", "third"],
        [0xdead, "", "100003 fol"],
        [4, "", "0 follow"],
        [5, "", "xxxxxxxxxx"],
      ],
    );
    assert.deepEqual(
      recorder.filled.map(({ streamId, bytes: { length } }) => [streamId, length]),
      [
        [2, fragment.length],
        [4, 0],
      ],
    );
    assert.ok(recorder.filled[0].bytes.every((byte) => byte === 7));
    carrier.close({ cause: "local", detail: "next" });
  }
});

test("what waits for a peer that does not read is bounded, and room is told when it reads", async (context) => {
  const { carrier, recorder, raw } = await pair(context);
  raw.pause();
  const large = Buffer.alloc(1 << 20, 1);
  let fragments = 0;
  let small = 0;
  for (let i = 0; i < 20; i++) {
    if (send(carrier, 1, undefined, new Parts([large]), large.length)) fragments++;
    await sleep(1);
  }
  for (let i = 0; i < 10_000; i++) {
    if (send(carrier, 2, "x".repeat(1000))) small++;
    if (i % 100 === 0) await sleep(0);
  }
  assert.ok(fragments >= 1 && fragments <= 3, `${fragments} fragments`);
  assert.ok(small >= 100 && small <= 260, `${small} small frames`);
  assert.equal(carrier.freeBytes(), 0);
  assert.ok(carrier.stats().unsentBytes < 3 << 20);
  assert.equal(carrier.idle, false);
  carrier.setWaitFor(true, true);
  const before = recorder.rooms;
  const received = collect(raw);
  raw.resume();
  await waitUntil("everything to be taken", () => carrier.idle);
  assert.ok(recorder.rooms > before);
  assert.ok(carrier.freeBytes() > 0);
  const expected = fragments * (32 + large.length) + small * 1032;
  await waitUntil("every byte", () => received.bytes().length === expected || received.bytes().length);
});

test("staging memory is used again only when the socket has taken what lies in it", async (context) => {
  const { carrier, raw } = await pair(context);
  const received = collect(raw);
  raw.pause();
  const body = (i: number) => String(i).padStart(500, ".");
  let next = 0;
  for (let round = 0; round < 60; round++) {
    // Again and again so much that both buffers are used up.
    while (send(carrier, next, body(next))) next++;
    if (round % 10 === 0) raw.resume();
    if (round % 10 === 5) raw.pause();
    await sleep(1);
  }
  raw.resume();
  await waitUntil("every frame", () => received.bytes().length === next * 536 || received.bytes().length);
  const all = received.bytes();
  for (let i = 0; i < next; i++) assert.equal(all.toString("latin1", i * 536 + 32, i * 536 + 532), body(i));
  assert.ok(next > 1000, `${next} frames`);
});

test("what came before the peer went is delivered, then the end is told, once", async (context) => {
  const { recorder, raw } = await pair(context);
  for (let i = 0; i < 500; i++) raw.write(frameBytes({ kind: KIND.message, streamId: i, body: Buffer.alloc(500) }));
  raw.end();
  await waitUntil("the end", () => recorder.closed !== undefined);
  await sleep(10);
  assert.equal(recorder.seen.length, 500);
  assert.deepEqual([recorder.closed!.cause, recorder.closings], ["hangup", 1]);
});

test("what came before the peer went is delivered although a write finds it gone first", async (context) => {
  const { carrier, recorder, raw } = await pair(context);
  for (let i = 0; i < 50; i++) raw.write(frameBytes({ kind: KIND.message, streamId: i, body: Buffer.alloc(500) }));
  await once(raw.end(), "finish");
  raw.destroy();
  // This loop's turn is blocked meanwhile, so the write comes before the read.
  const { execFileSync } = await import("node:child_process");
  execFileSync("sleep", ["0.02"]);
  send(carrier, 1, "too late");
  await waitUntil("the end", () => recorder.closed !== undefined);
  assert.equal(recorder.seen.length, 50);
  assert.deepEqual([recorder.closed!.cause, recorder.closings], ["hangup", 1]);
});

test("a receiver may close inside a frame: nothing is delivered after it", async (context) => {
  const { carrier, recorder, raw } = await pair(context);
  recorder.onFrameOf = ({ streamId }) => {
    if (streamId === 3) carrier.close({ cause: "local", detail: "enough" });
  };
  raw.write(
    Buffer.concat(
      Array.from({ length: 10 }, (_, i) => frameBytes({ kind: KIND.message, streamId: i, body: Buffer.from("x") })),
    ),
  );
  await waitUntil("the end", () => recorder.closed !== undefined);
  await sleep(10);
  assert.deepEqual(
    recorder.seen.map(({ streamId }) => streamId),
    [0, 1, 2, 3],
  );
  assert.equal(recorder.closings, 1);
  assert.equal(carrier.freeBytes(), 0);
  assert.equal(carrier.placeFragment(new Parts([Buffer.from("x")]), 1), -1);
});

test("frames that take long leave other work its turn", async (context) => {
  const { recorder, raw } = await pair(context);
  recorder.onFrameOf = () => {
    for (const end = performance.now() + 0.2; performance.now() < end; );
  };
  const frames = 1000;
  raw.write(
    Buffer.concat(Array.from({ length: frames }, () => frameBytes({ kind: KIND.message, body: Buffer.from("x") }))),
  );
  await waitUntil("the first frame", () => recorder.seen.length > 0);
  let turns = 0;
  while (recorder.seen.length < frames) {
    await new Promise((resolve) => setImmediate(resolve));
    turns++;
  }
  assert.ok(turns > 15, `the event loop turned ${turns} times while ${frames} frames took 200 ms`);
});

test("a violation closes, with the rule", async (context) => {
  const { recorder, raw } = await pair(context);
  raw.write(
    frameBytes({ kind: KIND.message, flags: FLAG.inBlock, body: Buffer.alloc(8), messageLength: 8, fragmentLength: 8 }),
  );
  await waitUntil("the end", () => recorder.closed !== undefined);
  assert.equal(recorder.closed!.cause, "violation");
  assert.match(recorder.closed!.detail, /FRAME-8/);
});
