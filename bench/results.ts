/** One row of the results: what a peer did in a scenario. Figures are medians over the rounds, then over the starts. */
import { median, mergeSorted, percentile } from "./measure.js";
import type { PeerName } from "./peers/peer.js";
import type { Stretch } from "./protocol.js";
import type { Scenario } from "./scenarios.js";

export interface Figures {
  /** From the call to its promise, in µs. */
  p50Us: number | null;
  meanUs: number | null;
  p99Us: number | null;
  p999Us: number | null;
  /** The same calls with writing the request before and reading the reply after. */
  withPayloadP50Us: number | null;
  withPayloadP99Us: number | null;
  withPayloadP999Us: number | null;
  /** Of all clients together, the work on the payloads included. */
  callsPerSecond: number | null;
  /** 10⁶ payload bytes per second: each call counts its request's bytes and its reply's. */
  megabytesPerSecond: number | null;
  /** Processor time of all processes of the peer, clients and server with all their threads. */
  cpuUsPerCall: number | null;
  /** The clients' share of it, and the server's. */
  clientCpuUsPerCall: number | null;
  serverCpuUsPerCall: number | null;
  /** Allocated on the client's V8 heap, the benchmark's own share included. */
  heapBytesPerCall: number | null;
}

export interface Row extends Figures {
  peer: PeerName;
  scenario: string;
  bytes: number;
  inFlight: number;
  clients: number;
  mode: "hot" | "parked" | "parked-cold" | "echo";
  cores: string;
  /** How many times the processes were started. */
  starts: number;
  /** In all starts together. */
  rounds: number;
  /** In all rounds together. */
  calls: number;
  /** Of each start, by the median of its rounds: how much the figures depend on the start. */
  p50UsByStart: readonly (number | null)[];
  /** Why there are no figures; absent otherwise. */
  skipped?: string;
  failed?: string;
}

export interface RoundFigures extends Record<keyof Figures, number | null> {
  calls: number;
}

/** The figures of one round, over all clients. */
export function figuresOfRound(
  byteLength: number,
  stretches: readonly Stretch[],
  serverCpuMicros: number,
): RoundFigures {
  const calls = sum(stretches.map((stretch) => stretch.calls));
  const callMs = mergeSorted(stretches.map((stretch) => stretch.callMs));
  const payloadMs = mergeSorted(stretches.map((stretch) => stretch.payloadMs));
  const callsPerSecond = sum(stretches.map((stretch) => (stretch.calls / stretch.elapsedMs) * 1_000));
  const heap = stretches.map((stretch) => stretch.heapBytes);
  const clientCpuMicros = sum(stretches.map((stretch) => stretch.cpuMicros));
  return {
    calls,
    p50Us: percentile(callMs, 0.5) * 1_000,
    meanUs: (callMs.reduce((total, ms) => total + ms, 0) / callMs.length) * 1_000,
    p99Us: percentile(callMs, 0.99) * 1_000,
    p999Us: percentile(callMs, 0.999) * 1_000,
    withPayloadP50Us: percentile(payloadMs, 0.5) * 1_000,
    withPayloadP99Us: percentile(payloadMs, 0.99) * 1_000,
    withPayloadP999Us: percentile(payloadMs, 0.999) * 1_000,
    callsPerSecond,
    megabytesPerSecond: (callsPerSecond * byteLength * 2) / 1e6,
    cpuUsPerCall: (clientCpuMicros + serverCpuMicros) / calls,
    clientCpuUsPerCall: clientCpuMicros / calls,
    serverCpuUsPerCall: serverCpuMicros / calls,
    heapBytesPerCall: heap.some((bytes) => bytes === null) ? null : sum(heap as number[]) / calls,
  };
}

/** @param starts the rounds of each start of the peer's processes */
export function rowOf(peer: PeerName, scenario: Scenario, cores: string, starts: readonly RoundFigures[][]): Row {
  const byStart = (name: keyof Figures) => starts.map((rounds) => median(rounds.map((round) => round[name])));
  const middle = (name: keyof Figures): number | null => median(byStart(name));
  const rounds = starts.flat();
  return {
    peer,
    scenario: scenario.name,
    bytes: scenario.byteLength,
    inFlight: scenario.inFlight,
    clients: scenario.clients,
    mode: modeOf(scenario),
    cores,
    starts: starts.length,
    rounds: rounds.length,
    calls: sum(rounds.map((round) => round.calls)),
    p50UsByStart: byStart("p50Us"),
    p50Us: middle("p50Us"),
    meanUs: middle("meanUs"),
    p99Us: middle("p99Us"),
    p999Us: middle("p999Us"),
    withPayloadP50Us: middle("withPayloadP50Us"),
    withPayloadP99Us: middle("withPayloadP99Us"),
    withPayloadP999Us: middle("withPayloadP999Us"),
    callsPerSecond: middle("callsPerSecond"),
    megabytesPerSecond: middle("megabytesPerSecond"),
    cpuUsPerCall: middle("cpuUsPerCall"),
    clientCpuUsPerCall: middle("clientCpuUsPerCall"),
    serverCpuUsPerCall: middle("serverCpuUsPerCall"),
    heapBytesPerCall: middle("heapBytesPerCall"),
  };
}

function modeOf({ echo, pauseMs, coldCalls }: Scenario): Row["mode"] {
  if (echo) return "echo";
  if (pauseMs === 0) return "hot";
  return coldCalls === null ? "parked" : "parked-cold";
}

/** How many times the first peer is faster than the second, by a figure; null if either has none. */
export function timesFaster(
  row: Row | undefined,
  than: Row | undefined,
  figure: "p50Us" | "withPayloadP50Us" | "callsPerSecond" | "megabytesPerSecond",
): number | null {
  const mine = row?.[figure] ?? null;
  const theirs = than?.[figure] ?? null;
  if (mine === null || theirs === null || mine <= 0 || theirs <= 0) return null;
  return figure === "p50Us" || figure === "withPayloadP50Us" ? theirs / mine : mine / theirs;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
