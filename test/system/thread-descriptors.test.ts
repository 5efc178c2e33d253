/**
 * A thread that ends closes what it has, and nothing of another thread: not even a file that has a number which was its
 * own.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { closeSync, fstatSync, openSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { connect } from "node:net";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { createClient } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import type { Descriptors } from "../support/resources.js";
import { ownDescriptors } from "../support/resources.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";
import { connectTo, startServer } from "../support/test-server.js";
import { waitUntil, within } from "../support/waiting.js";

export interface ThreadTask {
  readonly role: "serve" | "call" | "block" | "shake hands" | "hold files";
  readonly carrier: "shm" | "socket";
  readonly path: string;
}

/** What the worker is told; "terminate" needs no word. */
export type ThreadWord = "exit" | "natural end";
const ENDS = ["terminate", "exit", "natural end"] as const;
type End = (typeof ENDS)[number];

const ROUNDS = process.env["ISTHMUS_STRESS"] === "full" ? 100 : 6;
const ROUTES = new URL("../support/servers/worker-routes.js", import.meta.url);
const data = new Uint8Array(100_000);

async function startThread(owner: Owner, task: ThreadTask): Promise<Worker> {
  const worker = new Worker(new URL("./thread-descriptors.peer.js", import.meta.url), { workerData: task });
  owner.after(() => worker.terminate());
  const failed = once(worker, "error").then(([error]) => Promise.reject(error as Error));
  await within(20_000, `a worker to be ready to ${task.role}`, Promise.race([once(worker, "message"), failed]));
  return worker;
}

async function end(worker: Worker, how: End): Promise<void> {
  const exit = once(worker, "exit");
  if (how === "terminate") void worker.terminate();
  else worker.postMessage(how);
  await within(20_000, `a worker's ${how}`, exit);
}

/** Files of this thread in place of what was closed lately; returns what checks that each is still what it was. */
function holdFiles(owner: Owner, count = 40): () => void {
  const files = Array.from({ length: count }, () => openSync("/dev/null", "r"));
  const { ino, dev } = fstatSync(files[0]);
  owner.after(() => files.forEach((file) => closeSync(file)));
  return () => {
    for (const file of files) {
      const found = fstatSync(file);
      assert.deepEqual([found.ino, found.dev], [ino, dev], `descriptor ${file} is another file now`);
    }
  };
}

async function callAndClose(path: string, carrier: "shm" | "socket", times: number): Promise<void> {
  for (let i = 0; i < times; i++) {
    const transport = createIsthmusTransport({ address: path, carrier });
    await createClient(TestService, transport).echo({ data });
    await transport.close();
  }
}

/**
 * What this process has, but for modules: Node leaves some open when a thread is terminated that is just loading them.
 */
function descriptors(): Descriptors {
  const { mappings } = ownDescriptors();
  const open = readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return !/\.js(on)?$/.test(readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      // That of the folder itself.
      return false;
    }
  });
  return { open: open.length, mappings };
}

/** Waits until this process has no more open than before, and `kept` descriptors besides. */
async function nothingLeft(before: Descriptors, kept: number): Promise<void> {
  await waitUntil("what the thread had to be closed", () => {
    const now = descriptors();
    return (now.open <= before.open + kept && now.mappings <= before.mappings) || JSON.stringify({ now, before, kept });
  });
}

test("this thread has the memory that it keeps", async (context) => {
  for (const carrier of ["shm", "socket"] as const)
    await callAndClose((await startServer(context, "one process", { carrier })).path, carrier, 1);
});

for (const how of ENDS) {
  for (const carrier of ["shm", "socket"] as const) {
    test(`a worker that served over ${carrier} ends (${how}): files of other threads stay open, and nothing of its own`, async (context) => {
      const other = await startThread(context, { role: "hold files", carrier, path: "" });
      const before = descriptors();
      const path = tempSocket(context);
      const worker = await startThread(context, { role: "serve", carrier, path });
      await callAndClose(path, carrier, 6);
      const open = connectTo(context, { path });
      await open.client.echo({ data });
      const check = holdFiles(context);
      await end(worker, how);
      check();
      await open.transport.close();
      await nothingLeft(before, 40);
      await end(other, how);
      check();
    });

    for (const role of carrier === "shm" ? (["call", "block"] as const) : (["call"] as const)) {
      test(`a worker that ${role === "call" ? "called" : "blocked on calls"} over ${carrier} ends (${how}): files of other threads stay open, and nothing of its own`, async (context) => {
        const server = await startServer(context, "two processes");
        const before = descriptors();
        const worker = await startThread(context, { role, carrier, path: server.path });
        const check = holdFiles(context);
        await end(worker, how);
        check();
        await nothingLeft(before, 40);
        await waitUntil("the server to hear of it", async () => (await server.stats()).connections === 0);
      });
    }

    test(`a worker in the middle of handshakes over ${carrier} ends (${how}): files of other threads stay open, and nothing of its own`, async (context) => {
      const before = descriptors();
      const path = tempSocket(context);
      const worker = await startThread(context, { role: "shake hands", carrier, path });
      const mute = connect({ path });
      const gone = new Promise<void>((resolve) =>
        mute
          .on("error", () => undefined)
          .on("close", () => resolve())
          .resume(),
      );
      await once(mute, "connect");
      const check = holdFiles(context);
      await end(worker, how);
      check();
      await within(8000, "the client to hear of it", gone);
      await nothingLeft(before, 40);
    });
  }
}

for (const carrier of ["shm", "socket"] as const) {
  test(`a worker of a server that dies, and the server's end, over ${carrier}, leave the files of this thread open`, async (context) => {
    const before = descriptors();
    const path = tempSocket(context);
    const server = createIsthmusServer({ carrier, workers: { routes: ROUTES, count: 2 } });
    context.after(() => server.close({ timeoutMs: 0 }));
    await server.listen(path);
    await callAndClose(path, carrier, 12);
    const check = holdFiles(context);
    const transport = createIsthmusTransport({ address: path, carrier });
    context.after(() => transport.close());
    const client = createClient(TestService, transport);
    await client.echo({ data });
    await assert.rejects(client.echo({ text: "exit" }));
    check();
    await callAndClose(path, carrier, 4);
    await transport.close();
    await server.close();
    check();
    await nothingLeft(before, 40);
  });
}

test("workers that serve, call and are terminated at any moment, over and over, close no file of this thread and leave nothing", {
  timeout: 300_000,
}, async (context) => {
  const content = readFileSync(new URL(import.meta.url), "utf8");
  const server = await startServer(context, "one process");
  const round = async (number: number) => {
    const carrier = number % 2 === 0 ? "shm" : "socket";
    const workers = (["call", "serve", "shake hands"] as const).map((role) => {
      const path = role === "call" ? server.path : tempSocket(context);
      return new Worker(new URL("./thread-descriptors.peer.js", import.meta.url), {
        workerData: { role, carrier, path } satisfies ThreadTask,
      });
    });
    const [caller] = workers;
    const ready = Promise.race([once(caller, "message"), once(caller, "exit")]);
    // Some before they have begun, some in the middle, some when they have all.
    if (number % 3 !== 0) await within(20_000, "the caller", ready);
    const ends = workers.map((worker) => worker.terminate());
    // The numbers that are closed meanwhile are this thread's right after.
    for (let opened = 0; opened < 200; opened++) {
      const file = openSync(new URL(import.meta.url), "r");
      if (opened % 50 === 49) await new Promise((resolve) => setImmediate(resolve));
      assert.equal(readFileSync(file, "utf8"), content);
      closeSync(file);
    }
    await within(20_000, "the workers' end", Promise.all(ends));
  };
  for (let i = 0; i < 3; i++) await round(i);
  await waitUntil("the connections to end", async () => (await server.stats()).connections === 0);
  const before = descriptors();
  for (let i = 0; i < ROUNDS; i++) await round(i);
  await waitUntil("the connections to end", async () => (await server.stats()).connections === 0);
  await nothingLeft(before, 0);
});
