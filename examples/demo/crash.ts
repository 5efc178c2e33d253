/** Part 4: kills the server while calls are pending. A new one takes its place, and the client goes on. */
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { createClient } from "../../src/index.js";
import { startAnalytics } from "./analytics-process.js";
import { ProbeService } from "./demo_pb.js";
import type { DemoContext, Verdict } from "./part.js";
import { failed, passed } from "./part.js";
import { figure, plural } from "./text.js";

/** The resources of this process that a connection uses. */
export interface Holdings {
  readonly descriptors: number;
  readonly mappings: number;
}

interface Rejection {
  readonly code: Code | undefined;
  readonly millis: number;
}

const CALLS = 64;
const PATIENCE_MILLIS = 3000;

export async function runCrash(context: DemoContext): Promise<Verdict> {
  const { screen, analytics, transport } = context;
  const client = createClient(ProbeService, transport);
  const before = await settledHoldings();

  let killedAt = 0;
  const rejections: Rejection[] = [];
  let answers = 0;
  const pending = Array.from({ length: CALLS }, () =>
    client.wait({}).then(
      () => void answers++,
      (error: unknown) => {
        rejections.push({
          code: error instanceof ConnectError ? error.code : undefined,
          millis: performance.now() - killedAt,
        });
      },
    ),
  );
  await until(async () => (await client.inspect({})).waiting === CALLS, "the server has all calls");
  const killedPid = analytics.program.pid;
  killedAt = performance.now();
  analytics.program.kill();
  await Promise.race([Promise.all(pending), sleep(PATIENCE_MILLIS, undefined, { ref: false })]);
  const slowest = Math.max(0, ...rejections.map((rejection) => rejection.millis));
  const unavailable = rejections.filter((rejection) => rejection.code === Code.Unavailable).length;
  const codes = [...new Set(rejections.map(({ code }) => (code === undefined ? "no ConnectError" : Code[code])))].join(
    ", ",
  );
  screen.print(
    `   kill -9 ${killedPid}: ${screen.bold(`${rejections.length} of ${CALLS}`)} pending calls rejected (${codes}),` +
      ` the last one ${screen.bold(`${figure(slowest)} ms`)} after it`,
  );
  await analytics.program.exited;
  const between = await settledHoldings();

  context.analytics = await startAnalytics(context.children, context.sockets, false);
  const start = performance.now();
  const { pid } = await client.inspect({});
  screen.print(
    `   new server ${pid} on the same path: the same client got its answer in ${figure(performance.now() - start)} ms, connecting included`,
  );

  const after = await settledHoldings(before);
  const arrow = (name: keyof Holdings) => `${before[name]} → ${between[name]} → ${after[name]}`;
  screen.print(
    `   before → between → after: open descriptors ${arrow("descriptors")}, shared memory mappings ${arrow("mappings")}`,
  );

  if (answers > 0) return failed(`${plural(answers, "call")} to a method that never answers got an answer`);
  if (rejections.length < CALLS)
    return failed(
      `${CALLS - rejections.length} of ${CALLS} calls were still pending ${PATIENCE_MILLIS / 1000} s after the kill`,
    );
  if (unavailable < CALLS) return failed(`rejected with ${codes}`);
  if (pid !== context.analytics.program.pid)
    return failed(`process ${pid} answered instead of ${context.analytics.program.pid}`);
  if (between.mappings > 0) return failed(`${plural(between.mappings, "mapping")} of the dead connection stayed`);
  if (after.descriptors > before.descriptors || after.mappings > before.mappings) return failed("something leaked");
  return passed("every call was rejected, the client recovered, nothing leaked");
}

/** Resources in use once they stop changing or do not exceed `wanted`: closing takes a turn of the loop or two. */
async function settledHoldings(wanted?: Holdings): Promise<Holdings> {
  let last = holdings();
  for (let unchanged = 0, looks = 0; unchanged < 3 && looks < 100; looks++) {
    await sleep(10);
    const now = holdings();
    const settled = wanted === undefined || (now.descriptors <= wanted.descriptors && now.mappings <= wanted.mappings);
    unchanged = settled && now.descriptors === last.descriptors && now.mappings === last.mappings ? unchanged + 1 : 0;
    last = now;
  }
  return last;
}

function holdings(): Holdings {
  return {
    descriptors: readdirSync("/proc/self/fd").length,
    mappings: readFileSync("/proc/self/maps", "utf8")
      .split("\n")
      .filter((line) => line.includes("/memfd:isthmus")).length,
  };
}

async function until(condition: () => Promise<boolean>, what: string): Promise<void> {
  const end = performance.now() + PATIENCE_MILLIS;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`waited for ${PATIENCE_MILLIS / 1000} s until ${what}`);
    await sleep(5);
  }
}
