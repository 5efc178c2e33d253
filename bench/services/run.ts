/** Measures services rather than calls: a gateway, handlers that wait, many connections, and sparse streams. */
import type { Cores, Placer } from "../machine.js";
import { median } from "../measure.js";
import type { PeerName } from "../peers/peer.js";
import { count, formatTable, micros, type Column } from "../report.js";
import { whyNot } from "../run.js";
import type { Placement } from "../scenarios.js";
import { openConnections, openGateway, openLines, openWaits, type OpenStage } from "./stages.js";
import { linePauseMs, waitMs, type ServiceFigures, type ServiceName, type ServiceRow } from "./task.js";

export interface ServicePace {
  /** How many times the processes are started, unless the command line says so. */
  readonly starts: number;
  /** At the highest level, so that V8 compiles every peer's code. */
  readonly firstWarmUpMs: number;
  /** Before each level. */
  readonly warmUpMs: number;
  readonly durationMs: number;
  /** How long the server of many connections is watched after the load. */
  readonly silenceMs: number;
  /** Few levels, to see whether everything works. */
  readonly isSmoke: boolean;
}

export const servicePaces = {
  full: { starts: 3, firstWarmUpMs: 1_000, warmUpMs: 500, durationMs: 1_000, silenceMs: 1_000, isSmoke: false },
  quick: { starts: 1, firstWarmUpMs: 300, warmUpMs: 200, durationMs: 300, silenceMs: 1_000, isSmoke: false },
  smoke: { starts: 1, firstWarmUpMs: 20, warmUpMs: 20, durationMs: 50, silenceMs: 50, isSmoke: true },
} satisfies Record<string, ServicePace>;

interface Service {
  readonly name: ServiceName;
  readonly title: string;
  readonly level: string;
  readonly levels: readonly number[];
  readonly smokeLevels: readonly number[];
  readonly placement: Placement;
  /** Each level has processes of its own. */
  readonly startsPerLevel: boolean;
  readonly peers: readonly PeerName[];
  /** The server is watched after the load. */
  readonly watchesSilence: boolean;
  readonly open: OpenStage;
}

const nodePeers: readonly PeerName[] = ["isthmus", "isthmus-socket", "grpc-js", "net"];
/** The C peers serve one connection, and do not wait. */
const goPeers: readonly PeerName[] = ["grpc-go", "grpc-go-tuned", "shmipc-go", "shmipc-go-tuned"];
/** shmipc-go is left out: a session maps 32 MiB and names its files by the process, and streams are of bytes. */
const grpcGoPeers: readonly PeerName[] = ["grpc-go", "grpc-go-tuned"];

const services: readonly Service[] = [
  {
    name: "gateway",
    title: "HTTP/1.1 gateway, a backend call for each request; server is the backend",
    level: "requests",
    levels: [1, 16, 64],
    smokeLevels: [16],
    placement: "shared",
    startsPerLevel: false,
    peers: [...nodePeers, ...goPeers],
    watchesSilence: false,
    open: openGateway,
  },
  {
    name: "waits",
    title: `handlers that wait ${waitMs} ms before they answer`,
    level: "in flight",
    levels: [1, 8, 64],
    smokeLevels: [8],
    placement: "two",
    startsPerLevel: false,
    peers: [...nodePeers, ...goPeers],
    watchesSilence: false,
    open: openWaits,
  },
  {
    name: "connections",
    title: "many connections of one client, a call in flight on each",
    level: "connections",
    levels: [1, 10, 100, 1_000],
    smokeLevels: [10],
    placement: "two",
    startsPerLevel: true,
    peers: [...nodePeers, ...grpcGoPeers],
    watchesSilence: true,
    open: openConnections,
  },
  {
    name: "lines",
    title: `sparse streams: producers that write a line of 100 B every ${linePauseMs} ms; p50 and p99 from write to receipt`,
    level: "producers",
    levels: [1, 4, 16],
    smokeLevels: [4],
    placement: "two",
    startsPerLevel: false,
    peers: [...nodePeers, ...grpcGoPeers],
    watchesSilence: false,
    open: openLines,
  },
];

export interface ServicePlan {
  readonly peers: readonly PeerName[];
  readonly pace: ServicePace;
  readonly starts: number | undefined;
  readonly placer: Placer;
  readonly directory: string;
}

/** What a peer did: the figures of each start, by level. */
interface Notes {
  readonly peer: PeerName;
  readonly figures: Map<number, ServiceFigures[]>;
  outcome: { skipped?: string; failed?: string };
}

/** Rejects if a payload is not what was sent; a peer that breaks otherwise gets rows that say so. */
export async function runServices(plan: ServicePlan): Promise<ServiceRow[]> {
  const rows: ServiceRow[] = [];
  for (const service of services) rows.push(...(await runService(service, plan)));
  return rows;
}

async function runService(service: Service, plan: ServicePlan): Promise<ServiceRow[]> {
  const { pace, starts = pace.starts, placer } = plan;
  const cores = placer.place(service.placement)!;
  const levels = pace.isSmoke ? service.smokeLevels : service.levels;
  const all = service.peers
    .filter((peer) => plan.peers.includes(peer))
    .map((peer): Notes => ({ peer, figures: new Map(levels.map((level) => [level, []])), outcome: {} }));
  for (let start = 0; start < starts; start++) {
    // Peers take turns, so that what disturbs the machine disturbs all of them.
    for (const notes of all) {
      if (isOut(notes)) continue;
      try {
        await play(service, notes, levels, cores, plan);
      } catch (error) {
        notes.outcome = whyNot(error);
      }
    }
  }
  return levels.flatMap((level) => all.map((notes) => rowOf(service, notes, level)));
}

async function play(
  service: Service,
  { peer, figures }: Notes,
  levels: readonly number[],
  cores: Cores,
  { pace, directory }: ServicePlan,
): Promise<void> {
  const groups = service.startsPerLevel ? levels.map((level) => [level]) : [levels];
  for (const group of groups) {
    const stage = await service.open(peer, group[0], cores, directory);
    try {
      await stage.run(Math.max(...group), pace.firstWarmUpMs);
      for (const level of group) {
        await stage.run(level, pace.warmUpMs);
        const found = await stage.run(level, pace.durationMs);
        const silentCpuShare = service.watchesSilence ? await stage.watchSilence(pace.silenceMs) : null;
        figures.get(level)!.push({ ...found, silentCpuShare });
      }
    } finally {
      await stage.stop();
    }
  }
}

function isOut({ outcome }: Notes): boolean {
  return outcome.skipped !== undefined || outcome.failed !== undefined;
}

function rowOf({ name }: Service, notes: Notes, level: number): ServiceRow {
  const figures = isOut(notes) ? [] : notes.figures.get(level)!;
  const middle = (figure: keyof ServiceFigures) => median(figures.map((found) => found[figure]));
  return {
    service: name,
    peer: notes.peer,
    level,
    starts: figures.length,
    perSecond: middle("perSecond"),
    p50Us: middle("p50Us"),
    p99Us: middle("p99Us"),
    callerCpuUs: middle("callerCpuUs"),
    serverCpuUs: middle("serverCpuUs"),
    silentCpuShare: middle("silentCpuShare"),
    ...notes.outcome,
  };
}

export const servicesLegend =
  "Services: every byte is compared, by the gateway's backend and by who sent the HTTP request. Figures are medians over starts of all processes.\n" +
  "CPU: µs for each request, call or line, of the gateway or client and of the server. silent: what the server uses of a core in the second after the load.";

export function formatServices(rows: readonly ServiceRow[]): string {
  return services
    .map((service) =>
      formatService(
        service,
        rows.filter((row) => row.service === service.name),
      ),
    )
    .filter((text) => text !== "")
    .join("\n\n");
}

function formatService({ name, title, level, watchesSilence }: Service, rows: readonly ServiceRow[]): string {
  if (rows.length === 0) return "";
  const caller = name === "gateway" ? "gateway" : "client";
  const columns: Column<ServiceRow>[] = [
    ["peer", (row) => row.peer],
    [level, (row) => count(row.level)],
    ["per second", (row) => count(row.perSecond)],
    ["p50", (row) => micros(row.p50Us)],
    ["p99", (row) => micros(row.p99Us)],
    [`CPU ${caller}`, (row) => micros(row.callerCpuUs)],
    ["CPU server", (row) => micros(row.serverCpuUs)],
  ];
  if (watchesSilence) columns.push(["silent", (row) => share(row.silentCpuShare)]);
  const measured = rows.filter((row) => row.starts > 0);
  const left = new Map(rows.filter((row) => row.starts === 0).map((row) => [row.peer, row]));
  return [
    `── ${title}`,
    ...(measured.length > 0 ? formatTable(columns, measured) : []),
    ...[...left.values()].map(({ peer, skipped, failed }) =>
      failed === undefined ? `  ${peer}: skipped: ${skipped}` : `  ${peer}: FAILED: ${failed.split("\n", 1)[0]}`,
    ),
  ].join("\n");
}

function share(value: number | null): string {
  return value === null ? "–" : `${(value * 100).toFixed(1)} %`;
}
