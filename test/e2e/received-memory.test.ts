/** Memory that messages are received into over sockets is used again, and never under bytes that somebody still has. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { TestContext } from "node:test";
import { Code, createClient } from "@connectrpc/connect";
import type { ConnectRouter, Transport } from "@connectrpc/connect";
import type { LeaseLifetime } from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport, release, retain } from "../../src/index.js";
import { collectSoon, collectYoung } from "../../src/memory/v8/gc.js";
import { transferBuffer } from "../../src/memory/v8/array-buffer-transfer.js";
import { randomOf } from "../../src/memory/shm/random.test.util.js";
import { TestService } from "../proto/test_pb.js";
import { patternBytes } from "../support/checksum.js";
import { FLAG, KIND } from "../../src/wire/frame.js";
import { frameBytes, methodFrame, StreamPeer } from "../support/stream-peer.js";
import { tempSocket } from "../support/temp.js";
import { waitUntil } from "../support/waiting.js";

const LIFETIMES: readonly LeaseLifetime[] = ["collected", "scoped", "copied", "strict"];
const SIZES = [20_000, 40_000, 70_001, 300_000, 1_100_000, 3_000_000];

/** A server that keeps some of its requests' bytes, and checks later that they are as they came. */
async function serveKeeping(context: TestContext, leases: LeaseLifetime) {
  const kept: { data: Uint8Array; seed: number }[] = [];
  const routes = (router: ConnectRouter) =>
    router.service(TestService, {
      echo(request) {
        const { data, number } = request;
        const seed = Number(number);
        assert.equal(Buffer.compare(data, patternBytes(data.length, seed)), 0, "a request arrives as it was sent");
        if (seed % 3 === 0) {
          retain(request);
          kept.push({ data, seed });
        }
        return { data, number };
      },
    });
  const server = createIsthmusServer({ routes, carrier: "socket", leases });
  const path = tempSocket(context);
  await server.listen(path);
  context.after(() => server.close({ timeoutMs: 0 }));
  return { path, kept };
}

function connect(context: TestContext, path: string, leases: LeaseLifetime) {
  const transport = createIsthmusTransport({ address: path, carrier: "socket", leases });
  context.after(() => transport.close());
  return { transport, client: createClient(TestService, transport as Transport) };
}

/** The user's try to move a lease's memory; undefined where leased memory cannot be moved (from Node 24 on). */
function moveAway(buffer: ArrayBuffer): ArrayBuffer | undefined {
  try {
    return transferBuffer(buffer);
  } catch (error) {
    assert.match((error as Error).message, /not detachable/);
    return undefined;
  }
}

for (const leases of LIFETIMES) {
  describe(`memory of received messages, ${leases}`, () => {
    test("what is kept stays as it was, whatever is received after it", async (context) => {
      const random = randomOf(context);
      const { path, kept } = await serveKeeping(context, leases);
      const { client } = connect(context, path, leases);
      const mine: { data: Uint8Array; seed: number }[] = [];
      const checkAll = () => {
        for (const { data, seed } of [...mine, ...kept])
          assert.equal(Buffer.compare(data, patternBytes(data.length, seed)), 0, `the bytes of call ${seed}`);
      };
      let seed = 0;
      for (let round = 0; round < 60; round++) {
        await Promise.all(
          Array.from({ length: 1 + random(4) }, async () => {
            const own = ++seed;
            const length = SIZES[random(SIZES.length)] + random(100);
            const options = random(8) === 0 ? { signal: AbortSignal.timeout(1 + random(3)) } : {};
            const reply = await client
              .echo({ data: patternBytes(length, own), number: BigInt(own) }, options)
              .catch(() => undefined);
            if (reply === undefined) return assert.ok("signal" in options, "only calls with a time limit fail");
            assert.equal(Buffer.compare(reply.data, patternBytes(length, own)), 0, `the reply to call ${own}`);
            const what = random(4);
            if (what === 0) {
              mine.push({ data: reply.data, seed: own });
            } else if (what === 1) {
              release(reply);
            } else if (what === 2) {
              // Moved away by its user: nobody else may come to have the memory meanwhile.
              const whole =
                reply.data.byteOffset === 0 && reply.data.buffer.byteLength === length && leases !== "strict";
              const moved = whole ? moveAway(reply.data.buffer as ArrayBuffer) : undefined;
              if (moved?.byteLength === length) mine.push({ data: new Uint8Array(moved), seed: own });
            }
          }),
        );
        while (mine.length > 20) mine.splice(random(mine.length), 1);
        while (kept.length > 20) kept.splice(random(kept.length), 1);
        if (random(6) === 0) collectSoon();
        else if (random(3) === 0) collectYoung();
        if (round % 5 === 0) checkAll();
      }
      checkAll();
    });

    test("leases are counted, and end", async (context) => {
      const { path } = await serveKeeping(context, leases);
      const { client, transport } = connect(context, path, leases);
      const data = patternBytes(500_000, 1);
      for (let i = 0; i < 30; i++) await client.echo({ data, number: 1n });
      const open = () => transport.stats().connection!.leases;
      assert.equal(open() > 0, leases === "collected" || leases === "scoped");
      await waitUntil("the leases to end", () => {
        collectSoon();
        return open() === 0 || open();
      });
    });

    test("bytes outlive their connection", async (context) => {
      const { path } = await serveKeeping(context, leases);
      const first = connect(context, path, leases);
      const second = connect(context, path, leases);
      const seeds = [1, 2, 4, 5];
      const replies = await Promise.all(
        seeds.map((seed) => first.client.echo({ data: patternBytes(400_000, seed), number: BigInt(seed) })),
      );
      await first.transport.close();
      for (let i = 0; i < 20; i++) release(await second.client.echo({ data: patternBytes(400_000, 7), number: 7n }));
      replies.forEach(({ data }, i) => assert.equal(Buffer.compare(data, patternBytes(400_000, seeds[i])), 0));
    });
  });
}

test("a released or scoped value's memory is received into again", async (context) => {
  const { path } = await serveKeeping(context, "scoped");
  const { client } = connect(context, path, "scoped");
  const data = patternBytes(1 << 20, 1);
  const call = async () => {
    const reply = await client.echo({ data, number: 1n });
    assert.equal(reply.data.length, data.length);
    release(reply);
    assert.equal(reply.data.length, 0, "it is empty after its release");
  };
  for (let i = 0; i < 40; i++) await call();
  const before = process.resourceUsage().minorPageFault;
  for (let i = 0; i < 200; i++) await call();
  const faults = process.resourceUsage().minorPageFault - before;
  // 200 calls bring 400 messages of 256 pages to this process.
  assert.ok(faults < 20_000, `${faults} page faults`);
});

test("bytes that are being sent on are sent whole, although they are released", async (context) => {
  const { path } = await serveKeeping(context, "scoped");
  const { client } = connect(context, path, "collected");
  const data = patternBytes(2_000_000, 1);
  const reply = await client.echo({ data, number: 1n });
  const calls = Array.from({ length: 6 }, () => client.echo({ data: reply.data, number: 1n }));
  release(reply);
  const other = client.echo({ data: patternBytes(2_000_000, 2), number: 2n });
  for (const call of calls) assert.equal(Buffer.compare((await call).data, data), 0);
  assert.equal((await other).number, 2n);
});

test("small values of a large message are copies, which stay", async (context) => {
  const { path } = await serveKeeping(context, "collected");
  const { client } = connect(context, path, "collected");
  const reply = await client.echo({ data: patternBytes(200_000, 1), number: 1n, text: "t".repeat(50_000) });
  release(reply);
  assert.equal(reply.data.length, 0);
  assert.equal(reply.number, 1n);
});

test("the rest of a request that was given up is not read into another's memory", async (context) => {
  const { path, kept } = await serveKeeping(context, "collected");
  const { client } = connect(context, path, "collected");
  const byteLength = 600_000;
  await client.echo({ data: patternBytes(byteLength, 1), number: 1n });
  const peer = await StreamPeer.open(context, path);
  const flags = FLAG.endStream | FLAG.follows;
  peer.socket.write(methodFrame(0, "Echo"));
  // Its time runs out while half of it is there.
  peer.socket.write(
    frameBytes({
      kind: KIND.request,
      flags,
      streamId: 0x10001,
      argument: 30,
      messageLength: byteLength,
      fragmentLength: byteLength,
    }),
  );
  peer.socket.write(Buffer.alloc(byteLength / 2, 0xaa));
  assert.equal((await peer.frame()).frame.code, Code.DeadlineExceeded);
  for (let i = 0; i < 5; i++) await client.echo({ data: patternBytes(byteLength - 100, 3), number: 3n });
  assert.equal(kept.length, 5);
  const answered = peer.bytes.length;
  peer.socket.write(Buffer.alloc(byteLength / 2, 0xaa));
  peer.socket.write(frameBytes({ kind: KIND.ping }));
  await waitUntil("the rest to be read", () => peer.bytes.length > answered);
  for (const { data } of kept) assert.equal(Buffer.compare(data, patternBytes(byteLength - 100, 3)), 0);
});
