import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { formatVerdicts, judge } from "./bars.js";
import { drawChart } from "./chart.js";
import { parseCoreList } from "./machine.js";
import type { PeerName } from "./peers/peer.js";
import { count, formatScenario, micros, times } from "./report.js";
import { figuresOfRound, rowOf, timesFaster, type Row } from "./results.js";
import {
  nativeScenarios,
  quickNativeScenarios,
  quickScenarios,
  scenarios,
  smokeNativeScenarios,
  smokeScenarios,
  type Scenario,
} from "./scenarios.js";

const scenarioNamed = (name: string): Scenario => scenarios.find((scenario) => scenario.name === name)!;

function row(peer: PeerName, scenario: string, p50Us: number, calls: number): Row {
  const ms = Float64Array.from({ length: 100 }, () => p50Us / 1_000);
  const stretch = { calls, elapsedMs: 1_000, cpuMicros: calls * 3, heapBytes: calls * 10, callMs: ms, payloadMs: ms };
  const { byteLength } = scenarioNamed(scenario);
  return rowOf(peer, scenarioNamed(scenario), "two", [[figuresOfRound(byteLength, [stretch], calls)]]);
}

const small = "hot-64B-x1-two-cores";
const rows = [row("isthmus", small, 2, 400_000), row("grpc-js", small, 600, 1_500), row("net", small, 50, 20_000)];

describe("report", () => {
  test("a round's figures are over all clients", () => {
    const stretch = (calls: number, ms: number, heapBytes: number | null) => ({
      calls,
      elapsedMs: 500,
      cpuMicros: 1_000,
      heapBytes,
      callMs: Float64Array.of(ms),
      payloadMs: Float64Array.of(ms * 2),
    });
    const figures = figuresOfRound(1_000, [stretch(10, 1, 50), stretch(30, 3, 150)], 2_000);
    assert.equal(figures.calls, 40);
    assert.equal(figures.callsPerSecond, 80);
    assert.equal(figures.megabytesPerSecond, 0.16);
    assert.equal(figures.cpuUsPerCall, 100);
    assert.equal(figures.heapBytesPerCall, 5);
    assert.equal(figures.p50Us, 1_000);
    assert.equal(figures.p999Us, 3_000);
    assert.equal(figures.withPayloadP99Us, 6_000);
    assert.equal(figuresOfRound(1_000, [stretch(1, 1, null)], 0).heapBytesPerCall, null);
  });

  test("a row's figures are the medians of its rounds", () => {
    const rounds = [1, 100, 3].map((ms) =>
      figuresOfRound(
        64,
        [
          {
            calls: 1,
            elapsedMs: 1,
            cpuMicros: ms,
            heapBytes: null,
            callMs: Float64Array.of(ms),
            payloadMs: Float64Array.of(ms),
          },
        ],
        0,
      ),
    );
    const found = rowOf("net", scenarioNamed(small), "two", [rounds]);
    assert.equal(found.p50Us, 3_000);
    assert.equal(found.cpuUsPerCall, 3);
    assert.equal(found.heapBytesPerCall, null);
    assert.equal(found.rounds, 3);
  });

  test("with several starts, a figure is the median of the starts' medians", () => {
    const round = (p50Ms: number) => {
      const ms = Float64Array.of(p50Ms);
      const stretch = { calls: 1, elapsedMs: 1, cpuMicros: 4, heapBytes: null, callMs: ms, payloadMs: ms };
      return figuresOfRound(64, [stretch], 2);
    };
    const starts = [
      [1, 2, 3],
      [7, 8, 900],
      [4, 5, 6],
    ].map((start) => start.map(round));
    const found = rowOf("net", scenarioNamed(small), "two", starts);
    assert.deepEqual(found.p50UsByStart, [2_000, 8_000, 5_000]);
    assert.equal(found.p50Us, 5_000);
    assert.deepEqual([found.starts, found.rounds, found.calls], [3, 9, 9]);
    assert.deepEqual([found.clientCpuUsPerCall, found.serverCpuUsPerCall], [4, 2]);
  });

  test("lower latency and higher throughput are both faster", () => {
    assert.equal(timesFaster(rows[0], rows[2], "p50Us"), 25);
    assert.equal(timesFaster(rows[0], rows[2], "callsPerSecond"), 20);
    assert.equal(timesFaster(rows[0], undefined, "p50Us"), null);
  });

  test("numbers keep three digits and no needless decimals", () => {
    assert.deepEqual([0.5, 12.34, 123.4, 1_234_567].map(micros), ["0.50", "12.3", "123", "1 234 567"]);
    assert.deepEqual([count(1_234), count(12), count(null)], ["1 234", "12", "–"]);
    assert.deepEqual([times(1.005), times(12.34), times(300), times(null)], ["1.00×", "12.3×", "300×", "–"]);
  });

  test("a table has a line for each peer, aligned, and says why one is missing", () => {
    const missing: Row = { ...rowOf("zeromq", scenarioNamed(small), "two", []), skipped: "not installed" };
    const broken: Row = { ...rowOf("worker", scenarioNamed(small), "two", []), failed: "it ended\n  at a stack" };
    const lines = formatScenario("title", [...rows, missing, broken]).split("\n");
    assert.equal(lines.length, 1 + 1 + 3 + 2);
    assert.match(lines[2], /^ {2}isthmus +2\.00 .* 25\.0× 20\.0×$/);
    assert.match(lines[4], /^ {2}net +50\.0 .* 0\.04× 0\.05×$/);
    assert.equal(lines[5], "  zeromq: skipped: not installed");
    assert.equal(lines[6], "  worker: FAILED: it ended");
    const ends = [lines[1], lines[3], lines[4]].map((line) => line.length);
    assert.equal(new Set(ends).size, 1, "the columns are aligned");
  });

  test("bars say what was asked, what was measured, and whether it holds", () => {
    const verdicts = judge(rows);
    const find = (asked: string): boolean | null =>
      verdicts.find((verdict) => verdict.asked === asked && verdict.scenario === small)!.holds;
    assert.equal(find("isthmus: p50 10× better than net"), true);
    assert.equal(find("isthmus: p50 100× better than grpc-js"), true);
    assert.equal(find("isthmus-passthrough: p50 12× better than net"), null);
    const slow = judge([row("isthmus", small, 20, 1), ...rows.slice(1)]);
    assert.match(formatVerdicts(slow), /MISSED {2}isthmus: p50 10× better than net .* measured 2\.50×/);
    assert.match(formatVerdicts(slow), /of \d+ not measured in this run/);
  });

  test("every bar is about a scenario that exists", () => {
    for (const { scenario } of judge([])) assert.ok(scenarioNamed(scenario), scenario);
  });

  test("a chart has a bar for each measured peer, and is well-formed", () => {
    const chart = drawChart(rows, "a <machine> & more")!;
    assert.equal(chart.match(/<rect /g)?.length, rows.length);
    assert.match(chart, /a &lt;machine> &amp; more/);
    assert.doesNotMatch(chart, /NaN|undefined|Infinity/);
    assert.equal(drawChart([], ""), null);
  });

  test("scenarios have distinct names", () => {
    const lists = [scenarios, quickScenarios, smokeScenarios];
    for (const list of [...lists, nativeScenarios, quickNativeScenarios, smokeNativeScenarios]) {
      assert.equal(new Set(list.map(({ name }) => name)).size, list.length);
    }
  });

  test("lists of cores are read", () => {
    assert.deepEqual(parseCoreList("0-2,5,7-8"), [0, 1, 2, 5, 7, 8]);
    assert.deepEqual(parseCoreList("3"), [3]);
    assert.deepEqual(parseCoreList(""), []);
  });
});
