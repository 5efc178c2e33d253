/**
 * Processes in containers that share nothing but the folder with the socket; which users are let in, and what is left.
 */
import assert from "node:assert/strict";
import { readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { describe, test } from "node:test";
import { Code } from "@connectrpc/connect";
import type { PeerCredentials, ServerStats } from "../../src/index.js";
import type { Failure } from "../stress/peer.js";
import type { Peer } from "../stress/processes.js";
import { startPeer } from "../stress/processes.js";
import { seedOf, skip as noSharedMemory } from "../stress/settings.js";
import type { ContainerOptions } from "../support/containers.js";
import { containerCommand, containerRefusal, SHARED, sharedFolder } from "../support/containers.js";
import { waitUntil } from "../support/waiting.js";
import type { Exchange, Exchanged, Listening, Outcome, Surroundings, Trusted } from "./containers.peer.js";

const program = new URL("./containers.peer.js", import.meta.url);
const SOCKET = `${SHARED}/server.sock`;
const OVERFLOW_UID = 65534;
/** Nobody's number, on the host and in the containers. */
const OTHER_UID = 123456;
const SIZES = [0, 1, 100, 4096, 16_384, 16_385, 1 << 20, 8 << 20];

const skip = noSharedMemory || containerRefusal();
const skipOther = skip || containerRefusal({ hostUid: OTHER_UID });
const skipUnmapped = skip || containerRefusal({ unmapped: true });

type Whoami = Outcome<{ pid: number; uid: number; gid: number }>;

const inContainer = (context: TestContext, shared: string, options: ContainerOptions = {}): Promise<Peer> =>
  startPeer(context, program, { wrap: containerCommand(context, shared, options) });

async function serve(peer: Peer, listening: Partial<Listening> = {}): Promise<void> {
  const { failure } = await peer.ask<Outcome<undefined>>("listen", { path: SOCKET, ...listening });
  assert.equal(failure, undefined);
}

/**
 * Small and large calls, built in loans at both ends; all bytes are compared at both ends.
 * @param shared whether both ends use what is large where it lies. By default, containers copy it
 */
async function assertExchange(client: Peer, seed: number, shared = false): Promise<void> {
  const total = SIZES.reduce((sum, size) => sum + size);
  const loansSent = SIZES.filter((size) => size >= 16_384).length;
  const leases = shared ? SIZES.filter((size) => size >= 32_768).length : 0;
  const exchanged = await client.ask<Exchanged>("exchange", { seed, sizes: SIZES } satisfies Exchange);
  assert.deepEqual(exchanged, { carrier: "shm", requestBytes: total, replyBytes: total, loansSent, copies: 0, leases });
}

function assertRefused({ value, failure }: Whoami, message: RegExp): Failure {
  assert.equal(value, undefined);
  assert.equal(failure?.code, Code.PermissionDenied, failure?.message);
  assert.match(failure.message, message);
  return failure;
}

describe("two containers", { skip }, () => {
  test("that share nothing but the socket's folder exchange calls of any size over shared memory", async (context) => {
    const shared = sharedFolder(context);
    const [server, client] = await Promise.all([inContainer(context, shared), inContainer(context, shared)]);
    await serve(server);
    await client.ask("connect", { path: SOCKET });

    const [there, here] = await Promise.all([
      server.ask<Surroundings>("surroundings"),
      client.ask<Surroundings>("surroundings"),
    ]);
    for (const [name, number] of Object.entries(there.namespaces)) {
      assert.notEqual(number, here.namespaces[name], `the containers share a namespace: ${name}`);
      for (const { namespaces } of [there, here])
        assert.notEqual(
          namespaces[name],
          readlinkSync(`/proc/self/ns/${name}`),
          `a container is in the host's namespace: ${name}`,
        );
    }
    for (const { pid, root, shared: folder } of [there, here]) {
      assert.equal(pid, 1);
      assert.ok(!root.includes("dev"), `no /dev/shm was wanted, but there is /dev in ${root.join(" ")}`);
      assert.deepEqual(folder, ["server.sock"]);
    }
    await assertExchange(client, seedOf(context));
  });

  test("do not trust each other with memory unless both say so, and say why", async (context) => {
    const shared = sharedFolder(context);
    const start = () => inContainer(context, shared);
    const [server, wary, trusting] = await Promise.all([start(), start(), start()]);
    await serve(server, { isolation: "shared" });
    await wary.ask("connect", { path: SOCKET });
    const [here, there] = [await wary.ask<Trusted>("trusted"), await server.ask<Trusted[]>("clients")];
    assert.equal(here.isolation, "snapshot");
    assert.match(here.isolationReason ?? "", /namespaces of the peer's process cannot be read/);
    assert.equal(there[0].isolation, "snapshot");
    assert.match(there[0].isolationReason ?? "", /^the peer isolates itself/);
    assert.equal((await server.ask<ServerStats>("serverState")).isolated, 1);
    await assertExchange(wary, seedOf(context));

    await trusting.ask("connect", { path: SOCKET, isolation: "shared" });
    assert.equal((await trusting.ask<Trusted>("trusted")).isolation, "shared");
    assert.equal((await server.ask<Trusted[]>("clients"))[1].isolation, "shared");
    assert.equal((await server.ask<ServerStats>("serverState")).isolated, 1);
    await assertExchange(trusting, seedOf(context), true);
  });

  test("of one user on the host let each other in by default, and see no process ids", async (context) => {
    const shared = sharedFolder(context);
    const [server, client] = await Promise.all([inContainer(context, shared), inContainer(context, shared)]);
    await serve(server);
    await client.ask("connect", { path: SOCKET });
    const { value, failure } = await client.ask<Whoami>("whoami");
    assert.equal(failure, undefined);
    assert.deepEqual(value, { pid: 0, uid: 0, gid: 0 });
  });

  test("may have the folder mounted for reading only on the client's side, which then cannot touch the socket", async (context) => {
    const shared = sharedFolder(context);
    const [server, client] = await Promise.all([
      inContainer(context, shared),
      inContainer(context, shared, { readOnly: true }),
    ]);
    await serve(server);
    await client.ask("connect", { path: SOCKET });
    await assertExchange(client, seedOf(context));
    const { failure } = await client.ask<Outcome<undefined>>("listen", {
      path: SOCKET,
      options: { takeover: true },
    } satisfies Listening);
    assert.equal(failure?.code, Code.PermissionDenied, failure?.message);
    assert.match(failure.message, /must be writable/);
  });

  test("know at once when the other is killed, and leave nothing but the socket", async (context) => {
    const shared = sharedFolder(context);
    const start = () => inContainer(context, shared);
    const [server, survivor, victim] = await Promise.all([start(), start(), start()]);
    await serve(server);
    for (const client of [survivor, victim]) {
      await client.ask("connect", { path: SOCKET });
      await assertExchange(client, 5);
      await client.ask("hold", 16);
    }
    const state = () => server.ask<ServerStats & { aborted: number }>("serverState");
    await waitUntil("all calls to be open", async () => (await state()).pendingCalls === 32);

    await victim.kill();
    await waitUntil("the server to see the client's end", async () => (await state()).connections === 1);
    await waitUntil("the handlers of its calls to be told", async () => (await state()).aborted === 16);
    await assertExchange(survivor, 6);

    await server.kill();
    const failures = await survivor.ask<(Failure | null)[]>("released");
    assert.deepEqual(
      failures.map((failure) => Code[failure?.code ?? 0]),
      Array<string>(16).fill("Unavailable"),
    );
    assert.match(failures[0]!.message, /connection lost/);
    assert.deepEqual(readdirSync(shared), ["server.sock"]);

    const next = await start();
    await serve(next);
    await assertExchange(survivor, 7);
    await next.ask("closeServer");
    assert.deepEqual(readdirSync(shared), []);
  });

  test("of which one asks for a group that it has no number for are told so", async (context) => {
    const server = await inContainer(context, sharedFolder(context));
    const { failure } = await server.ask<Outcome<undefined>>("listen", {
      path: SOCKET,
      options: { mode: 0o660, gid: 4321 },
    } satisfies Listening);
    assert.equal(failure?.code, Code.InvalidArgument, failure?.message);
    assert.match(failure.message, /gid 4321 has no number in this user namespace/);
  });
});

describe("a client from a container of another user", { skip: skipOther }, () => {
  test("is refused by default, and told how the server could decide", async (context) => {
    const shared = sharedFolder(context);
    const [server, client] = await Promise.all([
      inContainer(context, shared),
      inContainer(context, shared, { hostUid: OTHER_UID }),
    ]);
    await serve(server, { options: { mode: 0o666 } });
    await client.ask("connect", { path: SOCKET });
    const { message } = assertRefused(
      await client.ask<Whoami>("whoami"),
      /^connect to \/shared\/server\.sock: user 65534 may not connect/,
    );
    assert.match(message, /no number in the server's user namespace.*`allow`.*the socket's mode/);
    assert.equal((await server.ask<ServerStats>("serverState")).refused, 1);
  });

  test("cannot connect to a socket of mode 0600, whatever the server allows", async (context) => {
    const shared = sharedFolder(context);
    const [server, client] = await Promise.all([
      inContainer(context, shared),
      inContainer(context, shared, { hostUid: OTHER_UID }),
    ]);
    await serve(server, { allowAll: true });
    await client.ask("connect", { path: SOCKET });
    assertRefused(
      await client.ask<Whoami>("whoami"),
      /permission denied; the server decides by the socket's mode and gid who may connect/,
    );
    assert.deepEqual(await server.ask("asked"), []);
  });

  test("is let in by allow() and the socket's mode, and exchanges calls of any size", async (context) => {
    const shared = sharedFolder(context);
    const [server, client] = await Promise.all([
      inContainer(context, shared),
      inContainer(context, shared, { hostUid: OTHER_UID }),
    ]);
    await serve(server, { options: { mode: 0o666 }, allowAll: true });
    await client.ask("connect", { path: SOCKET });
    assert.deepEqual((await client.ask<Whoami>("whoami")).value, { pid: 0, uid: OVERFLOW_UID, gid: OVERFLOW_UID });
    assert.deepEqual(await server.ask<PeerCredentials[]>("asked"), [{ pid: 0, uid: OVERFLOW_UID, gid: OVERFLOW_UID }]);
    await assertExchange(client, seedOf(context));
  });

  test("has its number and process id for a server on the host", async (context) => {
    const shared = sharedFolder(context);
    const [server, client] = await Promise.all([
      startPeer(context, program),
      inContainer(context, shared, { hostUid: OTHER_UID }),
    ]);
    await serve(server, { path: join(shared, "server.sock"), options: { mode: 0o666 }, allowAll: true });
    await client.ask("connect", { path: SOCKET });
    const { value } = await client.ask<Whoami>("whoami");
    assert.deepEqual({ uid: value?.uid, gid: value?.gid }, { uid: OTHER_UID, gid: OTHER_UID });
    assert.ok(value!.pid > 1);
    await assertExchange(client, seedOf(context));
  });
});

test("without numbers for users nobody is let in by default, not even the same user", {
  skip: skipUnmapped,
}, async (context) => {
  const shared = sharedFolder(context);
  const [server, client] = await Promise.all([
    inContainer(context, shared, { unmapped: true }),
    inContainer(context, shared),
  ]);
  assert.equal((await server.ask<Surroundings>("surroundings")).uid, OVERFLOW_UID);
  await serve(server, { options: { mode: 0o666 } });
  await client.ask("connect", { path: SOCKET });
  assertRefused(await client.ask<Whoami>("whoami"), /user 65534 may not connect.*user namespace/);
});
