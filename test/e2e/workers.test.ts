/** Worker threads are as good as processes, and may be terminated. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import type { WorkerTask } from "../support/servers/worker.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";
import { connectTo, startServer } from "../support/test-server.js";
import { within } from "../support/waiting.js";

function startWorker(owner: Owner, task: WorkerTask): Worker {
  const worker = new Worker(new URL("../support/servers/worker.js", import.meta.url), { workerData: task });
  owner.after(() => worker.terminate());
  return worker;
}

async function say(worker: Worker, what: string): Promise<void> {
  const [message] = (await within(8000, `a worker to say "${what}"`, once(worker, "message"))) as [string];
  assert.equal(message, what);
}

test("several workers call a server in the main thread, all at once, and end by themselves", async (context) => {
  const server = await startServer(context, "one process");
  const workers = Array.from({ length: 3 }, () => startWorker(context, { role: "call", path: server.path }));
  const exits = workers.map((worker) => once(worker, "exit"));
  await Promise.all(workers.map((worker) => say(worker, "done")));
  for (const exit of exits) assert.deepEqual(await within(5000, "a worker's end", exit), [0]);
});

test("the main thread calls a server in a worker", async (context) => {
  const path = tempSocket(context);
  const worker = startWorker(context, { role: "serve", path });
  await say(worker, "listening");
  const { client, transport } = connectTo(context, { path });
  const replies = await Promise.all(Array.from({ length: 100 }, (_, i) => client.echo({ text: String(i), data: new Uint8Array(i * 1000) })));
  replies.forEach((reply, i) => assert.equal(reply.text, String(i)));
  await transport.close();
});

test("a worker that is terminated in the middle of calls takes neither its process nor its server with it", async (context) => {
  const server = await startServer(context, "two processes");
  for (let round = 0; round < 5; round++) {
    const worker = startWorker(context, { role: "call and hang", path: server.path });
    await say(worker, "called");
    await sleep(round * 7);
    await worker.terminate();
  }
  assert.equal((await connectTo(context, server).client.echo({ text: "fine" })).text, "fine");
});
