/** The routes of the analytics process, the same for Isthmus and for gRPC over HTTP/2. */
import { createHash } from "node:crypto";
import type { ConnectRouter } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import { LogCounts } from "./analytics.js";
import { AnalyticsService, ProbeService } from "./demo_pb.js";

const TOP_PATHS_MAX = 100;
const LOGS_MAX = 16;

export function createRoutes(): (router: ConnectRouter) => void {
  const logs = new Map<number, LogCounts>();
  const countsOf = (log: number) => {
    let counts = logs.get(log);
    if (counts === undefined) {
      if (logs.size === LOGS_MAX) throw new ConnectError(`no more than ${LOGS_MAX} logs`, Code.ResourceExhausted);
      logs.set(log, (counts = new LogCounts()));
    }
    return counts;
  };
  let waiting = 0;

  return (router) => {
    router.service(AnalyticsService, {
      ingest: ({ log, line }) => ({ lines: countsOf(log).add(line) }),
      ingestBatch: ({ log, lines }) => ({ lines: countsOf(log).add(lines) }),
      snapshot({ log, topPaths }) {
        const counts = countsOf(log);
        return {
          lines: BigInt(counts.lines),
          newlines: BigInt(counts.newlines),
          bytes: BigInt(counts.bytes),
          parsed: BigInt(counts.parsed),
          statuses: counts.statuses().map(({ status, count }) => ({ status, count: BigInt(count) })),
          paths: counts
            .topPaths(Math.min(topPaths, TOP_PATHS_MAX))
            .map(({ path, count }) => ({ path, count: BigInt(count) })),
        };
      },
    });
    router.service(ProbeService, {
      echo: ({ text, number }) => ({ text, number }),
      digest({ data }) {
        const start = performance.now();
        const sha256 = createHash("sha256").update(data).digest("hex");
        return { sha256, bytes: BigInt(data.length), hashMillis: performance.now() - start };
      },
      wait(_request, context) {
        waiting++;
        return new Promise((_resolve, reject) => {
          const end = () => {
            waiting--;
            reject(new ConnectError("the call was cancelled", Code.Canceled));
          };
          if (context.signal.aborted) end();
          else context.signal.addEventListener("abort", end, { once: true });
        });
      },
      inspect() {
        const { user, system } = process.cpuUsage();
        return { pid: process.pid, cpuMicros: user + system, waiting };
      },
    });
  };
}
