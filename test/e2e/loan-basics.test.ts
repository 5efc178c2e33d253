/** Loans: built in shared memory, sent without a copy, and taken by the call that sends them. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { typedList } from "../../src/codec/index.js";
import { createIsthmusServer, createIsthmusTransport, leaseOf, loan, release } from "../../src/index.js";
import { collectSoon } from "../../src/memory/v8/gc.js";
import { KindsService } from "../proto/kinds_pb.js";
import { TestService } from "../proto/test_pb.js";
import { CARRIER } from "../support/carriers.js";
import { patternBytes } from "../support/checksum.js";
import { tempSocket } from "../support/temp.js";
import { connectTo, PLACES, startServer } from "../support/test-server.js";
import { waitUntil } from "../support/waiting.js";

const withoutMemory = CARRIER === "socket" ? "there is no arena without shared memory" : false;

async function failure(promise: Promise<unknown>): Promise<ConnectError> {
  const error = await promise.then(
    () => assert.fail("it did not fail"),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof ConnectError, String(error));
  return error;
}

const same = (actual: Uint8Array, expected: Uint8Array, what = "") =>
  assert.equal(Buffer.compare(actual, expected), 0, what);

for (const place of PLACES) {
  describe(`loans, ${place}`, () => {
    test("of any size arrive as they were filled, and are their sender's no more", async (context) => {
      const server = await startServer(context, place);
      for (const carrier of ["auto", "socket"] as const) {
        const { client, transport } = connectTo(context, server, { carrier });
        for (const byteLength of [1, 100, 4095, 4096, 20_000, 100_000, 3_000_001]) {
          const bytes = await loan(transport, byteLength);
          assert.equal(bytes.length, byteLength);
          assert.equal(bytes.byteOffset, 0);
          const content = patternBytes(byteLength, byteLength);
          bytes.set(content);
          const called = client.echo({ data: bytes });
          assert.equal(bytes.length, 0, "taken at once");
          same((await called).data, content, `${byteLength} bytes over ${transport.carrier}`);
          const error = await failure(client.echo({ data: bytes }));
          assert.match(
            error.message,
            /its memory is gone: it was sent by an earlier call of \/isthmus\.test\.TestService\/Echo/,
          );
        }
        assert.equal((await loan(transport, 0)).length, 0);
      }
    });

    test("are sent from where they are", { skip: withoutMemory }, async (context) => {
      const server = await startServer(context, place);
      const { client, transport } = connectTo(context, server, { leases: "scoped" });
      for (let i = 0; i < 20; i++) {
        const reply = await client.echo({ data: await loan(transport, 1 << 20) });
        assert.equal(reply.data.length, 1 << 20);
        release(reply);
      }
      const { spansSentInPlace, spansCopiedIn, spansCopiedOut, loans, leases, arenaInUseBytes } =
        transport.stats().connection!;
      assert.deepEqual(
        { spansSentInPlace, spansCopiedIn, spansCopiedOut, loans, leases },
        { spansSentInPlace: 20, spansCopiedIn: 0, spansCopiedOut: 0, loans: 0, leases: 0 },
      );
      assert.ok(arenaInUseBytes <= 20 << 20);
    });

    test("may be in any field, whole or in part, also more than once", async (context) => {
      const server = await startServer(context, place);
      const { transport } = connectTo(context, server);
      const client = createClient(KindsService, transport);
      const filled = async (byteLength: number, seed: number) => {
        const bytes = await loan(transport, byteLength);
        bytes.set(patternBytes(byteLength, seed));
        return bytes;
      };
      for (const size of [300, 50_000, 400_000]) {
        const [a, b, c, d] = [
          await filled(size, 1),
          await filled(size, 2),
          await filled(size, 3),
          await filled(size, 4),
        ];
        const doubles = new Float64Array((await loan(transport, 8 * size)).buffer);
        for (let i = 0; i < size; i++) doubles[i] = i / 7;
        const reply = await client.echo({
          bytes: a.subarray(10, size - 10),
          blobs: [b, b, b.subarray(5, 25), a.subarray(0, 10)],
          boolMap: { true: c },
          choice: { case: "choiceBytes", value: d },
          children: [{ bytes: c.subarray(size / 2) }, { nested: { bytes: a } }],
          doubles: typedList(doubles),
        });
        const [pa, pb, pc, pd] = [1, 2, 3, 4].map((seed) => patternBytes(size, seed));
        same(reply.bytes, pa.subarray(10, size - 10));
        same(reply.blobs[0], pb);
        same(reply.blobs[1], pb);
        same(reply.blobs[2], pb.subarray(5, 25));
        same(reply.blobs[3], pa.subarray(0, 10));
        same(reply.boolMap["true"], pc);
        assert.ok(reply.choice.case === "choiceBytes");
        same(reply.choice.value, pd);
        same(reply.children[0].bytes, pc.subarray(size / 2));
        same(reply.children[1].nested!.bytes, pa);
        assert.equal(reply.doubles.length, size);
        assert.ok(reply.doubles.every((value, i) => value === i / 7));
        for (const bytes of [a, b, c, d, doubles]) assert.equal(bytes.length, 0);
      }
    });

    test("that are not sent go back by release, by using and as garbage", { skip: withoutMemory }, async (context) => {
      const server = await startServer(context, place);
      const { client, transport } = connectTo(context, server);
      await client.echo({});
      const held = () => transport.stats().connection!.loans;
      const bytes = await loan(transport, 100_000);
      assert.equal(held(), 1);
      release(bytes);
      release(bytes);
      assert.equal(held(), 0);
      assert.equal(bytes.length, 0);
      assert.match((await failure(client.echo({ data: bytes }))).message, /its memory is gone: it was released/);
      const other = await loan(transport, 10);
      const lease = leaseOf(other);
      lease[Symbol.dispose]();
      assert.equal(held(), 0);
      for (let i = 0; i < 50; i++) await loan(transport, 100_000);
      await waitUntil("garbage to be collected", () => {
        collectSoon();
        return held() === 0 || held();
      });
      assert.equal(transport.stats().connection!.arenaInUseBytes, 0);
    });

    test("wait while the arena is full, and fail with who has it", { skip: withoutMemory }, async (context) => {
      const server = await startServer(context, place);
      const { transport } = connectTo(context, server, { memory: { arenaBytes: 8 << 20 } });
      const held = [await loan(transport, 3 << 20), await loan(transport, 4 << 20)];
      const error = await failure(loan(transport, 2 << 20, { timeoutMs: 30 }));
      assert.equal(error.code, Code.ResourceExhausted);
      assert.match(
        error.message,
        /no room for a loan of 2097152 bytes \(waited 30 ms\): of the arena of 8\.0 MiB, 7\.0 MiB are in 2 loans that this side has not sent/,
      );
      const controller = new AbortController();
      const waiting = failure(loan(transport, 2 << 20, { signal: controller.signal }));
      controller.abort();
      assert.equal((await waiting).code, Code.Canceled);
      const later = loan(transport, 2 << 20);
      release(held[0]);
      assert.equal((await later).length, 2 << 20);
      const tooLarge = await failure(loan(transport, 9 << 20));
      assert.equal(tooLarge.code, Code.ResourceExhausted);
      assert.match(tooLarge.message, /a loan of 9437184 bytes is larger than the arena allows .* memory\.arenaBytes/);
    });

    test("of one connection are copied over another, under the same rules", async (context) => {
      const server = await startServer(context, place);
      const one = connectTo(context, server);
      const other = connectTo(context, server);
      for (const byteLength of [100, 70_000, 2_000_000]) {
        const bytes = await loan(one.transport, byteLength);
        const content = patternBytes(byteLength, 9);
        bytes.set(content);
        same((await other.client.echo({ data: bytes })).data, content);
        assert.equal(bytes.length, 0);
        const late = await loan(one.transport, byteLength);
        late.set(content);
        await one.transport.close();
        same((await other.client.echo({ data: late })).data, content);
        assert.equal(late.length, 0);
        release(late);
        Object.assign(one, connectTo(context, server));
      }
    });

    test("a retry that sends a message again is told what became of its bytes", async (context) => {
      const server = await startServer(context, place);
      let attempts = 0;
      const { client, transport } = connectTo(context, server, {
        interceptors: [
          (next) => async (request) => {
            attempts++;
            await next(request);
            attempts++;
            return next(request);
          },
        ],
      });
      const error = await failure(client.echo({ data: await loan(transport, 100_000) }));
      assert.equal(attempts, 2);
      assert.match(
        error.message,
        /field isthmus\.test\.EchoRequest\.data .*it was sent by an earlier call of \/isthmus\.test\.TestService\/Echo/,
      );
    });
  });
}

test("a handler's answers may be loans, and its waiting ends with its call", {
  skip: withoutMemory,
}, async (context) => {
  const path = tempSocket(context);
  let waited: Promise<unknown> | undefined;
  const server = createIsthmusServer({
    memory: { arenaBytes: 8 << 20 },
    routes: (router) =>
      router.service(TestService, {
        async echo({ number }, handler) {
          const data = await loan(handler, Number(number));
          data.set(patternBytes(data.length, 4));
          return { data };
        },
        async wait(_, handler) {
          const held = await loan(handler, 7 << 20);
          waited = failure(loan(handler, 7 << 20));
          await waited;
          release(held);
          return {};
        },
      }),
  });
  await server.listen(path);
  context.after(() => server.close({ timeoutMs: 0 }));
  const { client } = connectTo(context, { path });
  for (const byteLength of [10, 5000, 3_000_000]) {
    const reply = await client.echo({ number: BigInt(byteLength) });
    same(reply.data, patternBytes(byteLength, 4));
    release(reply);
  }
  assert.equal((await failure(client.wait({}, { timeoutMs: 2000 }))).code, Code.DeadlineExceeded);
  assert.equal(((await waited) as ConnectError).code, Code.Canceled);
  same((await client.echo({ number: 3_000_000n })).data, patternBytes(3_000_000, 4), "the arena came back");
});

test("sizes that are none and servers that are not there are errors", async (context) => {
  const transport = createIsthmusTransport({ address: tempSocket(context) });
  for (const wrong of [-1, 1.5, Number.NaN])
    assert.equal((await failure(loan(transport, wrong))).code, Code.InvalidArgument);
  const error = await failure(loan(transport, 2 ** 31));
  assert.equal(error.code, Code.ResourceExhausted);
  assert.match(error.message, /limit of 2147418112 bytes/);
  assert.equal((await failure(loan(transport, 10))).code, Code.Unavailable);
});
