/** Leases: received values live as long as their mode says, and their memory is never another call's meanwhile. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { promisify } from "node:util";
import { gunzip, gzip } from "node:zlib";
import type { ServiceImpl } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { LeaseLifetime } from "../../src/index.js";
import { createIsthmusServer, leaseOf, loan, release, retain } from "../../src/index.js";
import { collectSoon } from "../../src/memory/v8/gc.js";
import { collectionsDuring } from "../../src/memory/v8/gc.test.util.js";
import { TestService } from "../proto/test_pb.js";
import { onlyWithAddon } from "../support/carriers.js";
import { patternBytes } from "../support/checksum.js";
import { tempSocket } from "../support/temp.js";
import type { Owner } from "../support/temp.js";
import { connectTo, serveInChild, startServer } from "../support/test-server.js";
import { waitUntil } from "../support/waiting.js";

type Handlers = Partial<ServiceImpl<typeof TestService>>;

async function serve(owner: Owner, leases: LeaseLifetime, handlers: Handlers) {
  const path = tempSocket(owner);
  const server = createIsthmusServer({ leases, routes: (router) => router.service(TestService, handlers) });
  await server.listen(path);
  owner.after(() => server.close({ timeoutMs: 0 }));
  return { path, server };
}

const same = (actual: Uint8Array, expected: Uint8Array, what = "") =>
  assert.equal(Buffer.compare(actual, expected), 0, what);

describe("leases", { skip: onlyWithAddon }, () => {
  for (const leases of ["collected", "scoped"] as const) {
    test(`a handler that returns its request's bytes sends the block back (${leases})`, async (context) => {
      const { path } = await serve(context, leases, { echo: ({ data }) => ({ data }) });
      const { client, transport } = connectTo(context, { path }, { leases });
      for (let i = 0; i < 50; i++) {
        const bytes = await loan(transport, 500_000);
        const content = patternBytes(bytes.length, i);
        bytes.set(content);
        const reply = await client.echo({ data: bytes });
        same(reply.data, content);
        release(reply);
        assert.equal(reply.data.length, 0);
        release(reply);
      }
      const { spansCopiedIn, spansCopiedOut, leases: held } = transport.stats().connection!;
      assert.deepEqual({ spansCopiedIn, spansCopiedOut, held }, { spansCopiedIn: 0, spansCopiedOut: 0, held: 0 });
      await waitUntil("the blocks to come back", async () => {
        collectSoon();
        await client.echo({});
        return transport.stats().connection!.arenaInUseBytes === 0 || transport.stats().connection!.arenaInUseBytes;
      });
    });
  }

  for (const [mebibytes, calls, oldMax] of [
    [4, 200, 50],
    [16, 100, 40],
  ])
    test(`values of ${mebibytes} MiB that nobody gives back do not make V8 collect the old generation at every call`, async (context) => {
      const { client } = connectTo(context, await serveInChild(context));
      const data = patternBytes(mebibytes << 20, 1);
      const call = async (times: number) => {
        for (let i = 0; i < times; i++) same((await client.checksum({ data })).data, data);
      };
      await call(50);
      const { forced, old } = await collectionsDuring(() => call(calls));
      assert.ok(forced >= 10, `${forced} of the young generation`);
      // On a busy machine V8's own threads fall behind, and it collects more often.
      assert.ok(old <= oldMax, `${old} of the old generation in ${calls} calls`);
    });

  test("kept bytes stay what they were, whatever is called later (collected)", async (context) => {
    const kept: { seed: number; data: Uint8Array }[] = [];
    const { path } = await serve(context, "collected", {
      checksum({ sequence, data }) {
        kept.push({ seed: Number(sequence), data });
        return { data: data.subarray(0, 50_000) };
      },
    });
    const { client, transport } = connectTo(context, { path });
    const replies: { seed: number; data: Uint8Array }[] = [];
    const check = ({ seed, data }: { seed: number; data: Uint8Array }, byteLength: number) =>
      same(data, patternBytes(1_000_000, seed).subarray(0, byteLength), `call ${seed}`);
    for (let seed = 0; seed < 300; seed++) {
      const size = 32_768 + ((seed * 7919) % 400_000);
      const content = patternBytes(1_000_000, seed).subarray(0, size);
      let bytes: Uint8Array = content;
      if (seed % 2 === 0) {
        bytes = await loan(transport, size);
        bytes.set(content);
      }
      const { data } = await client.checksum({ sequence: BigInt(seed), data: bytes });
      replies.push({ seed, data });
      // Some are dropped now, others much later; all that are there are right.
      if (seed % 3 === 2) for (const list of [kept, replies]) list.splice((seed * 31) % list.length, 1);
      if (seed % 50 === 0) collectSoon();
      check(kept[(seed * 13) % kept.length], kept[(seed * 13) % kept.length].data.length);
      const reply = replies[(seed * 17) % replies.length];
      check(reply, reply.data.length);
    }
    for (const each of [...kept, ...replies]) check(each, each.data.length);
  });

  test("gzip that was started on leased bytes by a handler that returns has the right bytes (collected)", async (context) => {
    const results: Promise<void>[] = [];
    const { path } = await serve(context, "collected", {
      checksum({ sequence, data }) {
        const zipped = promisify(gzip)(data, { level: 1 });
        results.push(
          zipped.then(async (bytes) =>
            same(await promisify(gunzip)(bytes as Uint8Array), patternBytes(300_000, Number(sequence))),
          ),
        );
        return {};
      },
    });
    const { client, transport } = connectTo(context, { path });
    for (let seed = 0; seed < 60; seed++) {
      const data = await loan(transport, 300_000);
      data.set(patternBytes(300_000, seed));
      await client.checksum({ sequence: BigInt(seed), data });
      if (seed % 10 === 0) collectSoon();
    }
    await Promise.all(results);
  });

  test("scoped bytes are there until the handler settles, however it does, and gone then", async (context) => {
    const seen: Uint8Array[] = [];
    const settled: Promise<unknown>[] = [];
    let settle!: () => void;
    const gate = new Promise<void>((resolve) => (settle = resolve));
    const { path } = await serve(context, "scoped", {
      echo({ data, text }) {
        seen.push(data);
        if (text === "throw") throw new ConnectError("no", Code.Aborted);
        return { number: BigInt(data.length) };
      },
      wait: () => ({}),
      async checksum({ data }) {
        seen.push(data);
        const late = gate.then(() => same(data, patternBytes(100_000, 1), "still there after the deadline"));
        settled.push(late);
        await late;
        return {};
      },
    });
    const { client } = connectTo(context, { path });
    const data = patternBytes(100_000, 1);
    assert.equal((await client.echo({ data })).number, 100_000n);
    await assert.rejects(client.echo({ data, text: "throw" }), /no/);
    assert.deepEqual(
      seen.map(({ length }) => length),
      [0, 0],
    );
    await assert.rejects(client.checksum({ data }, { timeoutMs: 1000 }), /timed out|deadline/i);
    assert.equal(seen[2].length, 100_000);
    settle();
    await Promise.all(settled);
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(seen[2].length, 0);
  });

  test("retain keeps scoped bytes, and sending lost ones names the call that had them", async (context) => {
    let kept: Uint8Array = new Uint8Array(0);
    const { path } = await serve(context, "scoped", {
      echo(request) {
        if (request.text === "again") return { data: kept };
        kept = request.data;
        if (request.text === "retain") retain(request);
        return {};
      },
    });
    const { client } = connectTo(context, { path });
    const data = patternBytes(200_000, 8);
    await client.echo({ data, text: "retain" });
    same((await client.echo({ text: "again" })).data, data);
    same((await client.echo({ text: "again" })).data, data, "and stays");
    await client.echo({ data });
    await assert.rejects(client.echo({ text: "again" }), (error: ConnectError) => error.code === Code.Internal);
    assert.equal(kept.length, 0);
  });

  test("using ends a lease at the end of its block; release takes bytes as well as messages", async (context) => {
    const server = await startServer(context, "two processes");
    const { client, transport } = connectTo(context, server);
    const first = await client.echo({ data: patternBytes(100_000, 1) });
    const lease = leaseOf(first);
    assert.equal(first.data.length, 100_000);
    lease[Symbol.dispose]();
    assert.equal(first.data.length, 0);
    const second = await client.echo({ data: patternBytes(100_000, 1) });
    release(second.data);
    assert.equal(second.data.length, 0);
    const third = await client.echo({ data: patternBytes(100_000, 2) });
    await transport.close();
    same(third.data, patternBytes(100_000, 2), "leases outlive their connection");
    release(third);
    release(third);
  });

  test("bytes of a peer that was killed can still be read and written", async (context) => {
    const server = await serveInChild(context);
    const { client } = connectTo(context, server, { waitForReady: false });
    const reply = await client.echo({ data: patternBytes(3_000_000, 6) });
    await server.child.kill("SIGKILL");
    await assert.rejects(client.echo({ text: "?" }));
    same(reply.data, patternBytes(3_000_000, 6));
    reply.data.fill(1);
    assert.ok(reply.data.every((byte) => byte === 1));
  });

  test("copied and snapshot lease nothing, and a program that keeps everything goes on (collected)", async (context) => {
    const server = await startServer(context, "two processes", { leases: "copied" });
    const copying = connectTo(context, server, { leases: "copied" });
    const wary = connectTo(context, server, { isolation: "snapshot" });
    for (const { client, transport } of [copying, wary]) {
      const reply = await client.echo({ data: patternBytes(1_000_000, 3) });
      same(reply.data, patternBytes(1_000_000, 3));
      release(reply);
      assert.equal(reply.data.length, 1_000_000);
      assert.equal(transport.stats().connection!.spansLeased, 0);
    }
  });

  for (const returns of ["its request's bytes", "bytes of its own"]) {
    test(`a program that keeps everything goes on, when the handler returns ${returns} (collected)`, async (context) => {
      const memory = { arenaBytes: 16 << 20 };
      const path = tempSocket(context);
      const echo = ({ data, number }: { data: Uint8Array; number: bigint }) => ({
        data: returns === "bytes of its own" ? patternBytes(500_000, Number(number)) : data,
      });
      const server = createIsthmusServer({ memory, routes: (router) => router.service(TestService, { echo }) });
      await server.listen(path);
      context.after(() => server.close({ timeoutMs: 0 }));
      const { client, transport } = connectTo(context, { path }, { memory });
      const kept: Uint8Array[] = [];
      for (let i = 0; i < 100; i++)
        kept.push((await client.echo({ number: BigInt(i), data: patternBytes(500_000, i) })).data);
      kept.forEach((data, i) => same(data, patternBytes(500_000, i)));
      const { leasedBytes, spansCopiedOut } = transport.stats().connection!;
      assert.ok(leasedBytes <= 8 << 20, `${leasedBytes} bytes are leased`);
      assert.ok(spansCopiedOut > 0);
    });
  }

  test("strict: bytes of every size go with the call, and using them names it", async (context) => {
    const seen: Uint8Array[] = [];
    const { path } = await serve(context, "strict", {
      echo({ data }) {
        seen.push(data);
        return { data };
      },
    });
    const { client } = connectTo(context, { path });
    for (const size of [1, 3000, 100_000]) {
      const data = patternBytes(size, 2);
      same((await client.echo({ data })).data, data);
    }
    for (const bytes of seen) {
      for (const use of [
        () => bytes.length,
        () => bytes.slice(),
        () => Buffer.from(bytes),
        () => bytes.at(0),
        () => [...bytes],
      ]) {
        assert.throws(
          use,
          /these bytes are gone: it was .*lease of the call \/isthmus\.test\.TestService\/Echo|sent by an earlier call/,
        );
      }
    }
  });

  test("what was leased and is garbage goes back without a collection of the whole heap (collected)", async (context) => {
    const data = patternBytes(40 << 10, 1);
    const { path } = await serve(context, "copied", { echo: () => ({ data }) });
    const { client, transport } = connectTo(context, { path });
    await client.echo({});
    // So many that whatever remembers leases grows old.
    let mostLeases = 0;
    for (let call = 0; call < 14_000; call++) {
      const reply = await client.echo({});
      assert.equal(reply.data.length, data.length);
      mostLeases = Math.max(mostLeases, transport.stats().connection!.leases);
    }
    assert.ok(mostLeases > 10, "nothing was leased");
    assert.ok(mostLeases < 1000, `${mostLeases} leases were out at once`);
  });

  test("both sides that only send large values go on, and all of it comes back", async (context) => {
    const { path } = await serve(context, "scoped", {
      echo: async ({ data }, handler) => {
        const reply = await loan(handler, data.length);
        reply.set(data);
        return { data: reply };
      },
    });
    const { client, transport } = connectTo(context, { path }, { leases: "scoped", memory: { arenaBytes: 16 << 20 } });
    await Promise.all(
      Array.from({ length: 200 }, async (_, i) => {
        const size = 100_000 + i * 1000;
        const data = await loan(transport, size);
        data.set(patternBytes(size, i));
        const reply = await client.echo({ data });
        same(reply.data, patternBytes(size, i));
        release(reply);
      }),
    );
    await waitUntil("the arena to come back", async () => {
      await client.echo({ data: new Uint8Array(1) });
      return transport.stats().connection!.arenaInUseBytes === 0 || transport.stats().connection!.arenaInUseBytes;
    });
    assert.equal(transport.stats().connection!.loans, 0);
  });
});
