/**
 * Peers that lie about large values: splice tables, blocks that come back, releases. Each loses its connection by the
 * rule it broke.
 */
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { TestContext } from "node:test";
import { Code } from "@connectrpc/connect";
import { createProtobufCodec } from "../../src/codec/codec.js";
import { ARENA_UNIT_BYTES, WORD } from "../../src/memory/shm/layout.js";
import type { SpanEntry } from "../../src/wire/frame.js";
import { FLAG, KIND, SPAN } from "../../src/wire/frame.js";
import { encodeHandshake, FEATURE } from "../../src/wire/hello.js";
import { EchoReplySchema, EchoRequestSchema } from "../proto/test_pb.js";
import { pattern, patternFault, serveOwn } from "../support/own-routes.js";
import type { RawFrame, RawSpan } from "../support/raw-peer.js";
import { RawPeer, rawListener } from "../support/raw-peer.js";
import { suiteOwner, tempSocket } from "../support/temp.js";
import type { TestClient, TestServerProcess } from "../support/test-server.js";
import { connectTo, serveInChild } from "../support/test-server.js";
import { failure, waitUntil, within } from "../support/waiting.js";

const accepted = encodeHandshake({
  kind: "accepted",
  version: 1,
  features: FEATURE.sharedMemory | FEATURE.spans,
  maxStreams: 1000,
});
const SPAN_BYTES = 100_000;
const UNITS = Math.ceil(SPAN_BYTES / ARENA_UNIT_BYTES);

/** An honest message of both schemas with one large value, without it. */
const { inline, spans } = createProtobufCodec()(EchoRequestSchema).encode({
  $typeName: "isthmus.test.EchoRequest",
  text: "",
  number: 0n,
  data: new Uint8Array(SPAN_BYTES),
});
const at = spans[0].position;
const honest: RawSpan = { position: at, byteLength: SPAN_BYTES, unit: 1, generation: 1 };

function reference(unit: number, generation: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(unit, generation).buffer);
}

/**
 * What a liar sends instead of a message: the frame, and what is wrong. `mine` is the victim's block that it has, and
 * may not misuse.
 */
type Lie = [what: string, rule: RegExp, frames: (mine: SpanEntry) => Partial<RawFrame>[]];

const withSpans = (...table: RawSpan[]): Partial<RawFrame>[] => [{ body: inline, spans: table }];
const returned = (mine: SpanEntry, change: RawSpan = {}): RawSpan => ({
  position: at,
  byteLength: SPAN_BYTES,
  unit: mine.unit,
  generation: mine.generation,
  flags: SPAN.returned,
  ...change,
});
const release = (mine: SpanEntry): Partial<RawFrame> => ({
  kind: KIND.release,
  flags: 0,
  metadata: reference(mine.unit, mine.generation),
});

const GIVEN_AND_RELEASED = "a block given back in a message, and then released";

const LIES: Lie[] = [
  ["spans that overlap", /SPAN-1/, () => withSpans(honest, { ...honest, position: at + 100, unit: 100 })],
  ["spans that are not in order", /SPAN-1/, () => withSpans({ ...honest, position: at + SPAN_BYTES + 4 }, honest)],
  ["a span past the message's end", /SPAN-1/, () => [{ body: inline, spans: [{ ...honest, position: at + 1 }] }]],
  [
    "a span longer than its message",
    /SPAN-1/,
    () => [{ body: inline, spans: [honest], messageLength: inline.length + 10 }],
  ],
  [
    "a span of the largest length",
    /SPAN-1|FRAME-3/,
    () => [{ body: inline, spans: [{ ...honest, byteLength: -1 }], messageLength: 2 ** 31 - 1 }],
  ],
  ["a span in the arena's header", /SPAN-2/, () => withSpans({ ...honest, unit: 0 })],
  ["a span past the arena", /SPAN-2/, () => withSpans({ ...honest, unit: 256 })],
  [
    "a span that reaches past the arena",
    /SPAN-2/,
    () => withSpans({ ...honest, unit: 256 - UNITS, offset: UNITS * ARENA_UNIT_BYTES - SPAN_BYTES + 1 }),
  ],
  ["a span of the largest unit", /SPAN-2/, () => withSpans({ ...honest, unit: -1 })],
  ["a span of the largest offset", /SPAN-2/, () => withSpans({ ...honest, offset: -1 })],
  ["a span with flags that there are not", /SPAN-2/, () => withSpans({ ...honest, flags: 64 })],
  ["a span that is given without being returned", /SPAN-2/, () => withSpans({ ...honest, flags: SPAN.given })],
  [
    "a returned span with flags that there are not",
    /SPAN-2/,
    (mine) => withSpans(returned(mine, { flags: SPAN.returned | 64 })),
  ],
  [
    "more spans than there may be",
    /FRAME-4/,
    () => withSpans(...Array.from({ length: 65 }, (_, i) => ({ position: at + i, unit: 1, generation: 1 }))),
  ],
  ["a splice table that its frame has not", /FRAME-2/, () => [{ body: inline, spanCount: 20 }]],
  ["the largest number of spans", /FRAME-4/, () => [{ body: inline, spanCount: -1 }]],
  ["a span where no value starts", /./, () => [{ body: inline, spans: [{ ...honest, position: 1 }] }]],
  ["a returned block that never was", /SPAN-3/, () => withSpans(returned({ unit: 5000, generation: 1 } as SpanEntry))],
  [
    "a returned block of the largest number",
    /SPAN-3/,
    () => withSpans(returned({ unit: -1, generation: 1 } as SpanEntry)),
  ],
  [
    "a returned block under another generation",
    /SPAN-3/,
    (mine) => withSpans(returned(mine, { generation: mine.generation + 1 })),
  ],
  [
    "a returned block, and more than it has",
    /SPAN-3/,
    (mine) => withSpans(returned(mine, { offset: UNITS * ARENA_UNIT_BYTES - SPAN_BYTES + 1 })),
  ],
  [
    "a returned block from the inside",
    /SPAN-3/,
    (mine) => withSpans(returned(mine, { unit: mine.unit + 1, byteLength: SPAN_BYTES })),
  ],
  [
    "a block given back twice in one table",
    /SPAN-3/,
    (mine) => {
      const given = returned(mine, { flags: SPAN.returned | SPAN.given, byteLength: 5 });
      return [
        {
          body: new Uint8Array(100),
          spans: [
            { ...given, position: 2 },
            { ...given, position: 9 },
          ],
        },
      ];
    },
  ],
  [
    GIVEN_AND_RELEASED,
    /RELEASE-2/,
    (mine) => [...withSpans(returned(mine, { flags: SPAN.returned | SPAN.given })), release(mine)],
  ],
  ["a release of a block that is not out", /RELEASE-2/, () => [release({ unit: 77, generation: 1 } as SpanEntry)]],
  ["a release of the header", /RELEASE-2/, () => [release({ unit: 0, generation: 0 } as SpanEntry)]],
  [
    "a release under another generation",
    /RELEASE-2/,
    (mine) => [release({ ...mine, generation: mine.generation - 1 })],
  ],
  ["a block that is released twice", /RELEASE-2/, (mine) => [release(mine), release(mine)]],
  ["a release that names nothing", /FRAME-7/, () => [{ kind: KIND.release, flags: 0 }]],
  ["a release of garbage", /FRAME-7/, () => [{ kind: KIND.release, flags: 0, metadata: pattern(1, 100) }]],
];

/** Harmless ones: they say what is wrong only with their own message, or nothing. */
const HARMLESS = /a span where no value starts/;

describe("a client that lies about large values", () => {
  const owner = suiteOwner();
  let server: TestServerProcess;
  let bystander: TestClient;
  before(async () => {
    server = await serveInChild(owner, { maxStreams: 1000 });
    bystander = connectTo(owner, server);
    await bystander.client.echo({});
  });
  const stillServes = async () => {
    assert.equal(patternFault((await bystander.client.echo({ data: pattern(1, 200_000) })).data, 1), -1);
    assert.equal(bystander.transport.stats().connections, 1);
  };
  /** A client that has an answer of `SPAN_BYTES` bytes in the server's memory. */
  const open = async (context: TestContext): Promise<{ peer: RawPeer; mine: SpanEntry }> => {
    const peer = await RawPeer.open(context, server.path, FEATURE.sharedMemory | FEATURE.spans);
    peer.define(0, "Echo");
    // In a block and not as a span, so that the answer has to be copied to a block of the server's.
    new Uint8Array(peer.arena, ARENA_UNIT_BYTES).set(inline);
    peer.frame({
      kind: KIND.request,
      flags: FLAG.endStream | FLAG.inBlock,
      streamId: 0x10000,
      body: reference(1, 1),
      messageLength: inline.length + SPAN_BYTES,
      fragmentLength: inline.length + SPAN_BYTES,
    });
    peer.publish();
    const frames: ReturnType<RawPeer["read"]> = [];
    await waitUntil("the answer", () => frames.push(...peer.read()) > 0);
    assert.equal(frames[0].spans.length, 1, JSON.stringify(frames));
    return { peer, mine: frames[0].spans[0] };
  };

  for (const [what, , frames] of LIES) {
    // A handler that answers with the block gives it to the client anew, who may release it then.
    if (what === GIVEN_AND_RELEASED) continue;
    test(`with ${what} ${HARMLESS.test(what) ? "gets an error" : "loses its connection"}`, async (context) => {
      const { peer, mine } = await open(context);
      const { violations } = await server.stats();
      let streamId = 0x10001;
      for (const frame of frames(mine))
        peer.frame({
          kind: KIND.request,
          flags: FLAG.endStream,
          streamId: frame.kind === undefined ? streamId++ : 0,
          ...frame,
        });
      peer.publish();
      if (HARMLESS.test(what)) {
        let code = 0;
        await waitUntil("an answer", () =>
          peer.read().some((frame) => ((code = frame.code), frame.streamId === 0x10001)),
        );
        assert.equal(Code[code], "Internal");
      } else {
        await peer.hungUp();
        assert.equal((await server.stats()).violations, violations + 1);
      }
      await stillServes();
    });
  }

  test("that has not agreed to spans, and sends them, loses its connection", async (context) => {
    const peer = await RawPeer.open(context, server.path);
    peer.define(0, "Echo");
    peer.frame({ kind: KIND.request, flags: FLAG.endStream, streamId: 0x10000, body: inline, spans: [honest] });
    peer.publish();
    await peer.hungUp();
    await stillServes();
  });

  test("with tables in frames of kinds that have none harms nobody", async (context) => {
    const { peer } = await open(context);
    for (const kind of [KIND.method, KIND.ping, KIND.pong, KIND.reset, KIND.goAway, KIND.starved]) {
      peer.frame({
        kind,
        code: 5,
        metadata: Buffer.from("/x/Y1"),
        body: new Uint8Array(0),
        spans: [honest, { ...honest, position: at + SPAN_BYTES, unit: 7 }],
        messageLength: 2 * SPAN_BYTES + at,
      });
    }
    peer.publish();
    await waitUntil("the server to read them", () => peer.consumed);
    await stillServes();
  });

  test("that lends one block again and again is served, and shares only what is its own", async (context) => {
    const { peer } = await open(context);
    new Uint8Array(peer.arena, ARENA_UNIT_BYTES, SPAN_BYTES).set(pattern(5, SPAN_BYTES));
    for (let i = 0; i < 300; i++)
      peer.frame({ kind: KIND.request, flags: FLAG.endStream, streamId: 0x20000 + i, body: inline, spans: [honest] });
    peer.publish();
    const answers: ReturnType<RawPeer["read"]> = [];
    // Some of the blocks come back with answers, and then need releasing besides.
    await waitUntil(
      "300 answers",
      () => (
        answers.push(...peer.read().filter(({ kind }) => kind === KIND.response)),
        answers.length === 300 || answers.length
      ),
    );
    assert.ok(answers.every(({ code }) => code === 0));
    await stillServes();
  });

  test("that floods with starved frames does not keep the server from its work", async (context) => {
    const { peer } = await open(context);
    // So that something is leased there.
    peer.frame({ kind: KIND.request, flags: FLAG.endStream, streamId: 0x30000, body: inline, spans: [honest] });
    for (let round = 0; round < 30; round++) {
      for (let i = 0; i < 1000; i++) peer.frame({ kind: KIND.starved });
      peer.publish();
      await within(60_000, "a call", stillServes());
      await waitUntil("the server to read them", () => peer.consumed);
      peer.read();
    }
  });

  test("that changes the bytes of a leased block meanwhile hurts only its own call", async (context) => {
    const { peer } = await open(context);
    const bytes = new Uint8Array(peer.arena, ARENA_UNIT_BYTES, SPAN_BYTES);
    for (let i = 0; i < 100; i++) {
      peer.frame({ kind: KIND.request, flags: FLAG.endStream, streamId: 0x40000 + i, body: inline, spans: [honest] });
      peer.publish();
      bytes.fill(i);
      if (i % 10 === 0) await sleep(0);
      bytes.fill(255 - i);
    }
    const answers: ReturnType<RawPeer["read"]> = [];
    await waitUntil(
      "100 answers",
      () => (
        answers.push(...peer.read().filter(({ kind }) => kind === KIND.response)),
        answers.length === 100 || answers.length
      ),
    );
    await stillServes();
  });
});

describe("a server that lies about large values", () => {
  for (const [what, rule, frames] of LIES) {
    test(`with ${what} makes the calls fail, by the rule that it broke`, async (context) => {
      const path = tempSocket(context);
      const listener = rawListener(context, path);
      const { client } = connectTo(context, { path });
      const call = client.echo({ data: pattern(1, SPAN_BYTES) });
      const checked = failure(call, HARMLESS.test(what) ? Code.Internal : Code.Unavailable, rule);
      const second = client.wait({ milliseconds: 60_000 });
      const lost = HARMLESS.test(what) ? second.catch(() => undefined) : failure(second, Code.Unavailable, rule);
      const peer = await listener.next();
      await peer.join("hello");
      peer.send(accepted, peer.makeSegments());
      const requests: ReturnType<RawPeer["read"]> = [];
      await waitUntil(
        "the requests",
        () => (requests.push(...peer.read()), requests.filter(({ kind }) => kind === KIND.request).length === 2),
      );
      const request = requests.find((frame) => frame.spans.length === 1);
      assert.ok(request !== undefined);
      const lies = frames(request.spans[0]);
      for (const [i, frame] of lies.entries()) {
        // Those that lie about releases alone answer nothing.
        peer.frame({
          kind: KIND.response,
          flags: FLAG.endStream,
          streamId: i === 0 && frame.kind === undefined ? request.streamId : 0,
          ...frame,
        });
      }
      peer.publish();
      if (lies.length > 1 && lies[0].kind === undefined) await call.catch(() => undefined);
      else await checked;
      checked.catch(() => undefined);
      if (!HARMLESS.test(what)) {
        await lost;
        await peer.hungUp();
      }
    });
  }
  assert.equal(EchoReplySchema.fields.length, 3);
});

test("with isolation, what a handler sees does not change under it", async (context) => {
  const seen: { first: number; later: number }[] = [];
  const { path } = await serveOwn(
    context,
    {
      async echo({ data }) {
        const first = patternFault(data, 5);
        await sleep(20);
        seen.push({ first, later: patternFault(data, 5) });
        return {};
      },
    },
    { server: { isolation: "snapshot" } },
  );
  const peer = await RawPeer.open(context, path, FEATURE.sharedMemory | FEATURE.spans);
  peer.define(0, "Echo");
  const bytes = new Uint8Array(peer.arena, ARENA_UNIT_BYTES, SPAN_BYTES);
  bytes.set(pattern(5, SPAN_BYTES));
  peer.frame({ kind: KIND.request, flags: FLAG.endStream, streamId: 0x10000, body: inline, spans: [honest] });
  peer.publish();
  // The block is back as soon as it was copied.
  await waitUntil("the release", () => Atomics.load(peer.peerWords, WORD.released) === 1);
  bytes.fill(0);
  await waitUntil("the answer", () => peer.read().length > 0);
  assert.deepEqual(seen, [{ first: -1, later: -1 }]);
});
