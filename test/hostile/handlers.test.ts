/** Clients that give calls up to make a server run more handlers than they have slots for. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import type { IsthmusServer, IsthmusServerOptions } from "../../src/index.js";
import { createClient, createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { FLAG, KIND } from "../../src/wire/frame.js";
import { FEATURE } from "../../src/wire/hello.js";
import { ItemSchema, StreamService } from "../proto/streams_pb.js";
import { EchoRequestSchema, TestService } from "../proto/test_pb.js";
import { full } from "../stress/settings.js";
import { frameBytes, methodFrame, StreamPeer } from "../support/stream-peer.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";
import { failure, waitUntil } from "../support/waiting.js";

const MAX_STREAMS = 4;
const PAIRS = full ? 60_000 : 6000;

interface Stubborn {
  readonly server: IsthmusServer;
  readonly path: string;
  /** Handlers that run now, and the most that ran at once. */
  readonly counts: { running: number; peak: number; started: number };
  /** Lets all handlers settle, those that start later too. */
  readonly release: () => void;
}

/** A server whose handlers, and gates with `gated`, ignore their signals and settle when `release` was called. */
async function serveStubborn(
  owner: Owner,
  options: Partial<IsthmusServerOptions> = {},
  where: "handlers" | "gates" = "handlers",
): Promise<Stubborn> {
  const counts = { running: 0, peak: 0, started: 0 };
  let release!: () => void;
  const released = new Promise<void>((resolve) => (release = resolve));
  const linger = async () => {
    counts.started++;
    counts.peak = Math.max(counts.peak, ++counts.running);
    await released;
    counts.running--;
  };
  const path = tempSocket(owner);
  const server = createIsthmusServer({
    maxStreams: MAX_STREAMS,
    ...options,
    ...(where === "gates" ? { requestGate: linger } : {}),
    routes: ({ service }) => {
      service(TestService, {
        echo: async ({ text }) => {
          if (where === "handlers") await linger();
          return { text };
        },
      });
      service(StreamService, {
        async *chat(requests) {
          if (where === "handlers") await linger();
          yield* requests;
        },
      });
    },
  });
  await server.listen(path);
  owner.after(() => server.close({ timeoutMs: 0 }));
  return { server, path, counts, release };
}

const UNARY = methodFrame(0, "Echo");
const STREAM = methodFrame(0, "Chat", "StreamService");
const unaryRequest = {
  kind: KIND.request,
  flags: FLAG.endStream,
  body: toBinary(EchoRequestSchema, create(EchoRequestSchema, { text: "x" })),
};
const streamRequest = { kind: KIND.request };

function pairs(count: number, request: Parameters<typeof frameBytes>[0]): Buffer {
  return Buffer.concat(
    Array.from({ length: count }, (_, i) => {
      const streamId = ((i + 1) << 16) >>> 0;
      return Buffer.concat([
        frameBytes({ ...request, streamId }),
        frameBytes({ kind: KIND.reset, code: Code.Canceled, streamId }),
      ]);
    }),
  );
}

describe("requests and resets in turn", () => {
  for (const [what, method, request, where] of [
    ["unary handlers", UNARY, unaryRequest, "handlers"],
    ["handlers of streams", STREAM, streamRequest, "handlers"],
    ["gates of unary calls", UNARY, unaryRequest, "gates"],
    ["gates of streams", STREAM, streamRequest, "gates"],
  ] as const) {
    test(`run no more ${what} than there are slots`, async (t) => {
      const { server, path, counts, release } = await serveStubborn(t, { limits: { resetsPerSecond: 1e9 } }, where);
      const peer = await StreamPeer.open(t, path, { featuresSupported: FEATURE.streams, streamWindowBytes: 4096 });
      peer.socket.write(Buffer.concat([method, pairs(PAIRS, request)]));
      // Answered behind everything before it.
      peer.socket.write(frameBytes({ kind: KIND.ping, argument: 7 }));
      const { frame } = await peer.frame();
      assert.equal(frame.kind, KIND.pong);
      assert.equal(counts.running, MAX_STREAMS);
      assert.equal(server.stats().handlers, MAX_STREAMS);
      assert.equal(server.stats().pendingCalls, 0);
      release();
      await waitUntil("the handlers to settle", () => server.stats().handlers === 0);
      assert.equal(counts.peak, MAX_STREAMS);
      // Calls that were given up while they waited never started.
      assert.equal(counts.started, MAX_STREAMS);
    });
  }

  test("end the connection if there are more of them per second than the limit", async (t) => {
    const { server, path } = await serveStubborn(t, { limits: { resetsPerSecond: 100 } });
    const peer = await StreamPeer.open(t, path);
    peer.socket.write(Buffer.concat([UNARY, pairs(PAIRS, unaryRequest)]));
    await peer.hungUp();
    assert.equal(server.stats().violations, 1);
    assert.equal(server.stats().handlers <= MAX_STREAMS, true);
  });

  test("leave the other clients' calls alone", async (t) => {
    const { path, release, counts } = await serveStubborn(t, { limits: { resetsPerSecond: 1e9 } });
    const peer = await StreamPeer.open(t, path);
    peer.socket.write(Buffer.concat([UNARY, pairs(PAIRS, unaryRequest)]));
    await waitUntil("handlers that linger", () => counts.running === MAX_STREAMS);
    const transport = createIsthmusTransport({ address: path });
    t.after(() => transport.close());
    const answer = createClient(TestService, transport).echo({ text: "honest" });
    await waitUntil("the honest handler to run", () => counts.running === MAX_STREAMS + 1);
    release();
    assert.equal((await answer).text, "honest");
  });
});

describe("a client whose calls were given up while their handlers go on", () => {
  for (const carrier of ["auto", "socket"] as const) {
    test(`waits for a place, and is served then (${carrier})`, async (t) => {
      const { server, path, counts, release } = await serveStubborn(t, { maxStreams: 1 });
      const transport = createIsthmusTransport({ address: path, carrier });
      t.after(() => transport.close());
      const client = createClient(TestService, transport);
      const streams = createClient(StreamService, transport);
      const abort = new AbortController();
      const given = client.echo({ text: "given up" }, { signal: abort.signal });
      await waitUntil("the handler to run", () => counts.running === 1);
      abort.abort();
      await failure(given, Code.Canceled, /abort/i);
      const large = "x".repeat(100_000);
      const unary = client.echo({ text: large });
      await waitUntil("the next call to wait", () => server.stats().pendingCalls === 1);
      assert.equal(counts.started, 1);
      release();
      assert.equal((await unary).text, large);
      const numbers: bigint[] = [];
      const items = [1n, 2n, 3n].map((number) => create(ItemSchema, { number }));
      for await (const { number } of streams.chat(asyncOf(items))) numbers.push(number);
      assert.deepEqual(numbers, [1n, 2n, 3n]);
      assert.equal(server.stats().handlers, 0);
    });
  }

  test("may give the waiting call up, or run out of time, too", async (t) => {
    const { server, path, counts, release } = await serveStubborn(t, { maxStreams: 1 });
    const transport = createIsthmusTransport({ address: path });
    t.after(() => transport.close());
    const client = createClient(TestService, transport);
    const abort = new AbortController();
    const given = client.echo({}, { signal: abort.signal });
    await waitUntil("the handler to run", () => counts.running === 1);
    abort.abort();
    await failure(given, Code.Canceled, /abort/i);
    await failure(client.echo({}, { timeoutMs: 50 }), Code.DeadlineExceeded, /timed out/);
    release();
    await waitUntil("the handlers to settle", () => server.stats().handlers === 0);
    assert.equal(counts.started, 1);
    assert.equal((await client.echo({ text: "after" })).text, "after");
  });
});

async function* asyncOf<T>(items: readonly T[]): AsyncGenerator<T> {
  for (const item of items) yield await Promise.resolve(item);
}
