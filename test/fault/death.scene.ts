/** SIGKILL of either side at random moments under load: the other side learns of it, and nothing stays behind. */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Code } from "@connectrpc/connect";
import type { Observation } from "../stress/observe.js";
import { maximum, percentile, waitUntil } from "../stress/observe.js";
import { monotonicMs } from "../stress/peer.js";
import { scratchFolder, startPeer } from "../stress/processes.js";
import { createRandom, scaled, seedOf } from "../stress/settings.js";
import type { Loaded, LoadOptions, ServerState } from "./death.peer.js";

const program = new URL("./death.peer.js", import.meta.url);
const DEATHS = scaled(4, 50);
const IN_FLIGHT = 64;
const WAITING_CALLS = 8;
const LOAD_MS_MIN = 20;
const LOAD_MS_MAX = 200;
/** Before the first death: a survivor that has been busy for so long has the heap that it will have. */
const WARM_UP_MS = 1_500;
const GROWTH_BYTES_MAX = 48 << 20;

/** Every second load has large calls. */
const isLarge = (death: number) => death % 2 !== 0;

/** Every pending call rejects once as Unavailable, and the next call finds the new server. */
export async function killServers(t: TestContext): Promise<Notice[]> {
  const seed = seedOf(t);
  const random = createRandom(seed);
  const path = join(scratchFolder(t), "killed.sock");
  const client = await startPeer(t, program);
  await client.ask("connect", path);
  const notices: Notice[] = [];
  let before: Observation | undefined;
  for (let death = -1; death < DEATHS; death++) {
    const server = await startPeer(t, program);
    await server.ask("listen", path);
    await client.ask("startLoad", {
      inFlight: IN_FLIGHT,
      large: isLarge(death),
      seed: seed + death,
    } satisfies LoadOptions);
    await sleep(death < 0 ? WARM_UP_MS : LOAD_MS_MIN + random() * (LOAD_MS_MAX - LOAD_MS_MIN));
    await waitUntil("calls to be answered", async () => (await client.ask<number>("answered")) > 0);
    const killedAt = monotonicMs();
    server.signal("SIGKILL");
    const { failures, notOnce, stillPending, answered } = await client.ask<Loaded>("finishLoad");
    await server.exited;
    assert.equal(failures.length, IN_FLIGHT, `${failures.length} of ${IN_FLIGHT} calls failed`);
    assert.deepEqual(
      { notOnce, stillPending, codes: [...new Set(failures.map(({ code }) => code))] },
      { notOnce: 0, stillPending: 0, codes: [Code.Unavailable] },
    );
    assert.ok(answered > 0);
    if (death < 0) continue;
    const lastAt = maximum(failures.map(({ at }) => at));
    notices.push({
      isLarge: isLarge(death),
      afterKillMs: lastAt - killedAt,
      afterHangUpMs: lastAt - (await server.hungUpAt),
    });
    // What the first connections leave in the heap's reserves is no leak.
    if (death < DEATHS / 2) before = await client.ask<Observation>("observe");
  }
  assertNothingLeft(t, before!, await client.ask<Observation>("observe"));
  showNotices(t, "server killed, to the last rejection", notices);
  return notices;
}

/** The signals of the client's handlers abort, and the server serves the next client. */
export async function killClients(t: TestContext): Promise<Notice[]> {
  const seed = seedOf(t);
  const random = createRandom(seed);
  const path = join(scratchFolder(t), "survivor.sock");
  const server = await startPeer(t, program);
  await server.ask("listen", path);
  const notices: Notice[] = [];
  let before: Observation | undefined;
  for (let death = -1; death < DEATHS; death++) {
    const client = await startPeer(t, program);
    await client.ask("connect", path);
    await client.ask("startLoad", {
      inFlight: IN_FLIGHT,
      large: isLarge(death),
      seed: seed + death,
    } satisfies LoadOptions);
    await sleep(death < 0 ? WARM_UP_MS : LOAD_MS_MIN + random() * (LOAD_MS_MAX - LOAD_MS_MIN));
    await waitUntil(
      "the waiting calls to reach their handlers",
      async () => (await server.ask<ServerState>("serverState")).waiting === WAITING_CALLS,
    );
    const killedAt = monotonicMs();
    client.signal("SIGKILL");
    await client.exited;
    await waitUntil(
      "the server to notice",
      async () => (await server.ask<ServerState>("serverState")).connections === 0,
    );
    const { waiting, abortedAt, pendingCalls, violations } = await server.ask<ServerState>("serverState");
    assert.deepEqual(
      { waiting, aborted: abortedAt.length, pendingCalls, violations },
      { waiting: 0, aborted: WAITING_CALLS, pendingCalls: 0, violations: 0 },
    );
    if (death >= 0)
      notices.push({
        isLarge: isLarge(death),
        afterKillMs: maximum(abortedAt) - killedAt,
        afterHangUpMs: maximum(abortedAt) - (await client.hungUpAt),
      });
    await server.ask("forgetAborts");
    if (death >= 0 && death < DEATHS / 2) before = await server.ask<Observation>("observe");
  }
  assertNothingLeft(t, before!, await server.ask<Observation>("observe"));
  showNotices(t, "client killed, to the last abort", notices);
  return notices;
}

/** How long after a death the survivor knew. */
export interface Notice {
  readonly isLarge: boolean;
  readonly afterKillMs: number;
  readonly afterHangUpMs: number;
}

function showNotices(t: TestContext, what: string, notices: readonly Notice[]): void {
  for (const large of [false, true]) {
    const some = notices.filter(({ isLarge }) => isLarge === large);
    const show = (values: readonly number[]) =>
      `p50 ${percentile(values, 50).toFixed(1)}, max ${maximum(values).toFixed(1)} ms`;
    t.diagnostic(
      `${what}, ${large ? "large" : "small"} calls: from the hang-up ${show(some.map(({ afterHangUpMs }) => afterHangUpMs))}; ` +
        `from the kill ${show(some.map(({ afterKillMs }) => afterKillMs))} (${some.length} deaths)`,
    );
  }
}

function assertNothingLeft(t: TestContext, before: Observation, after: Observation): void {
  t.diagnostic(
    `survivor's memory: ${(before.residentBytes / 2 ** 20).toFixed(0)} MiB after half of the deaths, ${(after.residentBytes / 2 ** 20).toFixed(0)} MiB after all`,
  );
  assert.equal(after.descriptors, before.descriptors, "descriptors");
  assert.equal(after.segmentMappings, before.segmentMappings, "mappings");
  assert.ok(
    after.residentBytes - before.residentBytes < GROWTH_BYTES_MAX,
    `memory grew from ${before.residentBytes} to ${after.residentBytes} bytes`,
  );
}
