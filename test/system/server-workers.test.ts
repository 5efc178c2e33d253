/** A server that spreads its connections over worker threads. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, createClient } from "@connectrpc/connect";
import type { IsthmusServer, IsthmusWorkerServerOptions, WorkersOptions } from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import { runScriptOk } from "../support/processes.js";
import { ownDescriptors } from "../support/resources.js";
import type { WorkerRoutesData } from "../support/servers/worker-routes.js";
import type { Owner } from "../support/temp.js";
import { tempFolder, tempSocket } from "../support/temp.js";
import { connectTo } from "../support/test-server.js";
import { FAIL_FAST, failure, waitUntil } from "../support/waiting.js";

const DEATHS = process.env["ISTHMUS_STRESS"] === "full" ? 100 : 25;
const ROUTES = new URL("../support/servers/worker-routes.js", import.meta.url);

async function serve(
  owner: Owner,
  workers: Partial<WorkersOptions>,
  options: Partial<IsthmusWorkerServerOptions> = {},
): Promise<{ path: string; server: IsthmusServer }> {
  const path = tempSocket(owner);
  const server = createIsthmusServer({ ...options, workers: { routes: ROUTES, ...workers } });
  owner.after(() => server.close({ timeoutMs: 0 }));
  await server.listen(path);
  return { path, server };
}

/** Texts of the warnings about dead workers from now on. */
function warningsOf(owner: Owner): string[] {
  const texts: string[] = [];
  const hear = (warning: NodeJS.ErrnoException) => {
    if (warning.code === "ISTHMUS_WORKER_DIED") texts.push(warning.message);
  };
  process.on("warning", hear);
  owner.after(() => process.off("warning", hear));
  return texts;
}

// Starts the thread pool of libuv, so that it does not look like a worker later.
await readFile(new URL(import.meta.url));
const ownThreads = () => readdirSync("/proc/self/task").length;

const CALLER = `
const { crc32 } = await import(data.checksum);
const transport = createIsthmusTransport({ address: data.path });
const client = createClient(TestService, transport);


let wrong = 0;
for (let round = 0; round < 50; round++) {
  await Promise.all(Array.from({ length: 40 }, async (_, i) => {
    const sequence = round * 40 + i;
    const bytes = new Uint8Array(i === 0 ? 300_000 : i * 50).fill(sequence % 251);
    const reply = await client.checksum({ sequence: BigInt(sequence), data: bytes });
    if (reply.sequence !== BigInt(sequence) || reply.checksum !== crc32(bytes) || crc32(reply.data) !== crc32(bytes)) wrong++;
  }));
}
say({ wrong });
await transport.close();
`;

test("four client processes of a server with four workers get right answers only", async (context) => {
  const { path, server } = await serve(context, { count: 4 });
  const outcomes = await Promise.all(
    Array.from({ length: 4 }, () =>
      runScriptOk(context, CALLER, { path, checksum: new URL("../support/checksum.js", import.meta.url).href }),
    ),
  );
  for (const { said } of outcomes) assert.deepEqual(said, [{ wrong: 0 }]);
  await waitUntil("the connections to end", () => server.stats().connections === 0);
  assert.equal(server.stats().workers?.length, 4);
});

test("connections go to the worker that has the fewest", async (context) => {
  const { path, server } = await serve(context, { count: 3 });
  const threads = [];
  for (let i = 0; i < 6; i++) threads.push((await connectTo(context, { path }).client.echo({})).number);
  for (const thread of new Set(threads)) assert.equal(threads.filter((one) => one === thread).length, 2);
  await waitUntil("all to be counted", () => server.stats().connections === 6);
  assert.deepEqual(
    server.stats().workers?.map((worker) => worker.connections),
    [2, 2, 2],
  );
});

for (const [end, limits] of [
  ["throw", undefined],
  ["exit", undefined],
  ["memory", { maxOldGenerationSizeMb: 24 }],
] as const) {
  test(`a worker that ends by "${end}" takes only its own connection with it, and is replaced`, async (context) => {
    const { path, server } = await serve(context, {
      count: 2,
      ...(limits === undefined ? {} : { resourceLimits: limits }),
    });
    const victim = connectTo(context, { path }).client;
    const { number: dead } = await victim.echo({});
    const other = connectTo(context, { path }).client;
    const { number: thread } = await other.echo({});
    assert.notEqual(thread, dead);
    await failure(victim.echo({ text: end }), Code.Unavailable, /connection/);
    for (let i = 0; i < 100; i++) assert.equal((await other.echo({ text: "on" })).number, thread);
    await waitUntil(
      "the replacement",
      () =>
        server.stats().workers?.length === 2 &&
        server.stats().workers?.every(({ threadId }) => BigInt(threadId) !== dead),
    );
    const { number: next } = await victim.echo({});
    assert.ok(next !== dead && next !== thread);
  });
}

test(`${DEATHS} deaths leave no descriptor and no mapping behind`, async (context) => {
  const { path, server } = await serve(context, { count: 1, restartDelayMsMax: 1 });
  const thread = () => server.stats().workers?.[0]?.threadId;
  const die = async () => {
    const before = thread();
    const transport = createIsthmusTransport({ address: path });
    await failure(
      createClient(TestService, transport).echo({ text: "exit", data: new Uint8Array(100_000) }),
      Code.Unavailable,
      /connection/,
    );
    await transport.close();
    await waitUntil("the replacement", () => thread() !== undefined && thread() !== before);
  };
  for (let i = 0; i < 5; i++) await die();
  const before = ownDescriptors();
  for (let i = 0; i < DEATHS; i++) await die();
  await waitUntil("descriptors and mappings to be gone", () => {
    const now = ownDescriptors();
    return (now.open <= before.open && now.mappings <= before.mappings) || JSON.stringify({ now, before });
  });
});

test("close lets calls finish, and then no thread is left", async (context) => {
  const { path, server } = await serve(context, { count: 2 });
  const { client } = connectTo(context, { path });
  await client.echo({});
  const calls = Array.from({ length: 50 }, (_, i) => client.echo({ text: String(i) }));
  await Promise.all(calls);
  await server.close();
  assert.deepEqual(server.stats().workers, []);
  await failure(client.echo({}, FAIL_FAST), Code.Unavailable, /./);
});

test("maxConnections counts over all workers", async (context) => {
  const { path } = await serve(context, { count: 2 }, { maxConnections: 2 });
  for (let i = 0; i < 2; i++) await connectTo(context, { path }).client.echo({});
  await failure(connectTo(context, { path }).client.echo({}), Code.ResourceExhausted, /maxConnections/);
});

test("a module without routes, one that does not parse and one that is missing are named when the server listens", async (context) => {
  const folder = tempFolder(context);
  const warnings = warningsOf(context);
  for (const [name, text, message] of [
    ["none.mjs", "export const other = 1;", /none\.mjs could not be loaded: .*no routes/],
    ["broken.mjs", "export default (", /broken\.mjs could not be loaded: SyntaxError/],
    [
      "options.mjs",
      "export default () => {}; export const options = { allow: 1 };",
      /options\.mjs could not be loaded: .*allow/,
    ],
    ["missing.mjs", undefined, /missing\.mjs could not be loaded: .*Cannot find module/],
    ["ends.mjs", "process.exit(5);", /ends\.mjs: it ended with exit code 5/],
  ] as const) {
    const path = join(folder, name);
    if (text !== undefined) writeFileSync(path, text);
    await failure(serve(context, { count: 2, routes: path }), Code.FailedPrecondition, message);
  }
  assert.deepEqual(warnings, []);
});

for (const [how, text] of [
  ["waits at its top level", "await new Promise(() => undefined);"],
  ["never returns", "for (;;);"],
] as const) {
  test(`a module that ${how} is named when its time to load is over, and its threads are ended`, async (context) => {
    const routes = join(tempFolder(context), "hangs.mjs");
    writeFileSync(routes, `${text} export default () => undefined;`);
    const before = ownThreads();
    const server = createIsthmusServer({ workers: { routes, count: 2, loadTimeoutMs: 300 } });
    await failure(
      server.listen(tempSocket(context)),
      Code.FailedPrecondition,
      /hangs\.mjs was not loaded within 300 ms \(option workers\.loadTimeoutMs\)/,
    );
    await waitUntil("the threads to be gone", () => ownThreads() <= before);
    await server.close();
  });
}

test("a listen that fails leaves no thread behind and no worker is replaced after it, but it can be tried again", async (context) => {
  const routes = join(tempFolder(context), "first-only.mjs");
  // One worker has the routes, one has not.
  writeFileSync(
    routes,
    `import { workerData } from "node:worker_threads"; if (Atomics.add(new Int32Array(workerData), 0, 1) > 0) throw new Error("one too many"); export default () => undefined;`,
  );
  const starts = new Int32Array(new SharedArrayBuffer(4));
  const warnings = warningsOf(context);
  const before = ownThreads();
  const server = createIsthmusServer({ workers: { routes, count: 2, workerData: starts.buffer } });
  await failure(
    server.listen(tempSocket(context)),
    Code.FailedPrecondition,
    /first-only\.mjs could not be loaded: Error: one too many/,
  );
  await waitUntil("the threads to be gone", () => ownThreads() <= before);
  assert.deepEqual([warnings, starts[0], server.stats().workers], [[], 2, []]);
  starts[0] = -1;
  await server.listen(tempSocket(context));
  assert.equal(server.stats().workers?.length, 2);
  await server.close();
});

test("a client that was handed to a worker which died before it took it is served by the next one", async (context) => {
  const warnings = warningsOf(context);
  const runs = new Int32Array(new SharedArrayBuffer(4));
  const { path } = await serve(context, { count: 1, workerData: { runs } satisfies WorkerRoutesData });
  const { client } = connectTo(context, { path });
  const { number: dead } = await client.echo({});
  const end = failure(client.echo({ text: "late" }), Code.Unavailable, /connection/);
  await waitUntil("the worker to be deaf", () => runs[0] === -1);
  const { number } = await connectTo(context, { path }).client.echo({}, { timeoutMs: 600_000 });
  await end;
  assert.notEqual(number, dead);
  // The other one is none of those that were lost.
  assert.match(
    warnings.join(),
    /^worker thread \d+ of a server died with 1 connections, and is replaced: it ended with exit code 3$/,
  );
});

test("a worker that replaces another one and hangs while it loads is ended and replaced", async (context) => {
  const routes = join(tempFolder(context), "hangs-once.mjs");
  writeFileSync(
    routes,
    `import { workerData } from "node:worker_threads";
    if (Atomics.add(workerData.starts, 0, 1) === 1) await new Promise(() => undefined);
    export const { routes } = await import(workerData.routes);`,
  );
  const warnings = warningsOf(context);
  const starts = new Int32Array(new SharedArrayBuffer(4));
  const { path, server } = await serve(context, {
    count: 1,
    routes,
    workerData: { starts, routes: ROUTES.href },
    loadTimeoutMs: 10_000,
  });
  const { client } = connectTo(context, { path });
  await failure(client.echo({ text: "exit" }), Code.Unavailable, /connection/);
  await waitUntil("the third worker", () => server.stats().workers?.length === 1 && starts[0] === 3);
  assert.match(warnings[1], /is replaced: .*hangs-once\.mjs was not loaded within 10000 ms/);
  await client.echo({});
});

test("a server that is closed while a worker is replaced leaves no thread behind", async (context) => {
  const before = ownThreads();
  for (const wait of [false, true]) {
    const { path, server } = await serve(context, { count: 1 });
    const all = ownThreads();
    await failure(connectTo(context, { path }).client.echo({ text: "exit" }), Code.Unavailable, /connection/);
    if (wait)
      await waitUntil("the replacement to start", () => server.stats().workers?.length === 0 && ownThreads() >= all);
    await server.close();
    await waitUntil("the threads to be gone", () => ownThreads() <= before);
  }
});

test("a server that is closed in the pause before a replacement starts none afterwards", async (context) => {
  const before = ownThreads();
  const { path, server } = await serve(context, { count: 1 });
  const { client } = connectTo(context, { path });
  // The pauses: none, 50, 100 and 200 ms.
  for (let i = 0; i < 4; i++) await failure(client.echo({ text: "exit" }), Code.Unavailable, /connection/);
  await waitUntil("the worker to be gone", () => server.stats().workers?.length === 0);
  await server.close();
  await sleep(400);
  assert.ok(ownThreads() <= before);
});

test("a server that is closed while its workers load says so, and leaves no thread and no socket behind", async (context) => {
  const routes = join(tempFolder(context), "slow.mjs");
  writeFileSync(routes, `await new Promise((resolve) => setTimeout(resolve, 60_000)); export default () => undefined;`);
  const before = ownThreads();
  for (const wait of [() => undefined, () => waitUntil("the threads", () => ownThreads() > before)]) {
    const path = tempSocket(context);
    const server = createIsthmusServer({ workers: { routes, count: 2 } });
    const listening = [server.listen(path), server.listen(path)];
    for (const one of listening) one.catch(() => undefined);
    await wait();
    await server.close();
    for (const one of listening)
      await failure(one, Code.FailedPrecondition, /the server was closed while its worker threads loaded .*slow\.mjs/);
    await failure(server.listen(path), Code.FailedPrecondition, /the server is closed/);
    await waitUntil("the threads to be gone", () => ownThreads() <= before);
    assert.ok(!existsSync(path));
  }
});

test("the warning about a worker that died names its thread", async (context) => {
  const warnings = warningsOf(context);
  const { path } = await serve(context, { count: 2 });
  const { client } = connectTo(context, { path });
  const { number } = await client.echo({});
  await failure(client.echo({ text: "exit" }), Code.Unavailable, /connection/);
  await waitUntil("the warning", () => warnings.length > 0);
  assert.match(
    warnings[0],
    new RegExp(
      `^worker thread ${number} of a server died with 1 connections, and is replaced: it ended with exit code 3$`,
    ),
  );
});

test("options that cannot reach a thread are refused with the way out", async (context) => {
  const make = (options: object) => () => createIsthmusServer({ workers: { routes: ROUTES }, ...options });
  assert.throws(make({ interceptors: [] }), /export const options = \{ interceptors \}/);
  assert.throws(make({ routes: () => undefined }), /workers\.routes/);
  assert.throws(make({ workers: { routes: "./routes.js" } }), /absolute path/);
  assert.throws(make({ workers: { routes: ROUTES, count: 0 } }), /workers\.count/);
  assert.throws(make({ workers: true }), /option workers: expected an object such as \{ routes:/);
  assert.throws(make({ workers: { routes: ROUTES, loadTimeoutMs: 0 } }), /workers\.loadTimeoutMs/);
  assert.throws(make({ workers: { routes: ROUTES, restartDelayMsMax: NaN } }), /workers\.restartDelayMsMax/);
  const unsendable = createIsthmusServer({ workers: { routes: ROUTES, workerData: () => undefined } });
  context.after(() => unsendable.close());
  await failure(
    unsendable.listen(tempSocket(context)),
    Code.InvalidArgument,
    /cannot be started with these options: .*could not be cloned/,
  );
  const server = createIsthmusServer({ workers: { routes: ROUTES } });
  context.after(() => server.close());
  await failure(server.listen("tcp:127.0.0.1:0"), Code.FailedPrecondition, /socket path/);
});
