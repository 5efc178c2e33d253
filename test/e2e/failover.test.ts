import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "node:test";
import { Code, createClient } from "@connectrpc/connect";
import type { IsthmusTransport, IsthmusTransportOptions } from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport, loan } from "../../src/index.js";
import { StreamService } from "../proto/streams_pb.js";
import { TestService } from "../proto/test_pb.js";
import { CARRIER } from "../support/carriers.js";
import { freeAddress } from "../support/http.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";
import { serveInChild } from "../support/test-server.js";
import { testRoutes } from "../support/test-service.js";
import { failure, waitUntil } from "../support/waiting.js";

function connectTo(owner: Owner, address: readonly string[], options: Partial<IsthmusTransportOptions> = {}) {
  const transport: IsthmusTransport = createIsthmusTransport({ ...options, address });
  owner.after(() => transport.close());
  return { transport, client: createClient(TestService, transport) };
}

async function serveOnHttp(owner: Owner): Promise<string> {
  const server = createIsthmusServer({ routes: testRoutes });
  owner.after(() => server.close({ timeoutMs: 0 }));
  return (await server.listen("http://127.0.0.1:0")).address;
}

test("the first address that works is used", async (t) => {
  const [path, url] = [tempSocket(t), await serveOnHttp(t)];
  const { transport, client } = connectTo(t, [path, await freeAddress(), url]);
  assert.deepEqual([transport.state, transport.carrier], ["idle", undefined]);
  assert.equal((await client.echo({ text: "a" })).text, "a");
  assert.deepEqual([transport.state, transport.carrier, transport.stats().connections], ["ready", "http", 1]);
});

test("the preferred address is used when it works, and no other is connected to", async (t) => {
  const near = await serveInChild(t);
  const { transport, client } = connectTo(t, [near.path, await serveOnHttp(t)]);
  assert.equal((await client.echo({ text: "a" })).text, "a");
  assert.deepEqual([transport.carrier, transport.stats().connections], [CARRIER, 1]);
  assert.ok(transport.stats().connection !== undefined);
});

test("calls fall over to HTTP when the preferred server is killed, and go back when it returns, each answered once", async (t) => {
  const near = await serveInChild(t);
  const { transport, client } = connectTo(t, [near.path, await serveOnHttp(t)]);
  await client.echo({});
  assert.equal(transport.carrier, CARRIER);
  const inFlight = failure(client.wait({ milliseconds: 60_000 }), Code.Unavailable, /lost/);
  await waitUntil("the call to be there", async () => (await near.observations()).length === 1);
  await near.child.kill("SIGKILL");
  await inFlight;
  const carriers = new Set<string | undefined>();
  const call = async (number: bigint) => {
    assert.equal((await client.echo({ number })).number, number);
    carriers.add(transport.carrier);
  };
  await Promise.all(Array.from({ length: 50 }, (_, i) => call(BigInt(i))));
  assert.deepEqual([...carriers], ["http"]);
  await serveInChild(t, {}, { address: near.path });
  await waitUntil("calls to go through the preferred address again", async () => {
    await Promise.all(Array.from({ length: 10 }, (_, i) => call(BigInt(i))));
    return transport.carrier === CARRIER;
  });
  await call(7n);
});

test("a call in flight is not sent to another address", async (t) => {
  const [near, far] = [await serveInChild(t), await serveInChild(t)];
  const { client } = connectTo(t, [near.path, far.path]);
  const inFlight = failure(client.wait({ milliseconds: 60_000 }), Code.Unavailable, /lost/);
  await waitUntil("the call to be there", async () => (await near.observations()).length === 1);
  await near.child.kill("SIGKILL");
  await inFlight;
  await client.echo({});
  assert.deepEqual(await far.observations(), []);
});

test("a server of HTTP that hangs is passed over", async (t) => {
  const address = await freeAddress();
  const hung = await serveInChild(t, {}, { address });
  process.kill(hung.child.pid, "SIGSTOP");
  const { client } = connectTo(t, [address, await serveOnHttp(t)], { handshakeTimeoutMs: 2000 });
  assert.equal((await client.echo({ text: "not hung" })).text, "not hung");
});

test("while the fallback is in use, calls do not wait for the preferred address", async (t) => {
  const address = await freeAddress();
  const preferred = await serveInChild(t, {}, { address });
  const { transport, client } = connectTo(t, [address, await serveOnHttp(t)], { handshakeTimeoutMs: 600_000 });
  await preferred.child.kill("SIGKILL");
  await client.echo({});
  // From now on it accepts connections, and says nothing.
  const returned = await serveInChild(t, {}, { address });
  process.kill(returned.child.pid, "SIGSTOP");
  await sleep(1100);
  for (let i = 0; i < 20; i++) await client.echo({}, { timeoutMs: 60_000 });
  process.kill(returned.child.pid, "SIGCONT");
  await waitUntil("the preferred address to be used", async () => {
    await client.echo({});
    return transport.stats().connections === 2 && (await returned.stats()).connections > 0;
  });
});

test("when no address works, the error names each", async (t) => {
  const [path, url] = [tempSocket(t), await freeAddress()];
  const { transport, client } = connectTo(t, [path, url]);
  const error = await failure(client.echo({}), Code.Unavailable, /no such path/);
  for (const name of [path, url]) assert.ok(error.message.includes(name), error.message);
  assert.deepEqual([transport.state, transport.stats().pendingCalls], ["idle", 0]);
});

test("deadline and signal hold while addresses are tried", async (t) => {
  const address = await freeAddress();
  const hung = await serveInChild(t, {}, { address });
  process.kill(hung.child.pid, "SIGSTOP");
  const { transport, client } = connectTo(t, [address]);
  await failure(client.echo({}, { timeoutMs: 50 }), Code.DeadlineExceeded, /timed out/);
  await failure(client.echo({}, { signal: AbortSignal.timeout(50) }), Code.Canceled, /abort|timeout/i);
  assert.equal(transport.state, "connecting");
});

test("loans come from the address in use, and may be sent to another", async (t) => {
  const near = await serveInChild(t);
  const { transport, client } = connectTo(t, [near.path, await serveOnHttp(t)]);
  const [first, second] = [await loan(transport, 100_000), await loan(transport, 100_000)];
  first.fill(1);
  second.fill(2);
  assert.equal((await client.echo({ data: first })).data[99_999], 1);
  await near.child.kill("SIGKILL");
  await waitUntil("the connection to be lost", () => transport.state !== "ready");
  assert.equal((await client.echo({ data: second })).data[99_999], 2);
  assert.equal(transport.carrier, "http");
  const third = await loan(transport, 10);
  assert.equal((await client.echo({ data: third })).data.length, 10);
  assert.deepEqual([first.length, second.length, third.length], [0, 0, 0]);
});

test("a stream that finds no address ends the iterable of its requests", async (t) => {
  const gone = tempSocket(t);
  for (const [how, code] of [
    ["refused", Code.Unavailable],
    ["aborted", Code.Canceled],
    ["late", Code.DeadlineExceeded],
  ] as const) {
    const { transport } = connectTo(t, [gone, await freeAddress()], { waitForReady: how !== "refused" });
    let ended = 0;
    // Not a generator: those do not run before the first `next`.
    const requests = {
      [Symbol.asyncIterator]: () => ({
        next: () => Promise.resolve({ done: false as const, value: {} }),
        return: () => Promise.resolve({ done: true as const, value: ++ended }),
      }),
    };
    const abort = new AbortController();
    if (how === "aborted") setTimeout(() => abort.abort(), 50);
    await failure(
      createClient(StreamService, transport).sum(requests, {
        signal: abort.signal,
        ...(how === "late" ? { timeoutMs: 50 } : {}),
      }),
      code,
      /./,
    );
    await waitUntil(`the requests to end when ${how}`, () => ended === 1);
  }
  const { transport } = connectTo(t, [gone]);
  await failure(
    transport.stream(StreamService.method.sum, undefined, undefined, undefined, undefined as never),
    Code.Internal,
    /undefined/,
  );
});

test("a list closes as a whole, and an empty or wrong one is refused", async (t) => {
  const { transport, client } = connectTo(t, [tempSocket(t), await serveOnHttp(t)]);
  const waiting = client.wait({ milliseconds: 60_000 });
  await waitUntil("the call to be sent", () => transport.state === "ready");
  await transport.close();
  await failure(waiting, Code.Unavailable, /the transport was closed/);
  await failure(client.echo({}), Code.Unavailable, /the transport is closed/);
  assert.equal(transport.state, "closed");
  assert.throws(() => createIsthmusTransport({ address: [] }), /the list is empty/);
  assert.throws(() => createIsthmusTransport({ address: ["/run/a.sock", "ftp://x"] }), /unknown scheme "ftp"/);
});
