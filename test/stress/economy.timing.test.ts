/**
 * Under load there are almost no system calls, on a machine that has nothing else to do: a side that misses its peer
 * sleeps, and is rung.
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { TransportStats } from "../../src/index.js";
import { startPair } from "./economy.scene.js";
import { scaled, skip } from "./settings.js";

const CALLS_PER_SYSTEM_CALL_MS = scaled(1000, 4000);
/**
 * Tracing makes a system call some ten times as slow, so that the traced side misses its peer and sleeps more often.
 */
const SYSTEM_CALLS_PER_CALL_MAX = scaled(0.4, 0.2);

test("with 64 calls in flight the main threads make almost no system calls", {
  skip: skip || straceComplaint(),
  timeout: 600_000,
}, async (t) => {
  const [server, client] = await startPair(t);
  const started = (await client.ask<TransportStats>("stats")).connection!;
  const untraced = await client.ask<number>("call", { milliseconds: 1000, inFlight: 64, byteLength: 64 });
  const { doorbellsRung, doorbellsReceived, sleeps } = (await client.ask<TransportStats>("stats")).connection!;
  const perCallOf = (now: number, before: number) => ((now - before) / untraced).toFixed(4);
  t.diagnostic(
    `untraced, ${untraced} calls: ${perCallOf(doorbellsRung, started.doorbellsRung)} rings each of the client, ` +
      `${perCallOf(doorbellsReceived, started.doorbellsReceived)} of the server; ${perCallOf(sleeps, started.sleeps)} sleeps of the client`,
  );
  for (const [name, peer] of [
    ["server", server],
    ["client", client],
  ] as const) {
    const before = await server.ask<number>("handled");
    const tracing = traceMainThread(peer.pid);
    await tracing.attached;
    const [calls] = await Promise.all([
      client.ask<number>("call", { milliseconds: CALLS_PER_SYSTEM_CALL_MS, inFlight: 64, byteLength: 64 }),
      sleep(CALLS_PER_SYSTEM_CALL_MS),
    ]);
    const counts = await tracing.finish();
    const handled = (await server.ask<number>("handled")) - before;
    const total = counts.reduce((sum, { count }) => sum + count, 0);
    const perCall = total / calls;
    const most = counts.slice(0, 6).map(({ name, count }) => `${name} ${count}`);
    t.diagnostic(`${name}: ${total} system calls in ${calls} calls, ${perCall.toFixed(4)} each (${most.join(", ")})`);
    assert.ok(handled >= calls);
    assert.ok(perCall < SYSTEM_CALLS_PER_CALL_MAX, `${name}: ${perCall} system calls per call`);
  }
});

interface SystemCallCount {
  readonly name: string;
  readonly count: number;
}

/** Counts the system calls of one thread: the process's main thread has its number. */
function traceMainThread(pid: number): { attached: Promise<void>; finish: () => Promise<SystemCallCount[]> } {
  const strace = spawn("strace", ["-c", "-U", "calls,name", "-S", "calls", "-p", String(pid)], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let text = "";
  let onAttached: () => void;
  const attached = new Promise<void>((resolve) => (onAttached = resolve));
  const ended = new Promise<void>((resolve) => strace.on("close", () => resolve()));
  strace.stderr.on("data", (chunk: Buffer) => {
    text += chunk.toString();
    if (text.includes("attached")) onAttached();
  });
  return {
    attached: Promise.race([attached, ended]),
    finish: async () => {
      strace.kill("SIGINT");
      await ended;
      const rows = [...text.matchAll(/^\s*(\d+)\s+([a-z]\w*)\s*$/gm)].map(([, count, name]) => ({
        name,
        count: Number(count),
      }));
      const counts = rows.filter(({ name }) => name !== "total");
      assert.ok(counts.length > 0, `strace counted nothing: ${text}`);
      return counts;
    },
  };
}

/** Why system calls cannot be counted here, or false. */
function straceComplaint(): string | false {
  const idle = spawn("sleep", ["5"]);
  const tried = spawnSync("timeout", ["-s", "INT", "0.3", "strace", "-c", "-U", "calls,name", "-p", String(idle.pid)], {
    encoding: "utf8",
  });
  idle.kill("SIGKILL");
  if (tried.error !== undefined) return "there is no timeout command";
  if (tried.stderr.includes("attached")) return false;
  return `strace cannot be used here: ${tried.stderr.trim().split("\n")[0]}`;
}
