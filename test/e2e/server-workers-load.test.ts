/**
 * A server that spreads its connections over worker threads, while processes call it: large payloads, streams, deaths
 * of clients and workers, and closing.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { Code } from "@connectrpc/connect";
import type { IsthmusServer, IsthmusWorkerServerOptions, ListenOptions, WorkersOptions } from "../../src/index.js";
import { createIsthmusServer } from "../../src/index.js";
import type { Child } from "../support/processes.js";
import { startChild } from "../support/processes.js";
import { ownDescriptors } from "../support/resources.js";
import type { WorkerRoutesData } from "../support/servers/worker-routes.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";
import { connectTo } from "../support/test-server.js";
import { failure, waitUntil, within } from "../support/waiting.js";

export interface WorkersPeerData {
  readonly path: string;
}
export interface CallsSettings {
  readonly lanes: number;
  readonly dataBytesMax: number;
}
export interface Tally {
  readonly started: number;
  readonly answered: number;
  readonly wrong: number;
  /** Codes of calls that failed. */
  readonly failures: string[];
  /** Answers by the server's tag. */
  readonly tags: Record<string, number>;
}

const ROUTES = new URL("../support/servers/worker-routes.js", import.meta.url);
const CLIENTS = 4;
const LANES = 8;

interface Where {
  readonly path?: string;
  readonly listen?: ListenOptions;
}

async function serve(
  owner: Owner,
  workers: Partial<WorkersOptions> & { workerData?: WorkerRoutesData },
  options: Partial<IsthmusWorkerServerOptions> = {},
  where: Where = {},
) {
  const path = where.path ?? tempSocket(owner);
  const server = createIsthmusServer({ ...options, workers: { routes: ROUTES, count: 2, ...workers } });
  owner.after(() => server.close({ timeoutMs: 0 }));
  await server.listen(path, where.listen);
  return { path, server };
}

function startClients(owner: Owner, path: string, count = CLIENTS): Promise<Child[]> {
  return Promise.all(
    Array.from({ length: count }, () =>
      startChild(owner, "../e2e/server-workers.peer.js", { path } satisfies WorkersPeerData),
    ),
  );
}

const toAll = <T>(children: readonly Child[], question: string, data?: unknown): Promise<T[]> =>
  Promise.all(children.map((child) => child.ask<T>(question, data)));
const counter = () => new Int32Array(new SharedArrayBuffer(4));
const isEmpty = (server: IsthmusServer) => {
  const { connections, carriers, pendingCalls, openStreams } = server.stats();
  return (
    (connections === 0 && carriers.shm === 0 && pendingCalls === 0 && openStreams === 0) ||
    JSON.stringify(server.stats())
  );
};

test("large payloads and streams of every kind arrive as they were sent, through each worker", async (context) => {
  const { path, server } = await serve(context, {});
  const children = await startClients(context, path);
  assert.equal(new Set(await toAll<number>(children, "thread")).size, 2);
  const sizes = [64 << 10, 100_001, 256 << 10, 1 << 20, (4 << 20) - 1, 4 << 20];
  for (const { wrong, leased } of await toAll<{ wrong: string[]; leased: number }>(children, "payloads", sizes)) {
    assert.deepEqual(wrong, []);
    assert.ok(leased > 0, "some answers were leased");
  }
  for (const dataBytes of [10, 70_000]) {
    const outcomes = await toAll(children, "streams", { count: 40, dataBytes });
    for (const outcome of outcomes)
      assert.deepEqual(outcome, { counted: 40, chatted: 40, summed: 40, dataBytes: 40 * dataBytes });
  }
  await toAll(children, "close");
  await waitUntil("the connections to end", () => isEmpty(server));
});

test("clients that are killed in the middle of calls and streams leave nothing behind in any worker", async (context) => {
  const { mappings } = ownDescriptors();
  const { path, server } = await serve(context, { workerData: { collects: true } });
  const killAll = async () => {
    const children = await startClients(context, path);
    await toAll(children, "hold");
    await toAll(children, "start", { lanes: LANES, dataBytesMax: 500_000 } satisfies CallsSettings);
    await waitUntil(
      "the calls to be counted",
      () =>
        (server.stats().connections === CLIENTS && server.stats().openStreams >= CLIENTS * 3) ||
        JSON.stringify(server.stats()),
    );
    await Promise.all(children.map((child) => child.kill()));
    await waitUntil("the stats to go back to nothing", () => isEmpty(server));
    await waitUntil(
      "the mappings to be gone",
      () => ownDescriptors().mappings <= mappings || ownDescriptors().mappings,
    );
  };
  await killAll();
  const { open } = ownDescriptors();
  for (let i = 0; i < 3; i++) await killAll();
  await waitUntil("the descriptors to be gone", () => ownDescriptors().open <= open || ownDescriptors().open - open);
  assert.equal(server.stats().workers?.length, 2);
});

for (const [end, limits] of [
  ["throw", undefined],
  ["exit", undefined],
  ["memory", { maxOldGenerationSizeMb: 32 }],
] as const) {
  test(`a worker that ends by "${end}" under load breaks the connections it had and no other, and each of their calls fails once`, async (context) => {
    const { path, server } = await serve(context, limits === undefined ? {} : { resourceLimits: limits });
    const children = await startClients(context, path);
    const threads = await toAll<number>(children, "thread");
    const { client: assassin } = connectTo(context, { path });
    const victim = Number((await assassin.echo({})).number);
    const isHit = threads.map((thread) => thread === victim);
    assert.deepEqual([isHit.filter(Boolean).length, new Set(threads).size], [CLIENTS / 2, 2]);
    await toAll(children, "hold");
    await toAll(children, "start", { lanes: LANES, dataBytesMax: 30_000 } satisfies CallsSettings);
    await failure(assassin.echo({ text: end }), Code.Unavailable, /connection/);
    await waitUntil(
      "the replacement",
      () =>
        server.stats().workers?.length === 2 && server.stats().workers?.every(({ threadId }) => threadId !== victim),
    );
    const atDeath = await toAll<Tally>(children, "tally");
    await waitUntil("calls to go on", async () =>
      (await toAll<Tally>(children, "tally")).every(({ answered }, i) => answered > atDeath[i].answered + LANES),
    );
    const tallies = await toAll<Tally>(children, "stop");
    for (const [i, { started, answered, wrong, failures }] of tallies.entries()) {
      assert.deepEqual({ wrong, unsettled: started - answered - failures.length }, { wrong: 0, unsettled: 0 });
      assert.deepEqual(
        [...new Set(failures)].filter((code) => code !== "Unavailable"),
        [],
      );
      // No more than were in flight, and none where the worker lives.
      assert.ok(failures.length <= (isHit[i] ? LANES : 0), `${failures.length} calls failed; hit: ${isHit[i]}`);
    }
    assert.deepEqual(
      await toAll(children, "held"),
      isHit.map((hit) => (hit ? "Unavailable" : "Canceled")),
    );
    const now = await toAll<number>(children, "thread");
    for (const [i, thread] of now.entries()) assert.ok(isHit[i] ? thread !== victim : thread === threads[i]);
  });
}

test("while a second server takes the path over and the first one closes, every call of four processes is answered, and runs once", async (context) => {
  const runs = counter();
  const old = await serve(context, { workerData: { tag: "old", runs } });
  const { path } = old;
  const children = await startClients(context, path);
  await toAll(children, "start", { lanes: LANES, dataBytesMax: 100_000 } satisfies CallsSettings);
  const slow = toAll<number>(children, "slowStream", { count: 50, pauseMs: 20 });
  await waitUntil("the streams to be open", () => old.server.stats().openStreams === CLIENTS);
  const next = await serve(context, { workerData: { tag: "new", runs } }, {}, { path, listen: { takeover: true } });
  await old.server.close();
  assert.deepEqual(old.server.stats().workers, []);
  assert.ok(existsSync(path), "the path is the second server's");
  await waitUntil("the second server to serve all", async () =>
    (await toAll<Tally>(children, "tally")).every(({ tags }) => (tags["new"] ?? 0) > LANES),
  );
  const tallies = await toAll<Tally>(children, "stop");
  assert.deepEqual(
    await slow,
    children.map(() => 50),
  );
  for (const { started, answered, wrong, failures } of tallies) {
    assert.deepEqual({ wrong, failures, unanswered: started - answered }, { wrong: 0, failures: [], unanswered: 0 });
  }
  assert.ok(tallies.every(({ tags }) => tags["old"] > 0));
  assert.equal(
    runs[0],
    tallies.reduce((sum, { started }) => sum + started, 0),
  );
  await toAll(children, "close");
  await next.server.close();
  assert.ok(!existsSync(path));
});

test("close waits as long as it was told: for ever, or not; and a worker that never returns is ended", async (context) => {
  const patient = await serve(context, { count: 1 });
  const { client: first } = connectTo(context, patient);
  const answer = first.wait({ milliseconds: 300 });
  await waitUntil("the call to be there", () => patient.server.stats().pendingCalls === 1);
  await patient.server.close({ timeoutMs: Infinity });
  assert.ok((await answer).number > 0n);

  for (const stuck of ["waits", "spins"] as const) {
    const { path, server } = await serve(context, { count: 2 });
    const { client } = connectTo(context, { path });
    await client.echo({});
    const call = stuck === "waits" ? client.wait({ milliseconds: 600_000 }) : client.echo({ text: "spin" });
    const failed = failure(call, Code.Unavailable, /./);
    if (stuck === "waits") await waitUntil("the call to be there", () => server.stats().pendingCalls === 1);
    await within(60_000, `closing while a handler ${stuck}`, server.close({ timeoutMs: 50 }));
    await failed;
    assert.deepEqual(server.stats().workers, []);
  }
});

test("keepAlive reaches the workers: a client that hangs is noticed by the one that serves it", async (context) => {
  const { path, server } = await serve(
    context,
    { count: 2 },
    { keepAlive: { intervalMs: 100, timeoutMs: 5000, always: true } },
  );
  const [hangs, lives] = await startClients(context, path, 2);
  await toAll([hangs, lives], "thread");
  await waitUntil("both to be counted", () => server.stats().connections === 2);
  process.kill(hangs.pid, "SIGSTOP");
  await waitUntil(
    "the one that hangs to be given up",
    () => server.stats().connections === 1 || JSON.stringify(server.stats()),
  );
  await lives.ask("thread");
  assert.equal(server.stats().connections, 1);
});
