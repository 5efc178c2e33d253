/**
 * Compares Isthmus with other ways to call another process on the same machine, and its codec with others (`codec/`).
 *
 * Client and server are processes of their own. For each scenario the processes of all peers are started, and the
 * rounds are interleaved: every peer's first round, then every peer's second, and so on. So what disturbs the machine
 * disturbs all peers alike, and ratios within a run are fair even where absolute figures are not.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { formatVerdicts, judge } from "./bars.js";
import { drawChart } from "./chart.js";
import { choose } from "./choice.js";
import { blockingLegend, blockingPaces, formatBlocking, judgeBlocking, runBlocking } from "./blocking/run.js";
import { judgeCodecs } from "./codec/bars.js";
import { codecLegend, formatCodecs } from "./codec/report.js";
import { codecPaces, runCodecs } from "./codec/run.js";
import { describeMachine, packageVersions, Placer } from "./machine.js";
import { heapMethod } from "./measure.js";
import { nativeVersions } from "./native/build.js";
import { nativePeerNames, nodePeerNames } from "./peers/peer.js";
import { legend } from "./report.js";
import { formatPayloads, judgePayloads, payloadPaces, payloadsLegend, runPayloads } from "./payloads/run.js";
import { runScenarios } from "./run.js";
import { formatStreams, judgeStreams, runStreams, streamPaces, streamsLegend } from "./streams/run.js";
import { paces } from "./scenarios.js";
import { formatServices, runServices, servicePaces, servicesLegend } from "./services/run.js";

/** Processes that were running before the benchmark, on average; more than this disturbs what is measured. */
const busyLoad = 0.7;

const help = `npm run bench -- [options]

  --only NAME[,NAME…]  only these peers (${nodePeerNames.join(", ")})
                       and only scenarios whose names contain one of the other names, such as 64B, parked, one-core;
                       or only these parts: payloads (large ones), streams, blocking (calls that block), services
                       (with the peers that are named), codec (without a call)
  --native             scenarios in which peers in C and Go (${nativePeerNames.join(", ")})
                       take part; needs a C compiler with make, and Go
  --starts N           start all processes N times; figures are medians over the starts (default: once, services 3 times)
  --json FILE          write machine, versions and results as JSON
  --svg FILE           write a chart
  --quick              few scenarios and short rounds: about three minutes
  --smoke              every peer works, and says nothing about speed: seconds
  --strict             a missed bar makes the exit code 1
  --list               name the scenarios and leave
`;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      only: { type: "string", multiple: true },
      json: { type: "string" },
      svg: { type: "string" },
      native: { type: "boolean", default: false },
      starts: { type: "string" },
      quick: { type: "boolean", default: false },
      smoke: { type: "boolean", default: false },
      strict: { type: "boolean", default: false },
      list: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) {
    console.log(help);
    return;
  }
  const mode = values.smoke ? "smoke" : values.quick ? "quick" : "full";
  const only = (values.only ?? []).flatMap((names) => names.split(",")).filter(Boolean);
  const chosen = choose(only, mode, values.native);
  const starts = countOf(values.starts);
  if (values.list) {
    console.log([...chosen.scenarios.map(({ name }) => name), ...chosen.parts].join("\n"));
    return;
  }

  const machine = describeMachine();
  const versions = { ...packageVersions(), ...(values.native ? nativeVersions() : {}) };
  const placer = new Placer();
  const [loadAverage] = os.loadavg();
  const machineLine = `${machine.cpu}, ${machine.cores} cores, ${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB, ${machine.kernel}, Node ${process.versions.node}`;
  console.log(machineLine);
  console.log(
    Object.entries(versions)
      .map(([name, version]) => `${name} ${version ?? "(not installed)"}`)
      .join(", "),
  );
  if (placer.unpinnedBecause !== null) console.log(`Processes are not pinned to cores: ${placer.unpinnedBecause}.`);
  if (loadAverage > busyLoad)
    console.log(`The machine is busy (load average ${loadAverage.toFixed(1)}): these figures say little.`);
  if (chosen.scenarios.length > 0) console.log(`\n${legend}\n`);

  const directory = mkdtempSync(join(os.tmpdir(), "isthmus-bench-"));
  process.once("exit", () => rmSync(directory, { recursive: true, force: true }));
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => process.exit(1));

  const { peers, scenarios } = chosen;
  const rows = await runScenarios({
    peers,
    scenarios,
    pace: paces[mode],
    starts: starts ?? 1,
    placer,
    directory,
    print: (text) => console.log(`${text}\n`),
  });
  const payloads = chosen.parts.includes("payloads")
    ? await runPayloads(payloadPaces[mode], placer.place("two")!, directory)
    : null;
  if (payloads !== null) console.log(`${payloadsLegend}\n\n${formatPayloads(payloads)}\n`);
  const streams = chosen.parts.includes("streams")
    ? await runStreams(streamPaces[mode], placer.place("two")!, directory)
    : null;
  if (streams !== null) console.log(`${streamsLegend}\n\n${formatStreams(streams)}\n`);
  const blocking = chosen.parts.includes("blocking")
    ? await runBlocking(blockingPaces[mode], placer.place("two")!, directory)
    : [];
  if (blocking.length > 0) console.log(`${blockingLegend}\n\n${formatBlocking(blocking)}\n`);
  const services = chosen.parts.includes("services")
    ? await runServices({ peers, pace: servicePaces[mode], starts, placer, directory })
    : [];
  if (services.length > 0) console.log(`${servicesLegend}\n\n${formatServices(services)}\n`);
  else if (chosen.parts.includes("services")) console.log("Services: none of the chosen peers takes part in them.");
  const withCodec = chosen.parts.includes("codec");
  const codec = withCodec ? await runCodecs(codecPaces[mode], placer.place("shared")!) : [];
  if (withCodec) console.log(`${scenarios.length > 0 ? "" : "\n"}${codecLegend}\n\n${formatCodecs(codec)}\n`);
  const verdicts = [
    ...(scenarios.length > 0 ? judge(rows) : []),
    ...(payloads === null ? [] : judgePayloads(payloads)),
    ...(streams === null ? [] : judgeStreams(streams)),
    ...(blocking.length > 0 ? judgeBlocking(blocking) : []),
    ...(withCodec ? judgeCodecs(codec) : []),
  ];
  if (mode !== "smoke" && verdicts.length > 0) console.log(formatVerdicts(verdicts));

  if (values.json !== undefined) {
    const taken = new Date().toISOString();
    const document = {
      machine,
      node: process.versions.node,
      versions,
      taken,
      mode,
      starts: starts ?? null,
      loadAverage,
      heapMethod,
      results: rows,
      payloads,
      streams,
      blocking,
      services,
      codec,
      bars: verdicts,
    };
    writeFileSync(values.json, `${JSON.stringify(document, null, 2)}\n`);
  }
  if (values.svg !== undefined) {
    const chart = drawChart(rows, machineLine);
    if (chart === null)
      console.error("There is nothing to draw: the chart needs hot-64B-x1-two-cores or hot-1MiB-x1-two-cores.");
    else writeFileSync(values.svg, chart);
  }
  const measurements = [...rows, ...services, ...codec];
  const failed = measurements.filter((row) => row.failed !== undefined);
  if (failed.length > 0) console.error(`${failed.length} of ${measurements.length} measurements failed.`);
  if (failed.length > 0 || (values.strict && verdicts.some(({ holds }) => holds === false))) process.exitCode = 1;
}

/** Undefined if it was not given. */
function countOf(given: string | undefined): number | undefined {
  if (given === undefined) return undefined;
  if (!/^[1-9]\d*$/.test(given)) throw new Error(`--starts ${given}: not a number from 1 on`);
  return Number(given);
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? (error.stack ?? error.message) : error);
  process.exit(1);
});
