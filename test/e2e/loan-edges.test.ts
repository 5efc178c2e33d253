/** Loans: memory that a sender fills before it sends it, and that is gone once it was sent. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import type { Interceptor } from "@connectrpc/connect";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { typedList } from "../../src/codec/index.js";
import { createIsthmusTransport, leaseOf, loan, release } from "../../src/index.js";
import { collectSoon } from "../../src/memory/v8/gc.js";
import { KindsSchema, KindsService } from "../proto/kinds_pb.js";
import { EchoRequestSchema, TestService } from "../proto/test_pb.js";
import { allReturned, connectionOf, fillPattern, pattern, patternFault, serveOwn } from "../support/own-routes.js";
import { tempSocket } from "../support/temp.js";
import { connectTo, PLACES, startServer } from "../support/test-server.js";
import { failure, waitUntil, within } from "../support/waiting.js";

const MIB = 1 << 20;
const GONE = /its memory is gone: it was sent by an earlier call of \/isthmus\.test\.TestService\/Echo/;

for (const place of PLACES) {
  describe(`a loan sent in ${place}`, () => {
    for (const byteLength of [1, 100, 4095, 4096, 5000, 32_767, 32_768, 100_000, 3 * MIB]) {
      test(`of ${byteLength} bytes arrives, and is gone`, async (context) => {
        const server = await startServer(context, place);
        const { client, transport } = connectTo(context, server);
        const bytes = await loan(transport, byteLength);
        assert.equal(bytes.length, byteLength);
        assert.equal(bytes.byteOffset % 64, 0);
        fillPattern(bytes, byteLength);
        const reply = await client.echo({ data: bytes });
        assert.equal(bytes.length, 0);
        assert.equal(bytes.buffer.byteLength, 0);
        assert.equal(reply.data.length, byteLength);
        assert.equal(patternFault(reply.data, byteLength), -1);
        assert.equal(connectionOf(transport).loans, 0);
        assert.equal(connectionOf(transport).spansCopiedIn, 0);
        await failure(client.echo({ data: bytes }), Code.Internal, GONE);
        release(reply);
        await allReturned(transport, server);
      });
    }

    test("arrives from every kind of field that has bytes, nested, repeated, in maps and in oneofs", async (context) => {
      const server = await startServer(context, place);
      const { transport } = connectTo(context, server);
      const client = createClient(KindsService, transport);
      for (const byteLength of [48, 8192, 131_072]) {
        const loans: Uint8Array[] = [];
        const next = async () => {
          const bytes = await loan(transport, byteLength);
          fillPattern(bytes, loans.length);
          loans.push(bytes);
          return bytes;
        };
        const doubles = new Float64Array((await next()).buffer).fill(1.5);
        const reply = await client.echo({
          bytes: await next(),
          nested: { bytes: await next(), choice: { case: "choiceBytes", value: await next() } },
          blobs: [await next(), new Uint8Array(10), await next()],
          children: [{ blobs: [await next()] }],
          boolMap: { true: await next(), false: await next() },
          int64Map: { "7": { bytes: await next() } },
          choice: { case: "choiceMessage", value: { bytes: await next() } },
          doubles: typedList(doubles),
        });
        assert.deepEqual(
          loans.map((bytes) => bytes.length),
          loans.map(() => 0),
        );
        assert.equal(doubles.length, 0);
        assert.ok(reply.choice.case === "choiceMessage" && reply.nested?.choice.case === "choiceBytes");
        const arrived = [
          reply.bytes,
          reply.nested.bytes,
          reply.nested.choice.value,
          reply.blobs[0],
          reply.blobs[2],
          reply.children[0].blobs[0],
          reply.boolMap["true"],
          reply.boolMap["false"],
          reply.int64Map["7"].bytes,
          reply.choice.value.bytes,
        ];
        assert.deepEqual(
          arrived.map((bytes, i) => [bytes.length, patternFault(bytes, i + 1)]),
          arrived.map(() => [byteLength, -1]),
        );
        assert.deepEqual(reply.doubles, new Array(byteLength / 8).fill(1.5));
        await assert.rejects(
          client.echo({ doubles: typedList(doubles) }),
          /its memory is gone: it was sent by an earlier call of .*KindsService\/Echo/,
        );
      }
    });

    test("by a part sends the part, and takes all", async (context) => {
      const server = await startServer(context, place);
      const { client, transport } = connectTo(context, server);
      for (const [byteLength, from, to] of [
        [100, 10, 20],
        [300_000, 5, 40],
        [300_000, 70_001, 80_000],
        [300_000, 1, 299_999],
      ]) {
        const bytes = await loan(transport, byteLength);
        fillPattern(bytes, 3);
        const expected = bytes.slice(from, to);
        const reply = await client.echo({ data: bytes.subarray(from, to) });
        assert.ok(Buffer.from(expected).equals(reply.data), `${from} to ${to} of ${byteLength}`);
        assert.equal(bytes.length, 0);
        release(reply);
      }
      await allReturned(transport, server);
    });

    const twice: [what: string, first: [number, number], second: [number, number]][] = [
      ["whole and whole", [0, 200_000], [0, 200_000]],
      ["two large parts", [10, 100_010], [50_000, 199_999]],
      ["two parts that are no spans for the receiver", [10, 5010], [5000, 15_000]],
      ["a tiny part and a large one", [3, 30], [50_000, 150_000]],
      ["a large part and a tiny one", [50_000, 150_000], [3, 30]],
      ["two tiny parts", [3, 30], [60, 90]],
    ];
    for (const [what, first, second] of twice) {
      test(`twice in one message (${what}) arrives twice`, async (context) => {
        const server = await startServer(context, place);
        const { transport } = connectTo(context, server);
        const client = createClient(KindsService, transport);
        const bytes = await loan(transport, 200_000);
        fillPattern(bytes, 11);
        const all = bytes.slice();
        const reply = await client.echo({ blobs: [bytes.subarray(...first), bytes.subarray(...second)] });
        assert.ok(Buffer.from(all.subarray(...first)).equals(reply.blobs[0]));
        assert.ok(Buffer.from(all.subarray(...second)).equals(reply.blobs[1]));
        assert.equal(bytes.length, 0);
      });
    }

    test("as one of a hundred in one message arrives like the others", async (context) => {
      const server = await startServer(context, place);
      const { transport } = connectTo(context, server);
      const client = createClient(KindsService, transport);
      const blobs: Uint8Array[] = [];
      for (let i = 0; i < 100; i++) {
        const bytes = await loan(transport, 33_000 + i);
        fillPattern(bytes, i);
        blobs.push(bytes);
      }
      const reply = await client.echo({ blobs });
      assert.deepEqual(
        reply.blobs.map((bytes, i) => [bytes.length, patternFault(bytes, i)]),
        blobs.map((_, i) => [33_000 + i, -1]),
      );
      assert.ok(blobs.every((bytes) => bytes.length === 0));
      release(reply);
      await allReturned(transport, server);
    });

    test("with a long text arrives, even if the loan has all of the arena", async (context) => {
      const { client, transport } = connectTo(context, await startServer(context, place), {
        memory: { arenaBytes: MIB },
      });
      const bytes = await loan(transport, MIB - 4096);
      fillPattern(bytes, 5);
      const text = "long".repeat(20_000);
      const reply = await within(60_000, "the call", client.echo({ text, data: bytes }));
      assert.equal(reply.text, text);
      assert.equal(reply.data.length, MIB - 4096);
      assert.equal(patternFault(reply.data, 5), -1);
    });
  });
}

describe("a loan", () => {
  test("of a handler carries its answer, whole or in part", async (context) => {
    const { client, transport } = await serveOwn(context, {
      async echo({ number }, handling) {
        const bytes = await loan(handling, 500_000);
        fillPattern(bytes, Number(number));
        return { data: number === 0n ? bytes : bytes.subarray(0, 100_000) };
      },
    });
    for (let i = 0; i < 50; i++) {
      const { data } = await client.echo({ number: BigInt(i) });
      assert.deepEqual([data.length, patternFault(data, i)], [i === 0 ? 500_000 : 100_000, -1]);
    }
    assert.equal(connectionOf(transport).spansCopiedOut, 0);
  });

  test("is not taken by a message that is too large, nor by one that cannot be encoded", async (context) => {
    const { client, kinds, transport } = await serveOwn(
      context,
      { echo: ({ data }) => ({ data }) },
      { client: { writeMaxBytes: 60_000 } },
    );
    for (const byteLength of [100, 50_000, 60_001]) {
      const bytes = await loan(transport, byteLength);
      await assert.rejects(
        kinds.echo({ bytes, blobs: [new Uint8Array(60_000)] }),
        /larger than configured writeMaxBytes/,
      );
      await assert.rejects(kinds.echo({ bytes, int32: "no number" as unknown as number }), /int32/);
      assert.equal(bytes.length, byteLength);
      release(bytes);
      assert.equal(bytes.length, 0);
    }
    await client.echo({});
    assert.equal(connectionOf(transport).arenaInUseBytes, 0);
  });

  test("sent again by an interceptor that retries is an error that names the earlier call", async (context) => {
    let attempts = 0;
    const retry: Interceptor = (next) => async (request) => {
      try {
        return await next(request);
      } catch {
        return next(request);
      }
    };
    const handlers = {
      echo: () => {
        attempts++;
        throw new ConnectError("not now", Code.Unavailable);
      },
    };
    const { client, transport } = await serveOwn(context, handlers, { client: { interceptors: [retry] } });
    for (const byteLength of [10, 100_000]) {
      await failure(client.echo({ data: await loan(transport, byteLength) }), Code.Internal, GONE);
    }
    assert.equal(attempts, 2);
  });

  test("of another transport is copied, and taken", async (context) => {
    const own = await serveOwn(context, {});
    const other = await serveOwn(context, { echo: ({ data }) => ({ data }) });
    for (const byteLength of [100, 10_000, 200_000]) {
      const bytes = await loan(own.transport, byteLength);
      fillPattern(bytes, 8);
      const { data } = await other.client.echo({ data: bytes });
      assert.deepEqual([data.length, patternFault(data, 8), bytes.length], [byteLength, -1, 0]);
      await failure(other.client.echo({ data: bytes }), Code.Internal, GONE);
    }
    assert.equal(connectionOf(own.transport).arenaInUseBytes, 0);
  });

  test("outlives its connection: it can be written, sent over the next one, and released", async (context) => {
    const first = await startServer(context, "one process");
    const { transport } = connectTo(context, first);
    const other = await serveOwn(context, { echo: ({ data }) => ({ data }) });
    const [sent, kept, unused] = await Promise.all([
      loan(transport, 200_000),
      loan(transport, 100),
      loan(transport, 50_000),
    ]);
    await first.close(0);
    await waitUntil("the connection to be over", () => transport.state === "idle");
    fillPattern(sent, 1);
    fillPattern(kept, 2);
    const { data } = await other.client.echo({ data: sent });
    assert.deepEqual([data.length, patternFault(data, 1), sent.length], [200_000, -1, 0]);
    assert.equal(patternFault((await other.client.echo({ data: kept })).data, 2), -1);
    release(unused);
    release(unused);
    release(sent);
    assert.equal(unused.length, 0);
  });

  test("goes back by release, by `using`, and as garbage; a second release does nothing", async (context) => {
    const { transport } = await serveOwn(context, {});
    const bytes = await loan(transport, 100_000);
    release(bytes.subarray(5, 10));
    assert.equal(bytes.length, 0);
    release(bytes);
    const again = await loan(transport, 100_000);
    release(bytes);
    assert.equal(again.length, 100_000);
    const lease = leaseOf(again);
    lease[Symbol.dispose]();
    lease.release();
    assert.equal(again.length, 0);
    await (async () => void (await loan(transport, 100_000)))();
    assert.equal(connectionOf(transport).loans, 1);
    await allReturned(transport);
  });

  test("whose memory was moved away cannot be sent, and the block is not used again until that is garbage", async (context) => {
    const { client, transport } = await serveOwn(context, { echo: ({ data }) => ({ data }) });
    const bytes = await loan(transport, 100_000);
    const held: { moved?: Uint8Array } = {};
    try {
      const cloned = structuredClone(bytes.buffer, { transfer: [bytes.buffer as ArrayBuffer] });
      // What is marked stays, and is copied, where that is not an error.
      if (bytes.length === 0) held.moved = new Uint8Array(cloned);
    } catch (error) {
      assert.equal((error as Error).name, "DataCloneError");
    }
    if (held.moved === undefined) {
      assert.equal(bytes.length, 100_000);
      const { transfer } = ArrayBuffer.prototype as { transfer?: (this: ArrayBufferLike) => ArrayBuffer };
      if (transfer === undefined) return;
      try {
        held.moved = new Uint8Array(transfer.call(bytes.buffer));
      } catch (error) {
        // From Node 24 on it is locked.
        assert.ok(error instanceof TypeError);
        assert.equal(bytes.length, 100_000);
        return;
      }
    }
    fillPattern(held.moved, 4);
    await failure(client.echo({ data: bytes }), Code.Internal, /its memory is gone/);
    release(bytes);
    for (let i = 0; i < 20; i++) release(await client.echo({ data: pattern(99, 100_000) }));
    assert.equal(patternFault(held.moved, 4), -1);
    assert.equal(connectionOf(transport).loans, 1);
    delete held.moved;
    await allReturned(transport);
  });

  test("of no size or of none that there can be is refused", async (context) => {
    const { client, transport } = await serveOwn(context, { echo: ({ data }) => ({ number: BigInt(data.length) }) });
    const empty = await loan(transport, 0);
    assert.equal(empty.length, 0);
    assert.equal((await client.echo({ data: empty })).number, 0n);
    assert.equal((await client.echo({ data: empty })).number, 0n);
    for (const size of [-1, NaN, 1.5, Infinity])
      await failure(loan(transport, size), Code.InvalidArgument, /a loan of .* bytes: expected a whole number/);
    await failure(
      loan(transport, 2 ** 31),
      Code.ResourceExhausted,
      /a loan of 2147483648 bytes is larger than the limit of 2147418112 bytes/,
    );
  });

  test("without a server fails with Unavailable", async (context) => {
    const transport = createIsthmusTransport({ address: tempSocket(context) });
    await failure(loan(transport, 1000), Code.Unavailable, /no such path/);
    await transport.close();
    await failure(loan(transport, 1000), Code.Unavailable, /closed/);
  });

  test("of a foreign transport is ordinary memory with the same rules", async (context) => {
    const { client } = await serveOwn(context, { echo: ({ data }) => ({ data }) });
    const bytes = await loan(
      { unary: () => Promise.reject(new Error()), stream: () => Promise.reject(new Error()) },
      100_000,
    );
    assert.ok(bytes.every((byte) => byte === 0));
    fillPattern(bytes, 2);
    assert.equal(patternFault((await client.echo({ data: bytes })).data, 2), -1);
    await failure(client.echo({ data: bytes }), Code.Internal, GONE);
  });

  test("shows only what its own connection had before", async (context) => {
    const secret = await serveOwn(context, { echo: () => ({}) });
    for (let i = 0; i < 20; i++) await secret.client.echo({ data: new Uint8Array(500_000).fill(0xa5) });
    const { transport } = await serveOwn(context, {});
    for (let i = 0; i < 10; i++) assert.ok((await loan(transport, 500_000)).every((byte) => byte === 0));
  });
});

describe("when loans fill the arena", () => {
  const small = { client: { memory: { arenaBytes: MIB } } };

  test("one that can never fit fails at once, and says the size and what to do", async (context) => {
    const { transport } = await serveOwn(context, {}, small);
    await failure(
      loan(transport, MIB),
      Code.ResourceExhausted,
      /a loan of 1048576 bytes is larger than the arena allows \(1044480 bytes\); raise the option memory\.arenaBytes, or use region\(1048576\)/,
    );
  });

  test("the next waits, and gets room when one is released, or sent and back", async (context) => {
    const { client, transport } = await serveOwn(context, { echo: () => ({}) }, small);
    const ways: ((bytes: Uint8Array) => unknown)[] = [release, (bytes) => client.echo({ data: bytes })];
    for (const free of ways) {
      const bytes = await loan(transport, 900_000);
      let got: Uint8Array | undefined;
      const waiting = loan(transport, 900_000).then((next) => (got = next));
      await sleep(30);
      assert.equal(got, undefined);
      await free(bytes);
      release(await within(60_000, "the loan", waiting));
    }
  });

  test("the next fails in the end, and says who has the memory", async (context) => {
    const { transport } = await serveOwn(context, {}, small);
    const bytes = await loan(transport, 900_000);
    const message =
      /no room for a loan of 900000 bytes \(waited 50 ms\): of the arena of 1\.0 MiB, 0\.9 MiB are in 1 loans that this side has not sent, 0\.0 MiB in 0 blocks/;
    await failure(loan(transport, 900_000, { timeoutMs: 50 }), Code.ResourceExhausted, message);
    assert.equal(bytes.length, 900_000);
  });

  test("a wait ends when its signal aborts, or the handler's call is over", async (context) => {
    const waits: Promise<unknown>[] = [];
    const held: Uint8Array[] = [];
    const handlers = {
      async echo(_: unknown, handling: Parameters<typeof loan>[0]) {
        held.push(await loan(handling, 900_000));
        waits.push(failure(loan(handling, 900_000), Code.Canceled, /the wait was canceled/));
        return {};
      },
    };
    const { client, transport } = await serveOwn(context, handlers, {
      ...small,
      server: { memory: { arenaBytes: MIB } },
    });
    const bytes = await loan(transport, 900_000);
    const controller = new AbortController();
    const waiting = failure(
      loan(transport, 900_000, { signal: controller.signal }),
      Code.Canceled,
      /the wait was canceled/,
    );
    await sleep(10);
    controller.abort();
    await waiting;
    await failure(loan(transport, 900_000, { signal: controller.signal }), Code.Canceled, /canceled/);
    release(bytes);
    await client.echo({});
    assert.equal(waits.length, 1);
    await waits[0];
  });

  test("one that gives up lets those behind it go on", async (context) => {
    const { transport } = await serveOwn(context, {}, small);
    const bytes = await loan(transport, 500_000);
    const controller = new AbortController();
    const large = failure(loan(transport, 900_000, { signal: controller.signal }), Code.Canceled, /canceled/);
    const behind = loan(transport, 100_000);
    await sleep(5);
    controller.abort();
    await large;
    await within(60_000, "the loan behind", behind);
    assert.equal(bytes.length, 500_000);
  });

  test("one that waits without a limit waits", async (context) => {
    const { transport } = await serveOwn(context, {}, small);
    const bytes = await loan(transport, 900_000);
    const waiting = loan(transport, 900_000, { timeoutMs: Infinity });
    await sleep(30);
    release(bytes);
    assert.equal((await within(60_000, "the loan", waiting)).length, 900_000);
  });

  test("a wait ends with its connection", async (context) => {
    const { transport } = await serveOwn(context, {}, small);
    const bytes = await loan(transport, 900_000);
    const waiting = failure(loan(transport, 900_000), Code.Unavailable, /connection lost/);
    await sleep(5);
    await transport.close();
    await waiting;
    // Held until here, so that no garbage collection makes room.
    assert.equal(bytes.length, 900_000);
  });

  test("ordinary calls go on, small and large", async (context) => {
    const { client, transport } = await serveOwn(context, { echo: ({ data, text }) => ({ data, text }) }, small);
    const bytes = await loan(transport, MIB - 4096);
    for (const byteLength of [10, 20_000, 100_000, 2 * MIB]) {
      const { data, text } = await within(
        60_000,
        `a call of ${byteLength} bytes`,
        client.echo({ data: pattern(6, byteLength), text: "x".repeat(byteLength) }),
      );
      assert.deepEqual([data.length, patternFault(data, 6), text.length], [byteLength, -1, byteLength]);
    }
    assert.equal(bytes.length, MIB - 4096);
  });

  test("by their number, ordinary calls go on", async (context) => {
    const { client, transport } = await serveOwn(context, { echo: ({ data }) => ({ number: BigInt(data.length) }) });
    const loans: Uint8Array[] = [];
    for (let i = 0; i < 4096; i++) loans.push(await loan(transport, 1));
    await failure(loan(transport, 1, { timeoutMs: 20 }), Code.ResourceExhausted, /in 4096 loans/);
    for (const byteLength of [10, 20_000, 100_000, 2 * MIB]) {
      assert.equal(
        (await within(60_000, `a call of ${byteLength} bytes`, client.echo({ data: new Uint8Array(byteLength) })))
          .number,
        BigInt(byteLength),
      );
    }
    assert.ok(loans.every((bytes) => bytes.length === 1));
  });
});

describe("a getter of a message that is being encoded", () => {
  for (const byteLength of [10, 300_000]) {
    test(`may make a call of its own while loans are out (${byteLength} bytes)`, async (context) => {
      const { client, transport } = await serveOwn(context, { echo: ({ text, data }) => ({ text, data }) });
      const spare = await loan(transport, 1000);
      let inner: Promise<{ text: string; data: Uint8Array }> | undefined;
      const outer = {
        data: pattern(1, 10),
        get text() {
          inner ??= client.echo({ text: "inner", data: pattern(2, byteLength) });
          return "outer";
        },
      };
      const reply = await client.echo(outer);
      assert.deepEqual([reply.text, reply.data.length, patternFault(reply.data, 1)], ["outer", 10, -1]);
      const innerReply = await inner!;
      assert.deepEqual(
        [innerReply.text, innerReply.data.length, patternFault(innerReply.data, 2)],
        ["inner", byteLength, -1],
      );
      assert.equal(spare.length, 1000);
      assert.equal(transport.stats().connections, 1);
    });
  }

  test("that sends a small loan does not save the one before it", async (context) => {
    const { kinds, transport } = await serveOwn(context, {});
    const other = await serveOwn(context, { echo: () => ({}) });
    const outer = await loan(transport, 100);
    const inner = await loan(other.transport, 100);
    let sent: Promise<unknown> | undefined;
    await kinds.echo({
      bytes: outer,
      get nested() {
        sent ??= other.client.echo({ data: inner });
        return undefined;
      },
    });
    await sent;
    assert.deepEqual([outer.length, inner.length], [0, 0]);
  });

  test("that releases what was encoded before makes its call fail, and no other", async (context) => {
    const { client, kinds, transport } = await serveOwn(context, { echo: ({ data }) => ({ data }) });
    const { data } = await client.echo({ data: pattern(1, 100_000) });
    const lent = await loan(transport, 100_000);
    for (const [victim, give] of [
      [data, () => release(data)],
      [lent, () => release(lent)],
    ] as const) {
      let reads = 0;
      const message = create(KindsSchema, { bytes: victim });
      Object.defineProperty(message, "choice", {
        get() {
          // Tried, measured, written: the victim is in the rope by then.
          if (++reads === 3) give();
          return { case: "choiceBytes", value: new Uint8Array(20_000) };
        },
      });
      await failure(kinds.echo(message), Code.Internal, /it was released/);
      assert.equal(victim.length, 0, `released while encoding, at read ${reads}`);
    }
    assert.equal((await client.echo({ text: "alive", data: new Uint8Array(40_000) })).data.length, 40_000);
    assert.equal(transport.stats().connections, 1);
    await allReturned(transport);
  });
});

test("a message of a loan and bytes that are detached while it waits fails, and what was taken comes back", async (context) => {
  const { client, kinds, transport } = await serveOwn(
    context,
    { echo: ({ data }) => ({ data }) },
    { client: { memory: { arenaBytes: MIB, ringBytes: 65_536 } } },
  );
  const blobs = [pattern(1, 20_000), await loan(transport, 50_000), pattern(2, 20_000), pattern(3, 300_000)];
  // Fills the ring, so that the message waits.
  const before = Array.from({ length: 100 }, (_, i) => client.echo({ data: pattern(i, 1000) }));
  const call = kinds.echo({ blobs });
  structuredClone(blobs[0].buffer, { transfer: [blobs[0].buffer as ArrayBuffer] });
  structuredClone(blobs[3].buffer, { transfer: [blobs[3].buffer as ArrayBuffer] });
  await failure(call, Code.Internal, /lost their memory/);
  for (const [i, reply] of (await Promise.all(before)).entries()) assert.equal(patternFault(reply.data, i), -1);
  assert.equal(blobs[1].length, 0);
  collectSoon();
  await allReturned(transport);
  assert.equal(create(EchoRequestSchema).$typeName, TestService.method.echo.input.typeName);
});
