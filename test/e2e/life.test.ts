/** The life of connections and of the processes that hold them. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Code } from "@connectrpc/connect";
import { createIsthmusServer } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import { patternBytes } from "../support/checksum.js";
import { serveSilently } from "../support/other-servers.js";
import { CARRIER } from "../support/carriers.js";
import { runScript, runScriptOk } from "../support/processes.js";
import { cpuTicksOf, ownDescriptors } from "../support/resources.js";
import { tempSocket } from "../support/temp.js";
import { connectTo, PLACES, serveInChild, startServer, warmUp } from "../support/test-server.js";
import { FAIL_FAST, failure, waitUntil, within } from "../support/waiting.js";

/**
 * The end of a script that says how long its event loop stood idle from then on, until the process ended: what is left
 * in it would be waited for.
 */
const SAY_IDLE_TIME = `
  const { performance: clock } = await import("node:perf_hooks");
  const over = clock.eventLoopUtilization();
  process.on("exit", () => say(clock.eventLoopUtilization(over).idle));`;

function assertHeldByNothing(idleMs: unknown): void {
  assert.ok((idleMs as number) < 2000, `the process was held for ${String(idleMs)} ms`);
}

test("a transport connects with its first call, and says what state it is in", async (context) => {
  const server = await startServer(context, "two processes");
  const { client, transport } = connectTo(context, server);
  assert.deepEqual([transport.state, transport.carrier, transport.stats().connections], ["idle", undefined, 0]);
  const call = client.echo({});
  assert.equal(transport.state, "connecting");
  assert.equal(transport.stats().pendingCalls, 1);
  await call;
  assert.deepEqual([transport.state, transport.carrier, transport.stats().connections], ["ready", CARRIER, 1]);
  assert.equal((await server.stats()).connections, 1);
  await transport.close();
  assert.deepEqual([transport.state, transport.carrier], ["closed", undefined]);
  await waitUntil("the server to see it go", async () => (await server.stats()).connections === 0);
});

test("calls that come while the connection is being made share it", async (context) => {
  const server = await startServer(context, "two processes");
  const { client, transport } = connectTo(context, server);
  await Promise.all(Array.from({ length: 50 }, () => client.echo({})));
  assert.equal(transport.stats().connections, 1);
  assert.equal((await server.stats()).connections, 1);
});

test("a transport that is disposed of is closed", async (context) => {
  const server = await startServer(context, "two processes");
  const { client, transport } = connectTo(context, server);
  await client.echo({});
  await transport[Symbol.asyncDispose]();
  assert.equal(transport.state, "closed");
});

test("100 clients of several processes at once are all served, and leave nothing behind", async (context) => {
  const server = await serveInChild(context);
  await warmUp(server);
  const before = await server.resources();
  const script = `
    const transports = Array.from({ length: 20 }, () => createIsthmusTransport({ address: data, handshakeTimeoutMs: 120_000, memory: { arenaBytes: 1 << 20 } }));
    const clients = transports.map((transport) => createClient(TestService, transport));
    for (let round = 0; round < 5; round++) {
      const replies = await Promise.all(clients.map((client, i) => client.echo({ text: String(i), data: new Uint8Array(i * 2000) })));
      replies.forEach((reply, i) => { if (reply.text !== String(i) || reply.data.length !== i * 2000) throw new Error("wrong reply"); });
    }
    say(transports.reduce((sum, { state }) => sum + (state === "ready" ? 1 : 0), 0));`;
  const outcomes = await Promise.all(Array.from({ length: 5 }, () => runScriptOk(context, script, server.path)));
  for (const { said } of outcomes) assert.deepEqual(said, [20]);
  await waitUntil("all connections to end", async () => (await server.stats()).connections === 0);
  await waitUntil("descriptors and mappings to be gone", async () => {
    const now = await server.resources();
    return (now.open <= before.open && now.mappings <= before.mappings) || JSON.stringify({ now, before });
  });
});

test("a client's connections leave no descriptor and no mapping behind", async (context) => {
  const server = await startServer(context, "two processes");
  await warmUp(server);
  const before = ownDescriptors();
  for (let i = 0; i < 20; i++) {
    const { client, transport } = connectTo(context, server);
    await client.echo({ data: new Uint8Array(100_000) });
    await transport.close();
  }
  await waitUntil("descriptors and mappings to be gone", () => {
    const now = ownDescriptors();
    return (now.open <= before.open && now.mappings <= before.mappings) || JSON.stringify({ now, before });
  });
});

for (const place of PLACES) {
  test(`close() of a transport rejects what is pending, and every later call, with Unavailable, ${place}`, async (context) => {
    const server = await startServer(context, place);
    const { client, transport } = connectTo(context, server);
    await client.echo({});
    const pending = Array.from({ length: 10 }, () => client.wait({ milliseconds: 10_000 }));
    const large = client.echo({ data: new Uint8Array(80 << 20) });
    await transport.close();
    for (const call of [...pending, large]) await failure(call, Code.Unavailable, /transport was closed/);
    await failure(client.echo({}), Code.Unavailable, /transport is closed/);
    assert.equal(transport.stats().pendingCalls, 0);
    await transport.close();
  });

  test(`close() of a server lets open calls finish and refuses new ones, ${place}`, async (context) => {
    const server = await startServer(context, place);
    const { client, transport } = connectTo(context, server);
    await client.echo({});
    const start = performance.now();
    const open = client.wait({ milliseconds: 1000 });
    await waitUntil("the call to be under way", async () => (await server.stats()).pendingCalls === 1);
    const closed = server.close();
    await waitUntil("the client to hear of it", () => transport.state === "idle");
    await failure(client.echo({}, FAIL_FAST), Code.Unavailable, /no such path|nobody listens/);
    assert.equal((await open).text, "waited");
    await within(60_000, "close()", closed);
    assert.ok(performance.now() - start > 990, "not before the open call was answered");
    assert.ok(!existsSync(server.path));
  });

  test(`close() of a server delivers large answers that are under way, ${place}`, async (context) => {
    const server = await startServer(context, place, { memory: { arenaBytes: 256 << 10 } });
    const { client, transport } = connectTo(context, server);
    await client.echo({});
    const data = patternBytes(48 << 20, 9);
    const calls = [client.echo({ data }), client.echo({ data })];
    const answered = Promise.all(calls);
    const greeting = transport.stats().connection!.framesReceived;
    await waitUntil("an answer to have begun", () => transport.stats().connection!.framesReceived > greeting + 1);
    await within(60_000, "close()", server.close());
    for (const reply of await answered) assert.equal(Buffer.compare(reply.data, data), 0);
  });

  test(`close() of a server cuts off what takes longer than its timeout, ${place}`, async (context) => {
    const server = await startServer(context, place);
    const { client } = connectTo(context, server);
    const endless = client.wait({ milliseconds: 600_000 });
    await waitUntil("the call to be under way", async () => (await server.stats()).pendingCalls === 1);
    await Promise.all([
      within(60_000, "close()", server.close(100)),
      failure(endless, Code.Unavailable, /connection lost/),
    ]);
  });
}

for (const address of ["a path", "http://127.0.0.1:0"]) {
  test(`close() of a server on ${address} waits for longer than any timer counts, if it is told to`, async (context) => {
    for (const timeoutMs of [Infinity, 2 ** 31]) {
      let answer!: () => void;
      const asked = new Promise<void>((resolve) => (answer = resolve));
      const server = createIsthmusServer({
        routes: (router) => router.service(TestService, { wait: () => asked.then(() => ({ text: "waited" })) }),
      });
      context.after(() => server.close({ timeoutMs: 0 }));
      const listening = await server.listen(address === "a path" ? tempSocket(context) : address);
      const { client } = connectTo(context, { path: listening.address });
      const call = client.wait({});
      await waitUntil("the call to be under way", () => server.stats().pendingCalls === 1);
      const closed = server.close({ timeoutMs });
      await sleep(50);
      answer();
      assert.equal((await call).text, "waited");
      await within(60_000, "close()", closed);
    }
  });
}

test("close() of a server may be called again, at the same time and later", async (context) => {
  const path = tempSocket(context);
  const server = createIsthmusServer({
    routes: (router) => router.service(TestService, { wait: () => sleep(100).then(() => ({})) }),
  });
  await server.listen(path);
  const { client } = connectTo(context, { path });
  const call = client.wait({});
  await waitUntil("the call to be under way", () => server.stats().pendingCalls === 1);
  await within(60_000, "both", Promise.all([server.close(), server.close()]));
  await call;
  await server.close();
  await assert.rejects(server.listen(path), /server is closed/);
});

test("a server that is closed while it begins to listen does not listen", async (context) => {
  const path = tempSocket(context);
  const server = createIsthmusServer({ routes: () => {} });
  const listening = server.listen(path);
  await server.close();
  await assert.rejects(listening, /closed/);
  assert.ok(!existsSync(path));
});

test("close() of a transport ends an attempt to connect at once", async (context) => {
  const silent = await serveSilently(context);
  const { client, transport } = connectTo(context, silent, { handshakeTimeoutMs: 600_000 });
  const call = client.echo({});
  await sleep(20);
  // The attempt itself would fail with the handshake's time limit.
  await transport.close();
  await failure(call, Code.Unavailable, /transport was closed/);
  assert.equal(transport.state, "closed");
});

test("after a server was restarted the next call connects to the new one", async (context) => {
  const path = tempSocket(context);
  const first = await serveInChild(context, {}, { address: path });
  const { client, transport } = connectTo(context, { path });
  await client.echo({});
  const pending = client.wait({ milliseconds: 10_000 });
  await waitUntil("the call to be under way", async () => (await first.stats()).pendingCalls === 1);
  const exit = first.child.kill();
  await failure(pending, Code.Unavailable, /connection lost/);
  await exit;
  await waitUntil("the transport to notice", () => transport.state === "idle");
  await failure(client.echo({}, FAIL_FAST), Code.Unavailable, /nobody listens there/);

  await serveInChild(context, {}, { address: path });
  assert.equal((await client.echo({ text: "again" })).text, "again");
  assert.equal(transport.stats().connections, 2);
});

test("answers that a server published before it died are still delivered", async (context) => {
  const path = tempSocket(context);
  const script = `
    const server = createIsthmusServer({ routes: (router) => router.service(TestService, {
      echo({ text, number }) {
        // After the last answer was published, before anything else can happen.
        if (text === "last") setImmediate(() => process.kill(process.pid, "SIGKILL"));
        return { number };
      },
    }) });
    await server.listen(data);
    say("listening");`;
  const served = runScript(context, script, path);
  await waitUntil("the server to listen", () => existsSync(path));
  const { client } = connectTo(context, { path });
  await client.echo({});
  const calls = Array.from({ length: 200 }, (_, i) =>
    client.echo({ number: BigInt(i), text: i === 199 ? "last" : "" }),
  );
  const outcomes = await Promise.allSettled(calls);
  assert.equal((await served).signal, "SIGKILL");
  for (const [i, outcome] of outcomes.entries()) {
    if (outcome.status === "fulfilled") assert.equal(outcome.value.number, BigInt(i));
    else assert.match(String(outcome.reason), /\[unavailable\] connection lost/);
  }
  assert.ok(outcomes.filter(({ status }) => status === "fulfilled").length >= 199);
});

test("a client process ends by itself when no call is pending, without close()", async (context) => {
  const server = await serveInChild(context);
  const { said } = await runScriptOk(
    context,
    `const client = createClient(TestService, createIsthmusTransport({ address: data }));
     for (let i = 0; i < 10; i++) await client.echo({ data: new Uint8Array(i * 10_000) });
     ${SAY_IDLE_TIME}`,
    server.path,
  );
  assertHeldByNothing(said[0]);
});

test("a pending call keeps the client's process alive, asleep", async (context) => {
  const server = await serveInChild(context);
  const { said } = await runScriptOk(
    context,
    `const client = createClient(TestService, createIsthmusTransport({ address: data }));
     await client.echo({});
     const before = process.cpuUsage();
     say((await client.wait({ milliseconds: 600 })).text);
     const { user, system } = process.cpuUsage(before);
     say((user + system) / 1000);`,
    server.path,
  );
  assert.equal(said[0], "waited");
  assert.ok((said[1] as number) < 150, `${String(said[1])} ms of CPU in 600 ms`);
});

test("a client process with a call that was given up ends by itself", async (context) => {
  const server = await serveInChild(context);
  const { said } = await runScriptOk(
    context,
    `const client = createClient(TestService, createIsthmusTransport({ address: data }));
     await sayFailure(client.wait({ milliseconds: 600_000 }, { timeoutMs: 50 }));
     await sayFailure(client.wait({ milliseconds: 600_000 }, { signal: AbortSignal.timeout(50) }));
     ${SAY_IDLE_TIME}`,
    server.path,
  );
  assertHeldByNothing(said[2]);
});

test("a process that failed to connect ends by itself", async (context) => {
  const { said } = await runScriptOk(
    context,
    `const client = createClient(TestService, createIsthmusTransport({ address: data }));
     await sayFailure(client.echo({}));
     ${SAY_IDLE_TIME}`,
    tempSocket(context),
  );
  assert.equal((said[0] as { code: string }).code, "Unavailable");
  assertHeldByNothing(said[1]);
});

test("a server stays alive while it listens, idle, and ends by itself once it is closed", async (context) => {
  const server = await serveInChild(context);
  const { client, transport } = connectTo(context, server);
  await client.echo({});
  await sleep(100);
  const ticks = cpuTicksOf(server.child.pid);
  await sleep(500);
  assert.ok(cpuTicksOf(server.child.pid) - ticks <= 5, "an idle server with an open connection costs no CPU");
  await transport.close();
  await server.close();
  const { code } = await within(60_000, "the server's exit", server.child.exited);
  assert.equal(code, 0);
});

test("a server process ends by itself although clients are still connected when it closes", async (context) => {
  const server = await serveInChild(context);
  const { client, transport } = connectTo(context, server);
  await client.echo({});
  await within(60_000, "close()", server.close());
  assert.equal((await within(60_000, "the server's exit", server.child.exited)).code, 0);
  await waitUntil("the transport to notice", () => transport.state === "idle");
});

test("a client whose server's event loop is busy waits, and gets its answer", async (context) => {
  const server = await serveInChild(context);
  const { client } = connectTo(context, server);
  await client.echo({});
  const blocked = server.child.ask("block", 300);
  await sleep(50);
  assert.equal((await client.echo({ text: "late" })).text, "late");
  await blocked;
});

test("maxConnections refuses further clients with ResourceExhausted, until one leaves", async (context) => {
  const server = await serveInChild(context, { maxConnections: 2 });
  const clients = [connectTo(context, server), connectTo(context, server), connectTo(context, server)];
  await clients[0].client.echo({});
  await clients[1].client.echo({});
  await failure(clients[2].client.echo({}), Code.ResourceExhausted, /2 connections, its limit \(maxConnections\)/);
  assert.equal((await server.stats()).refused, 1);
  await clients[0].transport.close();
  await waitUntil("the first to be gone", async () => (await server.stats()).connections === 1);
  assert.equal((await clients[2].client.echo({ text: "in" })).text, "in");
});
