/**
 * Where shared memory is refused to one end or both, calls go over the socket, both ends say why, and who insists on it
 * is told at once which end lacks it.
 */
import assert from "node:assert/strict";
import type { TestContext } from "node:test";
import { describe, test } from "node:test";
import { Code, createContextValues } from "@connectrpc/connect";
import type { ServerConnectionEvent, ServerStats, TransportStateEvent } from "../../src/index.js";
import { waitForReady } from "../../src/index.js";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { encodeHandshake } from "../../src/wire/hello.js";
import { noDeprivation, refusing, withoutExternalBuffers } from "../support/deprived.js";
import { serveRaw } from "../support/other-servers.js";
import type { Child, Surroundings } from "../support/processes.js";
import { runScriptOk, startChild } from "../support/processes.js";
import { tempFolder, tempSocket } from "../support/temp.js";
import { connectTo } from "../support/test-server.js";
import { failure, waitUntil } from "../support/waiting.js";

/** A way to be without shared memory. */
interface Deprivation {
  readonly what: string;
  readonly surroundings: () => Surroundings;
  /** How both ends name it. */
  readonly lack: RegExp;
  /** Whether it is known before a connection is made. */
  readonly known: boolean;
}

const filtered = (...call: Parameters<typeof refusing>): (() => Surroundings) => {
  return () => {
    const [command, parameters] = refusing(...call);
    return { wrap: [command, ...parameters] };
  };
};

const DEPRIVATIONS: readonly Deprivation[] = [
  {
    what: "memfd_create is not permitted",
    surroundings: filtered("memfd_create", "EPERM"),
    lack: /memfd_create of isthmus-ring: Operation not permitted \(EPERM\)/,
    known: true,
  },
  {
    what: "there is no memfd_create",
    surroundings: filtered("memfd_create", "ENOSYS"),
    lack: /memfd_create of isthmus-ring: Function not implemented \(ENOSYS\)/,
    known: true,
  },
  {
    what: "memory cannot be committed",
    surroundings: filtered("fallocate", "EPERM"),
    lack: /commit \d+ bytes at 0 of descriptor \d+: Operation not permitted \(EPERM\)/,
    known: true,
  },
  {
    what: "a peer's memory cannot be inspected",
    surroundings: filtered("fstatfs", "EPERM"),
    lack: /inspect descriptor \d+: Operation not permitted \(EPERM\)/,
    known: true,
  },
  {
    what: "no file may be as large as an arena",
    surroundings: () => ({ wrap: ["sh", "-c", 'ulimit -f 8192; exec "$@"', "sh"] }),
    lack: /ftruncate of segment isthmus-arena.*File too large \(EFBIG\)/,
    known: false,
  },
  {
    what: "the runtime allows no foreign ArrayBuffers",
    surroundings: () => ({ packageRoot: withoutExternalBuffers() }),
    lack: /this runtime does not allow ArrayBuffers over memory of its embedder .*as in Electron.*/,
    known: true,
  },
  {
    what: "there is no addon",
    surroundings: () => ({ env: { ISTHMUS_ADDON: "none" } }),
    lack: /turned off by the environment variable ISTHMUS_ADDON=none/,
    known: true,
  },
];
const REFUSED = DEPRIVATIONS[0];

const startServer = (
  context: TestContext,
  address: string,
  surroundings: Surroundings,
  options: object = {},
): Promise<Child> =>
  startChild(context, "servers/test-server.js", { address, options }, surroundings.env, surroundings);

/** What a client process says of its connection, after calls small and large. */
const CLIENT = `
  import { subscribe } from "node:diagnostics_channel";
  import { setTimeout as later } from "node:timers/promises";
  const warnings = [];
  process.on("warning", ({ code, message }) => warnings.push([code, message]));
  const events = [];
  subscribe("isthmus:transport:state", ({ state, carrier, carrierReason }) => events.push([state, carrier, carrierReason]));
  for (let i = 0; i < 2; i++) {
    const transport = createIsthmusTransport({ address: data });
    const client = createClient(TestService, transport);
    await client.echo({ text: "x" });
    const { data: back } = await client.echo({ data: new Uint8Array(3_000_000).fill(7) });
    if (back.length !== 3_000_000 || !back.every((byte) => byte === 7)) throw new Error("other bytes");
    const { carrier, carrierReason } = transport;
    say({ carrier, carrierReason, stats: transport.stats().carrierReason, ready: events.find(([state]) => state === "ready") });
    await transport.close();
    say([transport.carrier, transport.carrierReason, transport.stats().carrierReason]);
  }
  await later(10);
  say(warnings);`;

interface Said {
  readonly carrier: string;
  readonly carrierReason: string;
  readonly stats: string;
  readonly ready: unknown[];
}

function assertSaid(said: readonly unknown[], reason: RegExp, lack: RegExp | undefined): void {
  for (const at of [0, 2]) {
    const { carrier, carrierReason, stats, ready } = said[at] as Said;
    assert.equal(carrier, "socket");
    assert.match(carrierReason, reason);
    assert.deepEqual([stats, ready], [carrierReason, ["ready", "socket", carrierReason]]);
    // JSON has no undefined.
    assert.deepEqual(said[at + 1], [null, null, null]);
  }
  const warnings = said[4] as [code: string, message: string][];
  assert.deepEqual(
    warnings.map(([code]) => code),
    lack === undefined ? [] : ["ISTHMUS_NO_SHARED_MEMORY"],
  );
  if (lack !== undefined)
    assert.match(warnings[0][1], new RegExp(`^shared memory is not available here: ${lack.source}`));
}

const whole = (end: string, { lack }: Deprivation) => new RegExp(`^${end}: ${lack.source}$`);

describe("with carrier auto", { skip: noDeprivation }, () => {
  for (const deprivation of DEPRIVATIONS) {
    const { what, lack, known } = deprivation;

    test(`a client for which ${what} takes the socket, warns once, and says why`, async (context) => {
      const address = tempSocket(context);
      const server = await startServer(context, address, {});
      const { said } = await runScriptOk(context, CLIENT, address, deprivation.surroundings());
      assertSaid(said, whole("the client uses no shared memory", deprivation), lack);
      await server.kill("SIGTERM");
      assert.doesNotMatch((await server.exited).stderr, /shared memory/);
    });

    test(`a server for which ${what} takes the socket, warns once, and its clients say why`, async (context) => {
      const address = tempSocket(context);
      const server = await startServer(context, address, deprivation.surroundings());
      const { said } = await runScriptOk(context, CLIENT, address);
      assertSaid(said, whole("the server uses no shared memory", deprivation), undefined);
      const { carriers, violations, refused } = await server.ask<ServerStats>("stats");
      assert.deepEqual([carriers.shm, violations, refused], [0, 0, 0]);
      await server.kill("SIGTERM");
      assert.equal((await server.exited).stderr.match(/shared memory is not available here/g)?.length, 1);
    });

    // A server that is offered no memory makes none.
    if (known)
      test(`two ends for which ${what} take the socket`, async (context) => {
        const address = tempSocket(context);
        await startServer(context, address, deprivation.surroundings());
        const { said } = await runScriptOk(context, CLIENT, address, deprivation.surroundings());
        assertSaid(
          said,
          new RegExp(
            `^(neither end uses shared memory: ${lack.source}|the client uses no.*${lack.source}; the server uses no.*${lack.source})$`,
          ),
          lack,
        );
      });
  }

  test("a server without memory tells it in its stats, and an event tells what a client lacks", async (context) => {
    const address = tempSocket(context);
    const { said } = await runScriptOk(
      context,
      `import { subscribe } from "node:diagnostics_channel";
       const events = [];
       subscribe("isthmus:server:connection", ({ event, carrier, carrierReason }) => events.push([event, carrier, carrierReason]));
       const server = createIsthmusServer({ routes: testRoutes });
       say(server.stats().carrierReason ?? null);
       await server.listen(data);
       const transport = createIsthmusTransport({ address: data });
       await createClient(TestService, transport).echo({});
       say(server.stats().carrierReason);
       await transport.close();
       await server.close();
       say(events);`,
      address,
      REFUSED.surroundings(),
    );
    const reason = `uses no shared memory: memfd_create of isthmus-ring: Operation not permitted (EPERM)`;
    const both = reason.replace("uses no", "neither end uses");
    assert.deepEqual(said, [
      null,
      `the server ${reason}`,
      [
        ["opened", "socket", both],
        ["closed", "socket", both],
      ],
    ]);
  });

  test("a server with the addon but without memory knows who calls", async (context) => {
    const address = tempSocket(context);
    const { said } = await runScriptOk(
      context,
      `const server = createIsthmusServer({ routes: testRoutes, allow: ({ uid }) => uid === process.getuid() });
       await server.listen(data, { mode: 0o660 });
       const transport = createIsthmusTransport({ address: data });
       say((await createClient(TestService, transport).whoami({})).pid === process.pid);
       await transport.close();
       await server.close();`,
      address,
      REFUSED.surroundings(),
    );
    assert.deepEqual(said, [true]);
  });

  test("worker threads without memory serve over the socket, and one thread warns", async (context) => {
    const routes = new URL("../support/servers/worker-routes.js", import.meta.url).href;
    const { said, stderr } = await runScriptOk(
      context,
      `const server = createIsthmusServer({ workers: { routes: data.routes, count: 2, execArgv: [] } });
       await server.listen(data.address);
       for (let i = 0; i < 4; i++) {
         const transport = createIsthmusTransport({ address: data.address });
         await createClient(TestService, transport).echo({});
         say(transport.carrierReason);
         await transport.close();
       }
       say(server.stats().carrierReason);
       await server.close();`,
      { routes, address: tempSocket(context) },
      REFUSED.surroundings(),
    );
    const [last, ...calls] = said.reverse() as string[];
    assert.match(last, /^the server uses no shared memory: memfd_create/);
    assert.equal(calls.length, 4);
    for (const reason of calls) assert.match(reason, /^neither end uses shared memory: memfd_create/);
    assert.equal(stderr.match(/shared memory is not available here/g)?.length, 1);
  });

  for (const deprivation of [REFUSED, DEPRIVATIONS[5]]) {
    test(`loans, regions and files are ordinary memory where ${deprivation.what}, and arrive`, async (context) => {
      const address = tempSocket(context);
      const surroundings = deprivation.surroundings();
      await startServer(context, address, surroundings);
      const index = new URL("../../src/index.js", import.meta.url).href;
      const { said } = await runScriptOk(
        context,
        `import { writeFileSync } from "node:fs";
         import { pathToFileURL } from "node:url";
         import { join } from "node:path";
         const { loan, mapFile, region, release } = await import(data.root === null ? data.index : pathToFileURL(join(data.root, "dist/src/index.js")).href);
         const transport = createIsthmusTransport({ address: data.address });
         const client = createClient(TestService, transport);
         writeFileSync(data.file, Buffer.alloc(200_000, 9));
         const payloads = [(await loan(transport, 200_000)).fill(9), (await region(200_000)).fill(9), await mapFile(data.file)];
         for (const payload of payloads) {
           const { data: back } = await client.echo({ data: payload });
           say([back.length, back.every((byte) => byte === 9)]);
           release(back);
         }
         await transport.close();`,
        { index, root: surroundings.packageRoot ?? null, address, file: `${tempFolder(context)}/file` },
        surroundings,
      );
      assert.deepEqual(said, [
        [200_000, true],
        [200_000, true],
        [200_000, true],
      ]);
    });
  }

  test("a carrier that was asked for is no reason to warn, and is named", async (context) => {
    const address = tempSocket(context);
    await startServer(context, address, {}, { carrier: "socket" });
    const { said } = await runScriptOk(context, CLIENT, address);
    assertSaid(said, /^the server uses no shared memory: its option carrier is "socket"$/, undefined);
    const here = connectTo(context, { path: address }, { carrier: "socket" });
    await here.client.echo({});
    assert.equal(here.transport.carrierReason, 'neither end uses shared memory: its option carrier is "socket"');
  });
});

describe("who insists on shared memory", { skip: noDeprivation }, () => {
  for (const deprivation of [DEPRIVATIONS[0], DEPRIVATIONS[4], DEPRIVATIONS[5], DEPRIVATIONS[6]]) {
    const { what, lack, known } = deprivation;

    test(`is told in one attempt that the server has none because ${what}`, async (context) => {
      const address = tempSocket(context);
      const server = await startServer(context, address, deprivation.surroundings());
      const { client } = connectTo(context, { path: address }, { carrier: "shm", waitForReady: true });
      for (let calls = 1; calls <= 3; calls++) {
        await failure(
          client.echo({}),
          Code.FailedPrecondition,
          new RegExp(
            `connect to ${address}: the client insists on shared memory \\(carrier: "shm"\\), and the server uses no shared memory: ${lack.source}$`,
          ),
        );
        assert.equal((await server.ask<ServerStats>("stats")).refused, calls);
      }
    });

    test(`refuses in one attempt a client that has none because ${what}`, async (context) => {
      const address = tempSocket(context);
      const server = await startServer(context, address, {}, { carrier: "shm" });
      const { said } = await runScriptOk(
        context,
        `const transport = createIsthmusTransport({ address: data, waitForReady: true });
         await sayFailure(createClient(TestService, transport).echo({}));`,
        address,
        deprivation.surroundings(),
      );
      const [{ code, message }] = said as { code: string; message: string }[];
      assert.equal(code, "FailedPrecondition");
      assert.match(
        message,
        new RegExp(
          `connect to ${address}: the server insists on shared memory \\(carrier: "shm"\\), and the client uses no shared memory: ${lack.source}$`,
        ),
      );
      assert.equal((await server.ask<ServerStats>("stats")).refused, 1);
    });

    test(`learns of its own end, at the latest with the first call, that ${what}`, async (context) => {
      const address = tempSocket(context);
      await startServer(context, address, {});
      const { said, stderr } = await runScriptOk(
        context,
        `await sayFailure((async () => {
           const transport = createIsthmusTransport({ address: data, carrier: "shm" });
           await createClient(TestService, transport).echo({});
         })());
         await sayFailure((async () => {
           const server = createIsthmusServer({ routes: testRoutes, carrier: "shm" });
           await server.listen(data + ".other");
           const transport = createIsthmusTransport({ address: data + ".other" });
           await createClient(TestService, transport).echo({}).finally(() => server.close());
         })());`,
        address,
        deprivation.surroundings(),
      );
      for (const { code, message } of said as { code: string; message: string }[]) {
        assert.equal(code, "FailedPrecondition");
        assert.match(message, lack);
      }
      // The transport that insists on nothing warns, if only its connection shows what is missing.
      if (known) assert.equal(stderr, "");
    });
  }

  test("as a blocking client does, is told when it is made", async (context) => {
    const index = new URL("../../src/index.js", import.meta.url).href;
    const { said } = await runScriptOk(
      context,
      `const { createBlockingClient } = await import(data.index);
       await sayFailure((async () => createBlockingClient(TestService, { address: data.address }))());`,
      { index, address: tempSocket(context) },
      REFUSED.surroundings(),
    );
    const [{ code, message }] = said as { code: string; message: string }[];
    assert.equal(code, "FailedPrecondition");
    assert.match(message, REFUSED.lack);
  });
});

describe("limits", { skip: noDeprivation }, () => {
  test("are no reason to do without shared memory: the error names the limit and the end that met it", async (context) => {
    const address = tempSocket(context);
    const out = filtered("memfd_create", "EMFILE")();
    await startServer(context, address, out);
    await failure(
      connectTo(context, { path: address }).client.echo({}),
      Code.ResourceExhausted,
      /: the server: memfd_create of isthmus-ring: Too many open files \(EMFILE\); raise the limit/,
    );
    const other = tempSocket(context);
    await startServer(context, other, {});
    const { said } = await runScriptOk(
      context,
      `await sayFailure(createClient(TestService, createIsthmusTransport({ address: data })).echo({}));`,
      other,
      out,
    );
    const [{ code, message }] = said as { code: string; message: string }[];
    assert.equal(code, "ResourceExhausted");
    assert.match(message, /: the client: memfd_create of isthmus-ring: Too many open files \(EMFILE\)/);
  });
});

describe("a refusal", () => {
  const attemptsOf = async (context: TestContext, refusal: Uint8Array, waits?: boolean) => {
    let attempts = 0;
    const { path } = await serveRaw(context, (socket) => (attempts++, socket.end(refusal)));
    const { client } = connectTo(context, { path });
    await failure(
      client.echo({}, waits === undefined ? {} : { contextValues: createContextValues().set(waitForReady, waits) }),
      Code.Unavailable,
      /not now/,
    );
    return attempts;
  };
  const refused = { kind: "refused", code: Code.Unavailable, message: "not now" } as const;

  test("that says it is lasting is not tried again, also by a call that would wait", async (context) => {
    assert.equal(await attemptsOf(context, encodeHandshake({ ...refused, retryability: "permanent" })), 1);
    assert.equal(await attemptsOf(context, encodeHandshake({ ...refused, retryability: "permanent" }), true), 1);
  });

  test("by a server that is leaving, or does not say, is tried again a few times", async (context) => {
    assert.equal(await attemptsOf(context, encodeHandshake({ ...refused, retryability: "draining" })), 4);
    assert.equal(await attemptsOf(context, encodeHandshake(refused)), 4);
  });

  test("of a server that is leaving is waited out, and its successor takes the call", async (context) => {
    let attempts = 0;
    const { path } = await serveRaw(context, (socket) => {
      attempts++;
      if (attempts < 3) return socket.end(encodeHandshake({ ...refused, retryability: "draining" }));
      return socket.end(encodeHandshake({ kind: "refused", code: Code.PermissionDenied, message: "not you" }));
    });
    await failure(connectTo(context, { path }).client.echo({}), Code.PermissionDenied, /not you/);
    assert.equal(attempts, 3);
  });
});

test("TCP and HTTP are named as the reason for not sharing memory", async (context) => {
  const events: (TransportStateEvent | ServerConnectionEvent)[] = [];
  const note = (message: unknown) => events.push(message as TransportStateEvent);
  for (const channel of ["isthmus:transport:state", "isthmus:server:connection"]) {
    subscribe(channel, note);
    context.after(() => unsubscribe(channel, note));
  }
  const { createIsthmusServer } = await import("../../src/index.js");
  const { testRoutes } = await import("../support/test-service.js");
  const server = createIsthmusServer({ routes: testRoutes });
  context.after(() => server.close({ timeoutMs: 0 }));
  const [tcp, http] = [await server.listen("tcp:127.0.0.1:0"), await server.listen("http://127.0.0.1:0")];
  const overTcp = connectTo(context, { path: tcp.address });
  await overTcp.client.echo({});
  const reason = "neither end uses shared memory: the connection is over TCP";
  assert.equal(overTcp.transport.carrierReason, reason);
  await waitUntil("the events", () => events.filter(({ carrierReason }) => carrierReason === reason).length >= 2);
  assert.equal(server.stats().carrierReason, undefined);
  const overHttp = connectTo(context, { path: http.address });
  await overHttp.client.echo({});
  assert.deepEqual(
    [overHttp.transport.carrier, overHttp.transport.carrierReason],
    ["http", "HTTP connections do not use shared memory"],
  );
});
