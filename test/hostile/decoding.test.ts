/** Messages that are small on the wire and large when they are decoded. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { TestContext } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { createClient, createIsthmusTransport } from "../../src/index.js";
import { FLAG, KIND } from "../../src/wire/frame.js";
import { FEATURE } from "../../src/wire/hello.js";
import { KindsSchema, KindsService } from "../proto/kinds_pb.js";
import { frameBytes, StreamPeer } from "../support/stream-peer.js";
import { failure, waitUntil } from "../support/waiting.js";
import { serveAttacked } from "./server.js";

const FRAGMENT_BYTES = 16 << 10;
const METHOD = frameBytes({ kind: KIND.method, metadata: Buffer.from("/isthmus.test.KindsService/Echo") });

/** `byteLength` bytes of empty nested messages, three bytes each. */
function empties(byteLength: number): Uint8Array {
  return Uint8Array.from({ length: byteLength - (byteLength % 3) }, (_, i) => [0xca, 0x01, 0][i % 3]);
}

async function attacked(t: TestContext) {
  const server = await serveAttacked(t);
  const transport = createIsthmusTransport({ address: server.path });
  t.after(() => transport.close());
  const honest = createClient(KindsService, transport);
  await honest.echo({ string: "honest" });
  return { server, honest };
}

describe("a message of empty messages", () => {
  for (const mebibytes of [1, 4, 16]) {
    test(`of ${mebibytes} MiB is refused, and the error names the limit`, async (t) => {
      const { server, honest } = await attacked(t);
      const peer = await StreamPeer.open(t, server.path, {
        featuresSupported: FEATURE.streams,
        streamWindowBytes: 65536,
      });
      const message = empties(mebibytes << 20);
      peer.socket.write(METHOD);
      for (let at = 0; at < message.length; at += FRAGMENT_BYTES) {
        const more = at + FRAGMENT_BYTES < message.length ? FLAG.more : 0;
        const body = message.subarray(at, at + FRAGMENT_BYTES);
        const messageLength = message.length;
        const first = { kind: KIND.request, flags: FLAG.endStream | more, streamId: 0x10000, body, messageLength };
        const next = { kind: KIND.message, flags: more, streamId: 0x10000, body, messageLength };
        peer.socket.write(frameBytes(at === 0 ? first : next));
      }
      const { frame, fragment } = await peer.frame();
      assert.equal(frame.code, Code.ResourceExhausted);
      assert.match(fragment.toString("latin1"), /more than 262144 values.*limits\.valuesPerMessage/);
      assert.equal((await honest.echo({ string: "honest" })).string, "honest");
      peer.socket.destroy();
      await waitUntil("nothing to be kept", async () => (await server.condition()).stats.keptBytes === 0);
    });
  }

  test("in one frame counts with what it takes when it is decoded", async (t) => {
    const server = await serveAttacked(t, { limits: { keptBytes: 1 << 20 } });
    const body = empties(15_000);
    const name = "/isthmus.test.TestService/Unfinished";
    const peer = await StreamPeer.open(t, server.path);
    peer.socket.write(frameBytes({ kind: KIND.method, metadata: Buffer.from(name) }));
    // Of an unknown field each, for a request that has no such field.
    peer.socket.write(frameBytes({ kind: KIND.request, flags: FLAG.endStream, streamId: 0x10000, body }));
    await waitUntil("the handler to run", async () => (await server.condition()).handlers.running === 1);
    const { stats } = await server.condition();
    assert.ok(stats.keptBytes > 10 * body.length, `${stats.keptBytes} bytes are kept`);
  });
});

test("honest messages of many values pass", async (t) => {
  const { honest } = await attacked(t);
  const children = Array.from({ length: 5000 }, (_, i) => ({ int32: i, string: `child ${i}`, doubles: [i, i + 1] }));
  const strings = Array.from({ length: 50_000 }, (_, i) => `text ${i}`);
  const reply = await honest.echo({ children, strings, string: "x".repeat(4 << 20) });
  assert.deepEqual(
    toBinary(KindsSchema, reply),
    toBinary(KindsSchema, create(KindsSchema, { children, strings, string: "x".repeat(4 << 20) })),
  );
});

test("what one message may consist of is an option", async (t) => {
  const server = await serveAttacked(t, { limits: { valuesPerMessage: 1000 } });
  const transport = createIsthmusTransport({ address: server.path });
  t.after(() => transport.close());
  const honest = createClient(KindsService, transport);
  await honest.echo({ strings: Array.from({ length: 800 }, () => "") });
  const tooMany = honest.echo({ strings: Array.from({ length: 1001 }, () => "") });
  await failure(
    tooMany,
    Code.ResourceExhausted,
    /more than 1000 values, the server's limit \(limits\.valuesPerMessage\)/,
  );
});
