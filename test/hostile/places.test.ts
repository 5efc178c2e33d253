/** Clients that take places and do nothing with them. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Code } from "@connectrpc/connect";
import { createClient, createIsthmusTransport } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import { onlyWithAddon } from "../support/carriers.js";
import { startChild } from "../support/processes.js";
import { StreamPeer } from "../support/stream-peer.js";
import type { Owner } from "../support/temp.js";
import { failure, FAIL_FAST, waitUntil } from "../support/waiting.js";
import { serveAttacked } from "./server.js";

const IDLE = 1100;

function connectTo(owner: Owner, path: string) {
  const transport = createIsthmusTransport({ address: path });
  owner.after(() => transport.close());
  return { transport, client: createClient(TestService, transport) };
}

describe("connections of one byte each", () => {
  test("keep no honest client out, and are bounded in number", { skip: onlyWithAddon }, async (t) => {
    const server = await serveAttacked(t, { handshakeTimeoutMs: 600_000 });
    const idler = await startChild(t, "../hostile/idler.peer.js", { path: server.path });
    await idler.ask("open", IDLE);
    const { stats } = await server.condition();
    assert.ok(stats.handshakes <= 256, `${stats.handshakes} handshakes`);
    assert.equal(stats.connections, 0);
    for (let i = 0; i < 300; i++) {
      const { client, transport } = connectTo(t, server.path);
      assert.equal((await client.echo({ text: "honest" }, FAIL_FAST)).text, "honest");
      if (i % 10 !== 0) await transport.close();
    }
    await idler.kill();
    await waitUntil("the handshakes to be over", async () => (await server.condition()).stats.handshakes === 0);
  });

  test("of the honest client's own process make room when they have been silent for a while", async (t) => {
    const server = await serveAttacked(t, { handshakeTimeoutMs: 600_000, limits: { handshakes: 4 } });
    const idle = await Promise.all(Array.from({ length: 4 }, () => StreamPeer.connect(t, server.path)));
    await waitUntil("the handshakes to begin", async () => (await server.condition()).stats.handshakes === 4);
    const { client } = connectTo(t, server.path);
    await waitUntil("an honest client to be let in", () =>
      client.echo({}, FAIL_FAST).then(
        () => true,
        (error: unknown) => String(error),
      ),
    );
    await waitUntil("one of them to be closed", () => idle.some(({ closed }) => closed));
  });
});

describe("limits per user and process", { skip: onlyWithAddon }, () => {
  for (const limit of ["connectionsPerUser", "connectionsPerProcess"] as const) {
    test(`${limit} refuses the next connection, until one ends, and the error names it`, async (t) => {
      const server = await serveAttacked(t, { limits: { [limit]: 2 } });
      const clients = [connectTo(t, server.path), connectTo(t, server.path), connectTo(t, server.path)];
      await clients[0].client.echo({});
      await clients[1].client.echo({});
      await failure(clients[2].client.echo({}, FAIL_FAST), Code.ResourceExhausted, new RegExp(`limits\\.${limit}`));
      await clients[0].transport.close();
      await waitUntil("the first one to be gone", async () => (await server.condition()).stats.connections === 1);
      assert.equal((await clients[2].client.echo({ text: "now" }, FAIL_FAST)).text, "now");
    });
  }

  test("handlers of closed connections count for their user until they settle", async (t) => {
    const server = await serveAttacked(t, { maxStreams: 400 });
    let calls = 0;
    const leaveBehind = async () => {
      const { client, transport } = connectTo(t, server.path);
      await client.echo({}, FAIL_FAST);
      for (let i = 0; i < 400; i++) void client.unfinished({}).catch(() => undefined);
      calls += 400;
      await waitUntil("the handlers to run", async () => (await server.condition()).handlers.running === calls);
      await transport.close();
      await waitUntil("the client to be gone", async () => (await server.condition()).stats.connections === 0);
    };
    for (let i = 0; i < 3; i++) await leaveBehind();
    assert.equal((await server.condition()).stats.handlers, 1200);
    const next = connectTo(t, server.path);
    await failure(next.client.echo({}, FAIL_FAST), Code.ResourceExhausted, /1200 handlers of user \d+'s closed/);
    await server.release();
    await waitUntil("the handlers to settle", async () => (await server.condition()).stats.handlers === 0);
    assert.equal((await next.client.echo({ text: "now" }, FAIL_FAST)).text, "now");
  });
});
