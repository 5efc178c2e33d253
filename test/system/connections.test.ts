/**
 * The life of a connection: what waits for it and what fails, peers that die and peers that hang, over each carrier,
 * with the server in another process.
 */
import assert from "node:assert/strict";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { once } from "node:events";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, createClient, createContextValues } from "@connectrpc/connect";
import type { IsthmusTransportOptions, ServerConnectionEvent, TransportStateEvent } from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport, waitForReady } from "../../src/index.js";
import { pauseAfter, reconnectOf } from "../../src/connect/client/dialer.js";
import { TestService } from "../proto/test_pb.js";
import { onlyWithAddon } from "../support/carriers.js";
import { runScriptOk, startChild } from "../support/processes.js";
import type { WaitingClientData } from "../support/servers/waiting-client.js";
import { tempFolder, tempSocket } from "../support/temp.js";
import type { TestClient, TestServerProcess } from "../support/test-server.js";
import { connectTo, serveInChild } from "../support/test-server.js";
import { testRoutes } from "../support/test-service.js";
import { FAIL_FAST, failure, waitUntil, within } from "../support/waiting.js";

const WAITING = { contextValues: createContextValues().set(waitForReady, true) };
/** For what must not happen by lapse of time while a test looks. */
const LONG_MS = 600_000;
/** Above what a busy machine keeps a process from running. */
const KEEP_ALIVE = { intervalMs: 500, timeoutMs: 3500 };

/** The states that a transport goes through. */
function statesOf(context: TestContext, transport: object): TransportStateEvent[] {
  const events: TransportStateEvent[] = [];
  const onEvent = (message: unknown) => {
    if ((message as TransportStateEvent).transport === transport) events.push(message as TransportStateEvent);
  };
  subscribe("isthmus:transport:state", onEvent);
  context.after(() => unsubscribe("isthmus:transport:state", onEvent));
  return events;
}

const untilWaiting = ({ transport }: TestClient) =>
  waitUntil("an attempt to have failed", () => transport.state === "reconnecting" || transport.state);

for (const carrier of ["shm", "socket"] as const) {
  describe(`connections over ${carrier}`, { skip: carrier === "shm" ? onlyWithAddon : false }, () => {
    const connect = (context: TestContext, path: string, options: Partial<IsthmusTransportOptions> = {}) =>
      connectTo(context, { path }, { carrier, ...options });
    /** A client that has been connected, of a server that is gone. */
    async function bereaved(
      context: TestContext,
      options: Partial<IsthmusTransportOptions> = {},
    ): Promise<TestClient & { path: string }> {
      const server = await serveInChild(context);
      const made = connect(context, server.path, options);
      await made.client.echo({});
      await server.child.kill();
      await waitUntil("the client to notice", () => made.transport.state === "idle");
      return { ...made, path: server.path };
    }
    const again = (context: TestContext, path: string): Promise<TestServerProcess> =>
      serveInChild(context, {}, { address: path });

    test("a server that is not there is told at once, by default", async (context) => {
      const path = tempSocket(context);
      const { client, transport } = connect(context, path);
      const error = await failure(
        client.echo({}),
        Code.Unavailable,
        /no such path; is the server running, and is this the path that it listens on\?/,
      );
      assert.ok(error.message.includes(path));
      assert.equal(transport.state, "idle");
    });

    test("with waitForReady calls wait for a server that comes later", async (context) => {
      const path = tempSocket(context);
      const made = connect(context, path, { waitForReady: true });
      const calls = Array.from({ length: 20 }, (_, i) => made.client.echo({ number: BigInt(i) }));
      const items = (async () => {
        let count = 0n;
        for await (const { number } of made.client.count({ number: 5n })) assert.equal(number, count++);
        return count;
      })();
      await untilWaiting(made);
      assert.equal(made.transport.stats().pendingCalls, 21);
      const server = await again(context, path);
      for (const [i, { number }] of (await Promise.all(calls)).entries()) assert.equal(number, BigInt(i));
      assert.equal(await items, 5n);
      assert.deepEqual([made.transport.stats().connections, (await server.stats()).connections], [1, 1]);
    });

    test("the context key makes a single call wait, or not, whatever the option says", async (context) => {
      const path = tempSocket(context);
      const [hasty, patient] = [connect(context, path), connect(context, path, { waitForReady: true })];
      const calls = [hasty.client.echo({ text: "patient" }, WAITING), patient.client.echo({ text: "by option" })];
      await failure(hasty.client.echo({}), Code.Unavailable, /no such path/);
      await failure(patient.client.echo({}, FAIL_FAST), Code.Unavailable, /no such path/);
      await again(context, path);
      assert.deepEqual(
        (await Promise.all(calls)).map(({ text }) => text),
        ["patient", "by option"],
      );
    });

    test("a context value waitForReady that is no boolean fails the call", async (context) => {
      const { client } = connect(context, tempSocket(context));
      const contextValues = createContextValues().set(waitForReady, "yes" as never);
      await failure(
        client.echo({}, { contextValues }),
        Code.InvalidArgument,
        /context value waitForReady: expected true or false, not "yes"/,
      );
    });

    test("connect() waits as a call would, and says why there is no connection", async (context) => {
      const path = tempSocket(context);
      const { transport } = connect(context, path);
      await failure(transport.connect(), Code.Unavailable, /no such path/);
      await failure(
        transport.connect({ waitForReady: true, timeoutMs: 1000 }),
        Code.DeadlineExceeded,
        /before there was a connection; the last attempt failed: .*no such path/,
      );
      await failure(transport.connect({ waitForReady: true, signal: AbortSignal.timeout(50) }), Code.Canceled, /./);
      const connected = transport.connect({ waitForReady: true });
      await again(context, path);
      await connected;
      assert.deepEqual([transport.state, transport.carrier, transport.stats().connections], ["ready", carrier, 1]);
      await transport.connect();
      assert.equal(transport.stats().connections, 1);
      await transport.close();
      await failure(transport.connect(), Code.Unavailable, /transport is closed/);
    });

    test("calls wait while a server is restarted, and each is run once", async (context) => {
      const made = await bereaved(context);
      const calls = Array.from({ length: 50 }, (_, i) => made.client.wait({ milliseconds: i }));
      await untilWaiting(made);
      const server = await again(context, made.path);
      for (const { text } of await Promise.all(calls)) assert.equal(text, "waited");
      assert.deepEqual(
        (await server.observations()).map(({ milliseconds }) => milliseconds),
        Array.from(calls.keys()),
      );
      assert.equal(made.transport.stats().connections, 2);
    });

    test("a call that waits has its deadline, and gives up then", async (context) => {
      const made = await bereaved(context);
      await failure(
        made.client.echo({}, { timeoutMs: 1000 }),
        Code.DeadlineExceeded,
        /before there was a connection; the last attempt failed: .*nobody listens there/,
      );
      await waitUntil(
        "nothing to wait",
        () => made.transport.stats().pendingCalls === 0 && made.transport.state === "idle",
      );
    });

    test("what a call waited is taken off its timeout", async (context) => {
      const made = await bereaved(context);
      const call = made.client.wait({ milliseconds: 0 }, { timeoutMs: LONG_MS });
      await untilWaiting(made);
      await sleep(100);
      const server = await again(context, made.path);
      await call;
      const [{ timeoutMs }] = await server.observations();
      assert.ok(timeoutMs! <= LONG_MS - 99, `${timeoutMs}`);
    });

    test("a call that waits ends when its signal aborts, and the others go on", async (context) => {
      const made = await bereaved(context);
      const controller = new AbortController();
      const aborted = made.client.echo({}, { signal: controller.signal });
      const other = made.client.echo({ text: "other" });
      await untilWaiting(made);
      controller.abort();
      await failure(aborted, Code.Canceled, /./);
      assert.equal(made.transport.stats().pendingCalls, 1);
      await again(context, made.path);
      assert.equal((await other).text, "other");
    });

    test("a call without a deadline gives up after giveUpAfterMs", async (context) => {
      const made = await bereaved(context, { reconnect: { giveUpAfterMs: 1000 } });
      await failure(
        made.client.echo({}),
        Code.Unavailable,
        /nobody listens there.*\(waited 1000 ms for a connection\)/,
      );
    });

    test("a path that can never be one is told at once, also to calls that wait", async (context) => {
      const file = join(tempFolder(context), "file");
      writeFileSync(file, "");
      const timeoutMs = LONG_MS;
      for (const [path, message] of [
        [file, /this is not a socket/],
        [join(file, "below"), /not a directory/],
      ] as const) {
        const { client } = connect(context, path, { waitForReady: true });
        await failure(client.echo({}, { timeoutMs }), Code.Unavailable, message);
      }
    });

    test("a path that may not be connected to is told at once, also to calls that wait", async (context) => {
      const server = await serveInChild(context);
      const { said } = await runScriptOk(
        context,
        `if (process.getuid() === 0) { process.setgroups([]); process.setgid(12345); process.setuid(12345); }
         else { const { chmodSync } = await import("node:fs"); chmodSync(data.path, 0); }
         const transport = createIsthmusTransport({ address: data.path, carrier: data.carrier, waitForReady: true });
         await sayFailure(createClient(TestService, transport).echo({}, { timeoutMs: 600_000 }));`,
        { path: server.path, carrier },
      );
      const { code, message } = said[0] as { code: string; message: string };
      assert.deepEqual(
        [code, message.replace(server.path, "PATH")],
        [
          "PermissionDenied",
          "[permission_denied] connect to PATH: permission denied; the server decides by the socket's mode and gid who may connect",
        ],
      );
    });

    test("kill -9 in the middle of 64 calls fails each once, and the next call goes to the next server", async (context) => {
      const server = await serveInChild(context);
      const { client, transport } = connect(context, server.path);
      await client.echo({});
      const settled = new Array<number>(64).fill(0);
      const calls = settled.map((_, i) => {
        const call =
          i % 8 === 7 ? client.echo({ data: new Uint8Array(64 << 20) }) : client.wait({ milliseconds: LONG_MS });
        const count = () => settled[i]++;
        call.then(count, count);
        return call;
      });
      await waitUntil("the server to have them", async () => (await server.observations()).length === 56);
      const killed = server.child.kill();
      const outcomes = await within(60_000, "the failures", Promise.allSettled(calls));
      await killed;
      // A large one may have been answered before.
      for (const [i, outcome] of outcomes.entries()) {
        if (i % 8 !== 7 || outcome.status === "rejected") await failure(calls[i], Code.Unavailable, /connection lost/);
      }
      const next = client.echo({ text: "next" });
      const second = await again(context, server.path);
      assert.equal((await next).text, "next");
      assert.deepEqual(settled, new Array<number>(64).fill(1));
      assert.deepEqual(await second.observations(), [], "none is sent to another server");
      assert.equal(transport.stats().connections, 2);
    });

    test("a server that is stopped is given up, and called again when it goes on", async (context) => {
      const server = await serveInChild(context);
      const made = connect(context, server.path, { keepAlive: KEEP_ALIVE });
      await made.client.echo({});
      const calls = Array.from({ length: 10 }, () => made.client.wait({ milliseconds: LONG_MS }));
      await waitUntil("the server to have them", async () => (await server.observations()).length === 10);
      process.kill(server.child.pid, "SIGSTOP");
      for (const call of calls)
        await failure(
          call,
          Code.Unavailable,
          /no sign of life from the server for 4000 ms \(option keepAlive\); its process is stopped, or its event loop is blocked/,
        );
      // The kernel takes the connection for it, and nobody answers.
      const next = made.client.echo({ text: "next" });
      process.kill(server.child.pid, "SIGCONT");
      assert.equal((await next).text, "next");
      assert.equal(made.transport.stats().connections, 2);
      await waitUntil("the server to have let go of the calls", async () =>
        (await server.observations()).every(({ aborted }) => aborted),
      );
    });

    test("a client that is stopped is given up by the server, which aborts its calls and frees it", async (context) => {
      const path = tempSocket(context);
      const aborted: string[] = [];
      const server = createIsthmusServer({
        carrier: carrier === "shm" ? "auto" : "socket",
        keepAlive: KEEP_ALIVE,
        routes: (router) =>
          router.service(TestService, {
            echo: () => ({}),
            wait: (_, { signal }) =>
              new Promise((_, reject) =>
                signal.addEventListener(
                  "abort",
                  () => reject(signal.reason as Error) ?? aborted.push(String(signal.reason)),
                ),
              ),
          }),
      });
      await server.listen(path);
      context.after(() => server.close({ timeoutMs: 0 }));
      const child = await startChild(context, "servers/waiting-client.js", {
        address: path,
        carrier,
      } satisfies WaitingClientData);
      await child.ask("open", 10);
      await waitUntil("the calls to be open", () => server.stats().pendingCalls === 10);
      process.kill(child.pid, "SIGSTOP");
      await waitUntil("the server to give it up", () => server.stats().connections === 0);
      assert.equal(server.stats().pendingCalls, 0);
      assert.equal(aborted.length, 10);
      for (const reason of aborted)
        assert.match(reason, /\[canceled\] the client is gone: no sign of life from the client for 4000 ms/);
      process.kill(child.pid, "SIGCONT");
      await waitUntil(
        "the client's calls to have failed",
        async () => (await child.ask<string[]>("failures")).length === 10,
      );
      for (const failed of await child.ask<string[]>("failures"))
        assert.match(failed, /\[unavailable\] connection lost/);
      await child.ask("call");
      assert.equal(server.stats().connections, 1);
    });

    test("a server that closes waits for what a client sends that was too busy to hear of it", async (context) => {
      const server = await serveInChild(context);
      const child = await startChild(context, "servers/waiting-client.js", {
        address: server.path,
        carrier,
      } satisfies WaitingClientData);
      await child.ask("call");
      const mark = join(tempFolder(context), "blocked");
      const late = child.ask("blockThenCall", { milliseconds: 1500, mark });
      await waitUntil("it to be blocked", () => existsSync(mark));
      const closed = server.close();
      assert.equal(await late, "late");
      await within(60_000, "close()", closed);
    });

    test("a peer that is busy, but lives, is not given up", async (context) => {
      const keepAlive = { intervalMs: 20, timeoutMs: 5000, always: true };
      const server = await serveInChild(context, { keepAlive });
      const { client, transport } = connect(context, server.path, { keepAlive });
      await client.echo({});
      const open = client.wait({ milliseconds: 900 });
      for (let i = 0; i < 3; i++) {
        const blocked = server.child.ask("block", 200);
        const end = performance.now() + 100;
        while (performance.now() < end);
        await blocked;
      }
      assert.equal((await open).text, "waited");
      assert.equal((await client.echo({ text: "still there" })).text, "still there");
      assert.deepEqual([transport.stats().connections, (await server.stats()).connections], [1, 1]);
    });

    test("states are told in order, with reasons", async (context) => {
      const path = tempSocket(context);
      const first = await again(context, path);
      const made = connect(context, path);
      const events = statesOf(context, made.transport);
      await made.client.echo({});
      await first.child.kill();
      await waitUntil("the client to notice", () => made.transport.state === "idle");
      const call = made.client.echo({});
      await untilWaiting(made);
      const second = await again(context, path);
      await call;
      await second.close();
      await waitUntil("the client to notice", () => made.transport.state === "idle");
      await made.transport.close();
      assert.deepEqual(
        events.map(({ state }) => state),
        ["connecting", "ready", "idle", "connecting", "reconnecting", "ready", "idle", "closed"],
      );
      for (const [i, { previous, address }] of events.entries()) {
        assert.equal(previous, i === 0 ? "idle" : events[i - 1].state);
        assert.equal(address, `unix:${path}`);
      }
      const reasons = events.map(({ reason }) => reason);
      assert.deepEqual([reasons[0], reasons[1], reasons[5], reasons[7]], [undefined, undefined, undefined, undefined]);
      assert.match(reasons[4]!, /nobody listens there/);
      assert.match(reasons[6]!, /the server is shutting down/);
    });

    test("a server tells of connections that come and go", async (context) => {
      const path = tempSocket(context);
      const server = createIsthmusServer({ routes: testRoutes });
      await server.listen(path);
      context.after(() => server.close({ timeoutMs: 0 }));
      const events: ServerConnectionEvent[] = [];
      const onEvent = (message: unknown) => {
        if ((message as ServerConnectionEvent).server === server) events.push(message as ServerConnectionEvent);
      };
      subscribe("isthmus:server:connection", onEvent);
      context.after(() => unsubscribe("isthmus:server:connection", onEvent));
      const child = await startChild(context, "servers/waiting-client.js", {
        address: path,
        carrier,
      } satisfies WaitingClientData);
      await child.ask("call");
      await child.kill();
      await waitUntil("it to be gone", () => events.length === 2);
      const withoutAddon = onlyWithAddon !== false;
      assert.deepEqual(
        events.map(({ event, carrier, peer }) => [event, carrier, peer?.pid]),
        ["opened", "closed"].map((event) => [event, carrier, withoutAddon ? undefined : child.pid]),
      );
      assert.equal(events[0].reason, undefined);
      assert.notEqual(events[1].reason, undefined);
    });

    test("close() of a transport with a time-out lets open calls finish, and rejects those that wait and those that come", async (context) => {
      const server = await serveInChild(context, { maxStreams: 2 });
      const { client, transport } = connect(context, server.path);
      const open = Array.from({ length: 6 }, () => client.wait({ milliseconds: 500 }));
      await waitUntil("two to be under way", async () => (await server.stats()).pendingCalls === 2);
      const closed = transport.close({ timeoutMs: LONG_MS });
      assert.equal(transport.state, "closed");
      await failure(client.echo({}), Code.Unavailable, /transport was closed/);
      for (const { text } of await Promise.all(open)) assert.equal(text, "waited");
      await within(60_000, "close()", closed);
      await waitUntil("the server to see it go", async () => (await server.stats()).connections === 0);

      const made = await bereaved(context);
      const waiting = made.client.echo({});
      await untilWaiting(made);
      await within(60_000, "close()", made.transport.close({ timeoutMs: LONG_MS }));
      await failure(waiting, Code.Unavailable, /transport was closed/);
    });

    test("close() of a transport with a time-out cuts off what takes longer", async (context) => {
      const server = await serveInChild(context);
      const { client, transport } = connect(context, server.path);
      const open = client.wait({ milliseconds: LONG_MS });
      await waitUntil("it to be under way", async () => (await server.stats()).pendingCalls === 1);
      const start = performance.now();
      const closed = transport.close({ timeoutMs: 150 });
      await failure(open, Code.Unavailable, /transport was closed/);
      await within(60_000, "close()", closed);
      assert.ok(performance.now() - start > 140, "not before its time");
    });

    test("a transport that nobody uses after its server has died leaves the path alone, and its process may end", async (context) => {
      const path = tempSocket(context);
      const server = await again(context, path);
      const script = `
        const { existsSync, writeFileSync } = await import("node:fs");
        const client = createClient(TestService, createIsthmusTransport({ address: data.path, carrier: data.carrier }));
        await client.echo({});
        writeFileSync(data.path + ".called", "");
        while (!existsSync(data.path + ".dead")) await sleep(5);`;
      const ended = runScriptOk(context, script, { path, carrier });
      await waitUntil("the client's call to be answered", () => existsSync(`${path}.called`));
      await server.child.kill();
      writeFileSync(`${path}.dead`, "");
      assert.deepEqual((await ended).said, []);
    });

    test("200 clients that lose one server at once come back by a bounded number of attempts each, and each to one connection", async (context) => {
      const path = tempSocket(context);
      const first = await again(context, path);
      const reconnect = { initialDelayMs: 20 };
      const clients = Array.from({ length: 200 }, () => {
        const transport = createIsthmusTransport({
          address: path,
          carrier,
          reconnect,
          handshakeTimeoutMs: 120_000,
          memory: { arenaBytes: 128 << 10, ringBytes: 64 << 10 },
        });
        context.after(() => transport.close());
        return { transport, client: createClient(TestService, transport) };
      });
      await Promise.all(clients.map(({ client }) => client.echo({})));
      await first.child.kill();
      await waitUntil("all to notice", () => clients.every(({ transport }) => transport.state === "idle"));

      // Somebody listens, but is not ready: it hangs up, and so every attempt is seen.
      let attempts = 0;
      const unready = createServer((socket) => {
        attempts++;
        socket.on("error", () => {}).destroy();
      });
      rmSync(path);
      unready.listen({ path, backlog: 1024 });
      await once(unready, "listening");
      const start = performance.now();
      const calls = clients.map(({ client }, i) => client.echo({ number: BigInt(i) }));
      await sleep(600);
      await waitUntil("as many attempts as there are clients", () => attempts >= 200 || attempts);
      unready.close();
      const lastedMs = performance.now() - start;
      const second = await again(context, path);
      for (const [i, { number }] of (await Promise.all(calls)).entries()) assert.equal(number, BigInt(i));

      // As many as the shortest pauses leave room for, and a first one.
      let most = 1;
      for (let sum = 0; sum < lastedMs; most++) sum += pauseAfter(most, reconnectOf(reconnect), 0) - 1;
      context.diagnostic(
        `${attempts} attempts of 200 clients in ${Math.round(lastedMs)} ms, at most ${most} each expected`,
      );
      assert.ok(attempts <= 200 * most, `${attempts} attempts of 200 clients in ${lastedMs} ms`);
      const { connections, refused } = await second.stats();
      assert.deepEqual({ connections, refused }, { connections: 200, refused: 0 });
      for (const { transport } of clients) assert.equal(transport.stats().connections, 2);
    });
  });
}

describe("JSON.stringify", () => {
  test("shows the address and the figures of a transport, whatever it is for, and the figures of a server", async (context) => {
    const server = createIsthmusServer({ routes: testRoutes });
    context.after(() => server.close({ timeoutMs: 0 }));
    const { address: unix } = await server.listen(tempSocket(context));
    const { address: tcp } = await server.listen("tcp:127.0.0.1:0");
    const { address: http } = await server.listen("http://127.0.0.1:0");
    for (const address of [unix, tcp, http, [unix, http]]) {
      const transport = createIsthmusTransport({ address });
      context.after(() => transport.close());
      const read = () => JSON.parse(JSON.stringify({ transport })) as { transport: Record<string, unknown> };
      assert.deepEqual([read().transport.address, read().transport.state], [address, "idle"]);
      await createClient(TestService, transport).echo({});
      assert.equal(read().transport.state, "ready");
    }
    assert.equal(
      (JSON.parse(JSON.stringify(server)) as Record<string, unknown>).connections,
      server.stats().connections,
    );
  });
});
