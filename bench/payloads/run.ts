/** Measures what large payloads cost: loaned ones against small ones, and heap ones against a plain copy. */
import { join } from "node:path";
import type { Verdict } from "../bars.js";
import { Child, nodeProgram, startTimeoutMs } from "../child-process.js";
import type { Cores } from "../machine.js";
import type { PayloadResults } from "./task.js";

export interface PayloadPace {
  readonly calls: number;
  readonly rounds: number;
}

export const payloadPaces = {
  full: { calls: 600, rounds: 12 },
  quick: { calls: 100, rounds: 4 },
  smoke: { calls: 4, rounds: 1 },
} satisfies Record<string, PayloadPace>;

const timeoutMs = 300_000;

/** Rejects if a process breaks, or a payload is not what was sent. */
export async function runPayloads(pace: PayloadPace, cores: Cores, directory: string): Promise<PayloadResults> {
  const path = join(directory, "payloads.sock");
  const server = new Child(nodeProgram("payloads/server", [path]), cores.server);
  let client: Child | undefined;
  try {
    await server.next("ready", startTimeoutMs);
    client = new Child(nodeProgram("payloads/client", [path]), cores.client);
    await client.next("ready", startTimeoutMs);
    const { results } = await client.ask({ type: "payloads", ...pace }, "payloads", timeoutMs);
    return results;
  } finally {
    await client?.stop();
    await server.stop();
  }
}

export const payloadsLegend =
  "Loaned payloads: call times in µs of 64 MiB and of 64 B in one loop, the same bytes written before and read after both, when V8 has compiled what they run.\n" +
  "Heap payloads: from the call to the handler's entry, and a plain copy of the same bytes, in GB/s (10⁹ bytes).";

export function formatPayloads({ flat, bandwidth }: PayloadResults): string {
  const us = (value: number) => value.toFixed(1).padStart(8);
  const lines = flat.map(
    ({ direction, small, large, copies }) =>
      `  loaned ${direction.padEnd(8)} p50 ${us(large.p50)} against ${us(small.p50)}   mean ${us(large.mean)} against ${us(small.mean)}   p99 ${us(large.p99)} against ${us(small.p99)}   ${copies} copies`,
  );
  const rates = bandwidth.map(
    ({ byteLength, call, copy }) =>
      `  heap ${String(byteLength >> 20).padStart(3)} MiB   call ${call.toFixed(2).padStart(6)}   copy ${copy.toFixed(2).padStart(6)}   ${((call / copy) * 100).toFixed(0)} %`,
  );
  return [...lines, ...rates].join("\n");
}

/** What 64 MiB may cost over 64 B, in µs: with `transfer` of its own, and on Node 20. */
const overMax = "transfer" in ArrayBuffer.prototype ? 5 : 10;
const p99OverMax = 50;
const bandwidthShareMin = 0.8;

export function judgePayloads({ flat, bandwidth }: PayloadResults): Verdict[] {
  return [
    ...flat.flatMap(({ direction, small, large }) =>
      (["p50", "mean", "p99"] as const).map((figure): Verdict => {
        const measured = large[figure] - small[figure];
        const atMost = figure === "p99" ? p99OverMax : overMax;
        return {
          asked: `payloads: ${figure} of a loaned 64 MiB ${direction} over 64 B at most ${atMost} µs`,
          scenario: "two-cores",
          measured,
          atMost,
          unit: "µs",
          holds: measured <= atMost,
        };
      }),
    ),
    ...flat.map(
      ({ direction, copies }): Verdict => ({
        asked: "payloads: loans are not copied",
        scenario: direction,
        measured: copies,
        atMost: 0,
        unit: "copies",
        holds: copies === 0,
      }),
    ),
    ...bandwidth.map(({ byteLength, call, copy }): Verdict => {
      const measured = call / copy;
      return {
        asked: `payloads: heap to handler at ${bandwidthShareMin}× a plain copy`,
        scenario: `${byteLength >> 20}MiB`,
        measured,
        atLeast: bandwidthShareMin,
        holds: measured >= bandwidthShareMin,
      };
    }),
  ];
}
