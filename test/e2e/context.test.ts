/** What a call carries with it besides its message, and what must not be carried: other calls' AsyncLocalStorage. */
import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { createContextKey, createContextValues } from "@connectrpc/connect";
import type { IsthmusServerOptions } from "../../src/index.js";
import { createIsthmusServer, peerCredentials } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import { HAS_CREDENTIALS, onlyWithAddon } from "../support/carriers.js";
import { runScriptOk } from "../support/processes.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";
import { connectTo, PLACES, startServer } from "../support/test-server.js";
import { failure, waitUntil } from "../support/waiting.js";
import { Code } from "@connectrpc/connect";

type Implementation = Partial<ServiceImpl<typeof TestService>>;

async function serve(
  owner: Owner,
  implementation: Implementation,
  options: Partial<IsthmusServerOptions> = {},
): Promise<string> {
  const path = tempSocket(owner);
  const server = createIsthmusServer({ ...options, routes: (router) => router.service(TestService, implementation) });
  await server.listen(path);
  owner.after(() => server.close({ timeoutMs: 0 }));
  return path;
}

describe("context values", () => {
  for (const place of PLACES) {
    test(`the handler learns who calls, as the kernel says it, ${place}`, { skip: onlyWithAddon }, async (context) => {
      const server = await startServer(context, place);
      const { client } = connectTo(context, server);
      const { pid, uid, gid } = await client.whoami({});
      assert.deepEqual({ pid, uid, gid }, { pid: process.pid, uid: process.getuid!(), gid: process.getgid!() });
    });
  }

  test("each of several client processes is known by its own id", { skip: onlyWithAddon }, async (context) => {
    const server = await startServer(context, "two processes");
    const script = `
      const client = createClient(TestService, createIsthmusTransport({ address: data }));
      say([process.pid, (await client.whoami({})).pid]);`;
    const outcomes = await Promise.all([1, 2, 3].map(() => runScriptOk(context, script, server.path)));
    const pids = outcomes.map(({ said }) => said[0] as [number, number]);
    for (const [own, seen] of pids) assert.equal(seen, own);
    assert.equal(new Set(pids.map(([own]) => own)).size, 3);
  });

  test("the server's option contextValues gives every call of a connection its values", async (context) => {
    const tenant = createContextKey("none");
    let made = 0;
    const path = await serve(
      context,
      { echo: (_, { values }) => ({ text: `${values.get(tenant)} ${values.get(peerCredentials)?.pid}` }) },
      { contextValues: (peer) => createContextValues().set(tenant, `tenant of ${peer?.uid}, ${++made}`) },
    );
    const { client } = connectTo(context, { path });
    const uid = HAS_CREDENTIALS ? process.getuid!() : undefined;
    const pid = HAS_CREDENTIALS ? process.pid : undefined;
    assert.equal((await client.echo({})).text, `tenant of ${uid}, 1 ${pid}`);
    assert.equal((await client.echo({})).text, `tenant of ${uid}, 2 ${pid}`);
  });

  test("values that contextValues gives to all calls are not written into", async (context) => {
    const key = createContextKey("default");
    const other = createContextKey("default");
    const shared = createContextValues().set(key, "given");
    const path = await serve(
      context,
      {
        echo({ text }, { values }) {
          const before = `${values.get(key)} ${values.get(other)}`;
          values.set(key, text).set(other, text);
          const between = `${values.get(key)} ${values.get(other)}`;
          values.delete(key);
          return { text: `${before}, ${between}, ${values.get(key)}` };
        },
      },
      { contextValues: () => shared },
    );
    const { client } = connectTo(context, { path });
    for (const text of ["a", "b"])
      assert.equal((await client.echo({ text })).text, `given default, ${text} ${text}, default`);
    assert.equal(shared.get(key), "given");
    assert.equal(shared.get(peerCredentials), undefined);
  });

  test("what a handler sets is seen by no other call", async (context) => {
    const key = createContextKey("default");
    const path = await serve(context, {
      async echo({ text }, { values }) {
        const before = values.get(key);
        values.set(key, text);
        await sleep(5);
        return { text: `${before} ${values.get(key)}` };
      },
    });
    const { client } = connectTo(context, { path });
    const replies = await Promise.all(["a", "b", "c"].map((text) => client.echo({ text })));
    assert.deepEqual(
      replies.map(({ text }) => text),
      ["default a", "default b", "default c"],
    );
  });

  test("a handler's context says what is called, and its parts can be taken off it", async (context) => {
    const seen: Partial<HandlerContext>[] = [];
    const path = await serve(context, {
      echo(_, { service, method, protocolName, requestMethod, url, timeoutMs, requestHeader }) {
        seen.push({ service, method, protocolName, requestMethod, url });
        assert.ok(timeoutMs()! > 0 && timeoutMs()! <= 600_000);
        assert.equal(requestHeader.get("x"), "y");
        return {};
      },
    });
    await connectTo(context, { path }).client.echo({}, { timeoutMs: 600_000, headers: { x: "y" } });
    assert.deepEqual(seen, [
      {
        service: TestService,
        method: TestService.method.echo,
        protocolName: "isthmus",
        requestMethod: "POST",
        url: "http://localhost/isthmus.test.TestService/Echo",
      },
    ]);
  });
});

describe("AsyncLocalStorage", () => {
  test("a store around a call is there after it, and in no handler", async (context) => {
    const storage = new AsyncLocalStorage<number>();
    const inHandlers = new Set<number | undefined>();
    const path = await serve(context, {
      async echo(request) {
        inHandlers.add(storage.getStore());
        await sleep(Number(request.number % 3n));
        inHandlers.add(storage.getStore());
        return request.number % 2n === 0n ? { number: request.number } : Promise.reject(new Error("odd"));
      },
    });
    const { client } = connectTo(context, { path });
    const calls = Array.from({ length: 200 }, (_, i) =>
      storage.run(i, async () => {
        const outcome = await client.echo({ number: BigInt(i) }).then(
          () => "ok",
          () => "failed",
        );
        assert.equal(storage.getStore(), i);
        assert.equal(outcome, i % 2 === 0 ? "ok" : "failed");
        await client.echo({ number: 0n });
        assert.equal(storage.getStore(), i);
      }),
    );
    await Promise.all(calls);
    assert.deepEqual([...inHandlers], [undefined]);
  });

  test("a store around listen() and around the first call, which connects, reaches no handler", async (context) => {
    const storage = new AsyncLocalStorage<string>();
    const inHandlers: unknown[] = [];
    const path = tempSocket(context);
    const server = createIsthmusServer({
      routes: (router) =>
        router.service(TestService, {
          echo: () => (inHandlers.push(storage.getStore()), {}),
          wait: (_, { signal }) =>
            new Promise((_resolve, reject) =>
              signal.addEventListener("abort", () => {
                inHandlers.push(storage.getStore());
                reject(signal.reason as Error);
              }),
            ),
        }),
      ...(HAS_CREDENTIALS ? { allow: () => (inHandlers.push(storage.getStore()), true) } : {}),
    });
    const expected = HAS_CREDENTIALS ? 5 : 4;
    await storage.run("listen", () => server.listen(path));
    context.after(() => server.close());
    const { client, transport } = connectTo(context, { path });
    await storage.run("first call", () => client.echo({}));
    await client.echo({});
    await failure(
      storage.run("deadline", () => client.wait({}, { timeoutMs: 1000 })),
      Code.DeadlineExceeded,
      /timed out/,
    );
    const pending = storage.run("pending", () => client.wait({}));
    await waitUntil("the call to be under way", () => server.stats().pendingCalls === 1);
    await sleep(30);
    await storage.run("close", () => transport.close());
    await failure(pending, Code.Unavailable, /closed/);
    await waitUntil("every signal to abort", () => inHandlers.length === expected || inHandlers.length);
    assert.deepEqual(
      inHandlers,
      Array.from({ length: expected }, () => undefined),
    );
  });

  test("requests that are read only when the client has hung up run in no store either", async (context) => {
    const storage = new AsyncLocalStorage<string>();
    const seen: unknown[] = [];
    const path = tempSocket(context);
    const server = createIsthmusServer({
      routes: (router) => router.service(TestService, { echo: () => (seen.push(storage.getStore()), {}) }),
    });
    await storage.run("listen", () => server.listen(path));
    context.after(() => server.close());
    const script = `
      const transport = createIsthmusTransport({ address: data });
      const client = createClient(TestService, transport);
      await client.echo({});
      say("connected");
      await sleep(100);
      for (let i = 0; i < 50; i++) void client.echo({}).catch(() => {});
      await Promise.resolve();
      process.kill(process.pid, "SIGKILL");`;
    const { runScript } = await import("../support/processes.js");
    await runScript(context, script, path);
    await waitUntil("the client to be gone", () => server.stats().connections === 0);
    assert.ok(seen.every((store) => store === undefined));
  });

  test("a handler's own store lasts across its awaits and its own calls", async (context) => {
    const storage = new AsyncLocalStorage<bigint>();
    const inner = connectTo(context, { path: await serve(context, { echo: ({ number }) => ({ number }) }) });
    const path = await serve(context, {
      echo: ({ number }) =>
        storage.run(number, async () => {
          await sleep(1);
          assert.equal((await inner.client.echo({ number })).number, number);
          return { number: storage.getStore()! };
        }),
    });
    const { client } = connectTo(context, { path });
    const replies = await Promise.all(Array.from({ length: 100 }, (_, i) => client.echo({ number: BigInt(i) })));
    replies.forEach(({ number }, i) => assert.equal(number, BigInt(i)));
  });

  test("enterWith in the synchronous part of a handler leaks into no later request over a socket", async (context) => {
    const storage = new AsyncLocalStorage<string>();
    const seen: unknown[] = [];
    const path = await serve(context, {
      echo() {
        seen.push(storage.getStore());
        storage.enterWith("leak");
        return {};
      },
    });
    const { client } = connectTo(context, { path }, { carrier: "socket" });
    for (let i = 0; i < 5; i++) await client.echo({});
    assert.deepEqual(
      seen,
      Array.from({ length: 5 }, () => undefined),
    );
  });

  test("enterWith in a handler leaks into no other handler and no caller", async (context) => {
    const storage = new AsyncLocalStorage<string>();
    const seen: unknown[] = [];
    const path = await serve(context, {
      async echo() {
        seen.push(storage.getStore());
        await Promise.resolve();
        storage.enterWith("leak");
        return {};
      },
      whoami() {
        seen.push(storage.getStore());
        return {};
      },
    });
    const { client } = connectTo(context, { path });
    for (let i = 0; i < 5; i++) {
      await Promise.all([client.echo({}), client.whoami({}), client.echo({})]);
      assert.equal(storage.getStore(), undefined);
    }
    assert.ok(
      seen.every((store) => store === undefined),
      String(seen),
    );
  });
});
