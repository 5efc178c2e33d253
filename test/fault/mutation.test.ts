/**
 * A peer that changes what it has sent, while it is being decoded, cannot crash this process: frames are copied before
 * anything looks at them, and what stays in shared memory, the spans, is only copied or handed on.
 *
 * The negative control is not run, since it ends the process: let `spanReader` in closure-read.ts decode a span's text
 * where it lies, without the copy, and within seconds the decoding process dies: of SIGSEGV on Node 20 and 22, of
 * SIGABRT on 24 and 26. On Node 20 the short form misses it now and then. The runtime's decoders first measure the
 * text, and then fill a string of that size (UTF8-1).
 *
 * The seed repeats the messages and the damage done to them, but not at which moment of a decode it comes.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { describe, test } from "node:test";
import { requireAddon } from "../../src/os/addon.js";
import { scratchFolder, startPeer } from "../stress/processes.js";
import type { PeerOptions } from "../stress/processes.js";
import { scaled, seedOf, skip } from "../stress/settings.js";
import type { MutationReport, MutationRun } from "./mutation.peer.js";
import type { Mutated } from "./mutator.peer.js";

const DECODES = Number(process.env["ISTHMUS_MUTATION_DECODES"] ?? scaled(150_000, 100_000_000));
/** Ropes are read by closures in any case, so the form without generated code gets the smaller share. */
const CLOSURES_SHARE = 0.2;
const TIMEOUT_MS = scaled(600_000, 6 * 3_600_000);

describe("memory that another process changes all the time", { skip }, () => {
  test("is decoded or refused, whatever comes, and nothing crashes", { timeout: TIMEOUT_MS }, (t) =>
    prove(t, DECODES * (1 - CLOSURES_SHARE), []),
  );

  test("is so too where code must not be generated", { timeout: TIMEOUT_MS }, (t) =>
    prove(t, DECODES * CLOSURES_SHARE, ["--disallow-code-generation-from-strings"]),
  );
});

async function prove(t: TestContext, decodes: number, nodeFlags: readonly string[]): Promise<void> {
  const seed = seedOf(t);
  const path = join(scratchFolder(t), "segments.sock");
  const [readerCore, mutatorCore] = cores(t);
  const [reader, mutator] = await Promise.all([
    startPeer(t, new URL("./mutation.peer.js", import.meta.url), { nodeFlags, ...readerCore }),
    startPeer(t, new URL("./mutator.peer.js", import.meta.url), mutatorCore),
  ]);
  await reader.ask("listen", path);
  await mutator.ask("send", path);
  await reader.ask("join");
  await mutator.ask("join");
  await mutator.ask("start", seed);
  const run: MutationRun = { seed, decodes: Math.round(decodes), extraMsMax: 300_000 };
  // A crash rejects this with the signal that ended the process.
  const report = await reader.ask<MutationReport>("run", run, TIMEOUT_MS);
  const mutated = await mutator.ask<Mutated>("stop");

  const { ended, met, errors, defects, milliseconds, cpuMilliseconds, ...counts } = report;
  const kinds = Object.entries(ended);
  const total = kinds.reduce((sum, [, { decoded, failed }]) => sum + decoded + failed, 0);
  const seconds = milliseconds / 1000;
  t.diagnostic(
    `${total} decodes in ${seconds.toFixed(1)} s: ${Math.round(total / seconds)} a second, ${Math.round((total / cpuMilliseconds) * 1000)} a second of CPU time; ` +
      `10^8 at this rate: ${((1e8 / total) * (seconds / 60)).toFixed(0)} min`,
  );
  for (const [kind, { decoded, failed }] of kinds)
    t.diagnostic(`${kind}: ${decoded} decoded, ${failed} refused by the codec`);
  t.diagnostic(`changed by the other process: ${JSON.stringify(mutated)}; ${JSON.stringify(counts)}`);
  t.diagnostic(`met: ${JSON.stringify(met)}`);
  for (const [error, times] of Object.entries(errors)) t.diagnostic(`${times} × ${error}`);

  assert.deepEqual(defects, []);
  assert.ok(total >= run.decodes);
  // The input did change, also in the middle of decoding it; and everything was met that is proved to be harmless.
  for (const [name, count] of Object.entries({ ...mutated, ...counts, ...met }))
    assert.ok(count > 0, `${name}: ${count}`);
  for (const [kind, { decoded, failed }] of kinds)
    assert.ok(decoded > 0 && failed > 0, `${kind}: ${decoded} decoded, ${failed} failed`);
}

/**
 * A core for each of two processes: taking turns on one, the second would hardly ever change what the first is reading.
 */
function cores(t: TestContext): readonly PeerOptions[] {
  const cpus = requireAddon().affinity();
  if (cpus.length < 2 || spawnSync("taskset", ["--version"]).error !== undefined) {
    t.diagnostic("the processes may share a core, and then the input seldom changes in the middle of a decode");
    return [{}, {}];
  }
  return cpus.slice(0, 2).map((cpu) => ({ before: `taskset -cp ${cpu} $$ > /dev/null` }));
}
