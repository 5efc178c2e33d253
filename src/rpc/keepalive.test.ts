import assert from "node:assert/strict";
import type { TestContext } from "node:test";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { KeepAliveOptions } from "./keepalive.js";
import { KeepAlive } from "./keepalive.js";

/** A peer as a connection sees it. */
function watched(
  context: TestContext,
  options: KeepAliveOptions,
  onPing: (peer: { frames: number }) => void = () => {},
) {
  const peer = { frames: 0, calls: 1, pings: 0, givenUp: [] as number[] };
  const watch = new KeepAlive(
    { intervalMs: 20, timeoutMs: 40, always: false, ...options },
    {
      framesReceived: () => peer.frames,
      hasCalls: () => peer.calls > 0,
      ping() {
        peer.pings++;
        onPing(peer);
      },
      cancel: (silentMs) => peer.givenUp.push(silentMs),
    },
  );
  context.after(() => watch.stop());
  return { peer, watch };
}

async function until(what: string, done: () => boolean): Promise<void> {
  for (const end = performance.now() + 60_000; !done(); await sleep(2)) assert.ok(performance.now() < end, what);
}

test("a peer that stays silent is asked once, and then given up, once", async (context) => {
  const { peer, watch } = watched(context, {});
  watch.start();
  await until("it is given up", () => peer.givenUp.length > 0);
  await sleep(150);
  assert.deepEqual([peer.pings, peer.givenUp], [1, [60]]);
});

test("ALIVE-1: a peer that answers is asked again and again, and never given up", async (context) => {
  const { peer, watch } = watched(context, {}, (asked) => asked.frames++);
  watch.start();
  await until("five pings", () => peer.pings >= 5);
  assert.deepEqual(peer.givenUp, []);
});

test("ALIVE-1: whatever comes within the time is a sign of life, also if it is no answer", async (context) => {
  const { peer, watch } = watched(context, { timeoutMs: 60 }, (asked) => setTimeout(() => asked.frames++, 30));
  watch.start();
  await until("a third ping", () => peer.pings === 3 || peer.givenUp.length > 0);
  assert.deepEqual([peer.pings, peer.givenUp], [3, []]);
});

test("ALIVE-1: a peer that sends is not asked", async (context) => {
  const { peer, watch } = watched(context, { intervalMs: 250 });
  const sending = setInterval(() => peer.frames++, 1);
  context.after(() => clearInterval(sending));
  watch.start();
  await sleep(1100);
  assert.deepEqual([peer.pings, peer.givenUp], [0, []]);
});

test("without open calls nobody is asked, and the next call starts anew", async (context) => {
  const { peer, watch } = watched(context, {});
  peer.calls = 0;
  watch.start();
  await sleep(150);
  assert.deepEqual([peer.pings, peer.givenUp], [0, []]);
  peer.calls = 1;
  watch.start();
  await until("it is given up", () => peer.givenUp.length > 0);
});

test("a peer that was asked for a call that ended meanwhile is not given up", async (context) => {
  const { peer, watch } = watched(context, {}, () => (peer.calls = 0));
  watch.start();
  await until("a ping", () => peer.pings === 1);
  await sleep(150);
  assert.deepEqual([peer.pings, peer.givenUp], [1, []]);
});

test("`always` watches without calls, from the beginning", async (context) => {
  const { peer } = watched(context, { always: true });
  peer.calls = 0;
  await until("it is given up", () => peer.givenUp.length > 0);
  assert.equal(peer.pings, 1);
});

test("ALIVE-2: silence while this process did not run is not held against the peer", async (context) => {
  const { peer, watch } = watched(context, {}, (asked) => {
    if (peer.pings > 1) return;
    setImmediate(() => {
      const end = performance.now() + 500;
      while (performance.now() < end);
      // Now it could be heard again, and is.
      setTimeout(() => asked.frames++, 10);
    });
  });
  watch.start();
  await until(
    "a second ping, since the first was answered after all",
    () => peer.pings === 2 || peer.givenUp.length > 0,
  );
  assert.deepEqual([peer.pings, peer.givenUp], [2, []]);
});

test("ALIVE-2: what lies unread when time is up is read first", async (context) => {
  const { peer, watch } = watched(context, {}, (asked) => {
    if (peer.pings > 1) return;
    // The answer is there in time, but this loop gets to it only behind the timer.
    setTimeout(() => setImmediate(() => setImmediate(() => asked.frames++)), 40);
  });
  watch.start();
  await until("a second ping", () => peer.pings === 2 || peer.givenUp.length > 0);
  assert.deepEqual([peer.pings, peer.givenUp], [2, []]);
});

test("stopped, it asks nobody and gives nobody up", async (context) => {
  const { peer, watch } = watched(context, { always: true });
  await until("a ping", () => peer.pings === 1);
  watch.stop();
  watch.start();
  await sleep(150);
  assert.deepEqual([peer.pings, peer.givenUp], [1, []]);
});
