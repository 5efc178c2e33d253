/** Which carrier two ends agree on, and what is particular to the one over sockets. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code, createClient } from "@connectrpc/connect";
import type { IsthmusServerOptions } from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport, peerCredentials } from "../../src/index.js";
import { FLAG, KIND } from "../../src/wire/frame.js";
import { TestService, WaitRequestSchema } from "../proto/test_pb.js";
import { crc32, patternBytes } from "../support/checksum.js";
import { onlyWithAddon } from "../support/carriers.js";
import type { Child } from "../support/processes.js";
import { runScript, runScriptOk, startChild } from "../support/processes.js";
import { frameBytes, methodFrame, StreamPeer } from "../support/stream-peer.js";
import { descriptorsOf } from "../support/resources.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";
import type { TestClient } from "../support/test-server.js";
import { connectTo, serveInChild } from "../support/test-server.js";
import { testRoutes } from "../support/test-service.js";
import { FAIL_FAST, failure, waitUntil, within } from "../support/waiting.js";

const SIZES = [0, 1, 1000, 16_384, 16_385, 40_000, 65_536, 200_001, 1 << 20, (1 << 20) + 17, 3_000_001];

async function serve(owner: Owner, options: Partial<IsthmusServerOptions> = {}, address = tempSocket(owner)) {
  const server = createIsthmusServer({ ...options, routes: testRoutes });
  const at = await server.listen(address);
  owner.after(() => server.close({ timeoutMs: 0 }));
  return { server, path: at.address };
}

async function exchange({ client }: TestClient): Promise<void> {
  const replies = await Promise.all(
    SIZES.map((byteLength) => client.checksum({ data: patternBytes(byteLength, byteLength) })),
  );
  replies.forEach(({ checksum, data }, i) => {
    assert.equal(checksum, crc32(patternBytes(SIZES[i], SIZES[i])));
    assert.equal(data.length, SIZES[i]);
  });
}

describe("two ends in one process", () => {
  for (const [server, client, agreed] of [
    ["auto", "auto", "shm"],
    ["auto", "socket", "socket"],
    ["socket", "auto", "socket"],
    ["socket", "socket", "socket"],
    ["shm", "auto", "shm"],
    ["auto", "shm", "shm"],
  ] as const) {
    test(`a server of carrier ${server} and a client of ${client} agree on ${agreed}`, {
      skip: agreed === "shm" && onlyWithAddon,
    }, async (context) => {
      const served = await serve(context, { carrier: server });
      const here = connectTo(context, served, { carrier: client });
      await exchange(here);
      assert.equal(here.transport.carrier, agreed);
      assert.equal(here.transport.stats().carrier, agreed);
      assert.deepEqual(served.server.stats().carriers, { shm: 0, socket: 0, http: 0, [agreed]: 1 });
    });
  }

  test("a server that insists on shared memory refuses a client without it, and says why", {
    skip: onlyWithAddon,
  }, async (context) => {
    const served = await serve(context, { carrier: "shm" });
    await failure(
      connectTo(context, served, { carrier: "socket" }).client.echo({}),
      Code.FailedPrecondition,
      /the server insists on shared memory \(carrier: "shm"\), and the client uses no shared memory: its option carrier is "socket"/,
    );
    assert.equal(served.server.stats().refused, 1);
  });

  test("a client that insists on shared memory is refused by a server without it, and told why", {
    skip: onlyWithAddon,
  }, async (context) => {
    const served = await serve(context, { carrier: "socket" });
    await failure(
      connectTo(context, served, { carrier: "shm" }).client.echo({}),
      Code.FailedPrecondition,
      /the client insists on shared memory \(carrier: "shm"\), and the server uses no shared memory: its option carrier is "socket"/,
    );
  });

  test("a server with the addon knows who calls over the socket, and decides by it", {
    skip: onlyWithAddon,
  }, async (context) => {
    const served = await serve(context, { carrier: "socket", allow: ({ uid }) => uid === process.getuid!() });
    const { pid, uid } = await connectTo(context, served).client.whoami({});
    assert.deepEqual([pid, uid], [process.pid, process.getuid!()]);
    const closed = await serve(context, { allow: () => false });
    for (let i = 0; i < 10; i++) {
      await failure(
        connectTo(context, closed, { carrier: "socket" }).client.echo({}),
        Code.PermissionDenied,
        /may not connect to this server/,
      );
    }
  });

  test("a carrier that there is not is refused by name", () => {
    assert.throws(
      () => createIsthmusTransport({ address: "/tmp/x", carrier: "pigeon" as never }),
      /expected "auto", "shm" or "socket", not "pigeon"/,
    );
    assert.throws(() => createIsthmusServer({ routes: () => {}, carrier: "pigeon" as never }), /not "pigeon"/);
  });

  test("connections over the socket leave no descriptor and no mapping behind", async (context) => {
    const served = await serve(context);
    const once = async (client: "auto" | "socket") => {
      const { client: stub, transport } = connectTo(context, served, { carrier: client });
      await stub.echo({ data: new Uint8Array(100_000) });
      await transport.close();
    };
    await once("socket");
    await waitUntil("the first client to be gone", () => served.server.stats().connections === 0);
    const before = descriptorsOf(process.pid);
    for (let i = 0; i < 20; i++) await once("socket");
    await waitUntil("descriptors to be gone", () => {
      const now = descriptorsOf(process.pid);
      return (now.open <= before.open && now.mappings <= before.mappings) || JSON.stringify({ now, before });
    });
  });
});

describe("two processes, of which one has no addon", { skip: onlyWithAddon }, () => {
  const NONE = { ISTHMUS_ADDON: "none" };

  test("a client with the addon and a server without agree on the socket", async (context) => {
    const address = tempSocket(context);
    const server: Child = await startChild(context, "servers/test-server.js", { address }, NONE);
    const here = connectTo(context, { path: address });
    await exchange(here);
    assert.equal(here.transport.carrier, "socket");
    await failure(
      connectTo(context, { path: address }, { carrier: "shm" }).client.echo({}),
      Code.FailedPrecondition,
      /shared memory/,
    );
    assert.deepEqual((await server.ask<{ carriers: unknown }>("stats")).carriers, { shm: 0, socket: 1, http: 0 });
  });

  test("a client without the addon and a server with it agree on the socket, and the server knows who calls", async (context) => {
    const server = await serveInChild(context);
    const { said } = await runScriptOk(
      context,
      `const transport = createIsthmusTransport({ address: data });
       const client = createClient(TestService, transport);
       const big = await client.echo({ data: new Uint8Array(3_000_000).fill(7) });
       say([transport.carrier, (await client.whoami({})).pid === process.pid, big.data.length, big.data.every((byte) => byte === 7)]);`,
      server.path,
      { env: NONE },
    );
    assert.deepEqual(said, [["socket", true, 3_000_000, true]]);
  });

  test("a server without the addon cannot take what it could not check", async (context) => {
    const { said } = await runScriptOk(
      context,
      `await sayFailure(createIsthmusServer({ routes: testRoutes, allow: () => true }).listen(data));
       await sayFailure(createIsthmusServer({ routes: testRoutes }).listen(data, { mode: 0o660 }));`,
      tempSocket(context),
      { env: NONE },
    );
    const [byAllow, byMode] = said as { code: string; message: string }[];
    assert.deepEqual([byAllow.code, byMode.code], ["FailedPrecondition", "FailedPrecondition"]);
    assert.match(
      byAllow.message,
      /option `allow` needs the credentials of clients, which are not available without the addon/,
    );
    assert.match(
      byMode.message,
      /mode 0660 lets other users connect, and without the addon .* the server cannot identify them/,
    );
  });

  test("a lock that a dead server left is broken", async (context) => {
    const path = tempSocket(context);
    mkdirSync(join(dirname(path), `.${basename(path)}.lock`));
    const { said } = await runScriptOk(
      context,
      `const server = createIsthmusServer({ routes: testRoutes });
       await server.listen(data);
       say("listening");
       await server.close();`,
      path,
      { env: NONE },
    );
    assert.deepEqual(said, ["listening"]);
    assert.ok(!existsSync(path));
    assert.deepEqual(readdirSync(dirname(path)), []);
  });
});

describe("TCP", () => {
  test("serves on a free port and says which", async (context) => {
    for (const address of ["tcp:127.0.0.1:0", "tcp:localhost:0"]) {
      const served = await serve(context, {}, address);
      assert.match(served.path, /^tcp:(127\.0\.0\.1|localhost):[1-9]\d*$/);
      const here = connectTo(context, served);
      await exchange(here);
      assert.equal(here.transport.carrier, "socket");
    }
  });

  test("knows nobody's credentials, so it refuses to decide by them", async (context) => {
    const peers: unknown[] = [];
    const server = createIsthmusServer({
      routes: (router) =>
        router.service(TestService, { echo: (_, { values }) => (peers.push(values.get(peerCredentials)), {}) }),
    });
    const { address } = await server.listen("tcp:127.0.0.1:0");
    context.after(() => server.close());
    await connectTo(context, { path: address }).client.echo({});
    assert.deepEqual(peers, [undefined]);
    const choosy = createIsthmusServer({ routes: testRoutes, allow: () => true });
    await failure(
      choosy.listen("tcp:127.0.0.1:0"),
      Code.FailedPrecondition,
      /option `allow` needs the credentials of clients, which TCP does not provide/,
    );
  });

  test("cannot have shared memory", { skip: onlyWithAddon }, async () => {
    assert.throws(
      () => createIsthmusTransport({ address: "tcp:127.0.0.1:1", carrier: "shm" }),
      /"shm" cannot be had over TCP/,
    );
    await failure(
      createIsthmusServer({ routes: testRoutes, carrier: "shm" }).listen("tcp:127.0.0.1:0"),
      Code.FailedPrecondition,
      /cannot be had over TCP/,
    );
  });

  test("says what is in the way", async (context) => {
    const { server, path } = await serve(context, { maxConnections: 1 }, "tcp:127.0.0.1:0");
    await failure(createIsthmusServer({ routes: testRoutes }).listen(path), Code.AlreadyExists, /EADDRINUSE/);
    const first = connectTo(context, { path });
    await first.client.echo({});
    await failure(connectTo(context, { path }).client.echo({}), Code.ResourceExhausted, /1 connections, its limit/);
    await server.close();
    await waitUntil("the client to notice", () => first.transport.state === "idle");
    await failure(
      first.client.echo({}, FAIL_FAST),
      Code.Unavailable,
      /connect to tcp:127\.0\.0\.1:\d+: nobody listens there/,
    );
    await failure(
      connectTo(context, { path: "tcp:no-such-host.invalid:1" }).client.echo({}),
      Code.Unavailable,
      /connect to tcp:no-such-host\.invalid:1: /,
    );
  });
});

describe("over the socket", () => {
  test("a server that is killed under load fails every pending call once", async (context) => {
    const server = await serveInChild(context);
    const { client } = connectTo(context, server, { carrier: "socket" });
    await client.echo({});
    let settled = 0;
    const calls = Array.from({ length: 500 }, (_, i) =>
      (i % 3 === 0
        ? client.wait({ milliseconds: 60_000 })
        : client.echo({ data: new Uint8Array(i % 10 === 1 ? 3_000_000 : 2000) })
      ).finally(() => settled++),
    );
    const outcomes = Promise.allSettled(calls);
    await sleep(15);
    await server.child.kill();
    for (const outcome of await outcomes) {
      if (outcome.status === "rejected") assert.match(String(outcome.reason), /\[unavailable\] connection lost/);
    }
    await sleep(20);
    assert.equal(settled, calls.length);
  });

  test("clients that are killed under load leave nothing behind in the server", async (context) => {
    const { server, path } = await serve(context);
    const script = `
      const client = createClient(TestService, createIsthmusTransport({ address: data, carrier: "socket" }));
      await client.echo({});
      for (let i = 0; i < 200; i++) (i % 2 ? client.wait({ milliseconds: 60_000 }) : client.echo({ data: new Uint8Array(500_000) })).catch(() => {});
      await sleep(20);
      process.kill(process.pid, "SIGKILL");`;
    const outcomes = await Promise.all([1, 2].map(() => runScript(context, script, path)));
    assert.deepEqual(
      outcomes.map(({ signal }) => signal),
      ["SIGKILL", "SIGKILL"],
    );
    await waitUntil("the server to notice", () => server.stats().connections === 0);
    assert.equal(server.stats().pendingCalls, 0);
    assert.equal(
      (await connectTo(context, { path }, { carrier: "socket" }).client.echo({ text: "fine" })).text,
      "fine",
    );
  });

  test("what waits for a server that does not read is bounded, and goes out when it reads again", async (context) => {
    const server = await serveInChild(context);
    const { client, transport } = connectTo(context, server, { carrier: "socket" });
    await client.echo({});
    process.kill(server.child.pid, "SIGSTOP");
    const data = patternBytes(4 << 20, 1);
    const calls = [
      ...Array.from({ length: 8 }, () => client.checksum({ data })),
      ...Array.from({ length: 3000 }, (_, i) => client.echo({ number: BigInt(i), data: data.subarray(0, 1000) })),
    ];
    const unsentBytes = () => transport.stats().connection!.unsentBytes;
    await waitUntil("messages to wait", () => unsentBytes() > 200_000 || unsentBytes());
    let most = 0;
    for (let look = 0; look < 50; look++) {
      most = Math.max(most, unsentBytes());
      await sleep(5);
    }
    // Staging memory, 1 MiB of fragments, and the fragment that reaches past it.
    assert.ok(most < 6 << 20, `${most} bytes waited in the socket's queue`);
    process.kill(server.child.pid, "SIGCONT");
    const replies = await Promise.all(calls);
    assert.ok(replies.slice(0, 8).every((reply) => "checksum" in reply && reply.checksum === crc32(data)));
    assert.equal(transport.stats().connection!.unsentBytes, 0);
  });

  test("close() of a server delivers the last bytes of a large answer to a client that is slow to read them", async (context) => {
    const server = await serveInChild(context);
    const { said } = await runScriptOk(
      context,
      `const transport = createIsthmusTransport({ address: data.path, carrier: "socket" });
       const client = createClient(TestService, transport);
       const call = client.echo({ data: new Uint8Array(8 << 20).fill(3) });
       say("sent");
       setTimeout(() => { const end = Date.now() + 600; while (Date.now() < end); }, 30);
       say((await call).data.length);`,
      { path: server.path },
    ).then(async (outcome) => {
      await server.close();
      return outcome;
    });
    assert.deepEqual(said, ["sent", 8 << 20]);
  });

  test("close() of a server does not wait for clients that were answered and do not go", async (context) => {
    const { server, path } = await serve(context);
    const peer = await StreamPeer.open(context, path.replace(/^unix:/, ""));
    peer.socket.write(methodFrame(0, "Wait"));
    peer.socket.write(
      frameBytes({
        kind: KIND.request,
        flags: FLAG.endStream,
        streamId: 0x10001,
        body: toBinary(WaitRequestSchema, create(WaitRequestSchema, { milliseconds: 50 })),
      }),
    );
    await waitUntil("the call to be under way", () => server.stats().pendingCalls === 1);
    await within(60_000, "close()", server.close({ timeoutMs: 600_000 }));
    assert.deepEqual([(await peer.frame()).frame.kind, (await peer.frame()).frame.kind], [KIND.goAway, KIND.response]);
    await peer.hungUp();
  });

  test("memory that is taken away while it waits to be sent ends its call, and is never sent as something else", async (context) => {
    const server = await serveInChild(context);
    const { client } = connectTo(context, server, { carrier: "socket" });
    await client.echo({});
    const blocked = server.child.ask("block", 200);
    await sleep(20);
    const data = patternBytes(3 << 20, 5);
    const first = client.echo({ data: patternBytes(3 << 20, 6) }).then(() => "answered", String);
    const call = client.checksum({ data }).then(
      () => "answered",
      (error: unknown) => String(error),
    );
    structuredClone(data, { transfer: [data.buffer] });
    assert.match(await call, /lost their memory/);
    assert.equal(await first, "answered");
    await blocked;
    assert.equal((await client.echo({ text: "again" })).text, "again");
    assert.equal((await server.stats()).violations, 0);
  });

  test("10,000 calls in flight are all answered with their own, and 64 MiB come and go unharmed", async (context) => {
    const server = await serveInChild(context);
    const transport = createIsthmusTransport({ address: server.path, carrier: "socket" });
    context.after(() => transport.close());
    const client = createClient(TestService, transport);
    const replies = await Promise.all(Array.from({ length: 10_000 }, (_, i) => client.echo({ number: BigInt(i) })));
    assert.ok(replies.every(({ number }, i) => number === BigInt(i)));
    const data = patternBytes(64 << 20, 8);
    const reply = await client.checksum({ data });
    assert.equal(Buffer.compare(reply.data, data), 0);
    assert.equal(transport.carrier, "socket");
  });
});
