/** Death, standstill and closing at particular moments: in the middle of the handshake, and of a large message. */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Code } from "@connectrpc/connect";
import type { Observation } from "../stress/observe.js";
import { waitUntil } from "../stress/observe.js";
import type { Failure } from "../stress/peer.js";
import type { Peer } from "../stress/processes.js";
import { scratchFolder, startPeer } from "../stress/processes.js";
import { scaled, skip } from "../stress/settings.js";
import type { ServerState } from "./death.peer.js";

const program = new URL("./death.peer.js", import.meta.url);
const halfway = new URL("./halfway.peer.js", import.meta.url);
const LARGE_MIB = scaled(128, 512);

interface Called {
  readonly failure?: Failure;
  readonly milliseconds: number;
}

test("a client that dies at any point of the handshake leaves nothing in the server", {
  skip,
  timeout: 600_000,
}, async (t) => {
  const path = join(scratchFolder(t), "handshake.sock");
  const server = await startPeer(t, program);
  await server.ask("listen", path);
  const first = await startPeer(t, program);
  await callFrom(first, path);
  await first.kill();
  await waitUntil(
    "the server to see the client go",
    async () => (await server.ask<ServerState>("serverState")).connections === 0,
  );
  const before = await server.ask<Observation>("observe");
  const points: [string, unknown][] = [
    ["connectOnly", path],
    ["hello", { path, byteLength: 5 }],
    ["hello", { path, byteLength: 20 }],
    ["hello", { path }],
  ];
  for (const [command, argument] of points) {
    const client = await startPeer(t, halfway);
    await client.ask(command, argument);
    await sleep(20);
    await client.kill();
  }
  await waitUntil("the server to forget them", async () => {
    const now = await server.ask<Observation>("observe");
    return now.descriptors === before.descriptors && now.segmentMappings === before.segmentMappings;
  });
  const { connections, violations, refused } = await server.ask<ServerState>("serverState");
  assert.deepEqual({ connections, violations, refused }, { connections: 0, violations: 0, refused: 3 });
  await callFrom(await startPeer(t, program), path);
});

test("a server that dies before its accepted fails the waiting calls at once, not at the handshake's time limit", {
  skip,
  timeout: 600_000,
}, async (t) => {
  const path = join(scratchFolder(t), "silent.sock");
  const [silent, client] = await Promise.all([startPeer(t, halfway), startPeer(t, program)]);
  await silent.ask("acceptOnly", path);
  await client.ask("connect", path);
  const before = await client.ask<Observation>("observe");
  const calls = Promise.all([1, 2, 3].map(() => client.ask<Called>("call", {})));
  await sleep(100);
  await silent.kill();
  for (const { failure } of await calls) {
    assert.equal(failure?.code, Code.Unavailable, failure?.message);
    // Not "no answer to the handshake within 5000 ms".
    assert.match(failure.message, /the peer closed the connection|hung up|reset/);
  }
  const after = await client.ask<Observation>("observe");
  assert.deepEqual([after.descriptors, after.segmentMappings], [before.descriptors, before.segmentMappings]);
  rmSync(path);
  const server = await startPeer(t, program);
  await server.ask("listen", path);
  assert.equal((await client.ask<Called>("call", {})).failure, undefined);
});

test("calls to a stopped server wait or meet their deadline, and go on when it does", {
  skip,
  timeout: 600_000,
}, async (t) => {
  const { server, client } = await startPair(t);
  server.signal("SIGSTOP");
  const waiting = [
    client.ask<Called>("call", {}),
    client.ask<Called>("call", { requestMiB: 80 }),
    client.ask<Called>("call", { replyMiB: 80 }),
  ];
  const hurried = await Promise.all([
    client.ask<Called>("call", { timeoutMs: 200 }),
    client.ask<Called>("call", { timeoutMs: 200, requestMiB: 80 }),
  ]);
  for (const { failure, milliseconds } of hurried) {
    assert.equal(failure?.code, Code.DeadlineExceeded, failure?.message);
    assert.ok(milliseconds >= 195, `a deadline of 200 ms came after ${milliseconds} ms`);
  }
  server.signal("SIGCONT");
  for (const { failure } of await Promise.all(waiting)) assert.equal(failure, undefined);
  await waitUntil(
    "the server to have nothing open",
    async () => (await server.ask<ServerState>("serverState")).pendingCalls === 0,
  );
});

test("a stopped client does not keep the server from serving others, and gets its answer when it goes on", {
  skip,
  timeout: 600_000,
}, async (t) => {
  const { server, client, path } = await startPair(t);
  const calling = client.ask<Called>("call", { replyMiB: LARGE_MIB });
  await sleep(20);
  client.signal("SIGSTOP");
  const other = await startPeer(t, program);
  for (let call = 0; call < 5; call++) await callFrom(other, path);
  client.signal("SIGCONT");
  assert.equal((await calling).failure, undefined);
  assert.equal((await server.ask<ServerState>("serverState")).violations, 0);
});

for (const [direction, size] of [
  ["request", { requestMiB: LARGE_MIB }],
  ["answer", { replyMiB: LARGE_MIB }],
] as const) {
  test(`a server that closes while a large ${direction} is under way lets the call finish`, {
    skip,
    timeout: 600_000,
  }, async (t) => {
    const { server, client } = await startPair(t);
    const calling = client.ask<Called>("call", size);
    await waitUntil(
      "the call to reach the server",
      async () => (await client.ask<{ pendingCalls: number }>("pending")).pendingCalls === 1,
    );
    await sleep(15);
    // A client that is slow to read: the rest of the message is still in the server when everything else is done.
    client.signal("SIGSTOP");
    const closing = server.ask("closeServer", 250_000);
    await sleep(500);
    client.signal("SIGCONT");
    const { failure, milliseconds } = await calling;
    t.diagnostic(`${LARGE_MIB} MiB took ${milliseconds.toFixed(0)} ms`);
    assert.equal(failure, undefined, failure?.message);
    await closing;
  });
}

test("a server that is told not to wait cuts a large message off, and the call rejects as Unavailable", {
  skip,
  timeout: 600_000,
}, async (t) => {
  const { server, client } = await startPair(t);
  const calling = client.ask<Called>("call", { requestMiB: LARGE_MIB });
  await waitUntil(
    "the call to be there",
    async () => (await client.ask<{ pendingCalls: number }>("pending")).pendingCalls === 1,
  );
  await server.ask("closeServer", 0);
  const { failure } = await calling;
  if (failure !== undefined) assert.equal(failure.code, Code.Unavailable, failure.message);
});

async function startPair(t: Parameters<typeof startPeer>[0]): Promise<{ server: Peer; client: Peer; path: string }> {
  const path = join(scratchFolder(t), "pair.sock");
  const [server, client] = await Promise.all([startPeer(t, program), startPeer(t, program)]);
  await server.ask("listen", path);
  await callFrom(client, path);
  return { server, client, path };
}

async function callFrom(client: Peer, path: string): Promise<void> {
  await client.ask("connect", path);
  const { failure } = await client.ask<Called>("call", {});
  assert.equal(failure, undefined, failure?.message);
}
