/** Running out of descriptors or mappings is a clear error for whoever connects, and nothing else. */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Code } from "@connectrpc/connect";
import type { ServerStats } from "../../src/index.js";
import { waitUntil } from "../stress/observe.js";
import type { Failure } from "../stress/peer.js";
import type { Peer, PeerOptions } from "../stress/processes.js";
import { scratchFolder, startPeer } from "../stress/processes.js";
import { skip } from "../stress/settings.js";

const program = new URL("./limits.peer.js", import.meta.url);
/** Node itself needs nearly a hundred while it loads modules. */
const DESCRIPTORS_MAX = 128;

interface Opened {
  readonly opened: number;
  readonly failure?: Failure;
}

async function startPair(
  t: TestContext,
  serverOptions: PeerOptions,
  clientOptions: PeerOptions,
): Promise<{ server: Peer; client: Peer; path: string }> {
  const path = join(scratchFolder(t), "limits.sock");
  const [server, client] = await Promise.all([
    startPeer(t, program, serverOptions),
    startPeer(t, program, clientOptions),
  ]);
  await server.ask("listen", path);
  return { server, client, path };
}

function assertExhausted(failure: Failure | undefined, limit: RegExp): void {
  assert.ok(failure !== undefined, "nothing failed");
  assert.equal(failure.code, Code.ResourceExhausted, failure.message);
  assert.match(failure.message, limit);
}

test("a server out of descriptors refuses further clients and says so, serves those it has, and later takes new ones", {
  skip,
  timeout: 600_000,
}, async (t) => {
  const { server, client, path } = await startPair(t, { before: `ulimit -n ${DESCRIPTORS_MAX}` }, {});
  const first = await client.ask<Opened>("open", { path, count: DESCRIPTORS_MAX });
  t.diagnostic(`${first.opened} clients, then: ${first.failure?.message}`);
  assert.ok(first.opened >= 10, `only ${first.opened} clients`);
  assertExhausted(first.failure, /open files|descriptor/);
  for (let attempt = 0; attempt < 5; attempt++) {
    const again = await client.ask<Opened>("open", { path, count: 1 });
    assertExhausted(again.failure, /open files|descriptor/);
  }
  assert.deepEqual(await client.ask<Failure[]>("callAll"), []);
  await client.ask("close", 5);
  await waitUntil(
    "the server to see them go",
    async () => (await server.ask<ServerStats>("stats")).connections === first.opened - 5,
  );
  await sleep(200);
  assert.deepEqual(await client.ask<Opened>("open", { path, count: 5 }), { opened: 5 });
  assert.deepEqual(await client.ask<Failure[]>("callAll"), []);
});

test("many clients that come at once to a server out of descriptors all get an answer", {
  skip,
  timeout: 600_000,
}, async (t) => {
  const { server, client, path } = await startPair(t, { before: `ulimit -n ${DESCRIPTORS_MAX}` }, {});
  const clients = [client, ...(await Promise.all([1, 2, 3].map(() => startPeer(t, program))))];
  const opened = await Promise.all(clients.map((one) => one.ask<Opened>("open", { path, count: DESCRIPTORS_MAX })));
  for (const { failure } of opened) assertExhausted(failure, /open files|descriptor/);
  for (const one of clients) assert.deepEqual(await one.ask<Failure[]>("callAll"), []);
  const total = opened.reduce((sum, one) => sum + one.opened, 0);
  t.diagnostic(`${total} clients were let in`);
  assert.equal((await server.ask<ServerStats>("stats")).connections, total);
  await Promise.all(clients.slice(1).map((one) => one.kill()));
  await sleep(300);
  assert.deepEqual(await client.ask<Opened>("open", { path, count: 3 }), { opened: 3 });
});

test("a crowd at the door of a server without a single descriptor is told so before the handshake's time limit", {
  skip,
  timeout: 600_000,
}, async (t) => {
  const { server, client, path } = await startPair(t, { before: `ulimit -n ${DESCRIPTORS_MAX}` }, {});
  assert.equal((await client.ask<Opened>("open", { path, count: 2 })).opened, 2);
  await server.ask("takeDescriptors");
  const count = 150;
  const { failures, milliseconds } = await client.ask<{ failures: Failure[]; milliseconds: number }>("openAtOnce", {
    path,
    count,
  });
  const clear = failures.filter(({ code }) => (code as Code) === Code.ResourceExhausted).length;
  t.diagnostic(
    `${clear} of ${count} were told ResourceExhausted, all had an answer after ${milliseconds.toFixed(0)} ms; the last: ${failures.at(-1)?.message}`,
  );
  assert.deepEqual(await client.ask<Failure[]>("callAll"), []);
  assert.equal(clear, count);
  await server.ask("giveDescriptorsBack");
  await sleep(200);
  assert.deepEqual(await client.ask<Opened>("open", { path, count: 2 }), { opened: 2 });
});

test("a client out of descriptors gets an error that names the limit, and goes on with what it has", {
  skip,
  timeout: 600_000,
}, async (t) => {
  const { client, path } = await startPair(t, {}, { before: `ulimit -n ${DESCRIPTORS_MAX}` });
  const first = await client.ask<Opened>("open", { path, count: DESCRIPTORS_MAX });
  t.diagnostic(`${first.opened} connections, then: ${first.failure?.message}`);
  assertExhausted(first.failure, /ulimit -n/);
  assertExhausted((await client.ask<Opened>("open", { path, count: 1 })).failure, /ulimit -n/);
  assert.deepEqual(await client.ask<Failure[]>("callAll"), []);
  await client.ask("close", 2);
  assert.equal((await client.ask<Opened>("open", { path, count: 2 })).opened, 2);
});

test("a client without room for mappings gets an error that names vm.max_map_count, and connects once there is room", {
  skip,
  timeout: 600_000,
}, async (t) => {
  const { client, path } = await startPair(t, {}, { nodeFlags: ["--min-semi-space-size=16"] });
  const failure = await client.ask<Failure | undefined>("callWithoutMappings", { path, spare: 2 });
  t.diagnostic(`client: ${failure?.message}`);
  assertExhausted(failure, /vm\.max_map_count/);
  await client.ask("freeMappings");
  assert.deepEqual(await client.ask<Opened>("open", { path, count: 1 }), { opened: 1 });
});

test("a server without room for mappings refuses new clients, serves the old ones, and takes new ones once there is room", {
  skip,
  timeout: 600_000,
}, async (t) => {
  const { server, client, path } = await startPair(t, { nodeFlags: ["--min-semi-space-size=16"] }, {});
  assert.equal((await client.ask<Opened>("open", { path, count: 2 })).opened, 2);
  const taken = await server.ask<number>("fillMappings", { spare: 2 });
  const { failure } = await client.ask<Opened>("open", { path, count: 1 });
  t.diagnostic(`server with ${taken} fillers: ${failure?.message}`);
  assertExhausted(failure, /vm\.max_map_count/);
  assert.deepEqual(await client.ask<Failure[]>("callAll"), []);
  await server.ask("freeMappings");
  assert.deepEqual(await client.ask<Opened>("open", { path, count: 2 }), { opened: 2 });
  assert.deepEqual(await client.ask<Failure[]>("callAll"), []);
});
