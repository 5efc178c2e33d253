/**
 * Volume: a long run of calls of all sizes, 64 in flight.
 *
 * Checked: every request is handled exactly once (a bit per sequence number) and undamaged; every answer belongs to its
 * call and is undamaged; requests that travel whole in the ring are handled in the order in which they were issued
 * (larger ones go in fragments, and smaller ones may overtake them); and the memory of neither process grows after the
 * warm-up.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { growthMiB, maximum } from "./observe.js";
import { scratchFolder, startPeer } from "./processes.js";
import { scaled, seedOf } from "./settings.js";
import type { MemorySample } from "./observe.js";
import type { VolumeCalled, VolumeRun, VolumeServed } from "./volume.peer.js";

const CALLS = Number(process.env["ISTHMUS_VOLUME_CALLS"] ?? scaled(50_000, 10_000_000));
const GROWTH_MIB_MAX = scaled(48, 16);

test("no call is lost, doubled, reordered or damaged, and memory stays flat", {
  timeout: scaled(600_000, 3_600_000),
}, async (t) => {
  const program = new URL("./volume.peer.js", import.meta.url);
  const [server, client] = await Promise.all([startPeer(t, program), startPeer(t, program)]);
  const run: VolumeRun = { path: join(scratchFolder(t), "volume.sock"), calls: CALLS, seed: seedOf(t), inFlight: 64 };
  await server.ask("listen", run);
  const called = await client.ask<VolumeCalled>("call", run, scaled(500_000, 3_500_000));
  const served = await server.ask<VolumeServed>("served");

  const seconds = called.milliseconds / 1000;
  t.diagnostic(
    `${CALLS} calls in ${seconds.toFixed(1)} s: ${Math.round(CALLS / seconds)} calls/s, ${Math.round(called.bytes / seconds / 1e6)} MB/s; ` +
      `10 M calls at this rate: ${(1e7 / (CALLS / seconds) / 60).toFixed(1)} min`,
  );
  const { samples: clientSamples, ...clientCounts } = called;
  const { samples: serverSamples, ...serverCounts } = served;
  t.diagnostic(`client ${JSON.stringify(clientCounts)}`);
  t.diagnostic(`server ${JSON.stringify(serverCounts)}`);
  const grown = [describeMemory("client", clientSamples), describeMemory("server", serverSamples)];
  for (const { text } of grown) t.diagnostic(text);

  assert.equal(called.firstFailure, "");
  assert.deepEqual(
    { answered: called.answered, failed: called.failed, foreign: called.foreign, damaged: called.damaged },
    { answered: CALLS, failed: 0, foreign: 0, damaged: 0 },
  );
  assert.deepEqual(serverCounts, { served: CALLS, doubled: 0, missing: 0, reordered: 0, damaged: 0 });
  for (const { text, growth } of grown) assert.ok(growth < GROWTH_MIB_MAX, text);
});

function describeMemory(who: string, samples: readonly MemorySample[]): { text: string; growth: number } {
  const resident = samples.map((sample) => sample.residentMiB);
  const growth = growthMiB(resident);
  const proportional = growthMiB(samples.map((sample) => sample.proportionalMiB));
  const shared = growthMiB(samples.map((sample) => sample.sharedMiB));
  const text =
    `${who}: resident grew by ${growth.toFixed(1)} MiB after the warm-up (proportional ${proportional.toFixed(1)}, ` +
    `shared ${shared.toFixed(1)}), peak ${maximum(resident).toFixed(0)} MiB`;
  return { text, growth };
}
