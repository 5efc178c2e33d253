/** Leases: how long received bytes stay valid, in each lifetime, and that blocks go back exactly once. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { gunzipSync, gzip } from "node:zlib";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import type { LeaseLifetime } from "../../src/index.js";
import { leaseOf, release, retain } from "../../src/index.js";
import { KindsService } from "../proto/kinds_pb.js";
import { collectSoon } from "../../src/memory/v8/gc.js";
import { createRandom, seedOf } from "../stress/settings.js";
import { runScriptOk } from "../support/processes.js";
import { allReturned, connectionOf, pattern, patternFault, serveOwn } from "../support/own-routes.js";
import { connectTo, PLACES, serveInChild, startServer } from "../support/test-server.js";
import { failure, waitUntil, within } from "../support/waiting.js";

const MIB = 1 << 20;
const ENDED =
  /its memory is gone: it was a lease of the call \/isthmus\.test\.TestService\/Echo, which has ended; copy it, or keep it with retain\(message\)/;
const gzipAsync = promisify(gzip);

for (const place of PLACES) {
  for (const leases of ["collected", "scoped"] as const) {
    test(`in ${place}, ${leases}: a handler that answers with the request's bytes sends the block back without a copy`, async (context) => {
      const server = await startServer(context, place, { leases });
      const { client, transport } = connectTo(context, server, { leases });
      for (const [i, byteLength] of [32_768, 100_000, 3 * MIB, 100_000].entries()) {
        const { data } = await client.echo({ data: pattern(i, byteLength) });
        assert.deepEqual([data.length, patternFault(data, i)], [byteLength, -1]);
        // And the same memory a second and a third time.
        const again = await client.echo({ data });
        assert.deepEqual([again.data.length, patternFault(again.data, i)], [byteLength, -1]);
        assert.equal(data.length, leases === "scoped" ? 0 : byteLength);
        release(data);
        const last = await client.echo({ data: again.data.subarray(4096, 24_000) });
        assert.ok(Buffer.from(pattern(i, byteLength).subarray(4096, 24_000)).equals(last.data));
        release(again);
      }
      const { spansCopiedIn, spansSentInPlace, spansCopiedOut } = connectionOf(transport);
      assert.deepEqual({ spansCopiedIn, spansSentInPlace }, { spansCopiedIn: 4, spansSentInPlace: 8 });
      // Of the last answers in each round, which are small, nothing is a span.
      assert.equal(spansCopiedOut, 0);
      await allReturned(transport, server);
    });
  }

  for (const leases of ["collected", "scoped", "copied", "strict"] as const) {
    test(`in ${place}, ${leases}: calls of all sizes with fields of all kinds come back as they went`, async (context) => {
      const server = await startServer(context, place, { leases });
      const { transport } = connectTo(context, server, { leases });
      const client = createClient(KindsService, transport);
      for (const byteLength of [0, 1, 512, 4096, 20_000, 32_768, 200_000]) {
        const blobs = Array.from({ length: 70 }, (_, i) => pattern(i, i % 3 === 0 ? 10 : byteLength));
        const doubles = Array.from({ length: byteLength >> 3 }, (_, i) => i / 3);
        const reply = await client.echo({
          blobs,
          doubles,
          bytes: pattern(77, byteLength),
          nested: { bytes: pattern(78, byteLength) },
        });
        for (const [i, blob] of reply.blobs.entries())
          assert.deepEqual([blob.length, patternFault(blob, i)], [blobs[i].length, -1]);
        assert.deepEqual(reply.doubles, doubles);
        assert.deepEqual(
          [reply.bytes.length, patternFault(reply.bytes, 77), patternFault(reply.nested!.bytes, 78)],
          [byteLength, -1, -1],
        );
        release(reply);
      }
      await allReturned(transport, server);
      assert.equal(transport.stats().connections, 1);
    });
  }
}

describe("a scoped lease", () => {
  const scoped = { server: { leases: "scoped" } } as const;

  for (const how of ["returns", "returns later", "throws", "throws later"]) {
    test(`ends when the handler ${how}`, async (context) => {
      let kept: Uint8Array = new Uint8Array();
      const { client, transport } = await serveOwn(
        context,
        {
          echo({ data }) {
            kept = data;
            assert.equal(patternFault(data, 1), -1);
            const settle = () => {
              assert.equal(data.length, 100_000);
              if (how.startsWith("throws")) throw new ConnectError("thrown", Code.Aborted);
              return {};
            };
            return how.endsWith("later") ? sleep(5).then(settle) : settle();
          },
        },
        scoped,
      );
      const call = client.echo({ data: pattern(1, 100_000) });
      if (how.startsWith("throws")) await failure(call, Code.Aborted, /thrown/);
      else await call;
      assert.equal(kept.length, 0);
      assert.equal(kept.buffer.byteLength, 0);
      await waitUntil(
        "the block to be back, without garbage collection",
        () => connectionOf(transport).arenaInUseBytes === 0,
      );
      await failure(client.echo({ data: kept }), Code.Internal, ENDED);
    });
  }

  test("lasts until the handler settles, although its call has timed out", async (context) => {
    let settled: Promise<number> | undefined;
    let settle!: () => void;
    const gate = new Promise<void>((resolve) => (settle = resolve));
    let kept: Uint8Array = new Uint8Array();
    const { client } = await serveOwn(
      context,
      {
        echo({ data }) {
          kept = data;
          settled = gate.then(() => patternFault(data, 1));
          return settled.then(() => ({ data }));
        },
      },
      scoped,
    );
    await failure(client.echo({ data: pattern(1, 100_000) }, { timeoutMs: 1000 }), Code.DeadlineExceeded, /timed out/);
    assert.equal(kept.length, 100_000);
    settle();
    assert.equal(await settled, -1);
    await waitUntil("the lease to end", () => kept.length === 0);
  });

  test("is kept by retain, of the message or of its bytes, until it is released", async (context) => {
    const kept: Uint8Array[] = [];
    const { client, transport } = await serveOwn(
      context,
      {
        echo(request) {
          retain(request.number === 0n ? request : request.data.subarray(3, 5));
          kept.push(request.data);
          return { data: request.data };
        },
      },
      scoped,
    );
    for (let i = 0; i < 10; i++) {
      const reply = await client.echo({ number: BigInt(i % 2), data: pattern(i, 100_000) });
      assert.equal(patternFault(reply.data, i), -1);
      release(reply);
    }
    for (const [i, bytes] of kept.entries()) assert.deepEqual([bytes.length, patternFault(bytes, i)], [100_000, -1]);
    for (const bytes of kept) release(bytes);
    await waitUntil("the blocks to be back", () => connectionOf(transport).arenaInUseBytes === 0);
  });

  test("of an answer that waits for a client which does not read arrives whole", async (context) => {
    const server = await serveInChild(context, { leases: "scoped", memory: { ringBytes: 65_536, arenaBytes: MIB } });
    const { client } = connectTo(context, server, { memory: { ringBytes: 1 << 20 } });
    await client.echo({});
    const calls = Array.from({ length: 600 }, (_, i) =>
      client.echo({ data: pattern(i, 32_768 + i), text: "x".repeat(200) }),
    );
    const until = performance.now() + 300;
    await sleep(1);
    while (performance.now() < until);
    for (const [i, { data }] of (await Promise.all(calls)).entries())
      assert.deepEqual([data.length, patternFault(data, i)], [32_768 + i, -1]);
  });
});

describe("release", () => {
  for (const leases of ["collected", "scoped"] as const) {
    test(`ends a ${leases} lease at once, by the message, its bytes, or \`using\`; a second one does nothing`, async (context) => {
      const { client, transport } = await serveOwn(
        context,
        { echo: () => ({ data: pattern(1, 100_000) }) },
        { client: { leases } },
      );
      const ways: ((reply: Awaited<ReturnType<typeof client.echo>>) => void)[] = [
        (reply) => release(reply),
        ({ data }) => release(data),
        (reply) => leaseOf(reply)[Symbol.dispose](),
        ({ data }) => leaseOf(data).release(),
      ];
      for (const end of ways) {
        const reply = await client.echo({});
        assert.equal(connectionOf(transport).leases, 1);
        assert.equal(connectionOf(transport).leasedBytes, 100_000);
        end(reply);
        assert.equal(reply.data.length, 0);
        end(reply);
        assert.equal(connectionOf(transport).leases, 0);
        assert.equal(connectionOf(transport).leasedBytes, 0);
        await failure(client.echo({ data: reply.data }), Code.Internal, /its memory is gone: it was released/);
      }
    });
  }

  test("in a handler leaves the client's connection as it was", async (context) => {
    const { client, transport } = await serveOwn(context, {
      echo(request) {
        release(request);
        return { number: BigInt(request.data.length), data: new Uint8Array(40_000) };
      },
      checksum(request) {
        release(request.data);
        return { data: request.data };
      },
    });
    for (let i = 0; i < 20; i++) {
      assert.equal((await client.echo({ data: pattern(1, 100_000) })).number, 0n);
      await failure(
        client.checksum({ data: pattern(1, 100_000) }),
        Code.Internal,
        /its memory is gone: it was released/,
      );
    }
    assert.equal(transport.stats().connections, 1);
    await allReturned(transport);
  });

  test("of a message without leases does nothing", async (context) => {
    const { client } = await serveOwn(context, { echo: ({ data }) => ({ data }) }, { client: { leases: "copied" } });
    const reply = await client.echo({ data: pattern(1, 100_000) });
    release(reply);
    release(reply.data);
    release(new Uint8Array(5));
    retain(reply);
    assert.equal(patternFault(reply.data, 1), -1);
  });

  test("after the connection is over unmaps the memory, and does nothing the second time", async (context) => {
    const server = await serveInChild(context);
    const { said } = await runScriptOk(
      context,
      `
      const { readFileSync } = await import("node:fs");
      const { release } = await import(data.index);
      const mappings = () => readFileSync("/proc/self/maps", "utf8").split("/memfd:isthmus").length - 1;
      const transport = createIsthmusTransport({ address: data.path });
      const client = createClient(TestService, transport);
      const replies = [];
      for (let i = 1; i < 4; i++) replies.push(await client.checksum({ data: new Uint8Array(100_000).fill(i) }));
      await transport.close();
      for (const [i, reply] of replies.entries()) say(reply.data.every((byte) => byte === i + 1));
      for (const reply of replies) reply.data.fill(1);
      say(mappings() > 0);
      for (const reply of replies) release(reply);
      for (const reply of replies) release(reply.data);
      for (let i = 0; i < 100 && mappings() > 0; i++) await sleep(5);
      say(mappings());
      `,
      { path: server.path, index: new URL("../../src/index.js", import.meta.url).href },
    );
    assert.deepEqual(said, [true, true, true, true, 0]);
  });
});

test("leases of a peer that was killed stay readable and writable, and can be released", async (context) => {
  const server = await serveInChild(context);
  const { client, transport } = connectTo(context, server);
  // The server's own blocks: answers that it had to make anew.
  const replies = await Promise.all(
    Array.from({ length: 8 }, (_, i) => client.checksum({ sequence: BigInt(i), data: pattern(i, 200_000 + i) })),
  );
  await server.child.kill("SIGKILL");
  await waitUntil("the connection to be over", () => transport.state === "idle");
  for (const [i, { data }] of replies.entries()) {
    assert.deepEqual([data.length, patternFault(data, i)], [200_000 + i, -1]);
    data.fill(i);
    assert.ok(data.every((byte) => byte === i));
  }
  for (const reply of replies.slice(4)) release(reply);
  assert.ok(replies.slice(4).every(({ data }) => data.length === 0));
});

test("blocks of messages that nobody gets go back: refused, malformed, too large, timed out, canceled", async (context) => {
  const { client, kinds, transport } = await serveOwn(
    context,
    {
      echo: () => ({ data: pattern(1, 300_000) }),
      checksum: () => sleep(30).then(() => ({ data: pattern(1, 300_000) })),
      wait: () => ({ data: pattern(1, 100_000) }),
    },
    { server: { readMaxBytes: 500_000 }, client: { readMaxBytes: 250_000 } },
  );
  await failure(client.echo({}), Code.ResourceExhausted, /larger than configured readMaxBytes/);
  await failure(
    kinds.echo({ bytes: new Uint8Array(600_000) }),
    Code.ResourceExhausted,
    /larger than configured readMaxBytes/,
  );
  await failure(client.unfinished({ data: new Uint8Array(100_000) }), Code.Unimplemented, /./);
  await failure(client.checksum({ data: pattern(1, 100_000) }, { timeoutMs: 10 }), Code.DeadlineExceeded, /./);
  const controller = new AbortController();
  const canceled = failure(
    client.checksum({ data: pattern(1, 100_000) }, { signal: controller.signal }),
    Code.Canceled,
    /./,
  );
  await sleep(5);
  controller.abort();
  await canceled;
  await sleep(50);
  await allReturned(transport);
});

test("compressing leased bytes in the background of a handler that has returned gives the right result, every time", async (context) => {
  const results: Promise<{ seed: number; zipped: Buffer }>[] = [];
  const { client, transport } = await serveOwn(context, {
    echo({ number, data }) {
      const seed = Number(number);
      if (data.length === MIB) return {};
      results.push(gzipAsync(data, { level: 1 }).then((zipped) => ({ seed, zipped })));
      return {};
    },
  });
  for (let round = 0; round < 10; round++) {
    await Promise.all(
      Array.from({ length: 8 }, (_, i) =>
        client.echo({ number: BigInt(round * 8 + i), data: pattern(round * 8 + i, 200_000 + i) }),
      ),
    );
    // So that it wants blocks back, and collects garbage.
    await client.echo({ data: new Uint8Array(MIB) });
    if (round % 3 === 0) collectSoon();
  }
  for (const { seed, zipped } of await Promise.all(results)) {
    assert.equal(patternFault(gunzipSync(zipped), seed), -1, `seed ${seed}`);
  }
  await allReturned(transport);
});

for (const leases of ["collected", "scoped"] as const satisfies LeaseLifetime[]) {
  test(`what handlers keep (${leases}), in any order of keeping and releasing, is never another call's`, {
    timeout: 600_000,
  }, async (context) => {
    const seed = seedOf(context);
    const random = createRandom(seed);
    const kept = new Map<number, { data: Uint8Array; first: number }>();
    let next = 0;
    const check = (id: number) => {
      const { data, first } = kept.get(id)!;
      // Every page, the start and the end.
      const expected = tag(id);
      for (let at = 0; at + 4 <= data.length; at += 4096)
        assert.equal(readTag(data, at), expected, `call ${id} at ${at}`);
      assert.equal(data.length, first);
    };
    const { client, transport } = await serveOwn(
      context,
      {
        echo(request) {
          const id = Number(request.number);
          if (random() < 0.5) {
            if (leases === "scoped") retain(request);
            kept.set(id, { data: request.data, first: request.data.length });
          }
          return random() < 0.3 ? { data: request.data } : {};
        },
      },
      { server: { leases }, client: { leases, memory: { arenaBytes: 16 * MIB } } },
    );
    const calls = 1500;
    const source = new Uint8Array(2 * MIB);
    const worker = async () => {
      while (next < calls) {
        const id = next++;
        const byteLength = Math.floor(32_768 * 64 ** random());
        const data = source.slice(0, byteLength);
        for (let at = 0; at + 4 <= byteLength; at += 4096) data.set(tagBytes(id), at);
        const reply = await within(60_000, `call ${id}`, client.echo({ number: BigInt(id), data }));
        if (reply.data.length > 0) {
          assert.equal(reply.data.length, byteLength);
          for (let at = 0; at + 4 <= byteLength; at += 4096) assert.equal(readTag(reply.data, at), tag(id));
          if (random() < 0.7) release(reply);
        }
        while (kept.size > 8) {
          const ids = [...kept.keys()];
          const victim = ids[Math.floor(random() * ids.length)];
          check(victim);
          const { data: bytes } = kept.get(victim)!;
          kept.delete(victim);
          if (random() < 0.5) release(bytes);
        }
      }
    };
    await Promise.all(Array.from({ length: 4 }, worker));
    for (const id of kept.keys()) check(id);
    kept.clear();
    await allReturned(transport);
    assert.equal(transport.stats().connections, 1);
  });
}

function tag(id: number): number {
  return (Math.imul(id + 1, 0x9e3779b1) ^ 0x5bd1e995) | 0;
}

function tagBytes(id: number): Uint8Array {
  return new Uint8Array(Int32Array.of(tag(id)).buffer);
}

function readTag(bytes: Uint8Array, at: number): number {
  return bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);
}

describe("a program that never releases", () => {
  for (const byteLength of [32_768, 400_000]) {
    test(`and keeps requests of ${byteLength} bytes slows down at most`, { timeout: 600_000 }, async (context) => {
      const kept: Uint8Array[] = [];
      const { client, transport } = await serveOwn(
        context,
        {
          echo({ number, data }) {
            assert.equal(kept.push(data), Number(number) + 1);
            return {};
          },
        },
        // Of the smaller ones half as many as the peer has slots for are leased, …
        byteLength === 32_768 ? {} : { client: { memory: { arenaBytes: 4 * MIB } } },
      );
      const calls = byteLength === 32_768 ? 4600 : 60;
      const data = new Uint8Array(byteLength);
      for (let i = 0; i < calls; i++) {
        data.set(tagBytes(i), byteLength - 8);
        await within(60_000, `call ${i}`, client.echo({ number: BigInt(i), data }));
      }
      for (const [i, bytes] of kept.entries()) assert.equal(readTag(bytes, byteLength - 8), tag(i));
      // … of the larger ones as many as take half of the arena.
      const inUse = connectionOf(transport).arenaInUseBytes;
      assert.ok(inUse <= (byteLength === 32_768 ? 2049 * 32_768 : 2 * MIB + 400_000), `${inUse} bytes are in use`);
      kept.length = 0;
      await allReturned(transport);
    });
  }

  test("and keeps its own bytes that came back slows down at most", { timeout: 600_000 }, async (context) => {
    const { client, transport } = await serveOwn(
      context,
      { echo: ({ data }) => ({ data }) },
      { client: { memory: { arenaBytes: 4 * MIB } }, server: { memory: { arenaBytes: 4 * MIB } } },
    );
    const kept: Uint8Array[] = [];
    for (let i = 0; i < 60; i++)
      kept.push((await within(60_000, `call ${i}`, client.echo({ data: pattern(i, 400_000) }))).data);
    for (const [i, bytes] of kept.entries()) assert.equal(patternFault(bytes, i), -1);
    kept.length = 0;
    await allReturned(transport);
  });
});

test("one block that is lent ten thousand times at once is held once, and comes back", {
  timeout: 600_000,
}, async (context) => {
  const server = await serveInChild(context, { leases: "strict", maxStreams: 20_000 });
  const { client, transport } = connectTo(context, server);
  const { data } = await client.echo({ data: pattern(1, 40_000) });
  const part = data.subarray(0, 20_000);
  const calls = Array.from({ length: 10_000 }, () => client.echo({ data: part }));
  for (const reply of await Promise.all(calls)) assert.equal(reply.data.length, 20_000);
  assert.equal(transport.stats().connections, 1);
  assert.equal(patternFault(data, 1), -1);
  release(data);
  await allReturned(transport, server);
});
