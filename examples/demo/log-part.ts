/**
 * Part 1: log lines go to the analytics process as they are written, and its counts are checked against wc and grep.
 */
import { stat, writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import type { Client } from "@connectrpc/connect";
import { createClient } from "../../src/index.js";
import type { LogRequest } from "./arguments.js";
import type { Stats } from "./demo_pb.js";
import { AnalyticsService } from "./demo_pb.js";
import { Feeder } from "./feeder.js";
import type { LogSource } from "./log-source.js";
import { copyStream, newLogPath, openLog } from "./log-source.js";
import { statsLines, statsNote, tallyLine, TOP_PATHS } from "./log-view.js";
import type { DemoContext, Verdict } from "./part.js";
import { failed, passed } from "./part.js";
import { count, megabytes, plural } from "./text.js";
import { sendTraffic } from "./traffic.js";
import type { CheckResult, CheckTarget } from "./verify.js";
import { agrees, checksFor, differenceOf, resultOf } from "./verify.js";
import type { WebServerReady, WebServerStopped } from "./web-server.js";

type Analytics = Client<typeof AnalyticsService>;

/** How long a log may be read. */
const READ_MILLIS = { full: 8000, quick: 2000 };
/** How much traffic there is, where the demo makes it. */
const TRAFFIC = { full: { requests: 60_000, millis: 5000 }, quick: { requests: 4000, millis: 1500 } };
/** A chunk up to this size is news, line by line; a larger one is a backlog. */
const NEWS_BYTES_MAX = 64 << 10;
/** Of what is read at once, the first lines go one by one: so many, or for so long. */
const SINGLES_FIRST = { lines: 50_000, millis: 1500 };
/** Logs up to this size are sent a second time, all in batches. */
const AGAIN_BYTES_MAX = 64 << 20;
const REDRAW_MILLIS = 200;
const NOTE_MILLIS = 700;
/** The analytics process counts the two rounds as two logs. */
const FIRST_LOG = 1;
const AGAIN_LOG = 2;
const PATHS_COMPARED = 100;

/** Opened before anything is shown. @throws UsageError */
export async function openRequestedLog(request: LogRequest): Promise<LogSource> {
  if (request.kind === "file") return openLog(request.path, request.follow);
  if (request.kind === "stdin") return copyStream(process.stdin);
  const path = newLogPath();
  await writeFile(path, "", { flag: "wx", mode: 0o600 });
  return openLog(path, true);
}

export async function runLogPart(
  context: DemoContext,
  request: LogRequest,
  source: LogSource,
  interrupt: AbortSignal,
): Promise<Verdict> {
  const { screen, transport } = context;
  const client = createClient(AnalyticsService, transport);
  const feeder = new Feeder(client, FIRST_LOG);
  // The first call connects, which is not to be measured.
  await client.snapshot({ log: FIRST_LOG });
  const timeBox = AbortSignal.timeout(context.quick ? READ_MILLIS.quick : READ_MILLIS.full);
  const written = new AbortController();
  const stop = AbortSignal.any([timeBox, interrupt, written.signal]);
  const live = request.kind === "traffic" || (request.kind === "file" && request.follow);

  const reading = new AbortController();
  const traffic =
    request.kind === "traffic"
      ? makeTraffic(context, source.path, reading.signal).finally(() => written.abort())
      : undefined;
  traffic?.catch(() => undefined);
  if (traffic === undefined)
    screen.print(
      `   ${source.path} → this process ${process.pid} ═ shared memory ═▶ analytics ${context.analytics.program.pid}`,
    );
  const display = showProgress(context, client);
  const start = performance.now();
  try {
    for await (const chunk of source.chunks(stop)) {
      const onePerCall = live
        ? chunk.length <= NEWS_BYTES_MAX
        : feeder.singles.lines < SINGLES_FIRST.lines && feeder.singles.millis < SINGLES_FIRST.millis;
      await feeder.push(chunk, onePerCall);
    }
    await feeder.end(live || feeder.batches.lines === 0);
  } finally {
    reading.abort();
    await display.end();
  }
  const seconds = (performance.now() - start) / 1000;
  const requests = await traffic;

  const stats = await client.snapshot({ log: FIRST_LOG, topPaths: PATHS_COMPARED });
  screen.print(...statsLines(screen, { ...stats, paths: stats.paths.slice(0, TOP_PATHS) }, display.rates(), false));
  if (live) {
    const tally = { ...feeder.singles, millis: seconds * 1000 };
    if (tally.lines > 0) screen.print(tallyLine(screen, "one line per call", tally, "as fast as they are written"));
  } else if (feeder.singles.lines > 0) {
    screen.print(tallyLine(screen, "one line per call", feeder.singles, plural(feeder.singles.calls, "call")));
  }
  if (feeder.batches.lines > 0)
    screen.print(tallyLine(screen, "in batches", feeder.batches, plural(feeder.batches.calls, "call")));

  const target = await source.target();
  const problems: string[] = [];
  if (feeder.linesCounted !== Number(stats.lines))
    problems.push(`${count(feeder.linesCounted)} lines were acknowledged, ${count(stats.lines)} counted`);
  if (requests !== undefined && requests !== Number(stats.lines))
    problems.push(`${count(requests)} requests were answered, ${count(stats.lines)} lines counted`);
  if (source.bytesRead > 0 && source.bytesRead <= AGAIN_BYTES_MAX) {
    const difference = await sendAgain(context, client, target.path, source.bytesRead, stats);
    if (difference !== undefined) problems.push(`counted twice, with different results (${difference})`);
  }
  if (target.headBytes !== undefined) {
    const { size } = await stat(target.path);
    screen.print(
      screen.yellow(
        `   read in ${seconds.toFixed(1)} s: the first ${megabytes(target.headBytes)} of now ${megabytes(size)}; the checks look at just these`,
      ),
    );
  }
  const results = await check(context, stats, target);
  const wrong = results.filter((result) => !agrees(result)).length;
  if (wrong > 0) problems.unshift(`${wrong} of ${plural(results.length, "count")} differ`);
  if (problems.length > 0) return failed(problems.join("; "));
  return passed(
    `${plural(stats.lines, "line")}: all ${results.length} counts are the same${requests === undefined ? "" : ", and so is the number of requests answered"}`,
  );
}

/** Starts the web server, sends it requests until `over` aborts, then stops it. @returns how many were answered */
async function makeTraffic(
  { children, screen, analytics, quick }: DemoContext,
  logPath: string,
  over: AbortSignal,
): Promise<number> {
  const bounds = quick ? TRAFFIC.quick : TRAFFIC.full;
  const web = children.fork("web server", "./web-server.js", [logPath]);
  try {
    const { port } = await web.message<WebServerReady>();
    screen.print(
      `   web server ${web.pid} → access log → this process ${process.pid} ═ shared memory ═▶ analytics ${analytics.program.pid}`,
    );
    const { requests } = await sendTraffic(port, bounds.requests, bounds.millis, over);
    const stopped = web.message<WebServerStopped>();
    web.send("stop");
    const { linesWritten } = await stopped;
    if (linesWritten !== requests)
      throw new Error(`the web server wrote ${linesWritten} lines for ${requests} requests`);
    return requests;
  } finally {
    await web.stop();
  }
}

/** Asks the analytics process for its counts now and then, and shows them. */
function showProgress({ screen }: DemoContext, client: Analytics) {
  const rates: number[] = [];
  const done = new AbortController();
  const start = performance.now();
  const loop = async () => {
    let linesBefore = 0;
    let before = start;
    while (!done.signal.aborted) {
      await sleep(screen.inPlace ? REDRAW_MILLIS : NOTE_MILLIS, undefined, { signal: done.signal }).catch(
        () => undefined,
      );
      if (done.signal.aborted) return;
      const stats = await client.snapshot({ log: FIRST_LOG, topPaths: TOP_PATHS });
      const now = performance.now();
      rates.push((Math.max(0, Number(stats.lines) - linesBefore) / (now - before)) * 1000);
      [linesBefore, before] = [Number(stats.lines), now];
      screen.live(statsLines(screen, stats, rates, true));
      screen.note(statsNote(stats, (now - start) / 1000, rates.at(-1)!));
    }
  };
  // If the calls fail, so does the feeder, which says so.
  const running = loop().catch(() => undefined);
  return {
    rates: () => (screen.inPlace ? rates : []),
    async end() {
      done.abort();
      await running;
    },
  };
}

/** The same bytes a second time, all in batches, which has to give the same counts. @returns what differs */
async function sendAgain(
  { screen }: DemoContext,
  client: Analytics,
  path: string,
  byteLength: number,
  first: Stats,
): Promise<string | undefined> {
  const source = await openLog(path, false);
  try {
    const feeder = new Feeder(client, AGAIN_LOG);
    let left = byteLength;
    for await (const chunk of source.chunks(new AbortController().signal)) {
      await feeder.push(chunk.subarray(0, left), false);
      left -= Math.min(left, chunk.length);
      if (left === 0) break;
    }
    await feeder.end(false);
    screen.print(tallyLine(screen, "again, in batches", feeder.batches, plural(feeder.batches.calls, "call")));
    return differenceOf(first, await client.snapshot({ log: AGAIN_LOG, topPaths: PATHS_COMPARED }));
  } finally {
    await source.close();
  }
}

async function check({ screen, children }: DemoContext, stats: Stats, target: CheckTarget): Promise<CheckResult[]> {
  screen.live([screen.dim("   counting with wc and grep …")]);
  const results = await Promise.all(
    checksFor(stats, target).map(async (wanted) => {
      const { exitCode, output, errorOutput } = await children.run(wanted.command);
      return resultOf(wanted, exitCode, output, errorOutput);
    }),
  );
  const width = Math.max(...results.map(({ counted }) => count(counted).length)) + 1;
  for (const result of results) {
    const number = count(result.counted).padStart(width);
    if (agrees(result)) {
      screen.print(`   ${screen.green("✓")}${number}  ${result.command}`);
    } else {
      const other = result.found === undefined ? result.problem : `counts ${count(result.found)}`;
      screen.print(`   ${screen.red("✗")}${number}  ${result.command}  ${screen.red(other ?? "")}`);
    }
  }
  return results;
}
