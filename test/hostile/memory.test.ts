/** Clients that make a server keep memory for them: each is stopped at its limit, and the others are served. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { TestContext } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { createClient, createIsthmusTransport } from "../../src/index.js";
import { FLAG, KIND, METADATA_BYTES_MAX, PATH_BYTES_MAX } from "../../src/wire/frame.js";
import { FEATURE } from "../../src/wire/hello.js";
import { ItemSchema } from "../proto/streams_pb.js";
import { ChecksumRequestSchema, EchoRequestSchema, TestService } from "../proto/test_pb.js";
import { full } from "../stress/settings.js";
import type { RawFrame } from "../support/raw-peer.js";
import type { StreamFrame } from "../support/stream-peer.js";
import { frameBytes, methodFrame, StreamPeer } from "../support/stream-peer.js";
import { waitUntil } from "../support/waiting.js";
import { serveAttacked } from "./server.js";

const KEPT_MAX = full ? 256 << 20 : 16 << 20;
const WINDOW = 1 << 20;
const BODY_BYTES = 4000;
const streams = { featuresSupported: FEATURE.streams, streamWindowBytes: WINDOW };
const METHODS = Buffer.concat([
  methodFrame(0, "Unfinished"),
  methodFrame(1, "Chat", "StreamService"),
  methodFrame(2, "Checksum"),
]);
const PING = frameBytes({ kind: KIND.ping, argument: 7 });

describe("a client that makes a server keep", () => {
  /** A server with a limit, an honest client, and a peer that says `frames` and then pings, so that it knows they came. */
  async function attack(t: TestContext, frames: () => Iterable<RawFrame>) {
    const server = await serveAttacked(t, { limits: { keptBytes: KEPT_MAX } });
    const transport = createIsthmusTransport({ address: server.path });
    t.after(() => transport.close());
    const honest = createClient(TestService, transport);
    await honest.echo({});
    const peer = await StreamPeer.open(t, server.path, streams);
    peer.socket.write(METHODS);
    let batch: Buffer[] = [];
    let bytes = 0;
    for (const frame of frames()) {
      batch.push(frameBytes(frame));
      bytes += batch[batch.length - 1].length;
      if (bytes < 1 << 20) continue;
      const isTaken = peer.socket.write(Buffer.concat(batch));
      batch = [];
      bytes = 0;
      if (!isTaken) await waitUntil("the server to read", () => peer.socket.writableLength < 1 << 20);
    }
    peer.socket.write(Buffer.concat([...batch, PING]));
    return { server, honest, peer };
  }

  /** The errors that came before the answer to the ping. */
  async function refusals(peer: StreamPeer): Promise<{ frame: StreamFrame; text: string }[]> {
    const refused: { frame: StreamFrame; text: string }[] = [];
    for (;;) {
      const { frame, fragment } = await peer.frame();
      if (frame.kind === KIND.pong) return refused;
      if (frame.code !== 0) refused.push({ frame, text: fragment.toString("latin1") });
    }
  }

  const isBack = async (server: Awaited<ReturnType<typeof serveAttacked>>, peer: StreamPeer) => {
    peer.socket.destroy();
    await server.release();
    await waitUntil("nothing to be kept any more", async () => {
      const { stats } = await server.condition();
      return stats.keptBytes === 0 && stats.connections === 1 ? true : JSON.stringify(stats);
    });
  };

  test("messages of streams that nobody reads is refused further ones, and the error names the limit", async (t) => {
    const body = toBinary(ItemSchema, create(ItemSchema, { text: "x".repeat(BODY_BYTES) }));
    const perStream = Math.floor(WINDOW / (body.length + 128));
    const { server, honest, peer } = await attack(t, function* () {
      for (let slot = 0; slot < (2 * KEPT_MAX) / WINDOW; slot++) {
        yield { kind: KIND.request, code: 1, streamId: 0x10000 + slot };
        for (let i = 0; i < perStream; i++) yield { kind: KIND.message, streamId: 0x10000 + slot, body };
      }
    });
    const refused = await refusals(peer);
    assert.ok(refused.length > 0);
    for (const { frame, text } of refused) {
      assert.equal(frame.code, Code.ResourceExhausted);
      assert.match(text, /limits\.keptBytes/);
    }
    const { stats } = await server.condition();
    assert.ok(stats.keptBytes <= KEPT_MAX + body.length + 128, `${stats.keptBytes} bytes are kept`);
    assert.ok(stats.keptBytes > KEPT_MAX / 2, `${stats.keptBytes} bytes are kept`);
    assert.equal((await honest.echo({ text: "honest" })).text, "honest");
    await isBack(server, peer);
  });

  test("requests while their handlers run is refused further ones", async (t) => {
    const body = toBinary(EchoRequestSchema, create(EchoRequestSchema, { data: new Uint8Array(BODY_BYTES) }));
    const { server, honest, peer } = await attack(t, function* () {
      for (let slot = 0; slot < (2 * KEPT_MAX) / BODY_BYTES; slot++)
        yield { kind: KIND.request, flags: FLAG.endStream, streamId: 0x10000 + slot, body };
    });
    const refused = await refusals(peer);
    assert.ok(refused.length > 0);
    for (const { text } of refused) assert.match(text, /limits\.keptBytes/);
    const { stats, handlers } = await server.condition();
    assert.ok(stats.keptBytes <= KEPT_MAX + 2 * body.length, `${stats.keptBytes} bytes are kept`);
    assert.ok(handlers.running * body.length <= stats.keptBytes);
    assert.equal((await honest.echo({ text: "honest" })).text, "honest");
    await isBack(server, peer);
  });

  test("messages that never arrive completely is refused further ones", async (t) => {
    const messageLength = 1 << 20;
    const { server, honest, peer } = await attack(t, function* () {
      for (let slot = 0; slot < (2 * KEPT_MAX) / messageLength; slot++)
        yield {
          kind: KIND.request,
          flags: FLAG.endStream | FLAG.more,
          streamId: 0x10000 + slot,
          body: new Uint8Array(8),
          messageLength,
        };
    });
    const refused = await refusals(peer);
    assert.ok(refused.length >= KEPT_MAX / messageLength - 1);
    for (const { text } of refused) assert.match(text, /limits\.keptBytes/);
    const { stats } = await server.condition();
    assert.ok(stats.keptBytes <= KEPT_MAX + messageLength + 128, `${stats.keptBytes} bytes are kept`);
    assert.equal((await honest.echo({ text: "honest" })).text, "honest");
    await isBack(server, peer);
  });

  test("headers is refused further calls", async (t) => {
    const metadata = Buffer.alloc(METADATA_BYTES_MAX);
    const { server, honest, peer } = await attack(t, function* () {
      for (let slot = 0; slot < (2 * KEPT_MAX) / metadata.length; slot++)
        yield { kind: KIND.request, flags: FLAG.endStream, streamId: 0x10000 + slot, metadata };
    });
    const refused = await refusals(peer);
    assert.ok(refused.length > 0);
    const { stats } = await server.condition();
    assert.ok(stats.keptBytes <= KEPT_MAX + metadata.length, `${stats.keptBytes} bytes are kept`);
    assert.equal((await honest.echo({ text: "honest" })).text, "honest");
    await isBack(server, peer);
  });

  test("names of methods that are not served has them cut off and counted", async (t) => {
    const { server, honest, peer } = await attack(t, function* () {
      for (let code = 3; code < 4096; code++) {
        const name = `/${code}/`.padEnd(PATH_BYTES_MAX, "x");
        yield { kind: KIND.method, code, metadata: Buffer.from(name) };
      }
    });
    assert.deepEqual(await refusals(peer), []);
    const { stats } = await server.condition();
    assert.ok(stats.keptBytes < 4096 * 400, `${stats.keptBytes} bytes are kept`);
    assert.ok(stats.keptBytes > 4000 * 256);
    assert.equal((await honest.echo({ text: "honest" })).text, "honest");
    await isBack(server, peer);
  });

  test("answers by not reading them gets errors in their place", async (t) => {
    const answerBytes = 1 << 20;
    const body = toBinary(ChecksumRequestSchema, create(ChecksumRequestSchema, { sequence: BigInt(answerBytes) }));
    const calls = (3 * KEPT_MAX) / answerBytes;
    const server = await serveAttacked(t, { limits: { keptBytes: KEPT_MAX } });
    const transport = createIsthmusTransport({ address: server.path });
    t.after(() => transport.close());
    const honest = createClient(TestService, transport);
    const peer = await StreamPeer.open(t, server.path, streams);
    peer.socket.pause();
    peer.socket.write(METHODS);
    for (let slot = 0; slot < calls; slot++)
      peer.socket.write(
        frameBytes({ kind: KIND.request, flags: FLAG.endStream, code: 2, streamId: 0x10000 + slot, body }),
      );
    await waitUntil("all answers to be given", async () => {
      const { stats } = await server.condition();
      return stats.pendingCalls === 0 && stats.keptBytes > KEPT_MAX / 2;
    });
    const { stats } = await server.condition();
    assert.ok(stats.keptBytes <= KEPT_MAX + 2 * answerBytes, `${stats.keptBytes} bytes are kept`);
    assert.equal((await honest.echo({ text: "honest" })).text, "honest");
    peer.socket.destroy();
    await waitUntil("nothing to be kept any more", async () => (await server.condition()).stats.keptBytes === 0);
  });
});
