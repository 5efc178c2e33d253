/** What a unary call brings there and back: every kind of field, every size, many at once, through little memory. */
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { create, equals } from "@bufbuild/protobuf";
import { anyPack, Syntax, timestampFromMs } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import type { Kinds } from "../proto/kinds_pb.js";
import { KindsSchema, KindsService } from "../proto/kinds_pb.js";
import { EchoRequestSchema } from "../proto/test_pb.js";
import { crc32, patternBytes } from "../support/checksum.js";
import { suiteOwner } from "../support/temp.js";
import type { TestClient, TestServer } from "../support/test-server.js";
import { connectTo, PLACES, startServer } from "../support/test-server.js";

function oneOfEachKind(): Kinds {
  return create(KindsSchema, {
    double: -0,
    float: 1.5,
    int32: -(2 ** 31),
    int64: -(2n ** 63n),
    uint32: 2 ** 32 - 1,
    uint64: 2n ** 64n - 1n,
    sint32: -1,
    sint64: -1n,
    fixed32: 2 ** 32 - 1,
    fixed64: 2n ** 64n - 1n,
    sfixed32: -(2 ** 31),
    sfixed64: -(2n ** 63n),
    bool: true,
    string: "Grüße, 世界 🌉\u0000\u{10ffff}",
    bytes: Uint8Array.of(0, 255, 128),
    syntax: Syntax.EDITIONS,
    nested: { nested: { string: "two deep" } },
    optionalInt32: 0,
    optionalString: "",
    strings: ["", "a", "ü".repeat(300)],
    blobs: [new Uint8Array(0), patternBytes(300, 1)],
    doubles: [NaN, Infinity, -Infinity, 0.1],
    int64s: [0n, -1n, 2n ** 62n],
    syntaxes: [Syntax.PROTO3, Syntax.PROTO2],
    children: [{}, { string: "child" }],
    stringMap: { "": "empty", key: "value" },
    int64Map: { "-1": { int32: 1 } },
    boolMap: { true: Uint8Array.of(1), false: Uint8Array.of(0) },
    choice: { case: "choiceMessage", value: { string: "chosen" } },
    any: anyPack(EchoRequestSchema, create(EchoRequestSchema, { text: "any" })),
    timestamp: timestampFromMs(1_700_000_000_123),
    wrapped: "wrapped",
  });
}

const FRAGMENT_EDGES = [16 << 10, 128 << 10, 256 << 10].flatMap((edge) => [edge - 1, edge, edge + 1]);

for (const place of PLACES) {
  describe(`unary calls, ${place}`, () => {
    const owner = suiteOwner();
    let server: TestServer;
    let here: TestClient;
    before(async () => {
      server = await startServer(owner, place);
      here = connectTo(owner, server);
    });

    test("every kind of field comes back as it was sent", async () => {
      const client = createClient(KindsService, here.transport);
      const sent = oneOfEachKind();
      const received = await client.echo(sent);
      assert.deepEqual(received, sent);
      assert.equal(received.$typeName, "isthmus.test.Kinds");
      assert.ok(Object.is(received.double, -0));
      assert.deepEqual(received.choice, sent.choice);
      assert.equal(received.optionalInt32, 0);
    });

    test("an empty message comes back empty, and unset optional fields stay unset", async () => {
      const client = createClient(KindsService, here.transport);
      const received = await client.echo({});
      assert.ok(equals(KindsSchema, received, create(KindsSchema)));
      assert.equal(received.optionalInt32, undefined);
    });

    test("unknown fields come back too", async () => {
      const message = create(EchoRequestSchema, { text: "known" });
      message.$unknown = [{ no: 99, wireType: 2, data: Uint8Array.of(3, 1, 2, 3) }];
      const reply = await here.client.echo(message);
      assert.equal(reply.text, "known");
    });

    test("a plain object will do as a message", async () => {
      const reply = await here.client.echo({ text: "plain", number: 2n ** 63n });
      assert.deepEqual([reply.text, reply.number], ["plain", 2n ** 63n]);
    });

    test("an encoded size just below, at and above each edge of the transport survives", async () => {
      for (const edge of FRAGMENT_EDGES) {
        // Once with the field's own header counted in, once with the whole message's.
        for (const byteLength of [edge - 10, edge - 4, edge - 3, edge]) {
          const data = patternBytes(byteLength, edge);
          const reply = await here.client.checksum({ sequence: BigInt(edge), checksum: 0, data });
          assert.equal(reply.checksum, crc32(data), `${byteLength} bytes`);
          assert.equal(Buffer.compare(reply.data, data), 0, `${byteLength} bytes`);
        }
      }
    });

    test("1 MiB of text survives", async () => {
      const text = "ü🌉x".repeat((1 << 20) / 7);
      assert.equal((await here.client.echo({ text })).text, text);
    });

    test("a message larger than the arena goes both ways", async () => {
      const data = patternBytes(70 << 20, 7);
      const reply = await here.client.checksum({ data });
      assert.equal(reply.checksum, crc32(data));
      assert.equal(Buffer.compare(reply.data, data), 0);
    });

    test("120 large messages at once keep their bytes apart", async () => {
      const calls = Array.from({ length: 120 }, async (_, i) => {
        const data = patternBytes(200_000 + i * 3001, i);
        const reply = await here.client.checksum({ sequence: BigInt(i), data });
        assert.equal(reply.sequence, BigInt(i));
        assert.equal(reply.checksum, crc32(data));
        assert.equal(Buffer.compare(reply.data, data), 0);
      });
      await Promise.all(calls);
    });

    test("10,000 calls in flight at once on one connection all get their own answers", async () => {
      const calls = Array.from({ length: 10_000 }, (_, i) =>
        here.client.echo({ text: `call ${i}`, number: BigInt(i) }),
      );
      const replies = await Promise.all(calls);
      replies.forEach((reply, i) => assert.deepEqual([reply.text, reply.number], [`call ${i}`, BigInt(i)]));
      assert.equal(here.transport.stats().pendingCalls, 0);
      assert.equal((await server.stats()).pendingCalls, 0);
    });

    test("small calls are not held up by a large one", async () => {
      let largeDone = false;
      // The server has no work with it but to receive it.
      const large = here.client.unfinished({ data: patternBytes(128 << 20, 3) }).catch(() => (largeDone = true));
      let small = 0;
      for (; !largeDone; small++) assert.equal((await here.client.echo({ text: String(small) })).text, String(small));
      await large;
      assert.ok(small >= 2, `${small} small calls, one after the other, ended before one of 128 MiB`);
    });

    test("bytes of a reply stay as they are while later calls reuse the memory", async () => {
      const kept = [];
      for (let i = 0; i < 50; i++) {
        const data = patternBytes(100 + i * 5000, i);
        kept.push({ data, reply: await here.client.checksum({ data }) });
      }
      for (const { data, reply } of kept) assert.equal(Buffer.compare(reply.data, data), 0);
    });

    test("what the caller does with its message after the call has no effect on a small one", async () => {
      const data = patternBytes(1000, 5);
      const checksum = crc32(data);
      const call = here.client.checksum({ data });
      data.fill(0);
      assert.equal((await call).checksum, checksum);
    });
  });

  describe(`unary calls through little memory, ${place}`, () => {
    const memory = { ringBytes: 64 << 10, arenaBytes: 128 << 10 };

    test("large messages both ways at once pass a tiny arena and a tiny ring", async (context) => {
      const server = await startServer(context, place, { memory });
      const { client, transport } = connectTo(context, server, { memory });
      const calls = Array.from({ length: 40 }, async (_, i) => {
        const data = patternBytes(i % 4 === 0 ? 2_000_000 : 15_000 + i * 997, i);
        const reply = await client.checksum({ sequence: BigInt(i), data });
        assert.equal(reply.sequence, BigInt(i));
        assert.equal(Buffer.compare(reply.data, data), 0);
      });
      await Promise.all(calls);
      if (transport.carrier !== "shm") return;
      assert.equal(transport.stats().connection!.ringBytes, 64 << 10);
      assert.equal(transport.stats().connection!.arenaBytes, 128 << 10);
    });

    test("calls that fill the ring many times over all get through", async (context) => {
      const server = await startServer(context, place, { memory });
      const { client } = connectTo(context, server, { memory });
      const calls = Array.from({ length: 2000 }, (_, i) =>
        client.echo({ number: BigInt(i), data: patternBytes(i % 3000, i) }),
      );
      (await Promise.all(calls)).forEach((reply, i) => {
        assert.equal(reply.number, BigInt(i));
        assert.equal(Buffer.compare(reply.data, patternBytes(i % 3000, i)), 0);
      });
    });

    test("both ends may have memory of different sizes", async (context) => {
      const server = await startServer(context, place, { memory });
      const { client } = connectTo(context, server, { memory: { ringBytes: 1 << 20, arenaBytes: 8 << 20 } });
      const data = patternBytes(3_000_000, 1);
      const replies = await Promise.all([
        client.checksum({ data }),
        client.checksum({ data }),
        client.echo({ text: "x" }),
      ]);
      assert.equal(Buffer.compare(replies[0].data, data), 0);
      assert.equal(Buffer.compare(replies[1].data, data), 0);
    });

    for (const maxStreams of [1, 4]) {
      test(`100 calls at once all succeed on a server that takes ${maxStreams} at a time`, async (context) => {
        const server = await startServer(context, place, { maxStreams });
        const { client } = connectTo(context, server);
        const calls = Array.from({ length: 100 }, (_, i) =>
          client.checksum({ sequence: BigInt(i), data: patternBytes(i * 400, i) }),
        );
        (await Promise.all(calls)).forEach((reply, i) => assert.equal(reply.sequence, BigInt(i)));
      });
    }
  });
}
