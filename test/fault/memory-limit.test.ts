/** A control group with little memory: messages larger than half of it get through or fail, and nobody is killed. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Code } from "@connectrpc/connect";
import { waitUntil } from "../stress/observe.js";
import type { Failure } from "../stress/peer.js";
import { scratchFolder, startPeer } from "../stress/processes.js";
import { skip } from "../stress/settings.js";

const program = new URL("./death.peer.js", import.meta.url);
const LIMIT_MIB = 384;
const MESSAGE_MIB = 200;

interface Called {
  readonly failure?: Failure;
  readonly milliseconds: number;
}

for (const limited of ["client", "server"] as const) {
  test(`messages of more than half of the ${limited}'s memory limit do not get it killed`, {
    skip,
    timeout: 600_000,
  }, async (t) => {
    const group = makeMemoryGroup(LIMIT_MIB << 20);
    if (group === undefined) return t.skip("no memory control group can be made here");
    const path = join(scratchFolder(t), "limited.sock");
    const inside = { before: `echo $$ > ${join(group, "cgroup.procs")}` };
    const starting = [
      startPeer(t, program, limited === "server" ? inside : {}),
      startPeer(t, program, limited === "client" ? inside : {}),
    ];
    // Hooks run in the order of registration: the processes inside have to be gone before their group can be.
    t.after(() => removeGroup(group));
    const [server, client] = await Promise.all(starting);
    await server.ask("listen", path);
    await client.ask("connect", path);
    for (const size of [{ requestMiB: MESSAGE_MIB }, { replyMiB: MESSAGE_MIB }, {}]) {
      const { failure, milliseconds } = await client.ask<Called>("call", size);
      const peak = Number(readFileSync(join(group, "memory.max_usage_in_bytes"), "utf8"));
      t.diagnostic(
        `${JSON.stringify(size)}: ${failure?.message ?? "answered"} after ${milliseconds.toFixed(0)} ms, peak ${(peak / 2 ** 20).toFixed(0)} of ${LIMIT_MIB} MiB`,
      );
      if (failure !== undefined) assert.equal(failure.code, Code.ResourceExhausted, failure.message);
      assert.ok(server.alive && client.alive);
    }
  });
}

/** A group inside this process's own; undefined where none can be made. */
function makeMemoryGroup(limitBytes: number): string | undefined {
  try {
    const own = /^\d+:memory:(.*)$/m.exec(readFileSync("/proc/self/cgroup", "utf8"))?.[1];
    if (own === undefined) return undefined;
    const group = join("/sys/fs/cgroup/memory", own, `isthmus-${process.pid}-${Math.floor(performance.now())}`);
    mkdirSync(group);
    writeFileSync(join(group, "memory.limit_in_bytes"), String(limitBytes));
    return group;
  } catch {
    return undefined;
  }
}

async function removeGroup(group: string): Promise<void> {
  await waitUntil("the memory control group to be removed", () => {
    try {
      rmdirSync(group);
      return true;
    } catch {
      return false;
    }
  });
}
