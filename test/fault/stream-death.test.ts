/** SIGKILL of either side under open streams: each ends once, nobody goes on for nothing, and nothing stays behind. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Code } from "@connectrpc/connect";
import type { Observation } from "../stress/observe.js";
import { waitUntil } from "../stress/observe.js";
import { scratchFolder, startPeer } from "../stress/processes.js";
import { createRandom, scaled, seedOf, skip } from "../stress/settings.js";
import type { ConnectOptions, DeathState, EndedStreams, ListenOptions } from "../stress/streams.peer.js";

const program = new URL("../stress/streams.peer.js", import.meta.url);
const DEATHS = scaled(4, 40);
const STREAMS = 40;
/** After each stream has had answers. */
const LOAD_MS_MAX = 150;
const GROWTH_BYTES_MAX = 64 << 20;

for (const carrier of ["shm", "socket"] as const) {
  describe(`open streams over ${carrier}`, { skip: carrier === "shm" && skip }, () => {
    test("when the server is killed, each stream fails once as Unavailable, all requests are closed, and the next server serves", {
      timeout: 600_000,
    }, async (context) => {
      const seed = seedOf(context);
      const random = createRandom(seed);
      const path = join(scratchFolder(context), "killed.sock");
      const client = await startPeer(context, program);
      let before: Observation | undefined;
      for (let death = 0; death < DEATHS; death++) {
        const server = await startPeer(context, program);
        await server.ask("listen", { path, carrier } satisfies ListenOptions);
        // A loan that is asked for after the death does not wait for the next server: the streams are to end.
        if (death === 0) await client.ask("connect", { path, carrier, waitForReady: false } satisfies ConnectOptions);
        await client.ask("startStreams", { streams: STREAMS, seed: seed + death });
        await sleep(random() * LOAD_MS_MAX);
        await server.kill();
        const { failures, ...ended } = await client.ask<EndedStreams>("finishStreams");
        assert.equal(failures.length, STREAMS);
        assert.deepEqual(
          [
            ...new Set(
              failures.map(({ code, message }) => ((code as Code) === Code.Unavailable ? "Unavailable" : message)),
            ),
          ],
          ["Unavailable"],
        );
        assert.deepEqual({ notOnce: ended.notOnce, requestsOpen: ended.requestsOpen }, { notOnce: 0, requestsOpen: 0 });
        assert.ok(ended.answered > 0);
        if (death < DEATHS / 2) before = await client.ask<Observation>("observe");
      }
      assertNothingLeft(before!, await client.ask<Observation>("observe"));
    });

    test("when a client is killed, the handlers of its streams end, their signals aborted, and the server serves the next client", {
      timeout: 600_000,
    }, async (context) => {
      const seed = seedOf(context);
      const random = createRandom(seed);
      const path = join(scratchFolder(context), "survivor.sock");
      const server = await startPeer(context, program);
      await server.ask("listen", { path, carrier } satisfies ListenOptions);
      let before: Observation | undefined;
      for (let death = 0; death < DEATHS; death++) {
        const client = await startPeer(context, program);
        await client.ask("connect", { path, carrier } satisfies ConnectOptions);
        await client.ask("startStreams", { streams: STREAMS, seed: seed + death });
        await sleep(random() * LOAD_MS_MAX);
        await client.kill();
        await waitUntil("all handlers to end", async () => {
          const { connections, running } = await server.ask<DeathState>("deathState");
          return connections === 0 && running === 0;
        });
        const { pendingCalls, violations, started, unaborted } = await server.ask<DeathState>("deathState");
        assert.deepEqual(
          { pendingCalls, violations, started, unaborted },
          { pendingCalls: 0, violations: 0, started: STREAMS * (death + 1), unaborted: 0 },
        );
        if (death < DEATHS / 2) before = await server.ask<Observation>("observe");
      }
      assertNothingLeft(before!, await server.ask<Observation>("observe"));
    });
  });
}

function assertNothingLeft(before: Observation, after: Observation): void {
  assert.equal(after.descriptors, before.descriptors, "descriptors");
  assert.equal(after.segmentMappings, before.segmentMappings, "mappings");
  assert.ok(
    after.residentBytes - before.residentBytes < GROWTH_BYTES_MAX,
    `memory grew from ${before.residentBytes} to ${after.residentBytes} bytes`,
  );
}
