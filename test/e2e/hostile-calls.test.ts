/**
 * Peers that lie about streams: each loses its own connection, and nobody else notices. Over the stream socket; the
 * core is the same over shared memory.
 */
import assert from "node:assert/strict";
import { createServer } from "node:net";
import { before, describe, test } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code, createClient } from "@connectrpc/connect";
import { createIsthmusTransport } from "../../src/index.js";
import { FLAG, KIND } from "../../src/wire/frame.js";
import { encodeHandshake, FEATURE } from "../../src/wire/hello.js";
import { encodeStatus } from "../../src/wire/status.js";
import { CountRequestSchema, ItemSchema, StreamService } from "../proto/streams_pb.js";
import { collect, items } from "../support/own-streams.js";
import type { RawFrame } from "../support/raw-peer.js";
import type { StreamFrame } from "../support/stream-peer.js";
import { frameBytes, methodFrame, StreamPeer } from "../support/stream-peer.js";
import type { Owner } from "../support/temp.js";
import { suiteOwner, tempSocket } from "../support/temp.js";
import type { TestClient, TestServerProcess } from "../support/test-server.js";
import { connectTo, serveInChild } from "../support/test-server.js";
import { failure, waitUntil } from "../support/waiting.js";

const WINDOW = 4096;
const streams = { featuresSupported: FEATURE.streams, streamWindowBytes: WINDOW };
const METHODS = Buffer.concat([
  methodFrame(0, "Echo", "StreamService"),
  methodFrame(1, "Count", "StreamService"),
  methodFrame(2, "Sum", "StreamService"),
  methodFrame(3, "Chat", "StreamService"),
]);
const ECHO = 0;
const COUNT = 1;
const SUM = 2;
const CHAT = 3;
const streamId = 0x10005;
const item = toBinary(ItemSchema, create(ItemSchema, { number: 1n }));
const countRequest = (count: bigint, dataBytes = 0) =>
  toBinary(CountRequestSchema, create(CountRequestSchema, { count, dataBytes }));

const open = (code: number) => frameBytes({ kind: KIND.request, code, streamId });
const message = (body = item, more: Partial<RawFrame> = {}) =>
  frameBytes({ kind: KIND.message, streamId, body, ...more });
const end = frameBytes({ kind: KIND.end, flags: FLAG.endStream, streamId });
const credit = (argument: number) => frameBytes({ kind: KIND.credit, streamId, argument });

describe("a client that lies about streams", () => {
  const owner = suiteOwner();
  let server: TestServerProcess;
  let honest: TestClient;

  before(async () => {
    server = await serveInChild(owner, { maxStreams: 1000, readMaxBytes: 1 << 20, streamWindowBytes: WINDOW });
    honest = connectTo(owner, server, { carrier: "socket" });
    await honest.client.echo({});
  });

  const say = async (context: Owner, bytes: readonly Uint8Array[], hello: object = streams) => {
    const peer = await StreamPeer.open(context, server.path, hello);
    peer.socket.write(Buffer.concat([METHODS, ...bytes]));
    return peer;
  };

  const violations: [what: string, ...bytes: Uint8Array[]][] = [
    ["more messages than it has credit for", open(SUM), ...Array<Uint8Array>(200).fill(message())],
    [
      "a message after one larger than the window",
      open(CHAT),
      message(toBinary(ItemSchema, create(ItemSchema, { data: new Uint8Array(WINDOW) }))),
      message(toBinary(ItemSchema, create(ItemSchema, { data: new Uint8Array(WINDOW) }))),
      message(),
      message(),
    ],
    ["credit that nobody used", open(CHAT), credit(1)],
    ["the largest credit", open(CHAT), credit(-1)],
    ["a message after its end", open(SUM), end, message()],
    ["a message after its last", open(SUM), message(item, { flags: FLAG.endStream }), message()],
    ["two ends", open(CHAT), message(), end, end],
    [
      "an end within a message",
      open(SUM),
      message(item.subarray(0, 1), { flags: FLAG.more, messageLength: 10, fragmentLength: 1 }),
      end,
    ],
    [
      "a request that opens a stream with a message in it",
      frameBytes({ kind: KIND.request, code: SUM, streamId, body: item }),
    ],
    ["headers", open(SUM), frameBytes({ kind: KIND.headers, streamId })],
    ["a stream in an open slot", open(SUM), frameBytes({ kind: KIND.request, code: SUM, streamId: 0x20005 })],
    ["a stream past its slots", frameBytes({ kind: KIND.request, code: SUM, streamId: 0x10000 + 1000 })],
    [
      "fragments that do not add up",
      open(SUM),
      message(item.subarray(0, 1), { flags: FLAG.more, messageLength: 10, fragmentLength: 1 }),
      message(item),
    ],
  ];
  for (const [what, ...bytes] of violations) {
    test(`${what} ends its connection and no other`, async (context) => {
      const before = (await server.stats()).violations;
      // A handler that pulls gives credit back: it must not be fast enough to hide a lie.
      const peer = await say(context, bytes);
      await peer.hungUp();
      assert.equal((await server.stats()).violations, before + 1);
      assert.equal((await honest.client.echo({ text: "honest" })).text, "honest");
      assert.equal(honest.transport.stats().connections, 1);
      assert.equal((await server.stats()).openStreams, 0);
    });
  }

  for (const kind of ["end", "credit", "message"] as const) {
    test(`a frame ${kind} ends the connection of a client that knows unary calls only`, async (context) => {
      const before = (await server.stats()).violations;
      const peer = await say(context, [frameBytes({ kind: KIND[kind], streamId })], {});
      if (kind === "message") peer.socket.destroy();
      else await peer.hungUp();
      assert.equal((await server.stats()).violations, before + (kind === "message" ? 0 : 1));
    });
  }

  test("greetings with streams but without a window are none", async (context) => {
    const peer = await StreamPeer.connect(context, server.path);
    const { encodeHandshake } = await import("../../src/wire/hello.js");
    peer.socket.write(
      encodeHandshake({
        kind: "hello",
        minVersion: 1,
        maxVersion: 1,
        featuresSupported: FEATURE.streams,
        featuresRequired: 0,
        maxStreams: 5,
      }),
    );
    const answer = await peer.handshake();
    assert.ok(answer?.kind !== "accepted");
  });

  const answers = async (peer: StreamPeer, until: (frame: StreamFrame) => boolean) => {
    const frames: StreamFrame[] = [];
    for (;;) {
      const { frame } = await peer.frame();
      frames.push(frame);
      if (until(frame)) return frames;
    }
  };
  const isLast = ({ kind }: StreamFrame) => kind === KIND.end || kind === KIND.response;

  for (const [code, name] of [
    [ECHO, "unary"],
    [COUNT, "server-streaming"],
  ] as const) {
    const request = code === ECHO ? item : countRequest(2n);
    test(`a ${name} method takes exactly one message of a stream`, async (context) => {
      for (const [bytes, status] of [
        [[message(request), end], 0],
        [[message(request, { flags: FLAG.endStream })], 0],
        [[end], Code.Unimplemented],
        [[message(request), message(request), end], Code.Unimplemented],
      ] as const) {
        const peer = await say(context, [open(code), ...bytes]);
        const frames = await answers(peer, isLast);
        assert.equal(frames.at(-1)!.code, status);
        if (status === 0)
          assert.equal(
            frames.filter(({ kind }) => kind === (code === ECHO ? KIND.response : KIND.message)).length,
            code === ECHO ? 1 : 2,
          );
      }
    });
  }

  test("a streaming method takes a request with its only message in it", async (context) => {
    for (const code of [SUM, CHAT]) {
      const peer = await say(context, [
        frameBytes({ kind: KIND.request, flags: FLAG.endStream, code, streamId, body: item }),
      ]);
      assert.equal((await answers(peer, isLast)).at(-1)!.code, 0);
    }
  });

  test("a client that grants nothing gets its window's worth and holds up nobody", async (context) => {
    const peer = await say(context, [
      frameBytes({ kind: KIND.request, flags: FLAG.endStream, code: COUNT, streamId, body: countRequest(1000n, 100) }),
    ]);
    const frames: StreamFrame[] = [];
    const cost = (frame: StreamFrame) => frame.messageLength + 128;
    let spent = 0;
    while (spent < WINDOW) {
      const { frame } = await peer.frame();
      frames.push(frame);
      spent += cost(frame);
    }
    assert.ok(spent - cost(frames.at(-1)!) < WINDOW);
    assert.equal((await honest.client.echo({ text: "honest" })).text, "honest");
    assert.equal(peer.bytes.length, 0);
    peer.socket.write(credit(spent));
    await peer.frame();
    peer.socket.write(frameBytes({ kind: KIND.reset, code: Code.Canceled, streamId }));
    await waitUntil("the stream to be forgotten", async () => (await server.stats()).openStreams === 0);
  });

  test("a message too large is refused, and what follows of the stream is read past", async (context) => {
    const tooMuch = (1 << 20) + 100;
    const peer = await say(context, [
      open(SUM),
      frameBytes({
        kind: KIND.message,
        flags: FLAG.follows,
        streamId,
        messageLength: tooMuch,
        fragmentLength: tooMuch,
      }),
      new Uint8Array(tooMuch),
      message(),
      end,
      frameBytes({ kind: KIND.request, flags: FLAG.endStream, code: ECHO, streamId: 0x20005, body: item }),
    ]);
    const frames = await answers(peer, ({ streamId: id }) => id === 0x20005);
    assert.deepEqual(
      frames.map(({ kind, code }) => [kind, code]),
      [
        [KIND.end, Code.ResourceExhausted],
        [KIND.response, 0],
      ],
    );
  });
});

describe("a server that lies about streams", () => {
  /** A server that answers the first request of a client with these bytes. */
  const serve = (context: Owner, bytes: (frame: StreamFrame) => Uint8Array[], features: number = FEATURE.streams) => {
    const path = tempSocket(context);
    const listener = createServer((socket) => {
      const peer = new StreamPeer(context, socket);
      void (async () => {
        await peer.handshake();
        socket.write(
          encodeHandshake({ kind: "accepted", version: 1, features, maxStreams: 100, streamWindowBytes: WINDOW }),
        );
        for (;;) {
          const { frame } = await peer.frame();
          if (frame.kind === KIND.request) socket.write(Buffer.concat(bytes(frame)));
        }
      })().catch(() => undefined);
    }).listen(path);
    context.after(() => listener.close());
    const transport = createIsthmusTransport({ address: path, carrier: "socket", streamWindowBytes: WINDOW });
    context.after(() => transport.close());
    return { transport, client: createClient(StreamService, transport) };
  };
  const answer = ({ streamId: id }: StreamFrame, kind: number, more: Partial<RawFrame> = {}) =>
    frameBytes({ kind, streamId: id, ...more });
  const large = toBinary(ItemSchema, create(ItemSchema, { data: new Uint8Array(WINDOW) }));

  const lies: [what: string, rule: RegExp, bytes: (frame: StreamFrame) => Uint8Array[]][] = [
    [
      "messages without credit",
      /CREDIT-1/,
      (frame) => Array<Uint8Array>(100).fill(answer(frame, KIND.message, { body: item })),
    ],
    [
      "two messages larger than the window",
      /CREDIT-1/,
      (frame) => [answer(frame, KIND.message, { body: large }), answer(frame, KIND.message, { body: large })],
    ],
    ["credit that was not used", /CREDIT-2/, (frame) => [answer(frame, KIND.credit, { argument: 1 })]],
    ["headers twice", /STREAM-7/, (frame) => [answer(frame, KIND.headers), answer(frame, KIND.headers)]],
    [
      "headers after a message",
      /STREAM-7/,
      (frame) => [answer(frame, KIND.message, { body: item }), answer(frame, KIND.headers)],
    ],
    [
      "a response after a message",
      /STREAM-7/,
      (frame) => [answer(frame, KIND.message, { body: item }), answer(frame, KIND.response, { body: item })],
    ],
    [
      "a message after its last",
      /STREAM-8/,
      (frame) => [
        answer(frame, KIND.message, { body: item, flags: FLAG.endStream }),
        answer(frame, KIND.message, { body: item }),
      ],
    ],
    [
      "an end within a message",
      /STREAM-9/,
      (frame) => [
        answer(frame, KIND.message, { body: item, flags: FLAG.more, messageLength: 10 }),
        answer(frame, KIND.end),
      ],
    ],
    ["an end with a body but no error", /STATUS-1/, (frame) => [answer(frame, KIND.end, { body: item })]],
    ["more headers than metadata", /FRAME-7/, (frame) => [answer(frame, KIND.end, { argument: 5 })]],
    [
      "a second end while the first is incomplete",
      /STREAM-2/,
      (frame) => [
        answer(frame, KIND.end, { code: 5, body: item, flags: FLAG.more, messageLength: 10 }),
        answer(frame, KIND.end),
      ],
    ],
    ["a request", /FRAME-6/, (frame) => [answer(frame, KIND.request)]],
  ];
  for (const [what, rule, bytes] of lies) {
    test(`${what} fails the stream, once`, async (context) => {
      const { client, transport } = serve(context, bytes);
      await failure(
        (async () => {
          for await (const { number } of client.count({})) void number;
        })(),
        Code.Unavailable,
        rule,
      );
      assert.equal(transport.stats().pendingCalls, 0);
    });
  }

  test("what comes after a stream's end is dropped, and the next stream starts afresh", async (context) => {
    let calls = 0;
    const { client, transport } = serve(context, (frame) => {
      const late = [
        answer(frame, KIND.message, { body: item }),
        answer(frame, KIND.credit, { argument: 5 }),
        answer(frame, KIND.end),
      ];
      return [answer(frame, KIND.message, { body: item }), answer(frame, KIND.end), ...(calls++ === 0 ? late : [])];
    });
    assert.equal((await collect(client.count({}))).length, 1);
    assert.equal((await collect(client.count({}))).length, 1);
    assert.equal(transport.stats().connections, 1);
  });

  test("an error in the middle of a message ends the stream with that error", async (context) => {
    const { client } = serve(context, (frame) => [
      answer(frame, KIND.message, { body: item }),
      answer(frame, KIND.message, { body: item, flags: FLAG.more, messageLength: 10 }),
      answer(frame, KIND.end, {
        code: Code.DataLoss,
        body: encodeStatus({ code: Code.DataLoss, message: "torn", details: [] }),
      }),
    ]);
    const seen: unknown[] = [];
    const run = (async () => {
      for await (const one of client.count({})) seen.push(one);
    })();
    await failure(run, Code.DataLoss, /torn/);
    assert.equal(seen.length, 1);
  });

  test("a unary call that is answered with a stream fails, and the connection goes on", async (context) => {
    let calls = 0;
    const { client, transport } = serve(context, (frame) =>
      calls++ === 0
        ? [answer(frame, KIND.message, { body: item }), answer(frame, KIND.end)]
        : [answer(frame, KIND.response, { body: item, flags: FLAG.endStream })],
    );
    await failure(client.echo({}), Code.Unimplemented, /answers .*Echo with a stream/);
    assert.equal((await client.echo({})).number, 1n);
    assert.equal(transport.stats().connections, 1);
  });

  test("streams of a server that knows unary calls only are Unimplemented, and their generators end", async (context) => {
    const { client } = serve(context, () => [], 0);
    await failure(collect(client.count({})), Code.Unimplemented, /Count is a streaming method; the server's version/);
    const generator = items(5);
    await failure(client.sum(generator), Code.Unimplemented, /unary calls only/);
    assert.equal((await generator.next()).done, true);
  });
});
