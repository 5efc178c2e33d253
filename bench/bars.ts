/** The speeds that Isthmus asks of itself, and which of them a run has reached. */
import { micros, times } from "./report.js";
import { timesFaster, type Row } from "./results.js";
import type { PeerName } from "./peers/peer.js";

type Figure = "p50Us" | "withPayloadP50Us" | "callsPerSecond" | "megabytesPerSecond";

interface Bar {
  asked: string;
  scenario: string;
  figure: Figure;
  peer: PeerName;
  than: PeerName;
  atLeast: number;
}

export interface Verdict {
  asked: string;
  scenario: string;
  /** null: not part of this run. */
  measured: number | null;
  /** One of the two. */
  atLeast?: number;
  atMost?: number;
  /** Of what is measured; without one it is a ratio. */
  unit?: string;
  holds: boolean | null;
}

const names: Record<Figure, string> = {
  p50Us: "p50",
  withPayloadP50Us: "p50 with payload",
  callsPerSecond: "calls/s",
  megabytesPerSecond: "MB/s",
};

const bars: readonly Bar[] = [
  bar("hot-64B-x1-two-cores", "p50Us", "isthmus", "net", 10),
  bar("hot-64B-x1-two-cores", "p50Us", "isthmus", "grpc-js", 100),
  bar("hot-64B-x64-two-cores", "callsPerSecond", "isthmus", "net", 5),
  bar("hot-64B-x64-two-cores", "callsPerSecond", "isthmus", "grpc-js", 50),
  bar("hot-64B-x1-two-cores", "p50Us", "isthmus-passthrough", "net", 12),
  bar("hot-64B-x64-two-cores", "callsPerSecond", "isthmus-passthrough", "net", 5),
  bar("hot-1MiB-x1-two-cores", "megabytesPerSecond", "isthmus", "net", 2),
  bar("hot-1MiB-x1-two-cores", "megabytesPerSecond", "isthmus", "grpc-js", 15),
  bar("echo-16MiB-x1-two-cores", "p50Us", "isthmus-loans", "grpc-js", 1000),
  bar("echo-16MiB-x1-two-cores", "p50Us", "isthmus-loans", "net", 100),
  bar("echo-16MiB-x1-two-cores", "withPayloadP50Us", "isthmus-loans", "grpc-js", 15),
  bar("echo-16MiB-x1-two-cores", "withPayloadP50Us", "isthmus-loans", "net", 2),
  ...overTheSocket(),
  ...noWorseThanNet("hot-64B-x1-one-core"),
  ...noWorseThanNet("hot-64B-x64-one-core"),
  // Parked calls are paced by their pauses, so calls per second say nothing.
  bar("parked-64B-x1-two-cores", "p50Us", "isthmus", "net", 1),
  bar("parked-64KiB-x1-two-cores", "p50Us", "isthmus", "net", 1),
  bar("parked-64B-x1-one-core", "p50Us", "isthmus", "net", 1),
  ...noWorseThanNet("hot-64B-x1-shared-cores-4-clients"),
  ...noWorseThanNet("hot-64B-x16-shared-cores-4-clients"),
  bar("hot-64B-x1-shared-cores-4-clients", "callsPerSecond", "isthmus-4-workers", "isthmus-1-worker", 1),
  bar("hot-64B-x16-shared-cores-4-clients", "callsPerSecond", "isthmus-4-workers", "isthmus-1-worker", 1),
];

/** Without shared memory: little more than the socket itself costs. */
function overTheSocket(): Bar[] {
  return [
    bar("hot-64B-x1-two-cores", "p50Us", "isthmus-socket", "net", 1 / 1.5),
    ...["hot-64KiB-x1-two-cores", "hot-1MiB-x1-two-cores", "hot-16MiB-x1-two-cores"].map((scenario) =>
      bar(scenario, "megabytesPerSecond", "isthmus-socket", "net", 0.9),
    ),
    bar("hot-64B-x64-two-cores", "callsPerSecond", "isthmus-socket", "connect", 10),
    bar("hot-1MiB-x1-two-cores", "megabytesPerSecond", "isthmus-socket", "connect", 5),
  ];
}

function noWorseThanNet(scenario: string): Bar[] {
  return [bar(scenario, "p50Us", "isthmus", "net", 1), bar(scenario, "callsPerSecond", "isthmus", "net", 1)];
}

function bar(scenario: string, figure: Figure, peer: PeerName, than: PeerName, atLeast: number): Bar {
  const relation =
    atLeast === 1 ? "no worse than" : atLeast > 1 ? `${atLeast}× better than` : `at least ${atLeast.toFixed(2)} of`;
  const asked = `${peer}: ${names[figure]} ${relation} ${than}`;
  return { asked, scenario, figure, peer, than, atLeast };
}

export function judge(rows: readonly Row[]): Verdict[] {
  const find = (scenario: string, peer: PeerName): Row | undefined =>
    rows.find((row) => row.scenario === scenario && row.peer === peer);
  return bars.map(({ asked, scenario, figure, peer, than, atLeast }) => {
    const measured = timesFaster(find(scenario, peer), find(scenario, than), figure);
    // Half a percent for rounding: a ratio that prints as 1.00 is not a miss.
    return { asked, scenario, measured, atLeast, holds: measured === null ? null : measured >= atLeast * 0.995 };
  });
}

export function formatVerdicts(verdicts: readonly Verdict[]): string {
  const measured = verdicts.filter((verdict) => verdict.holds !== null);
  const askedWidth = Math.max(0, ...measured.map(({ asked }) => asked.length));
  const scenarioWidth = Math.max(0, ...measured.map(({ scenario }) => scenario.length));
  const lines = measured.map(
    ({ asked, scenario, measured, unit, holds }) =>
      `  ${holds ? "ok    " : "MISSED"}  ${asked.padEnd(askedWidth)}  ${scenario.padEnd(scenarioWidth)}  measured ` +
      (unit === undefined ? times(measured) : `${micros(measured)} ${unit}`),
  );
  const left = verdicts.length - measured.length;
  return ["Bars", ...lines, ...(left > 0 ? [`  ${left} of ${verdicts.length} not measured in this run`] : [])].join(
    "\n",
  );
}
