/** Both ends pause at random: no call is left lying, and nobody is rung more often than it sleeps. */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { scratchFolder, startPeer } from "./processes.js";
import { scaled, seedOf } from "./settings.js";
import type { PingPong } from "./wakeups.peer.js";

const program = new URL("./wakeups.peer.js", import.meta.url);
const MILLISECONDS = scaled(3000, 300_000);
/** Calls in flight of each connection. */
const CONNECTIONS = [1, 1, 3, 8];

export const WAKEUPS_MS_MAX = MILLISECONDS + 900_000;

export async function pingPong(t: TestContext): Promise<PingPong[]> {
  const seed = seedOf(t);
  const path = join(scratchFolder(t), "wake.sock");
  const [server, ...clients] = await Promise.all([startPeer(t, program), startPeer(t, program), startPeer(t, program)]);
  await server.ask("listen", { path, seed });
  const runs = await Promise.all(
    CONNECTIONS.map((inFlight, index) =>
      clients[index % 2].ask<PingPong>(
        "pingPong",
        { path, seed: seed + index + 1, milliseconds: MILLISECONDS, inFlight },
        MILLISECONDS + 600_000,
      ),
    ),
  );
  for (const run of runs) {
    t.diagnostic(
      `${run.calls} calls in ${run.milliseconds} ms, slowest ${run.slowestMs.toFixed(1)} ms; slept ${run.sleeps} times, ` +
        `was rung ${run.doorbellsReceived} times, rang ${run.doorbellsRung} times`,
    );
    assert.ok(run.calls > 0);
    assert.ok(
      run.sleeps > 0 && run.doorbellsReceived <= run.sleeps,
      `${run.doorbellsReceived} rings in ${run.sleeps} sleeps`,
    );
  }
  return runs;
}
