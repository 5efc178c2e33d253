/** "strict" leases, "snapshot" isolation: what is only for tests, and what is for peers that are not trusted. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, createClient } from "@connectrpc/connect";
import { loan, release, retain } from "../../src/index.js";
import type { Kinds } from "../proto/kinds_pb.js";
import { KindsService } from "../proto/kinds_pb.js";
import type { EchoRequest } from "../proto/test_pb.js";
import { onlyWithAddon } from "../support/carriers.js";
import { allReturned, connectionOf, fillPattern, pattern, patternFault, serveOwn } from "../support/own-routes.js";
import { connectTo, PLACES, serveInChild, startServer } from "../support/test-server.js";
import { failure } from "../support/waiting.js";

const SIZES = [1, 500, 4096, 20_000, 40_000, 300_000];
const ENDED =
  /these bytes are gone: it was a lease of the call \/isthmus\.test\.TestService\/Echo, which has ended; copy it, or keep it with retain\(message\)/;

/** Everything that may be done with bytes, but for reading by index. */
const USES: [what: string, use: (bytes: Uint8Array) => unknown][] = [
  ["its length", (bytes) => bytes.length],
  ["its byteLength", (bytes) => bytes.byteLength],
  ["its buffer", (bytes) => bytes.buffer],
  ["subarray", (bytes) => bytes.subarray(0, 1)],
  ["slice", (bytes) => bytes.slice()],
  ["iteration", (bytes) => [...bytes]],
  ["fill", (bytes) => bytes.fill(0)],
  ["Buffer.from", (bytes) => Buffer.from(bytes)],
];

describe("a strict lease", () => {
  for (const byteLength of SIZES) {
    test(`of ${byteLength} bytes is gone when the handler has settled, and says whose it was`, async (context) => {
      let kept: Uint8Array = new Uint8Array();
      const { client } = await serveOwn(
        context,
        {
          async echo({ data }) {
            kept = data;
            await sleep(1);
            return { data };
          },
        },
        { server: { leases: "strict" } },
      );
      const { data } = await client.echo({ data: pattern(1, byteLength) });
      assert.equal(patternFault(data, 1), -1);
      assert.equal(kept[0], undefined);
      for (const [what, use] of USES) assert.throws(() => use(kept), ENDED, what);
      // What V8 looks into by itself fails without our words.
      assert.throws(() => new Uint8Array(10).set(kept), TypeError);
      await failure(client.echo({ data: kept }), Code.Internal, /it was a lease of the call|these bytes are gone/);
    });

    test(`of ${byteLength} bytes is gone on the client when it is released`, async (context) => {
      const { client } = await serveOwn(
        context,
        { echo: () => ({ data: pattern(1, byteLength) }) },
        { client: { leases: "strict" } },
      );
      const reply = await client.echo({});
      assert.equal(patternFault(reply.data, 1), -1);
      release(reply);
      for (const [what, use] of USES)
        assert.throws(() => use(reply.data), /these bytes are gone: it was released/, what);
      release(reply);
      release(reply.data);
      retain(reply.data);
    });

    test(`of ${byteLength} bytes is kept by retain, of the message or of its bytes`, async (context) => {
      const kept: Uint8Array[] = [];
      const handlers = {
        echo(request: EchoRequest) {
          if (request.number === 0n) retain(request);
          else retain(request.data);
          kept.push(request.data);
          return {};
        },
      };
      const { client } = await serveOwn(context, handlers, { server: { leases: "strict" } });
      for (const number of [0n, 1n]) await client.echo({ number, data: pattern(Number(number), byteLength) });
      for (const [i, bytes] of kept.entries())
        assert.deepEqual([bytes.length, patternFault(bytes, i)], [byteLength, -1]);
    });
  }

  test("of any field is gone, nested and repeated, in maps and oneofs", async (context) => {
    let fields: Uint8Array[] = [];
    const { kinds, transport } = await serveOwn(
      context,
      {},
      {
        server: {
          leases: "strict",
          interceptors: [
            (next) => (request) => {
              const { bytes, blobs, nested, boolMap, choice } = request.message as unknown as Kinds;
              if (nested !== undefined)
                fields = [bytes, ...blobs, nested.bytes, boolMap["true"], choice.value as Uint8Array];
              return next(request);
            },
          ],
        },
      },
    );
    await kinds.echo({
      bytes: pattern(1, 10),
      blobs: [pattern(2, 5000), pattern(3, 50_000)],
      nested: { bytes: pattern(4, 70_000) },
      boolMap: { true: pattern(5, 9000) },
      choice: { case: "choiceBytes", value: pattern(6, 2) },
    });
    assert.equal(fields.length, 6);
    for (const bytes of fields)
      assert.throws(
        () => bytes.length,
        /these bytes are gone: it was a lease of the call \/isthmus\.test\.KindsService\/Echo/,
      );
    assert.equal(transport.stats().connections, 1);
  });

  for (const byteLength of [100, 9000, 20_000, 60_000]) {
    test(`of an answer of ${byteLength} bytes that waits for a client which does not read arrives whole`, async (context) => {
      const server = await serveInChild(context, {
        leases: "strict",
        memory: { ringBytes: 65_536, arenaBytes: 1 << 20 },
      });
      const { client } = connectTo(context, server, { memory: { ringBytes: 1 << 20 } });
      await client.echo({});
      const calls = Array.from({ length: 700 }, (_, i) =>
        client.echo({ data: pattern(i, byteLength), text: "x".repeat(200) }),
      );
      // Published as the ring fills; then this side is busy, and the server has nowhere to put its answers.
      const until = performance.now() + 300;
      await sleep(1);
      while (performance.now() < until);
      for (const [i, { data }] of (await Promise.all(calls)).entries())
        assert.deepEqual([data.length, patternFault(data, i)], [byteLength, -1]);
    });
  }
});

for (const place of PLACES) {
  describe(`with isolation in ${place}`, () => {
    for (const [what, server, client] of [
      ["both ends", "snapshot", "snapshot"],
      ["the server", "snapshot", "shared"],
      ["the client", "shared", "snapshot"],
    ] as const) {
      test(`of ${what}, loans and calls work, and what is isolated leases nothing`, async (context) => {
        const options = { leases: "scoped" } as const;
        const { transport } = connectTo(context, await startServer(context, place, { ...options, isolation: server }), {
          ...options,
          isolation: client,
        });
        const kinds = createClient(KindsService, transport);
        for (const byteLength of [100, 5000, 40_000, 2 << 20]) {
          const bytes = await loan(transport, byteLength);
          fillPattern(bytes, 1);
          const reply = await kinds.echo({ bytes, blobs: [pattern(2, byteLength)] });
          assert.deepEqual(
            [reply.bytes.length, patternFault(reply.bytes, 1), patternFault(reply.blobs[0], 2), bytes.length],
            [byteLength, -1, -1, 0],
          );
          if (client === "snapshot") assert.equal(connectionOf(transport).spansLeased, 0);
          else release(reply);
        }
        assert.equal(connectionOf(transport).leases, 0);
        await allReturned(transport);
      });
    }
  });
}

test("with isolation the peer's memory is mapped read-only, without it is not", {
  skip: onlyWithAddon,
}, async (context) => {
  // Each arena's mappings by inode: the own one is writable in any case.
  const writable = () => {
    const lines = readFileSync("/proc/self/maps", "utf8")
      .split("\n")
      .filter((line) => line.includes("memfd:isthmus-arena"));
    return {
      all: new Set(lines.map((line) => line.split(/\s+/)[4])).size,
      writable: new Set(lines.filter((line) => line.includes(" rw-s ")).map((line) => line.split(/\s+/)[4])).size,
    };
  };
  const server = await serveInChild(context);
  const before = writable();
  const isolated = connectTo(context, server, { isolation: "snapshot" });
  assert.equal((await isolated.client.echo({ data: pattern(1, 100_000) })).data.length, 100_000);
  assert.deepEqual(writable(), { all: before.all + 2, writable: before.writable + 1 });
  const shared = connectTo(context, server, { isolation: "shared" });
  await shared.client.echo({ data: pattern(1, 100_000) });
  assert.deepEqual(writable(), { all: before.all + 4, writable: before.writable + 3 });
});

test("with isolation, bytes that the peer sends back are not those that it can still write to", async (context) => {
  // In one process both ends see the same pages: what the handler had leased is the block that comes back.
  let lent: Uint8Array = new Uint8Array();
  const { client } = await serveOwn(
    context,
    {
      echo({ data }) {
        lent = data;
        return { data };
      },
    },
    { client: { isolation: "snapshot" } },
  );
  const { data } = await client.echo({ data: pattern(1, 100_000) });
  assert.equal(lent.length, 100_000);
  lent.fill(0);
  assert.equal(patternFault(data, 1), -1);
});
