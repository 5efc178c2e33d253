/**
 * Ends by time and by wish: deadlines, signals, iterators that are given up. Both sides learn of it soon, with the
 * right code.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { StreamService } from "../../proto/streams_pb.js";
import type { Scene, SceneServer } from "../../support/scenes.js";
import { connectStreams, scripted } from "../../support/scenes.js";
import { all, items, numbersOf, outcomeOf, PushedRequests, upTo } from "../../support/streams.js";
import { failure, waitUntil } from "../../support/waiting.js";

/** Long enough for a call to come to its handler, on a busy machine too. */
const DEADLINE_MS = 2000;

async function finished(server: SceneServer, call: string): Promise<Awaited<ReturnType<SceneServer["seen"]>>> {
  await waitUntil("the handler's finally", async () => {
    const { calls, finished: ends } = await server.seen(call);
    return (calls === 1 && ends === 1) || `${calls} calls, ${ends} ended`;
  });
  return server.seen(call);
}

export function ending(scene: Scene): void {
  test("a deadline ends a stream of every kind, here and in the handler, with DeadlineExceeded", async (context) => {
    const { client, server } = await scene.connect(context);
    const kinds: Record<string, (options: { headers: Record<string, string>; timeoutMs: number }) => Promise<unknown>> =
      {
        unary: (options) => client.echo({}, options),
        "server streaming": (options) => all(client.count({ count: 3n }, options)),
        "client streaming": (options) => client.sum(items(3), options),
        bidirectional: (options) => all(client.chat(items(3), options)),
      };
    await Promise.all(
      Object.entries(kinds).map(async ([kind, run]) => {
        const call = scene.newCall();
        const start = performance.now();
        await failure(run({ ...scripted({ hangs: true }, call), timeoutMs: DEADLINE_MS }), Code.DeadlineExceeded, /./);
        assert.ok(performance.now() - start >= DEADLINE_MS - 10, `${kind}: too early`);
        const { timeoutMs, aborted } = await finished(server, call);
        assert.ok(
          timeoutMs !== undefined && timeoutMs > 0 && timeoutMs <= DEADLINE_MS,
          `${kind}: the handler had ${timeoutMs} ms`,
        );
        assert.ok(aborted !== undefined, kind);
        if (scene.isOwn) assert.equal(aborted.code, "DeadlineExceeded", kind);
      }),
    );
  });

  test("messages that arrived before the deadline are delivered", async (context) => {
    const { client, server } = await scene.connect(context);
    const call = scene.newCall();
    const { messages, error } = await outcomeOf(
      client.count({ count: 5n }, { ...scripted({ hangs: true }, call), timeoutMs: DEADLINE_MS }),
    );
    assert.deepEqual(numbersOf(messages), upTo(5));
    assert.equal(ConnectError.from(error).code, Code.DeadlineExceeded);
    await finished(server, call);
  });

  test("a deadline ends a call in which nobody reads", async (context) => {
    const { client, server } = await scene.connect(context);
    const call = scene.newCall();
    const requests = items(1_000_000, (i) => ({ number: BigInt(i), data: new Uint8Array(1000) }));
    await failure(
      client.sum(requests, { ...scripted({ neverReads: true, hangs: true }, call), timeoutMs: DEADLINE_MS }),
      Code.DeadlineExceeded,
      /./,
    );
    await waitUntil("the requests to be closed", () => requests.closed);
    await finished(server, call);
  });

  test("a transport's default deadline holds for streams; a call without one has none", async (context) => {
    const { client, server } = await scene.connect(context, { defaultTimeoutMs: DEADLINE_MS });
    const call = scene.newCall();
    await failure(all(client.count({}, scripted({ hangs: true }, call))), Code.DeadlineExceeded, /./);
    assert.ok((await finished(server, call)).timeoutMs !== undefined);
    const without = await scene.connect(context);
    const free = scene.newCall();
    await all(without.client.count({}, scripted({}, free)));
    assert.equal((await server.seen(free)).timeoutMs, undefined);
  });

  test("a server refuses deadlines above its maximum with InvalidArgument", async (context) => {
    const server = await scene.serve(context, { maxTimeoutMs: 60_000 }, "one process");
    const { client } = connectStreams(context, server);
    const call = scene.newCall();
    await failure(
      all(client.count({ count: 1n }, { ...scripted({}, call), timeoutMs: 120_000 })),
      Code.InvalidArgument,
      /timeout/,
    );
    await failure(client.sum(items(2), { ...scripted({}, call), timeoutMs: 600_000 }), Code.InvalidArgument, /timeout/);
    if (scene.isOwn) assert.equal((await server.seen(call)).calls, 0);
    assert.equal((await all(client.count({ count: 1n }, { timeoutMs: 60_000 }))).length, 1);
  });

  test("a signal that has aborted already keeps the call from being made", async (context) => {
    const { client, server } = await scene.connect(context);
    const call = scene.newCall();
    const signal = AbortSignal.abort();
    await failure(all(client.count({ count: 1n }, { ...scripted({}, call), signal })), Code.Canceled, /./);
    await failure(client.echo({}, { ...scripted({}, call), signal }), Code.Canceled, /./);
    await failure(client.sum(items(1), { ...scripted({}, call), signal }), Code.Canceled, /./);
    await failure(all(client.chat(items(1), { ...scripted({}, call), signal })), Code.Canceled, /./);
    await client.echo({});
    if (scene.isOwn) assert.equal((await server.seen(call)).calls, 0);
  });

  test("a signal that aborts between messages ends the iterator, and the handler", async (context) => {
    const { client, server } = await scene.connect(context);
    const controller = new AbortController();
    const call = scene.newCall();
    const requests = items(3);
    const taken: number[] = [];
    const run = (async () => {
      for await (const { number } of client.chat(requests, {
        ...scripted({ hangs: true }, call),
        signal: controller.signal,
      })) {
        taken.push(Number(number));
        if (taken.length === 3) controller.abort();
      }
    })();
    await failure(run, Code.Canceled, /./);
    assert.deepEqual(taken, [0, 1, 2]);
    const { aborted } = await finished(server, call);
    assert.ok(aborted !== undefined);
    if (scene.isOwn) assert.equal(aborted.code, "Canceled");
  });

  test("a signal that aborts while a unary call is under way rejects it at once, and ends the handler", async (context) => {
    const { client, server } = await scene.connect(context);
    const controller = new AbortController();
    const call = scene.newCall();
    const reply = client.echo({}, { ...scripted({ hangs: true }, call), signal: controller.signal });
    await waitUntil("the handler to be called", async () => (await server.seen(call)).calls === 1);
    controller.abort();
    await failure(reply, Code.Canceled, /./);
    assert.ok((await finished(server, call)).aborted !== undefined);
  });

  test("a signal that aborts while the client waits for the next message rejects it at once", async (context) => {
    const { client, server } = await scene.connect(context);
    const controller = new AbortController();
    const call = scene.newCall();
    const replies = client
      .count({ count: 1n }, { ...scripted({ hangs: true }, call), signal: controller.signal })
      [Symbol.asyncIterator]();
    assert.equal((await replies.next()).done, false);
    const next = replies.next();
    controller.abort();
    await failure(next, Code.Canceled, /./);
    assert.deepEqual(await replies.next(), { done: true, value: undefined });
    await finished(server, call);
  });

  test("a signal that aborts while the client sends closes its requests and fails the handler's reading", async (context) => {
    const { client, server } = await scene.connect(context);
    const controller = new AbortController();
    const call = scene.newCall();
    const requests = items(1_000_000, async (i) => {
      if (i % 10 === 9) await sleep(1);
      return { number: BigInt(i) };
    });
    const sum = client.sum(requests, { ...scripted({}, call), signal: controller.signal });
    await waitUntil("the handler to read", async () => (await server.seen(call)).items > 20);
    controller.abort();
    await failure(sum, Code.Canceled, /./);
    await waitUntil("the requests to be closed", () => requests.closed);
    const { inputEnded, inputFailure } = await finished(server, call);
    if (scene.isOwn) assert.deepEqual([inputEnded, inputFailure !== undefined], [false, true]);
  });

  test("a handler that waits for a reader who does not read ends when the client goes", async (context) => {
    const { client, server } = await scene.connect(context);
    const controller = new AbortController();
    const call = scene.newCall();
    const replies = client
      .count({ count: 1_000_000n, dataBytes: 1000 }, { ...scripted({}, call), signal: controller.signal })
      [Symbol.asyncIterator]();
    await replies.next();
    let before = -1;
    await waitUntil("the handler to be held back", async () => {
      const { sent } = await server.seen(call);
      const still = sent === before;
      before = sent;
      await sleep(30);
      return still;
    });
    assert.equal((await server.seen(call)).finished, 0);
    controller.abort();
    await failure(replies.next(), Code.Canceled, /./);
    const { sent } = await finished(server, call);
    assert.ok(sent < 500_000, `${sent} were sent to nobody`);
  });

  test("a signal's own reason is the error", async (context) => {
    const { client } = await scene.connect(context);
    const controller = new AbortController();
    const run = all(client.count({ count: 1n }, { ...scripted({ hangs: true }), signal: controller.signal }));
    setTimeout(() => controller.abort(new ConnectError("somebody else was faster", Code.AlreadyExists)), 30);
    await failure(run, Code.AlreadyExists, /somebody else was faster/);
  });

  test("a signal that aborts after the end changes nothing", async (context) => {
    const { client, server } = await scene.connect(context);
    const controller = new AbortController();
    const call = scene.newCall();
    assert.equal(
      (await all(client.count({ count: 3n }, { ...scripted({}, call), signal: controller.signal }))).length,
      3,
    );
    controller.abort();
    await client.echo({});
    const seen = await server.seen(call);
    assert.deepEqual([seen.finished, seen.aborted], [1, undefined]);
  });

  test("giving an iterator of the transport back ends the call", async (context) => {
    const { transport, server } = await scene.connect(context);
    for (const after of [0, 3]) {
      const call = scene.newCall();
      const requests = new PushedRequests();
      for (let i = 0; i < 3; i++) requests.push({ number: BigInt(i) });
      const { message } = await transport.stream(
        StreamService.method.chat,
        undefined,
        undefined,
        scripted({ hangs: true }, call).headers,
        requests as AsyncIterable<object>,
      );
      const replies = message[Symbol.asyncIterator]();
      for (let i = 0; i < after; i++) assert.equal((await replies.next()).done, false);
      await replies.return!();
      assert.equal((await replies.next()).done, true);
      const { aborted } = await finished(server, call);
      assert.equal(aborted?.code, "Canceled");
    }
  });

  test("leaving a loop over the transport's messages ends the call", async (context) => {
    const { transport, server } = await scene.connect(context);
    const call = scene.newCall();
    const { message } = await transport.stream(
      StreamService.method.count,
      undefined,
      undefined,
      scripted({ hangs: true }, call).headers,
      items(1, () => ({ count: 1000n }) as never) as AsyncIterable<object>,
    );
    let taken = 0;
    for await (const item of message) {
      assert.ok("number" in item);
      if (++taken === 5) break;
    }
    const { aborted } = await finished(server, call);
    assert.equal(aborted?.code, "Canceled");
  });

  test("200 streams that are given up at once leave nothing behind", async (context) => {
    const { client, server, transport } = await scene.connect(context);
    const controller = new AbortController();
    const prefix = `${scene.newCall()}-`;
    const runs = Array.from({ length: 200 }, (_, i) => {
      const options = { ...scripted({ hangs: true }, `${prefix}${i}`), signal: controller.signal };
      return outcomeOf<unknown>(
        i % 2 === 0 ? client.count({ count: 3n, dataBytes: 20_000 }, options) : client.chat(items(3), options),
      );
    });
    await waitUntil("all handlers to run", async () => (await server.totals(prefix)).calls === 200);
    controller.abort();
    for (const { error } of await Promise.all(runs)) assert.equal(ConnectError.from(error).code, Code.Canceled);
    await waitUntil(
      "all handlers to end",
      async () =>
        JSON.stringify(await server.totals(prefix)) === JSON.stringify({ calls: 200, finished: 200, aborted: 200 }) ||
        JSON.stringify(await server.totals(prefix)),
    );
    assert.equal((await client.echo({ number: 4n })).number, 4n);
    assert.equal(transport.stats().pendingCalls, 0);
  });
}
