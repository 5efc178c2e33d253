/** The event loops of both processes stay alive while calls run back to back, and async contexts stay apart. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import type { Lateness } from "./liveness.peer.js";
import { scratchFolder, startPeer } from "./processes.js";
import { scaled } from "./settings.js";

const program = new URL("./liveness.peer.js", import.meta.url);
const MILLISECONDS = scaled(1000, 10_000);
// The short form shares its processors with whatever else runs there.
const INTERVAL_P99_MS_MAX = scaled(60, 5);
const NEXT_TICK_P99_MS_MAX = scaled(25, 1);
const HTTP_P99_MS_MAX = scaled(200, 50);

interface Watched {
  readonly interval: Lateness;
  readonly nextTick: Lateness;
  readonly handled: number;
}

for (const inFlight of [1, 64]) {
  test(`with ${inFlight} in flight, timers, process.nextTick and HTTP of both processes are on time`, { timeout: 90_000 }, async (t) => {
    const path = join(scratchFolder(t), "live.sock");
    const [server, client, browser] = await Promise.all([startPeer(t, program), startPeer(t, program), startPeer(t, program)]);
    await server.ask("listen", path);
    // What the machine allows: two processes that only compute, and the same interval in each.
    const both = [server, client];
    const computed = await Promise.all(both.map((peer) => Promise.all([peer.ask<Watched>("watch", MILLISECONDS / 2), peer.ask("compute", MILLISECONDS / 2)])));
    const floorMs = Math.max(...computed.map(([{ interval }]) => interval.p99));
    t.diagnostic(`without calls, two processes that compute: late in ms ${computed.map(([{ interval }]) => show(interval)).join("; ")}`);
    const p99MsMax = Math.max(INTERVAL_P99_MS_MAX, 2 * floorMs);

    const ports = await Promise.all(both.map((peer) => peer.ask<number>("serveHttp")));
    await client.ask("call", { path, milliseconds: 300, inFlight });

    // First without HTTP: three busy processes on two processors would measure the scheduler.
    const calling = client.ask<number>("call", { path, milliseconds: MILLISECONDS + 100, inFlight });
    const [serverWatched, clientWatched] = await Promise.all(both.map((peer) => peer.ask<Watched>("watch", MILLISECONDS)));
    const calls = await calling;
    t.diagnostic(`${calls} calls; late in ms: server's interval ${show(serverWatched.interval)}, client's ${show(clientWatched.interval)}`);
    t.diagnostic(`process.nextTick in handlers ${show(serverWatched.nextTick)}`);
    assert.ok(serverWatched.interval.p99 < p99MsMax, `server's interval ${show(serverWatched.interval)}`);
    assert.ok(clientWatched.interval.p99 < p99MsMax, `client's interval ${show(clientWatched.interval)}`);
    assert.ok(serverWatched.nextTick.p99 < Math.max(NEXT_TICK_P99_MS_MAX, floorMs), `process.nextTick ${show(serverWatched.nextTick)}`);

    const [busyCalls, http] = await Promise.all([
      client.ask<number>("call", { path, milliseconds: MILLISECONDS, inFlight }),
      browser.ask<Lateness>("askHttp", { ports, milliseconds: MILLISECONDS }),
    ]);
    t.diagnostic(`HTTP meanwhile: ${show(http)} ms; ${busyCalls} calls`);
    assert.ok(http.ticks > 20, `only ${http.ticks} HTTP requests were answered`);
    assert.ok(http.p99 < Math.max(HTTP_P99_MS_MAX, 4 * floorMs), `HTTP ${show(http)}`);
  });
}

test("what one call's AsyncLocalStorage holds is never seen in another's handler or client", { timeout: 60_000 }, async (t) => {
  const folder = scratchFolder(t);
  const peer = await startPeer(t, program);
  const leaks = await peer.ask<string[]>("asyncContexts", { paths: [join(folder, "front.sock"), join(folder, "back.sock")], calls: scaled(4000, 200_000) });
  assert.deepEqual(leaks.slice(0, 10), []);
});

function show({ ticks, p50, p99, max }: Lateness): string {
  return `p50 ${p50.toFixed(2)}, p99 ${p99.toFixed(2)}, max ${max.toFixed(1)} (${ticks})`;
}
