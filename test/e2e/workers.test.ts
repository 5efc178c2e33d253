/** Worker threads are as good as processes, and may be terminated at any moment. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { Code } from "@connectrpc/connect";
import { ownDescriptors } from "../support/resources.js";
import type { WorkerTask } from "../support/servers/worker.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";
import { connectTo, startServer } from "../support/test-server.js";
import { FAIL_FAST, failure, waitUntil, within } from "../support/waiting.js";

function startWorker(owner: Owner, task: WorkerTask): Worker {
  const worker = new Worker(new URL("../support/servers/worker.js", import.meta.url), { workerData: task });
  owner.after(() => worker.terminate());
  return worker;
}

async function say(worker: Worker, what: string): Promise<void> {
  const [message] = (await within(60_000, `a worker to say "${what}"`, once(worker, "message"))) as [string];
  assert.equal(message, what);
}

test("several workers call a server in the main thread, all at once, and end by themselves", async (context) => {
  const server = await startServer(context, "one process");
  const workers = Array.from({ length: 3 }, () => startWorker(context, { role: "call", path: server.path }));
  const exits = workers.map((worker) => once(worker, "exit"));
  await Promise.all(workers.map((worker) => say(worker, "done")));
  for (const exit of exits) assert.deepEqual(await within(60_000, "a worker's end", exit), [0]);
  await waitUntil("the connections to end", async () => (await server.stats()).connections === 0);
});

test("the main thread calls a server in a worker, and learns at once when that is terminated", async (context) => {
  const path = tempSocket(context);
  const worker = startWorker(context, { role: "serve", path });
  await say(worker, "listening");
  const { client } = connectTo(context, { path });
  const replies = await Promise.all(
    Array.from({ length: 100 }, (_, i) => client.echo({ text: String(i), data: new Uint8Array(i * 1000) })),
  );
  replies.forEach((reply, i) => assert.equal(reply.text, String(i)));
  const pending = [client.wait({ milliseconds: 60_000 }), client.echo({ data: new Uint8Array(80 << 20) })];
  await sleep(20);
  const failures = pending.map((call) => failure(call, Code.Unavailable, /connection lost/));
  await worker.terminate();
  await Promise.all(failures);
  await failure(client.echo({}, FAIL_FAST), Code.Unavailable, /nobody listens/);

  const next = startWorker(context, { role: "serve", path });
  await say(next, "listening");
  assert.equal((await client.echo({ text: "again" })).text, "again");
});

test("workers that are terminated in the middle of calls leave nothing behind, in this process or the server", async (context) => {
  const server = await startServer(context, "two processes");
  const before = ownDescriptors();
  for (let round = 0; round < 5; round++) {
    const worker = startWorker(context, { role: "call and hang", path: server.path });
    await say(worker, "called");
    await sleep(round * 7);
    await worker.terminate();
  }
  await waitUntil("the connections to end", async () => (await server.stats()).connections === 0);
  await waitUntil("descriptors and mappings to be gone", () => {
    const now = ownDescriptors();
    return (now.open <= before.open && now.mappings <= before.mappings) || JSON.stringify({ now, before });
  });
  assert.equal((await connectTo(context, server).client.echo({ text: "fine" })).text, "fine");
});
