/** Runs scenarios: starts the peers' processes, interleaves their rounds, and makes rows of what they did. */
import { Cast } from "./cast.js";
import { PeerFailure, PeerSkipped } from "./child-process.js";
import type { Cores, Placer } from "./machine.js";
import { canPlay, type PeerName } from "./peers/peer.js";
import { formatScenario } from "./report.js";
import { figuresOfRound, rowOf, type RoundFigures, type Row } from "./results.js";
import { sizeName, type Pace, type Scenario } from "./scenarios.js";

export interface Plan {
  peers: readonly PeerName[];
  scenarios: readonly Scenario[];
  pace: Pace;
  /** How many times the processes of each scenario are started. */
  starts: number;
  placer: Placer;
  /** Where the sockets go. */
  directory: string;
  print(text: string): void;
}

/** A peer on stage, or why it is not. */
interface Player {
  readonly peer: PeerName;
  cast: Cast | null;
  skipped?: string;
  failed?: string;
}

/** What each peer did in a scenario: the rounds of each start. */
type Notes = Map<PeerName, RoundFigures[][]>;

/** Calls of fresh processes that take longer than this in all are not waited for. */
const coldMsMax = 60_000;

/** Rejects if a payload was not what its sender wrote; a peer that breaks otherwise gets a row that says so. */
export async function runScenarios(plan: Plan): Promise<Row[]> {
  const rows: Row[] = [];
  for (const group of groups(plan)) {
    const cores = plan.placer.place(group[0].placement);
    if (cores === null) {
      const skipped = `it needs pinning to one core, and ${plan.placer.unpinnedBecause}`;
      for (const scenario of group) plan.print(`${scenario.name}: skipped: ${skipped}`);
      continue;
    }
    rows.push(...(await runGroup(group, cores, plan)));
  }
  return rows;
}

/** Scenarios that share processes. */
function groups({ peers, scenarios, pace }: Plan): Scenario[][] {
  const byProcesses = new Map<string, Scenario[]>();
  for (const scenario of scenarios) {
    const { name, placement, clients, coldCalls } = scenario;
    const playing = peers.filter((peer) => canPlay(peer, scenario));
    const key = pace.reuseProcesses && coldCalls === null ? [placement, clients, ...playing].join() : name;
    byProcesses.set(key, [...(byProcesses.get(key) ?? []), scenario]);
  }
  return [...byProcesses.values()];
}

async function runGroup(group: readonly Scenario[], cores: Cores, plan: Plan): Promise<Row[]> {
  const { pace, peers, directory } = plan;
  const { clients, coldCalls } = group[0];
  const players = peers.filter((peer) => canPlay(peer, group[0])).map((peer): Player => ({ peer, cast: null }));
  const notes = new Map<Scenario, Notes>(group.map((scenario) => [scenario, new Map<PeerName, RoundFigures[][]>()]));
  // What is cold has one round in a start.
  const starts = coldCalls === null ? plan.starts : plan.starts * pace.coldStarts;
  const rows: Row[] = [];
  for (let start = 0; start < starts; start++) {
    await Promise.all(players.map((player) => enter(player, clients, cores, directory)));
    try {
      for (const scenario of group) {
        await playScenario(scenario, players, pace, notes.get(scenario)!);
        if (start < starts - 1) continue;
        const found = players.map((player) => rowOfPlayer(player, scenario, cores, notes.get(scenario)!));
        plan.print(formatScenario(titleOf(scenario, cores), found));
        rows.push(...found);
      }
    } finally {
      await Promise.all(players.map((player) => leave(player)));
    }
  }
  return rows;
}

async function enter(player: Player, clients: number, cores: Cores, directory: string): Promise<void> {
  if (isOut(player)) return;
  try {
    player.cast = await Cast.start(player.peer, { clients, connections: 1, waitMs: 0 }, cores, directory);
  } catch (error) {
    Object.assign(player, whyNot(error));
  }
}

async function leave(player: Player): Promise<void> {
  const { cast } = player;
  player.cast = null;
  await cast?.stop();
}

async function playScenario(scenario: Scenario, players: readonly Player[], pace: Pace, notes: Notes): Promise<void> {
  const rounds = scenario.coldCalls === null ? pace.rounds : 1;
  const found = new Map<PeerName, RoundFigures[]>(players.map(({ peer }) => [peer, []]));
  for (let round = 0; round < rounds; round++) {
    for (const player of players) {
      if (player.cast === null) continue;
      try {
        found.get(player.peer)!.push(await playRound(player.cast, scenario, pace, round === 0));
      } catch (error) {
        Object.assign(player, whyNot(error));
        await leave(player);
      }
    }
  }
  for (const [peer, figures] of found) notes.set(peer, [...(notes.get(peer) ?? []), figures]);
}

async function playRound(cast: Cast, scenario: Scenario, pace: Pace, isFirst: boolean): Promise<RoundFigures> {
  const load = { ...scenario, callsMax: scenario.coldCalls };
  let durationMs = coldMsMax;
  if (scenario.coldCalls === null) {
    // Hot: with pauses it would take minutes until the code of every peer is compiled.
    if (isFirst) await cast.run({ ...load, pauseMs: 0, durationMs: pace.firstWarmUpMs });
    await cast.run({ ...load, durationMs: pace.warmUpMs });
    durationMs = pace.durationMs;
  }
  const { stretches, serverCpuMicros } = await cast.run({ ...load, durationMs });
  return figuresOfRound(scenario.byteLength, stretches, serverCpuMicros);
}

function isOut({ skipped, failed }: Player): boolean {
  return skipped !== undefined || failed !== undefined;
}

function rowOfPlayer(player: Player, scenario: Scenario, cores: Cores, notes: Notes): Row {
  const { peer, skipped, failed } = player;
  return {
    ...rowOf(peer, scenario, cores.description, isOut(player) ? [] : notes.get(peer)!),
    ...(skipped === undefined ? {} : { skipped }),
    ...(failed === undefined ? {} : { failed }),
  };
}

/** What goes into the row of a peer that did not play to the end. Throws the error if a payload was wrong. */
export function whyNot(error: unknown): { skipped: string } | { failed: string } {
  if (error instanceof PeerSkipped) return { skipped: error.message };
  if (error instanceof PeerFailure && error.mismatch) throw error;
  return { failed: error instanceof Error ? error.message : String(error) };
}

function titleOf({ byteLength, inFlight, pauseMs, coldCalls, clients }: Scenario, cores: Cores): string {
  const pause = pauseMs > 0 ? `parked (a pause of ${pauseMs} ms before each call)` : "hot";
  const cold = coldCalls === null ? "" : `, the first ${coldCalls} calls of fresh processes`;
  const who = clients > 1 ? `, ${clients} client processes` : "";
  return `── ${sizeName(byteLength)}, ${inFlight} in flight${who}, ${pause}${cold}, ${cores.description}`;
}
