/**
 * Measures calls that block against calls that are awaited: two client processes of one server, one call at a time,
 * round by round.
 */
import { join } from "node:path";
import type { Verdict } from "../bars.js";
import { Child, nodeProgram, startTimeoutMs } from "../child-process.js";
import type { Cores } from "../machine.js";
import { median, percentile } from "../measure.js";
import { micros } from "../report.js";
import { blockingClientNames, type BlockingClientName, type BlockingRow } from "./task.js";

export interface BlockingPace {
  readonly rounds: number;
  readonly warmUpMs: number;
  readonly durationMs: number;
}

export const blockingPaces = {
  full: { rounds: 7, warmUpMs: 1_000, durationMs: 500 },
  quick: { rounds: 5, warmUpMs: 500, durationMs: 200 },
  smoke: { rounds: 1, warmUpMs: 20, durationMs: 20 },
} satisfies Record<string, BlockingPace>;

const sizes = [64, 1 << 20];
const graceMs = 30_000;

/** Rejects if a process breaks, or a payload is not what was sent. */
export async function runBlocking(
  { rounds, warmUpMs, durationMs }: BlockingPace,
  cores: Cores,
  directory: string,
): Promise<BlockingRow[]> {
  const path = join(directory, "blocking.sock");
  const started: Child[] = [];
  const start = async (role: "server" | "client" | "blocking/client", args: string[], core: string | null) => {
    const child = new Child(nodeProgram(role, ["isthmus", path, ...args]), core);
    started.push(child);
    await child.next("ready", startTimeoutMs);
    return child;
  };
  try {
    await start("server", ["0"], cores.server);
    const clients = {
      asynchronous: await start("client", ["0", "1"], cores.client),
      blocking: await start("blocking/client", ["1"], cores.client),
    };
    const run = async (client: BlockingClientName, byteLength: number, ms: number) => {
      const load = { byteLength, inFlight: 1, echo: false, pauseMs: 0, callsMax: null, durationMs: ms };
      return (await clients[client].ask({ type: "run", load }, "stretch", ms + graceMs)).stretch;
    };
    const rows: BlockingRow[] = [];
    for (const bytes of sizes) {
      const figures = blockingClientNames.map((client) => ({
        client,
        p50: [] as number[],
        p99: [] as number[],
        callsPerSecond: [] as number[],
        cpu: [] as number[],
      }));
      for (const client of blockingClientNames) await run(client, bytes, warmUpMs);
      for (let round = 0; round < rounds; round++) {
        for (const { client, p50, p99, callsPerSecond, cpu } of figures) {
          const { callMs, calls, elapsedMs, cpuMicros } = await run(client, bytes, durationMs);
          const sorted = callMs.sort();
          p50.push(percentile(sorted, 0.5) * 1_000);
          p99.push(percentile(sorted, 0.99) * 1_000);
          callsPerSecond.push((calls / elapsedMs) * 1_000);
          cpu.push(cpuMicros / calls);
        }
      }
      for (const { client, p50, p99, callsPerSecond, cpu } of figures) {
        rows.push({
          client,
          bytes,
          p50Us: median(p50)!,
          p99Us: median(p99)!,
          callsPerSecond: median(callsPerSecond)!,
          cpuUsPerCall: median(cpu)!,
        });
      }
    }
    return rows;
  } finally {
    await Promise.all(started.map((child) => child.stop()));
  }
}

export const blockingLegend =
  "Calls that block their thread, and calls that are awaited, one at a time. CPU: µs per call of the client.";

export function formatBlocking(rows: readonly BlockingRow[]): string {
  return rows
    .map(
      ({ client, bytes, p50Us, p99Us, callsPerSecond, cpuUsPerCall }) =>
        `  ${`${bytes} B`.padStart(9)}  ${client.padEnd(13)} p50 ${micros(p50Us).padStart(7)} µs   p99 ${micros(p99Us).padStart(7)} µs ${Math.round(callsPerSecond).toLocaleString("en").padStart(10)} calls/s   CPU ${micros(cpuUsPerCall).padStart(6)}`,
    )
    .join("\n");
}

export function judgeBlocking(rows: readonly BlockingRow[]): Verdict[] {
  const p50 = (client: BlockingClientName) => rows.find((row) => row.client === client && row.bytes === 64)!.p50Us;
  const measured = p50("asynchronous") / p50("blocking");
  return [
    {
      asked: "blocking: p50 at most half of the asynchronous p50",
      scenario: "64 B, hot",
      measured,
      atLeast: 2,
      holds: measured >= 2 * 0.995,
    },
  ];
}
