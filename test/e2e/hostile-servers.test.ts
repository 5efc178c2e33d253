/** Servers that lie: the client's calls fail with the rule that was broken, and its process goes on. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { TestContext } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { WORD } from "../../src/memory/shm/layout.js";
import { SEALS } from "../../src/os/addon.js";
import { FLAG, KIND } from "../../src/wire/frame.js";
import { encodeHandshake, FEATURE } from "../../src/wire/hello.js";
import { EchoReplySchema } from "../proto/test_pb.js";
import type { RawPeer, SegmentLies } from "../support/raw-peer.js";
import { rawListener } from "../support/raw-peer.js";
import { tempSocket } from "../support/temp.js";
import type { TestClient } from "../support/test-server.js";
import { connectTo, serveInChild } from "../support/test-server.js";
import { failure, waitUntil } from "../support/waiting.js";

const accepted = encodeHandshake({ kind: "accepted", version: 1, features: FEATURE.sharedMemory, maxStreams: 100 });
const reply = toBinary(EchoReplySchema, create(EchoReplySchema, { text: "honest" }));

function acceptedBy(context: TestContext, shakeHands: (peer: RawPeer) => void): TestClient {
  const path = tempSocket(context);
  const listener = rawListener(context, path);
  void listener.next().then(async (peer) => {
    await peer.join("hello");
    shakeHands(peer);
  });
  return connectTo(context, { path });
}

function blockReference(unit: number, generation: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(unit, generation).buffer);
}

describe("a lying server in the handshake", () => {
  const segments: [what: string, lies: SegmentLies, message: RegExp][] = [
    ["has an unsealed ring", { ringSeals: 0 }, /SEGMENT-1/],
    ["has a ring that others may write", { ringSeals: SEALS.SHRINK | SEALS.GROW | SEALS.SEAL }, /SEGMENT-1/],
    ["has an unsealed arena", { arenaSeals: 0 }, /SEGMENT-1/],
    ["says a wrong size", { arenaSegmentBytes: 1 << 21 }, /LAYOUT-3/],
    ["has no magic number", { ringHeader: (words) => (words[0] = 0) }, /LAYOUT-2/],
  ];
  for (const [what, lies, message] of segments) {
    test(what, async (context) => {
      const { client, transport } = acceptedBy(context, (peer) => peer.send(accepted, peer.makeSegments(lies)));
      await failure(client.echo({}), Code.Unavailable, message);
      assert.equal(transport.state, "idle");
    });
  }
  test("sends one descriptor", async (context) => {
    const { client } = acceptedBy(context, (peer) => peer.send(accepted, peer.makeSegments().slice(1)));
    await failure(client.echo({}), Code.Unavailable, /1 descriptors/);
  });
  test("hangs up after any number of its answer's bytes", async (context) => {
    const path = tempSocket(context);
    const listener = rawListener(context, path);
    const { client } = connectTo(context, { path }, { waitForReady: false });
    for (let byteLength = 0; byteLength < accepted.length; byteLength++) {
      const call = failure(client.echo({}), Code.Unavailable, /the peer closed the connection/);
      const peer = await listener.next();
      await peer.join("hello");
      if (byteLength > 0) peer.send(accepted.subarray(0, byteLength), peer.makeSegments());
      peer.close();
      await call;
    }
  });
});

describe("what a client finds when it looks for room for a message", () => {
  const lies: Record<string, (peer: RawPeer) => void> = {
    "releases of blocks that were never given out": (peer) => {
      peer.words[WORD.releaseEntries] = 200;
      Atomics.store(peer.words, WORD.released, 1);
    },
    "more releases than slots": (peer) => Atomics.store(peer.words, WORD.released, -5),
  };
  const sizes: Record<string, number> = {
    "one block": 100_000,
    "several blocks": 3_000_000,
    "more than the arena has": 300_000_000,
  };
  for (const [what, lie] of Object.entries(lies)) {
    for (const [size, byteLength] of Object.entries(sizes)) {
      test(`ends the connection, and each call is Unavailable: ${what}, a message of ${size}`, async (context) => {
        const path = tempSocket(context);
        const listener = rawListener(context, path);
        const { client, transport } = connectTo(context, { path }, { waitForReady: false });
        // Blocks are out, so the next message looks for those that came back.
        const first = failure(client.echo({ data: new Uint8Array(100_000) }), Code.Unavailable, /RELEASE-/);
        const peer = await listener.next();
        await peer.join("hello");
        peer.send(
          encodeHandshake({
            kind: "accepted",
            version: 1,
            features: FEATURE.sharedMemory | FEATURE.spans,
            maxStreams: 100,
          }),
          peer.makeSegments(),
        );
        await waitUntil("the client's request", () => peer.read().some(({ kind }) => kind === KIND.request));
        lie(peer);
        await failure(client.echo({ data: new Uint8Array(byteLength) }), Code.Unavailable, /RELEASE-/);
        await first;
        await peer.hungUp();
        assert.equal(transport.stats().pendingCalls, 0);
      });
    }
  }
});

describe("a lying server on a connection", () => {
  /** Has a client connect and make a call, lets `act` lie, and expects that its calls fail with `message`. */
  const isViolation = (
    what: string,
    message: RegExp,
    act: (peer: RawPeer, here: TestClient) => void | Promise<void>,
  ): void => {
    test(what, async (context) => {
      const path = tempSocket(context);
      const listener = rawListener(context, path);
      const here = connectTo(context, { path });
      const call = failure(here.client.wait({ milliseconds: 1 }), Code.Unavailable, message);
      const peer = await listener.next();
      await peer.join("hello");
      peer.send(accepted, peer.makeSegments());
      await waitUntil("the client's request", () => peer.read().some(({ kind }) => kind === KIND.request));
      await act(peer, here);
      await call;
      await peer.hungUp();
      assert.notEqual(here.transport.state, "ready");
      assert.equal(here.transport.stats().pendingCalls, 0);

      // The next call makes a new connection.
      const next = here.client.echo({});
      const honest = await listener.next();
      await honest.join("hello");
      honest.send(accepted, honest.makeSegments());
      let streamId = 0;
      await waitUntil("the request", () =>
        honest.read().some((frame) => frame.kind === KIND.request && ((streamId = frame.streamId), true)),
      );
      honest.frame({ kind: KIND.response, flags: FLAG.endStream, streamId, body: reply });
      honest.publish();
      assert.equal((await next).text, "honest");
    });
  };
  const answer = { kind: KIND.response, flags: FLAG.endStream, streamId: 0x10000, body: reply };
  const afterFrame = (frame: Parameters<RawPeer["frame"]>[0]) => (peer: RawPeer) => {
    peer.frame(frame);
    peer.publish();
  };

  isViolation("garbage on the doorbell line", /BELL-5/, (peer) => void peer.send(Buffer.from("garbage")));
  isViolation("a doorbell that never stops", /BELL-/, async (peer) => {
    for (let i = 0; i < 200; i++) {
      for (let j = 0; j < 200; j++) peer.addon.ringDoorbell(peer.descriptor);
      await sleep(1);
    }
  });
  isViolation("a tail beyond the ring", /RING-1/, (peer) => peer.publish((peer.tail + 65536 + 8) | 0));
  isViolation("a tail that is not aligned", /RING-1/, (peer) => peer.publish(peer.tail + 1));
  isViolation("a frame of no length", /FRAME-1/, afterFrame({ ...answer, byteLength: 0 }));
  isViolation("a request", /FRAME-6: frame kind 1 from a server/, afterFrame({ ...answer, kind: KIND.request }));
  isViolation(
    "headers that reach past the metadata",
    /FRAME-7/,
    afterFrame({ ...answer, argument: 100, metadata: new Uint8Array(8) }),
  );
  isViolation("headers without metadata that reach past it", /FRAME-7/, afterFrame({ ...answer, argument: 100 }));
  isViolation(
    "a block past the arena",
    /FRAME-5/,
    afterFrame({ ...answer, flags: FLAG.inBlock, body: blockReference(4096, 1), messageLength: 9, fragmentLength: 9 }),
  );
  isViolation("a second first fragment of one answer", /STREAM-2/, (peer) => {
    peer.frame({ ...answer, flags: FLAG.more, messageLength: 1000 });
    peer.frame({ ...answer, flags: FLAG.more, messageLength: 1000 });
    peer.publish();
  });
  isViolation("a further fragment without a first", /STREAM-3/, afterFrame({ ...answer, kind: KIND.message }));
  isViolation("releases of blocks that were never given out", /RELEASE-/, async (peer, { client }) => {
    peer.words[WORD.releaseEntries] = 200;
    Atomics.store(peer.words, WORD.released, 1);
    await failure(client.echo({ data: new Uint8Array(3_000_000) }), Code.Unavailable, /RELEASE-/);
  });
  isViolation("more releases than slots", /RELEASE-1/, async (peer, { client }) => {
    Atomics.store(peer.words, WORD.released, -5);
    await failure(client.echo({ data: new Uint8Array(3_000_000) }), Code.Unavailable, /RELEASE-1/);
  });
  for (const head of [-8, 4, 1 << 30]) {
    isViolation(`a read cursor of ${head}, seen by a call that is given up`, /RING-3/, async (peer, { client }) => {
      Atomics.store(peer.words, WORD.head, head);
      const calls = Array.from({ length: 90 }, () => client.echo({ data: new Uint8Array(10_000) }, { timeoutMs: 300 }));
      const reasons = (await Promise.allSettled(calls)).map((outcome) =>
        String((outcome as PromiseRejectedResult).reason),
      );
      assert.ok(
        reasons.some((reason) => /RING-3/.test(reason)),
        reasons[0],
      );
      // Those after it wait for a new connection, which is not answered yet.
      assert.ok(
        reasons.every((reason) => /RING-3|before there was a connection/.test(reason)),
        reasons.join(),
      );
    });
  }

  test("answers to calls that do not exist are ignored", async (context) => {
    const path = tempSocket(context);
    const listener = rawListener(context, path);
    const call = connectTo(context, { path }).client.echo({});
    const peer = await listener.next();
    await peer.join("hello");
    peer.send(accepted, peer.makeSegments());
    await waitUntil("the request", () => peer.read().some(({ kind }) => kind === KIND.request));
    for (const streamId of [0, 0x20000, 0x10001, 0xffffffff]) peer.frame({ ...answer, streamId });
    peer.frame({ kind: KIND.ping, argument: 5 });
    peer.frame({ kind: KIND.pong });
    peer.frame(answer);
    peer.frame(answer);
    peer.publish();
    assert.equal((await call).text, "honest");
    await waitUntil("the pong", () => peer.read().some(({ kind }) => kind === KIND.pong));
  });

  test("an error with a status that cannot be read, or a code that is none, is still an error", async (context) => {
    const path = tempSocket(context);
    const listener = rawListener(context, path);
    const { client } = connectTo(context, { path });
    const calls = [
      failure(client.echo({}), Code.NotFound, /the server's error could not be read/),
      failure(client.echo({}), Code.Unknown, /unknown/),
    ];
    const peer = await listener.next();
    await peer.join("hello");
    peer.send(accepted, peer.makeSegments());
    let requests = 0;
    await waitUntil(
      "both requests",
      () => (requests += peer.read().filter(({ kind }) => kind === KIND.request).length) === 2,
    );
    peer.frame({ ...answer, code: Code.NotFound, body: Uint8Array.of(0x12, 0xff, 0xff) });
    peer.frame({ ...answer, streamId: 0x10001, code: 999, body: new Uint8Array(0) });
    peer.publish();
    await Promise.all(calls);
  });

  test("trailers that are cut off are read as far as they go", async (context) => {
    const path = tempSocket(context);
    const listener = rawListener(context, path);
    let header: Headers | undefined;
    const call = connectTo(context, { path }).client.echo({}, { onHeader: (value) => (header = value) });
    const peer = await listener.next();
    await peer.join("hello");
    peer.send(accepted, peer.makeSegments());
    await waitUntil("the request", () => peer.read().some(({ kind }) => kind === KIND.request));
    const metadata = Uint8Array.of(1, 0, 0x61, 1, 0, 0, 0, 0x62, 9, 9);
    peer.frame({ ...answer, metadata, argument: metadata.length });
    peer.publish();
    assert.equal((await call).text, "honest");
    assert.deepEqual([...header!], [["a", "b"]]);
  });

  test("a server that dies in the middle of an answer", async (context) => {
    const path = tempSocket(context);
    const listener = rawListener(context, path);
    const call = failure(connectTo(context, { path }).client.echo({}), Code.Unavailable, /connection lost/);
    const peer = await listener.next();
    await peer.join("hello");
    peer.send(accepted, peer.makeSegments());
    await waitUntil("the request", () => peer.read().some(({ kind }) => kind === KIND.request));
    peer.frame({ ...answer, flags: FLAG.more, messageLength: 1000 });
    peer.publish();
    await sleep(10);
    peer.close();
    await call;
  });
});

test("other connections of the client do not notice", async (context) => {
  const server = await serveInChild(context);
  const honest = connectTo(context, server);
  await honest.client.echo({});
  const path = tempSocket(context);
  const listener = rawListener(context, path);
  const call = failure(connectTo(context, { path }).client.echo({}), Code.Unavailable, /RING-1/);
  const peer = await listener.next();
  await peer.join("hello");
  peer.send(accepted, peer.makeSegments());
  await sleep(5);
  peer.publish(-8);
  await Promise.all([call, honest.client.echo({}), honest.client.echo({ data: new Uint8Array(1_000_000) })]);
  assert.equal(honest.transport.stats().connections, 1);
});
