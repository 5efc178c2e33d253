/** Cancellation: a call's AbortSignal, on both ends. */
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { createIsthmusServer } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import { patternBytes } from "../support/checksum.js";
import { serveSilently } from "../support/other-servers.js";
import { suiteOwner, tempSocket } from "../support/temp.js";
import type { TestClient, TestServer } from "../support/test-server.js";
import { connectTo, PLACES, startServer } from "../support/test-server.js";
import { assertSettled, failure, waitUntil } from "../support/waiting.js";

for (const place of PLACES) {
  describe(`cancellation, ${place}`, () => {
    const owner = suiteOwner();
    let server: TestServer;
    let here: TestClient;
    before(async () => {
      server = await startServer(owner, place);
      here = connectTo(owner, server);
      await here.client.echo({});
    });

    test("a call with a signal that has aborted is never sent", async () => {
      const calls = (await server.observations()).length;
      await failure(
        here.client.wait({ milliseconds: 10_001 }, { signal: AbortSignal.abort() }),
        Code.Canceled,
        /abort/i,
      );
      await here.client.echo({});
      assert.equal((await server.observations()).length, calls);
    });

    test("an abort ends the call at once, and the handler's signal aborts with Canceled", async () => {
      const controller = new AbortController();
      const call = here.client.wait({ milliseconds: 10_002 }, { signal: controller.signal });
      const find = async () => (await server.observations()).find(({ milliseconds }) => milliseconds === 10_002);
      await waitUntil("the handler to run", async () => (await find()) !== undefined);
      controller.abort();
      await assertSettled(call);
      await failure(call, Code.Canceled, /abort/i);
      await waitUntil("the handler's signal to abort", async () => (await find())!.aborted);
      assert.equal((await find())!.code, "Canceled");
      await waitUntil("the server to forget the call", async () => (await server.stats()).pendingCalls === 0);
    });

    test("thousands of calls that are given up at once leave the connection as it was", async () => {
      for (let round = 0; round < 3; round++) {
        const controller = new AbortController();
        const { signal } = controller;
        const calls = Array.from({ length: 10_000 }, () => here.client.wait({ milliseconds: 300 }, { signal }));
        const ends = Promise.allSettled(calls);
        await sleep(100);
        controller.abort();
        assert.ok((await ends).every(({ status }) => status === "rejected"));
      }
      assert.equal((await here.client.echo({ text: "still here" })).text, "still here");
      assert.equal((await server.stats()).violations, 0);
    });

    test("an abort's own ConnectError is what the call rejects with", async () => {
      const controller = new AbortController();
      const call = here.client.wait({ milliseconds: 10_003 }, { signal: controller.signal });
      controller.abort(new ConnectError("no longer needed", Code.FailedPrecondition));
      await failure(call, Code.FailedPrecondition, /no longer needed/);
    });

    test("an abort after the answer changes nothing", async () => {
      const controller = new AbortController();
      const reply = await here.client.echo({ text: "kept" }, { signal: controller.signal });
      controller.abort();
      assert.equal(reply.text, "kept");
      assert.equal((await here.client.echo({ text: "next" })).text, "next");
    });

    test("one signal may be given to many calls at once, without a warning", async () => {
      const { signal } = new AbortController();
      const warnings: Error[] = [];
      const onWarning = (warning: Error) => warnings.push(warning);
      process.on("warning", onWarning);
      await Promise.all(Array.from({ length: 50 }, () => here.client.echo({}, { signal })));
      // Warnings come in a turn of their own.
      await new Promise((resolve) => setImmediate(resolve));
      process.off("warning", onWarning);
      assert.deepEqual(warnings, []);
    });

    test("a call leaves no listener on its signal", async () => {
      const { signal } = new AbortController();
      for (let i = 0; i < 20; i++) await here.client.echo({}, { signal });
      assert.equal(getEventListeners(signal, "abort").length, 0);
    });

    test("a signal of another make is listened to once, however many calls are given it, and aborts them all", async () => {
      const listeners: (() => void)[] = [];
      const signal = {
        aborted: false,
        reason: new ConnectError("the other way", Code.FailedPrecondition),
        addEventListener: (_: string, listener: () => void) => void listeners.push(listener),
        removeEventListener: () => undefined,
      } as unknown as AbortSignal;
      for (let i = 0; i < 20; i++) await here.client.echo({}, { signal });
      assert.equal(listeners.length, 1);
      const calls = [1, 2, 3].map(() =>
        failure(here.client.wait({ milliseconds: 60_000 }, { signal }), Code.FailedPrecondition, /the other way/),
      );
      listeners[0]();
      await Promise.all(calls);
    });

    test("late answers to canceled calls are dropped, and their slots serve new calls right", async () => {
      for (let round = 0; round < 30; round++) {
        const controller = new AbortController();
        const canceled = Array.from({ length: 20 }, (_, i) =>
          here.client.echo({ text: `old ${i}` }, { signal: controller.signal }),
        );
        const settled = Promise.allSettled(canceled);
        if (round % 2 === 1) await Promise.resolve();
        controller.abort();
        const fresh = await Promise.all(
          Array.from({ length: 20 }, (_, i) => here.client.echo({ text: `new ${round} ${i}` })),
        );
        fresh.forEach((reply, i) => assert.equal(reply.text, `new ${round} ${i}`));
        (await settled).forEach((outcome, i) => {
          // An answer may be faster than a microtask, but then it is the right one.
          if (outcome.status === "fulfilled") assert.equal(outcome.value.text, `old ${i}`);
          else assert.equal((outcome.reason as ConnectError).code, Code.Canceled);
        });
      }
    });

    test("a large call that is canceled halfway leaves the connection and the arena in order", async (context) => {
      // Copied, so that it travels in fragments: leased on arrival it would be there at once, and its blocks would wait
      // for the collector.
      const copying = await startServer(context, place, {
        leases: "copied",
        isolation: "snapshot",
        memory: { arenaBytes: 8 << 20 },
      });
      const { client, transport } = connectTo(context, copying, { leases: "copied", memory: { arenaBytes: 8 << 20 } });
      const data = patternBytes(24 << 20, 1);
      for (const delayMs of [0, 1, 2, 5, 10, 20]) {
        const controller = new AbortController();
        const call = client.echo({ data }, { signal: controller.signal });
        const settled = Promise.allSettled([call]);
        await sleep(delayMs);
        controller.abort();
        await settled;
        const small = data.subarray(0, 500_000);
        assert.equal(Buffer.compare((await client.echo({ data: small })).data, small), 0);
      }
      await waitUntil("the client's blocks to come back", async () => {
        await client.echo({ data: new Uint8Array(20_000) });
        return transport.stats().connection!.arenaInUseBytes <= 65536 || transport.stats().connection!.arenaInUseBytes;
      });
      assert.equal((await copying.stats()).pendingCalls, 0);
    });

    test("a call that waits for others to end can be canceled, and the rest go on", async (context) => {
      const narrow = await startServer(context, place, { maxStreams: 1 });
      const { client, transport } = connectTo(context, narrow);
      const end = new AbortController();
      const first = client.wait({ milliseconds: 10_004 }, { signal: end.signal });
      await waitUntil("the first call to be under way", () => transport.state === "ready");
      const controller = new AbortController();
      const queued = client.echo({ text: "never" }, { signal: controller.signal });
      const after = client.echo({ text: "after" });
      controller.abort();
      // Not when the first call ends.
      await assertSettled(queued);
      await failure(queued, Code.Canceled, /abort/i);
      assert.equal(transport.stats().pendingCalls, 2);
      end.abort();
      await failure(first, Code.Canceled, /abort/i);
      assert.equal((await after).text, "after");
    });

    test("5,000 queued calls that cannot be encoded all reject, each once", async (context) => {
      const narrow = await startServer(context, place, { maxStreams: 1 });
      const { client, transport } = connectTo(context, narrow);
      const first = client.wait({ milliseconds: 50 });
      const wrong = Array.from({ length: 5000 }, () => client.wait({ milliseconds: -1 }));
      const outcomes = await Promise.allSettled(wrong);
      assert.ok(outcomes.every(({ status }) => status === "rejected"));
      assert.equal((await first).text, "waited");
      assert.equal(transport.stats().pendingCalls, 0);
    });
  });
}

test("a call is canceled while the connection is being made", async (context) => {
  const silent = await serveSilently(context);
  const { client } = connectTo(context, silent);
  const controller = new AbortController();
  const call = client.echo({}, { signal: controller.signal });
  controller.abort();
  await failure(call, Code.Canceled, /abort/i);
});

test("a call with an aborted signal to a path where nobody listens just rejects", async (context) => {
  const { client } = connectTo(context, { path: tempSocket(context) });
  await failure(client.echo({}, { signal: AbortSignal.abort() }), Code.Canceled, /abort/i);
  // An unhandled rejection of the connection attempt would fail this test.
  await sleep(20);
});

test("a handler's signal also aborts when its call is over, however it ended", async (context) => {
  const signals: AbortSignal[] = [];
  const path = tempSocket(context);
  const server = createIsthmusServer({
    routes: (router) =>
      router.service(TestService, {
        echo(request, { signal }) {
          signals.push(signal);
          assert.equal(signal.aborted, false);
          if (request.text === "fail") throw new ConnectError("failed", Code.Aborted);
          return {};
        },
      }),
  });
  await server.listen(path);
  context.after(() => server.close());
  const { client } = connectTo(context, { path });
  await client.echo({});
  await failure(client.echo({ text: "fail" }), Code.Aborted, /failed/);
  assert.deepEqual(
    signals.map(({ aborted }) => aborted),
    [true, true],
  );
  assert.equal((signals[1].reason as ConnectError).code, Code.Aborted);
});

test("a signal that the handler asks for only after the end has aborted already", async (context) => {
  let late: Promise<AbortSignal> | undefined;
  const path = tempSocket(context);
  const server = createIsthmusServer({
    routes: (router) =>
      router.service(TestService, {
        echo(_, handler) {
          late = sleep(50).then(() => handler.signal);
          return {};
        },
      }),
  });
  await server.listen(path);
  context.after(() => server.close());
  await connectTo(context, { path }).client.echo({});
  assert.equal((await late!).aborted, true);
});

test("the server's shutdownSignal aborts the signals of handlers", async (context) => {
  const shutdown = new AbortController();
  const path = tempSocket(context);
  const server = createIsthmusServer({
    shutdownSignal: shutdown.signal,
    routes: (router) =>
      router.service(TestService, {
        wait: (_, { signal }) =>
          new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason as Error))),
      }),
  });
  await server.listen(path);
  context.after(() => server.close());
  const { client } = connectTo(context, { path });
  const call = client.wait({});
  await waitUntil("the call to be under way", () => server.stats().pendingCalls === 1);
  shutdown.abort(new ConnectError("shutting down", Code.Unavailable));
  await failure(call, Code.Unavailable, /shutting down/);
});

test("a client that goes away aborts the signals of its handlers with Canceled", async (context) => {
  const server = await startServer(context, "two processes");
  const { client, transport } = connectTo(context, server);
  const call = client.wait({ milliseconds: 10_010 });
  await waitUntil("the handler to run", async () => (await server.observations()).length === 1);
  await transport.close();
  await failure(call, Code.Unavailable, /transport was closed/);
  await waitUntil("the handler's signal to abort", async () => (await server.observations())[0].aborted);
  assert.equal((await server.observations())[0].code, "Canceled");
});
