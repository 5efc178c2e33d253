/** Peers that lie on a stream socket: each loses its own connection, and nobody else notices. */
import assert from "node:assert/strict";
import { createServer } from "node:net";
import { before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { FLAG, KIND } from "../../src/wire/frame.js";
import { encodeHandshake } from "../../src/wire/hello.js";
import { EchoReplySchema, EchoRequestSchema, WaitRequestSchema } from "../proto/test_pb.js";
import { frameBytes, methodFrame, STREAM_HELLO, StreamPeer } from "../support/stream-peer.js";
import { suiteOwner, tempSocket } from "../support/temp.js";
import type { TestClient, TestServerProcess } from "../support/test-server.js";
import { connectTo, serveInChild } from "../support/test-server.js";
import { failure, waitUntil } from "../support/waiting.js";

describe("a peer on the socket that lies", () => {
  const owner = suiteOwner();
  let server: TestServerProcess;
  let honest: TestClient;
  const waitForever = toBinary(WaitRequestSchema, create(WaitRequestSchema, { milliseconds: 60_000 }));
  const request = { kind: KIND.request, flags: FLAG.endStream };
  const follows = { ...request, flags: FLAG.endStream | FLAG.follows, streamId: 0x10005 };

  before(async () => {
    server = await serveInChild(owner, { handshakeTimeoutMs: 3000, maxStreams: 1000, readMaxBytes: 1 << 20 });
    honest = connectTo(owner, server, { carrier: "socket" });
    await honest.client.echo({});
  });

  const stillServes = async () => {
    assert.equal((await honest.client.echo({ text: "honest" })).text, "honest");
    assert.equal(honest.transport.stats().connections, 1);
  };

  const violations: [what: string, ...bytes: Uint8Array[]][] = [
    ["garbage after the greeting", Buffer.from("garbage, and enough of it to be a header")],
    ["a second greeting", encodeHandshake(STREAM_HELLO), new Uint8Array(32)],
    ["a frame of no length", frameBytes({ ...request, byteLength: 0 })],
    ["a frame longer than frames may be", frameBytes({ ...request, byteLength: 32_776 })],
    ["a frame of the largest number", frameBytes({ ...request, byteLength: -1 })],
    ["metadata longer than its frame", frameBytes({ ...request, metadataLength: 1000 })],
    ["a fragment longer than its message", frameBytes({ ...request, body: new Uint8Array(8), messageLength: 4 })],
    ["a message longer than messages may be", frameBytes({ ...request, body: new Uint8Array(8), messageLength: -1 })],
    ["spans, which were not negotiated", frameBytes({ ...request, spanCount: 1 })],
    [
      "a fragment in a block, which there are none of",
      frameBytes({ ...request, flags: FLAG.inBlock, body: new Uint8Array(8), messageLength: 100, fragmentLength: 100 }),
    ],
    ["a fragment that follows and is in the frame", frameBytes({ ...follows, body: new Uint8Array(8) })],
    [
      "a fragment that follows for a message that is not whole",
      frameBytes({ ...follows, messageLength: 100, fragmentLength: 10 }),
    ],
    ["a kind of frame that only servers send", frameBytes({ kind: KIND.response })],
    [
      "an open stream slot",
      frameBytes({ ...request, code: 1, streamId: 0x10005, body: waitForever }),
      frameBytes({ ...request, code: 1, streamId: 0x20005, body: waitForever }),
    ],
  ];
  for (const [what, ...bytes] of violations) {
    test(`${what} ends its connection and no other`, async (context) => {
      const before = (await server.stats()).violations;
      const peer = await StreamPeer.open(context, server.path);
      peer.socket.write(Buffer.concat([methodFrame(0, "Echo"), methodFrame(1, "Wait"), ...bytes]));
      await peer.hungUp();
      assert.equal((await server.stats()).violations, before + 1);
      await stillServes();
    });
  }

  test("half a frame, and a fragment that never comes, keep nobody waiting", async (context) => {
    const half = await StreamPeer.open(context, server.path);
    half.socket.write(frameBytes({ ...request, body: new Uint8Array(8) }).subarray(0, 20));
    const missing = await StreamPeer.open(context, server.path);
    missing.socket.write(
      Buffer.concat([
        methodFrame(0, "Echo"),
        frameBytes({ ...follows, messageLength: 500_000, fragmentLength: 500_000 }),
        new Uint8Array(1000),
      ]),
    );
    await waitUntil("the server to wait for the fragment", async () => (await server.stats()).pendingCalls === 1);
    await stillServes();
    half.socket.destroy();
    missing.socket.destroy();
    await waitUntil("both to be gone", async () => (await server.stats()).connections === 1);
    assert.equal((await server.stats()).pendingCalls, 0);
    await stillServes();
  });

  test("a fragment of a message that is refused is read past, and the connection goes on", async (context) => {
    const peer = await StreamPeer.open(context, server.path);
    const tooMuch = (1 << 20) + 1000;
    peer.socket.write(
      Buffer.concat([
        methodFrame(0, "Echo"),
        frameBytes({ ...follows, streamId: 0x10001, messageLength: tooMuch, fragmentLength: tooMuch }),
        new Uint8Array(tooMuch).fill(0xff),
        frameBytes({
          ...request,
          streamId: 0x10002,
          body: toBinary(EchoRequestSchema, create(EchoRequestSchema, { text: "after" })),
        }),
      ]),
    );
    const refused = await peer.frame();
    assert.deepEqual(
      [refused.frame.kind, refused.frame.code, refused.frame.streamId],
      [KIND.response, Code.ResourceExhausted, 0x10001],
    );
    const answer = await peer.frame();
    assert.deepEqual([answer.frame.code, answer.frame.streamId], [0, 0x10002]);
    assert.match(answer.fragment.toString("latin1"), /after/);
  });

  test("frames that come byte by byte, behind a fragment of odd length, are frames all the same", async (context) => {
    const peer = await StreamPeer.open(context, server.path);
    const message = toBinary(EchoRequestSchema, create(EchoRequestSchema, { text: "x".repeat(101) }));
    const bytes = Buffer.concat([
      methodFrame(0, "Echo"),
      frameBytes({ ...follows, streamId: 0x10001, messageLength: message.length, fragmentLength: message.length }),
      message,
      frameBytes({ ...request, streamId: 0x10002, body: message }),
    ]);
    assert.notEqual(message.length % 4, 0);
    for (const byte of bytes) {
      peer.socket.write(Uint8Array.of(byte));
      await new Promise((resolve) => setImmediate(resolve));
    }
    assert.deepEqual([(await peer.frame()).frame.streamId, (await peer.frame()).frame.streamId], [0x10001, 0x10002]);
  });

  test("a client that half-closes is gone", async (context) => {
    const before = (await server.stats()).connections;
    const peer = await StreamPeer.open(context, server.path);
    await waitUntil("it to be connected", async () => (await server.stats()).connections === before + 1);
    peer.socket.end();
    await peer.hungUp();
    await waitUntil("it to be gone", async () => (await server.stats()).connections === before);
  });

  test("a client that never finishes its greeting is refused", async (context) => {
    const peer = await StreamPeer.connect(context, server.path);
    peer.socket.write(encodeHandshake(STREAM_HELLO).subarray(0, 20));
    const answer = await peer.handshake();
    assert.ok(answer?.kind === "refused" && /no greeting within 3000 ms/.test(answer.message));
    await peer.hungUp();
  });

  describe("and reads no answers", () => {
    const CALLS = 900;
    const body = toBinary(EchoRequestSchema, create(EchoRequestSchema, { data: new Uint8Array(15_000) }));
    const sendAll = async (peer: StreamPeer, generation: number) => {
      for (let slot = 0; slot < CALLS && !peer.closed; slot++) {
        peer.socket.write(frameBytes({ ...request, streamId: generation * 0x10000 + slot, body }));
        await waitUntil("the server to read on", () => peer.socket.writableLength < 1 << 18 || peer.closed);
        if (slot % 200 === 0) await stillServes();
      }
      await waitUntil("the server to have read all", () => peer.socket.writableLength === 0 || peer.closed);
    };

    test("gets them when it does, and others are served meanwhile", async (context) => {
      const peer = await StreamPeer.open(context, server.path);
      peer.socket.pause();
      peer.socket.write(methodFrame(0, "Echo"));
      await sendAll(peer, 1);
      await stillServes();
      assert.equal(peer.closed, false);
      peer.socket.resume();
      const seen = new Set<number>();
      for (let i = 0; i < CALLS; i++) {
        const { frame } = await peer.frame();
        assert.deepEqual([frame.kind, frame.code], [KIND.response, 0]);
        seen.add(frame.streamId);
      }
      assert.equal(seen.size, CALLS);
    });

    test("and goes on calling is ended, so that what waits for it is bounded", async (context) => {
      const before = (await server.stats()).violations;
      const peer = await StreamPeer.open(context, server.path);
      peer.socket.pause();
      peer.socket.write(methodFrame(0, "Echo"));
      await sendAll(peer, 1);
      await sendAll(peer, 2);
      await waitUntil("the server to end it", async () => (await server.stats()).violations === before + 1);
      await stillServes();
    });
  });
});

describe("a server on the socket that lies", () => {
  const reply = toBinary(EchoReplySchema, create(EchoReplySchema, { text: "honest" }));
  const answer = { kind: KIND.response, flags: FLAG.endStream, streamId: 0x10000, body: reply };
  for (const [what, message, bytes] of [
    ["garbage", /FRAME-1/, Buffer.from("garbage, and enough of it to be a header")],
    [
      "a block",
      /FRAME-8/,
      frameBytes({ ...answer, flags: FLAG.inBlock, body: new Uint8Array(8), messageLength: 9, fragmentLength: 9 }),
    ],
    ["a request", /FRAME-6/, frameBytes({ ...answer, kind: KIND.request })],
    ["half an answer and a hang-up", /connection lost/, frameBytes(answer).subarray(0, 36)],
    [
      "half a fragment and a hang-up",
      /connection lost/,
      Buffer.concat([
        frameBytes({
          ...answer,
          flags: FLAG.follows,
          body: new Uint8Array(0),
          messageLength: 100_000,
          fragmentLength: 100_000,
        }),
        new Uint8Array(5),
      ]),
    ],
  ] as const) {
    test(`${what} fails the call, once`, async (context) => {
      const path = tempSocket(context);
      const listener = createServer((socket) => {
        const peer = new StreamPeer(context, socket);
        void (async () => {
          await peer.handshake();
          socket.write(encodeHandshake({ kind: "accepted", version: 1, features: 0, maxStreams: 100 }));
          while ((await peer.frame()).frame.kind !== KIND.request);
          socket.write(bytes);
          if (what.endsWith("hang-up")) socket.end();
        })();
      }).listen(path);
      context.after(() => listener.close());
      const { client, transport } = connectTo(context, { path }, { carrier: "socket" });
      let settled = 0;
      const call = client.echo({}).finally(() => settled++);
      await failure(call, Code.Unavailable, message);
      await sleep(20);
      assert.equal(settled, 1);
      assert.equal(transport.stats().pendingCalls, 0);
      assert.notEqual(transport.state, "ready");
    });
  }
});
