/** Deadlines: a call ends in time whatever the server does, and the handler learns of it. */
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { Code } from "@connectrpc/connect";
import { serveSilently } from "../support/other-servers.js";
import { suiteOwner } from "../support/temp.js";
import type { Observation } from "../support/test-service.js";
import type { TestClient, TestServer } from "../support/test-server.js";
import { connectTo, PLACES, startServer } from "../support/test-server.js";
import { failure, waitUntil } from "../support/waiting.js";

const LATE_MS = 250;

/** How long `failing` takes to fail with DeadlineExceeded. */
async function timeToDeadline(failing: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await failure(failing(), Code.DeadlineExceeded, /timed out/);
  return performance.now() - start;
}

for (const place of PLACES) {
  describe(`deadlines, ${place}`, () => {
    const owner = suiteOwner();
    let server: TestServer;
    let here: TestClient;
    before(async () => {
      server = await startServer(owner, place);
      here = connectTo(owner, server);
      await here.client.echo({});
    });
    const seen = async (milliseconds: number): Promise<Observation | undefined> =>
      (await server.observations()).findLast((observation) => observation.milliseconds === milliseconds);

    test("a call ends with DeadlineExceeded as soon as its timeout has passed", async () => {
      const elapsed = await timeToDeadline(() => here.client.wait({ milliseconds: 20_001 }, { timeoutMs: 60 }));
      assert.ok(elapsed >= 58 && elapsed < 60 + LATE_MS, `${elapsed} ms`);
    });

    test("the handler sees what is left of the timeout, and its signal aborts with DeadlineExceeded", async () => {
      await timeToDeadline(() => here.client.wait({ milliseconds: 20_002 }, { timeoutMs: 80 }));
      await waitUntil("the handler's signal to abort", async () => (await seen(20_002))?.aborted);
      const observation = (await seen(20_002))!;
      assert.equal(observation.code, "DeadlineExceeded");
      assert.ok(observation.timeoutMs! > 40 && observation.timeoutMs! <= 81, String(observation.timeoutMs));
    });

    test("a timeout that does not pass changes nothing, and is not counted against later calls", async () => {
      assert.equal((await here.client.wait({ milliseconds: 5 }, { timeoutMs: 2000 })).text, "waited");
      assert.equal((await here.client.wait({ milliseconds: 30 })).text, "waited");
    });

    test("without a timeout the handler sees none", async () => {
      await here.client.wait({ milliseconds: 3 });
      assert.equal((await seen(3))!.timeoutMs, undefined);
    });

    for (const timeoutMs of [0, -1, Infinity, 2 ** 31, Number.MAX_SAFE_INTEGER]) {
      test(`a timeout of ${timeoutMs} ms is none`, async () => {
        assert.equal((await here.client.wait({ milliseconds: 20 }, { timeoutMs })).text, "waited");
        assert.equal((await seen(20))!.timeoutMs, undefined);
      });
      test(`a timeout of ${timeoutMs} ms is none with interceptors and before there is a connection either`, async (context) => {
        const { client } = connectTo(context, server, { interceptors: [(next) => next] });
        assert.equal((await client.wait({ milliseconds: 20 }, { timeoutMs })).text, "waited");
      });
    }

    test("a fraction of a millisecond is a timeout", async () => {
      await timeToDeadline(() => here.client.wait({ milliseconds: 20_003 }, { timeoutMs: 0.2 }));
    });

    test("the transport's defaultTimeoutMs holds for calls that set none, and a call's 0 lifts it", async (context) => {
      const { client } = connectTo(context, server, { defaultTimeoutMs: 50 });
      const elapsed = await timeToDeadline(() => client.wait({ milliseconds: 20_004 }));
      assert.ok(elapsed < 50 + LATE_MS, `${elapsed} ms`);
      assert.equal((await client.wait({ milliseconds: 90 }, { timeoutMs: 0 })).text, "waited");
      assert.equal((await client.wait({ milliseconds: 60 }, { timeoutMs: 5000 })).text, "waited");
    });

    test("a deadline holds for calls that wait for others to end", async (context) => {
      const narrow = await startServer(context, place, { maxStreams: 1 });
      const { client, transport } = connectTo(context, narrow);
      const first = client.wait({ milliseconds: 300 });
      await waitUntil("the first call to be under way", () => transport.stats().pendingCalls === 1 && transport.state === "ready");
      const elapsed = await timeToDeadline(() => client.echo({}, { timeoutMs: 40 }));
      assert.ok(elapsed < 40 + LATE_MS, `${elapsed} ms`);
      assert.equal((await first).text, "waited");
      assert.equal((await client.echo({ text: "after" })).text, "after");
    });

    test("time spent in the queue counts against the deadline that the handler sees", async (context) => {
      const narrow = await startServer(context, place, { maxStreams: 1 });
      const { client } = connectTo(context, narrow);
      const first = client.wait({ milliseconds: 150 });
      const second = client.wait({ milliseconds: 7 }, { timeoutMs: 1000 });
      await Promise.all([first, second]);
      const observation = (await narrow.observations()).findLast(({ milliseconds }) => milliseconds === 7)!;
      assert.ok(observation.timeoutMs! < 900, String(observation.timeoutMs));
    });

    test("100 deadlines at once all fire, and the connection goes on", async () => {
      const calls = Array.from({ length: 100 }, (_, i) => timeToDeadline(() => here.client.wait({ milliseconds: 20_005 }, { timeoutMs: 20 + (i % 10) })));
      await Promise.all(calls);
      assert.equal((await here.client.echo({ text: "on" })).text, "on");
      await waitUntil("the server to have no calls left", async () => (await server.stats()).pendingCalls === 0);
    });

    test("a timeout longer than the server's maxTimeoutMs is refused with InvalidArgument, a shorter one and none are not", async (context) => {
      const strict = await startServer(context, place, { maxTimeoutMs: 1000 });
      const { client } = connectTo(context, strict);
      // What the connection takes counts against the first call's timeout.
      await client.echo({});
      await failure(client.echo({}, { timeoutMs: 1001 }), Code.InvalidArgument, /timeout 1001ms must be <= 1000/);
      assert.equal((await client.echo({ text: "a" }, { timeoutMs: 1000 })).text, "a");
      assert.equal((await client.echo({ text: "b" })).text, "b");
    });

    test("a large request that is refused does not disturb the calls after it", async (context) => {
      const strict = await startServer(context, place, { maxTimeoutMs: 1000 });
      const { client } = connectTo(context, strict);
      await failure(client.echo({ data: new Uint8Array(20 << 20) }, { timeoutMs: 5000 }), Code.InvalidArgument, /must be <= 1000/);
      for (let i = 0; i < 10; i++) assert.equal((await client.echo({ text: String(i), data: new Uint8Array(300_000) })).text, String(i));
    });
  });
}

test("a deadline that passes in the middle of a large message ends the call and nothing else", async (context) => {
  const server = await startServer(context, "two processes", { memory: { ringBytes: 64 << 10, arenaBytes: 128 << 10 } });
  const { client } = connectTo(context, server, { memory: { ringBytes: 64 << 10, arenaBytes: 128 << 10 } });
  await client.echo({});
  const data = new Uint8Array(64 << 20);
  await Promise.all([1, 3, 9].map((timeoutMs) => timeToDeadline(() => client.echo({ data }, { timeoutMs }))));
  assert.equal((await client.echo({ text: "on", data: data.subarray(0, 1 << 20) })).data.length, 1 << 20);
});

test("a deadline holds while the connection is being made", async (context) => {
  const silent = await serveSilently(context);
  const { client, transport } = connectTo(context, silent);
  const elapsed = await timeToDeadline(() => client.echo({}, { timeoutMs: 50 }));
  assert.ok(elapsed < 50 + LATE_MS, `${elapsed} ms`);
  assert.equal(transport.stats().pendingCalls, 0);
});
