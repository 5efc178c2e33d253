/**
 * The end of a connection under open streams: by the server's close, by the transport's, by the death of either
 * process.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError, createContextValues } from "@connectrpc/connect";
import { waitForReady } from "../../../src/index.js";
import { startChild } from "../../support/processes.js";
import type { Scene } from "../../support/scenes.js";
import { connectStreams, scripted } from "../../support/scenes.js";
import type { StreamClientData } from "../../support/servers/stream-client.js";
import type { Outcome, Requests } from "../../support/streams.js";
import { all, items, numbersOf, outcomeOf, PushedRequests, STREAM_PAUSE_MS, upTo } from "../../support/streams.js";
import { failure, waitUntil, within } from "../../support/waiting.js";

const STREAMS = 60;

export function deaths(scene: Scene): void {
  test("close() of a server lets streams finish, and refuses later ones", async (context) => {
    const server = await scene.serve(context);
    const { client } = connectStreams(context, server);
    const requests = new PushedRequests();
    const call = scene.newCall();
    const replies = client.chat(requests, scripted({}, call))[Symbol.asyncIterator]();
    requests.push({ number: 0n });
    assert.equal((await replies.next()).done, false);
    const counted = all(client.count({ count: 50n, pauseMs: 3 }));
    await sleep(20);
    const closed = server.close();
    // It could wait for a server that takes over.
    const contextValues = createContextValues().set(waitForReady, false);
    let refused: unknown;
    await waitUntil("later streams to be refused", () =>
      client.sum(items(2), { contextValues }).then(
        () => "it is served",
        (error: unknown) => (refused = error) !== undefined,
      ),
    );
    // While the server's goodbye is on its way, Connect's transport makes "Internal" of a stream that is refused.
    const codes = scene.isOwn ? [Code.Unavailable] : [Code.Unavailable, Code.Internal];
    assert.ok(codes.includes(ConnectError.from(refused).code), String(refused));
    for (let i = 1; i < 20; i++) {
      requests.push({ number: BigInt(i) });
      const next = await replies.next();
      assert.ok(next.done !== true);
      assert.equal(Number(next.value.number), i);
    }
    requests.end();
    assert.equal((await replies.next()).done, true);
    assert.deepEqual(numbersOf(await counted), upTo(50));
    await within(60_000, "close()", closed);
  });

  test("close() of a server cuts streams off that take longer than it waits", async (context) => {
    const server = await scene.serve(context);
    const { client } = connectStreams(context, server);
    const call = scene.newCall();
    const replies = client.count({ count: 2n }, scripted({ hangs: true }, call))[Symbol.asyncIterator]();
    assert.equal((await replies.next()).done, false);
    assert.equal((await replies.next()).done, false);
    const next = replies.next();
    const closed = server.close(100);
    await failure(next, Code.Unavailable, /./);
    assert.deepEqual(await replies.next(), { done: true, value: undefined });
    await within(60_000, "close()", closed);
    await waitUntil("the handler to end", async () => (await server.seen(call)).finished === 1);
    assert.ok((await server.seen(call)).aborted !== undefined);
  });

  test("close() of a transport ends its streams with Unavailable, and the server's handlers", async (context) => {
    const { client, transport, server } = await scene.connect(context);
    const prefix = `${scene.newCall()}-`;
    const { outcomes, started } = openStreams((i) => ({ ...scripted({ hangs: true }, `${prefix}${i}`) }), client);
    await within(60_000, "all streams to run", started);
    await transport.close();
    for (const { error } of await Promise.all(outcomes.map(({ outcome }) => outcome)))
      assert.equal(ConnectError.from(error).code, Code.Unavailable);
    await waitUntil("all handlers to end", async () => (await server.totals(prefix)).finished === STREAMS);
    assert.equal((await server.totals(prefix)).aborted, STREAMS);
    await failure(all(client.count({})), Code.Unavailable, /closed/);
  });

  if (scene.place === "one process") return;

  test("a server that is killed fails each open stream once with Unavailable, and their requests are closed", async (context) => {
    const server = await scene.serve(context);
    const { client } = connectStreams(context, server);
    const { outcomes, started } = openStreams((i) => scripted({ hangs: i % 2 === 0 }, `killed-${i}`), client);
    await within(60_000, "all streams to run", started);
    await server.child!.kill();
    const ended = await within(60_000, "the end of all streams", Promise.all(outcomes.map(({ outcome }) => outcome)));
    // Connect's transport makes "Aborted" of a connection that was reset.
    const codes = scene.isOwn ? [Code.Unavailable] : [Code.Unavailable, Code.Aborted];
    for (const { error } of ended) assert.ok(codes.includes(ConnectError.from(error).code), String(error));
    await waitUntil(
      "all requests to be closed",
      () =>
        outcomes.every(({ requests }) => requests?.closed !== false) ||
        `${outcomes.filter(({ requests }) => requests?.closed === false).length} are open`,
    );
    for (const { again } of outcomes)
      assert.deepEqual(await again?.(), again === undefined ? undefined : { done: true, value: undefined });
  });

  test("a client that is killed ends the handlers of its streams", async (context) => {
    const server = await scene.serve(context, {}, "one process");
    const prefix = `${scene.newCall()}-`;
    const child = await startChild(context, "servers/stream-client.js", {
      carrier: scene.carrier,
      address: server.address,
      prefix,
      streams: STREAMS,
    } satisfies StreamClientData);
    await child.ask("started");
    assert.deepEqual(await server.totals(prefix), { calls: STREAMS, finished: 0, aborted: 0 });
    await child.kill();
    await waitUntil(
      "all signals to abort",
      async () => (await server.totals(prefix)).aborted === STREAMS || JSON.stringify(await server.totals(prefix)),
    );
    await waitUntil(
      "all handlers to end",
      async () => (await server.totals(prefix)).finished === STREAMS || JSON.stringify(await server.totals(prefix)),
    );
    const { client } = connectStreams(context, server);
    assert.equal((await all(client.count({ count: 3n }))).length, 3);
    const stats = await server.stats();
    assert.deepEqual([stats.violations, stats.pendingCalls], [0, 0]);
  });
}

interface Opened {
  readonly outcome: Promise<Outcome<unknown>>;
  readonly requests: Requests | undefined;
  /** What the iterator says after its end. */
  readonly again: (() => Promise<unknown>) | undefined;
}

/**
 * Streams of all kinds that go on until somebody ends them; `started` when each has had a message, or its request
 * taken.
 */
function openStreams(
  options: (i: number) => { headers: Record<string, string> },
  client: ReturnType<typeof connectStreams>["client"],
): { outcomes: Opened[]; started: Promise<unknown> } {
  const starts: Promise<unknown>[] = [];
  const outcomes = upTo(STREAMS).map((i): Opened => {
    let start: (() => void) | undefined;
    starts.push(new Promise<void>((resolve) => (start = resolve)));
    const requests = items(1_000_000, async (n) => {
      if (n === 5) start?.();
      await sleep(STREAM_PAUSE_MS);
      return { number: BigInt(n), data: new Uint8Array((i * 997) % 30_000) };
    });
    if (i % 3 === 0) return { outcome: outcomeOf(once(client.sum(requests, options(i)))), requests, again: undefined };
    const replies =
      i % 3 === 1
        ? client.count({ count: 1_000_000n, pauseMs: STREAM_PAUSE_MS, dataBytes: (i * 997) % 30_000 }, options(i))
        : client.chat(requests, options(i));
    const iterator = replies[Symbol.asyncIterator]();
    const counted = (async function* () {
      let count = 0;
      for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) {
        if (++count === 3) start?.();
        yield next.value;
      }
    })();
    return { outcome: outcomeOf(counted), requests: i % 3 === 1 ? undefined : requests, again: () => iterator.next() };
  });
  return { outcomes, started: Promise.all(starts) };
}

async function* once<T>(promise: Promise<T>): AsyncGenerator<T> {
  yield await promise;
}
