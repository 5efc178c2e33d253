/** Deadlines: a call ends in time whatever the server does, and the handler learns of it. */
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { setImmediate as turn, setTimeout as sleep } from "node:timers/promises";
import { Code } from "@connectrpc/connect";
import { serveSilently } from "../support/other-servers.js";
import { suiteOwner } from "../support/temp.js";
import type { Observation } from "../support/test-service.js";
import type { TestClient, TestServer } from "../support/test-server.js";
import { connectTo, PLACES, startServer } from "../support/test-server.js";
import { failure, waitUntil } from "../support/waiting.js";

/** Turns of the event loop between a timer that fires and what follows from it. */
const TURNS = 20;

/**
 * `failing` fails with DeadlineExceeded when `timeoutMs` have passed: not earlier, and not later than a timer that is
 * started after it.
 */
async function assertOnTime(timeoutMs: number, failing: () => Promise<unknown>): Promise<void> {
  const start = performance.now();
  let lastedMs = 0;
  const failed = failure(failing(), Code.DeadlineExceeded, /timed out/).then(
    () => (lastedMs = performance.now() - start),
  );
  await sleep(timeoutMs + 1);
  for (let turns = 0; turns < TURNS && lastedMs === 0; turns++) await turn();
  assert.ok(lastedMs > 0, `a timer of ${timeoutMs} ms has fired, and the call goes on`);
  await failed;
  // A timer may fire a moment early.
  assert.ok(lastedMs > timeoutMs - 2, `${lastedMs} ms instead of ${timeoutMs}`);
}

async function assertTimesOut(failing: () => Promise<unknown>): Promise<void> {
  await failure(failing(), Code.DeadlineExceeded, /timed out/);
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
      await assertOnTime(60, () => here.client.wait({ milliseconds: 120_001 }, { timeoutMs: 60 }));
    });

    test("the handler sees what is left of the timeout, and its signal aborts with DeadlineExceeded", async () => {
      await assertTimesOut(() => here.client.wait({ milliseconds: 120_002 }, { timeoutMs: 2000 }));
      await waitUntil("the handler's signal to abort", async () => (await seen(120_002))?.aborted);
      const observation = (await seen(120_002))!;
      assert.equal(observation.code, "DeadlineExceeded");
      assert.ok(observation.timeoutMs! > 0 && observation.timeoutMs! <= 2001, String(observation.timeoutMs));
    });

    test("a timeout that does not pass changes nothing, and is not counted against later calls", async () => {
      assert.equal((await here.client.wait({ milliseconds: 5 }, { timeoutMs: 120_000 })).text, "waited");
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
      await assertTimesOut(() => here.client.wait({ milliseconds: 120_003 }, { timeoutMs: 0.2 }));
    });

    test("the transport's defaultTimeoutMs holds for calls that set none, and a call's 0 lifts it", async (context) => {
      const { client } = connectTo(context, server, { defaultTimeoutMs: 50 });
      await assertOnTime(50, () => client.wait({ milliseconds: 120_004 }));
      assert.equal((await client.wait({ milliseconds: 90 }, { timeoutMs: 0 })).text, "waited");
      assert.equal((await client.wait({ milliseconds: 60 }, { timeoutMs: 120_000 })).text, "waited");
    });

    test("a deadline holds for calls that wait for others to end", async (context) => {
      const narrow = await startServer(context, place, { maxStreams: 1 });
      const { client, transport } = connectTo(context, narrow);
      const end = new AbortController();
      const first = client.wait({ milliseconds: 120_006 }, { signal: end.signal });
      await waitUntil(
        "the first call to be under way",
        () => transport.stats().pendingCalls === 1 && transport.state === "ready",
      );
      await assertOnTime(40, () => client.echo({}, { timeoutMs: 40 }));
      assert.equal(transport.stats().pendingCalls, 1);
      end.abort();
      await failure(first, Code.Canceled, /abort/i);
      assert.equal((await client.echo({ text: "after" })).text, "after");
    });

    test("time spent in the queue counts against the deadline that the handler sees", async (context) => {
      const narrow = await startServer(context, place, { maxStreams: 1 });
      const { client } = connectTo(context, narrow);
      const first = client.wait({ milliseconds: 150 });
      const second = client.wait({ milliseconds: 7 }, { timeoutMs: 120_000 });
      await Promise.all([first, second]);
      const observation = (await narrow.observations()).findLast(({ milliseconds }) => milliseconds === 7)!;
      assert.ok(observation.timeoutMs! < 120_000 - 140, String(observation.timeoutMs));
    });

    test("100 deadlines at once all fire, and the connection goes on", async () => {
      const calls = Array.from({ length: 100 }, (_, i) =>
        assertTimesOut(() => here.client.wait({ milliseconds: 120_005 }, { timeoutMs: 20 + (i % 10) })),
      );
      await Promise.all(calls);
      assert.equal((await here.client.echo({ text: "on" })).text, "on");
      await waitUntil("the server to have no calls left", async () => (await server.stats()).pendingCalls === 0);
    });

    test("a timeout longer than the server's maxTimeoutMs is refused with InvalidArgument, a shorter one and none are not", async (context) => {
      const strict = await startServer(context, place, { maxTimeoutMs: 60_000 });
      const { client } = connectTo(context, strict);
      // What the connection takes counts against the first call's timeout.
      await client.echo({});
      await failure(client.echo({}, { timeoutMs: 60_001 }), Code.InvalidArgument, /timeout 60001ms must be <= 60000/);
      assert.equal((await client.echo({ text: "a" }, { timeoutMs: 60_000 })).text, "a");
      assert.equal((await client.echo({ text: "b" })).text, "b");
    });

    test("a large request that is refused does not disturb the calls after it", async (context) => {
      const strict = await startServer(context, place, { maxTimeoutMs: 60_000 });
      const { client } = connectTo(context, strict);
      await failure(
        client.echo({ data: new Uint8Array(20 << 20) }, { timeoutMs: 120_000 }),
        Code.InvalidArgument,
        /must be <= 60000/,
      );
      for (let i = 0; i < 10; i++)
        assert.equal((await client.echo({ text: String(i), data: new Uint8Array(300_000) })).text, String(i));
    });
  });
}

test("a deadline that passes in the middle of a large message ends the call and nothing else", async (context) => {
  const server = await startServer(context, "two processes", {
    memory: { ringBytes: 64 << 10, arenaBytes: 128 << 10 },
  });
  const { client } = connectTo(context, server, { memory: { ringBytes: 64 << 10, arenaBytes: 128 << 10 } });
  await client.echo({});
  const data = new Uint8Array(64 << 20);
  await Promise.all([1, 3, 9].map((timeoutMs) => assertTimesOut(() => client.echo({ data }, { timeoutMs }))));
  assert.equal((await client.echo({ text: "on", data: data.subarray(0, 1 << 20) })).data.length, 1 << 20);
});

test("a deadline holds while the connection is being made", async (context) => {
  const silent = await serveSilently(context);
  const { client, transport } = connectTo(context, silent);
  await assertOnTime(50, () => client.echo({}, { timeoutMs: 50 }));
  assert.equal(transport.stats().pendingCalls, 0);
});
