/** Memory of a thread's connections stays in it: what other threads get is theirs, and outlives it. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { join } from "node:path";
import { test } from "node:test";
import { markAsUntransferable, Worker } from "node:worker_threads";
import { loan, release } from "../../src/index.js";
import { patternBytes } from "../support/checksum.js";
import { runScriptOk } from "../support/processes.js";
import { ownDescriptors } from "../support/resources.js";
import { tempFolder } from "../support/temp.js";
import { connectTo, startServer } from "../support/test-server.js";
import { waitUntil, within } from "../support/waiting.js";
import { skip } from "../stress/settings.js";

export interface MemoryTask {
  readonly kind: "lease" | "loan" | "region" | "received region" | "file";
  readonly carrier: "shm" | "socket";
  readonly path: string;
  readonly file: string;
}

/** Node 20 copies what cannot be moved, later ones say so. */
const REFUSED = Number(process.versions.node.split(".")[0]) < 22 ? "copied" : "DataCloneError";

for (const [kind, carrier] of [
  ["lease", "shm"],
  ["lease", "socket"],
  ["loan", "shm"],
  ["region", "shm"],
  ["received region", "shm"],
  ["file", "shm"],
] as const) {
  for (const how of ["terminate", "exit"] as const) {
    test(`a ${kind} over ${carrier} cannot be moved to another thread, and what was copied is whole when its thread has ended (${how})`, {
      skip,
    }, async (context) => {
      const server = await startServer(context, "two processes");
      const before = ownDescriptors();
      const task: MemoryTask = { kind, carrier, path: server.path, file: join(tempFolder(context), "file") };
      const worker = new Worker(new URL("./thread-memory.peer.js", import.meta.url), { workerData: task });
      context.after(() => worker.terminate());
      const got: { seed: number; bytes: Uint8Array }[] = [];
      const outcomes = await within(
        20_000,
        "the worker's outcomes",
        new Promise<string[]>((resolve, reject) => {
          worker.on("error", reject);
          worker.on("message", (message: string[] | (typeof got)[0]) =>
            Array.isArray(message) ? resolve(message) : got.push(message),
          );
        }),
      );
      assert.deepEqual([...new Set(outcomes)], [REFUSED]);
      assert.deepEqual(
        got.map(({ seed }) => seed),
        REFUSED === "copied" ? Array.from({ length: outcomes.length + 1 }, (_, i) => i + 1) : [outcomes.length + 1],
      );
      const exit = once(worker, "exit");
      if (how === "terminate") void worker.terminate();
      else worker.postMessage("exit");
      await within(20_000, "the worker's end", exit);
      await waitUntil("its memory to be unmapped", () => ownDescriptors().mappings <= before.mappings);
      for (const { seed, bytes } of got)
        assert.equal(Buffer.compare(bytes, patternBytes(bytes.length, seed)), 0, `the bytes of ${seed}`);
    });
  }
}

test("a leased buffer whose user has marked it untransferable is given back, and the thread that has one ends", {
  skip,
}, async (context) => {
  const server = await startServer(context, "two processes");
  const { client, transport } = connectTo(context, { path: server.path });
  for (let i = 0; i < 4; i++) {
    const { data } = await client.echo({ data: patternBytes(100_000, i) });
    markAsUntransferable(data.buffer);
    assert.equal(Buffer.compare(data, patternBytes(100_000, i)), 0);
    release(data);
    assert.equal(data.length, 0);
    const lent = await loan(transport, 100_000);
    markAsUntransferable(lent.buffer);
    await client.echo({ data: lent });
    assert.equal(lent.length, 0);
  }
  await runScriptOk(
    context,
    `
    const { markAsUntransferable } = await import("node:worker_threads");
    const client = createClient(TestService, createIsthmusTransport({ address: data.path }));
    globalThis.kept = (await client.echo({ data: new Uint8Array(100_000) })).data;
    markAsUntransferable(kept.buffer);
    process.exit(0);`,
    { path: server.path },
  );
});

test("a thread that ends while its connection's memory is in use by the process's other threads' connections takes only its own", {
  skip,
}, async (context) => {
  const server = await startServer(context, "two processes");
  const { client } = connectTo(context, { path: server.path });
  const kept = (await client.echo({ data: patternBytes(300_000, 9) })).data;
  for (const how of ["terminate", "exit"]) {
    const worker = new Worker(new URL("./thread-memory.peer.js", import.meta.url), {
      workerData: { kind: "lease", carrier: "shm", path: server.path, file: "" } satisfies MemoryTask,
    });
    context.after(() => worker.terminate());
    await within(
      20_000,
      "the worker",
      new Promise((resolve) => worker.on("message", (message) => Array.isArray(message) && resolve(message))),
    );
    const exit = once(worker, "exit");
    if (how === "terminate") void worker.terminate();
    else worker.postMessage("exit");
    await within(20_000, "the worker's end", exit);
    assert.equal(Buffer.compare(kept, patternBytes(300_000, 9)), 0);
    assert.equal(
      Buffer.compare((await client.echo({ data: patternBytes(300_000, 8) })).data, patternBytes(300_000, 8)),
      0,
    );
  }
});
