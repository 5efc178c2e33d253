/** Waiting by looking must not cost anybody else their turn, and can be turned off. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setImmediate as turn, setTimeout as sleep } from "node:timers/promises";
import type { Client } from "@connectrpc/connect";
import type { Pollable } from "../../src/carrier/poll/poller.js";
import { poller } from "../../src/carrier/poll/poller.js";
import { createIsthmusServer } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import { onlyWithAddon } from "../support/carriers.js";
import { cpuTicksOf } from "../support/resources.js";
import { tempSocket } from "../support/temp.js";
import { connectTo, PLACES, serveInChild, startServer } from "../support/test-server.js";
import { waitUntil } from "../support/waiting.js";

/** Keeps `width` calls in flight until `stopped` says so; the number of calls made. */
async function keepBusy(client: Client<typeof TestService>, width: number, stopped: () => boolean): Promise<number> {
  let calls = 0;
  const loops = Array.from({ length: width }, async () => {
    while (!stopped()) {
      await client.echo({ number: BigInt(calls) });
      calls++;
    }
  });
  await Promise.all(loops);
  return calls;
}

/** Processor time of this process, in ms: what it does itself counts, and not what else runs on the machine. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** The processor time that passes in the longest of some steps. */
async function longestGap(step: () => Promise<unknown>, rounds: number): Promise<number> {
  const gaps: number[] = [];
  for (let i = 0; i < rounds; i++) {
    const start = cpuMs();
    await step();
    gaps.push(cpuMs() - start);
  }
  // The longest but a few: garbage is collected, and code compiled.
  return gaps.sort((a, b) => b - a)[Math.floor(rounds / 20)];
}

for (const place of PLACES) {
  describe(`under load, ${place}`, () => {
    for (const width of [1, 64]) {
      test(`immediates, timers and nextTick are not starved by ${width} calls in flight`, async (context) => {
        const server = await startServer(context, place);
        const { client } = connectTo(context, server);
        await client.echo({});
        let stopped = false;
        const busy = keepBusy(client, width, () => stopped);
        const immediate = await longestGap(() => turn(), 100);
        const timer = await longestGap(() => sleep(1), 100);
        const tick = await longestGap(
          () => new Promise<void>((resolve) => setImmediate(() => process.nextTick(resolve))),
          100,
        );
        stopped = true;
        const calls = await busy;
        assert.ok(calls > width, `${calls} calls`);
        assert.ok(immediate < 20, `an immediate took ${immediate} ms of work`);
        assert.ok(timer < 25, `a timer of 1 ms took ${timer} ms of work`);
        assert.ok(tick < 20, `a nextTick took ${tick} ms of work`);
      });
    }
  });
}

test("process.nextTick inside a handler runs before much else is done, whatever the load", async (context) => {
  const path = tempSocket(context);
  const delays: number[] = [];
  const server = createIsthmusServer({
    routes: (router) =>
      router.service(TestService, {
        echo: ({ number }) => {
          const start = cpuMs();
          process.nextTick(() => delays.push(cpuMs() - start));
          return { number };
        },
      }),
  });
  await server.listen(path);
  context.after(() => server.close());
  const { client } = connectTo(context, { path });
  const end = performance.now() + 500;
  const calls = await keepBusy(client, 16, () => performance.now() > end);
  await turn();
  assert.equal(delays.length, calls);
  const late = delays.sort((a, b) => b - a)[Math.floor(calls / 100)];
  assert.ok(late < 10, `one in a hundred took more than ${late} ms of work`);
});

test("polling: false works on both ends, for every size", async (context) => {
  for (const place of PLACES) {
    const server = await startServer(context, place, { polling: false });
    const { client, transport } = connectTo(context, server, { polling: false });
    for (let i = 0; i < 200; i++) assert.equal((await client.echo({ number: BigInt(i) })).number, BigInt(i));
    await Promise.all(Array.from({ length: 200 }, (_, i) => client.echo({ data: new Uint8Array(i * 1000) })));
    assert.equal((await client.echo({ data: new Uint8Array(5_000_000) })).data.length, 5_000_000);
    // A client that waits for longer than a turn of the loop sleeps, and is rung.
    await client.wait({ milliseconds: 50 });
    if (transport.carrier === "shm")
      assert.ok(transport.stats().connection!.doorbellsReceived > 0, "it slept while it waited");
  }
});

test("a client that does not poll uses no CPU while it waits", async (context) => {
  const server = await serveInChild(context, { polling: false });
  const { client } = connectTo(context, server, { polling: false });
  await client.echo({});
  const here = process.cpuUsage();
  const there = cpuTicksOf(server.child.pid);
  for (let i = 0; i < 5; i++) await client.wait({ milliseconds: 80 });
  const { user, system } = process.cpuUsage(here);
  assert.ok((user + system) / 1000 < 100, `${(user + system) / 1000} ms of CPU in 400 ms here`);
  assert.ok(cpuTicksOf(server.child.pid) - there <= 5, "and next to none there");
});

test("calls that come now and then cost little CPU with polling too", async (context) => {
  const server = await serveInChild(context);
  const { client } = connectTo(context, server);
  for (let i = 0; i < 20; i++) await client.echo({});
  const here = process.cpuUsage();
  const there = cpuTicksOf(server.child.pid);
  for (let i = 0; i < 50; i++) {
    await client.echo({});
    await sleep(10);
  }
  const { user, system } = process.cpuUsage(here);
  assert.ok((user + system) / 1000 < 250, `${(user + system) / 1000} ms of CPU in 500 ms here`);
  assert.ok(cpuTicksOf(server.child.pid) - there <= 20, "and little there");
});

test("a side is settled when it has answered what came, and not before", { skip: onlyWithAddon }, async (context) => {
  const seen = new Set<Pollable>();
  const unsettled = () => [...seen].filter((pollable) => !pollable.settled);
  const settledWhenTouched: boolean[] = [];
  // A carrier schedules a step when a frame of its own is complete, and when it is woken.
  for (const name of ["schedule", "wrote", "rang"] as const) {
    const touched = poller[name].bind(poller);
    poller[name] = (pollable) => {
      seen.add(pollable);
      settledWhenTouched.push(pollable.settled);
      touched(pollable);
    };
    context.after(() => Reflect.deleteProperty(poller, name));
  }

  const inHandler: Pollable[][] = [];
  const path = tempSocket(context);
  const server = createIsthmusServer({
    routes: (router) => router.service(TestService, { echo: () => (inHandler.push(unsettled()), {}) }),
  });
  await server.listen(path);
  context.after(() => server.close({ timeoutMs: 0 }));
  const { client } = connectTo(context, { path });
  await client.echo({});
  // What a connection begins with is not answered; asleep, both sides forget that.
  await waitUntil("both to sleep", () => [...seen].every(({ awake }) => !awake));
  settledWhenTouched.length = inHandler.length = 0;
  for (let call = 0; call < 100; call++) await client.echo({});
  const [[ofServer]] = inHandler;
  assert.ok(ofServer !== undefined && seen.size === 2);
  assert.ok(settledWhenTouched.length >= 200);
  assert.ok(settledWhenTouched.every((settled) => settled));
  // The server has the request to answer, and the client has answered the last reply with it.
  for (const sides of inHandler) assert.ok(sides.length === 1 && sides[0] === ofServer, `${sides.length} sides`);
});
