/** Runs scenarios: starts the peers' processes, interleaves their rounds, and makes rows of what they did. */
import { Cast, PeerFailure, PeerSkipped } from "./cast.js";
import type { Cores, Placer } from "./machine.js";
import { needsClients, type PeerName } from "./peers/peer.js";
import { formatScenario } from "./report.js";
import { figuresOfRound, rowOf, type RoundFigures, type Row } from "./results.js";
import { sizeName, type Pace, type Scenario } from "./scenarios.js";

export interface Plan {
  peers: readonly PeerName[];
  scenarios: readonly Scenario[];
  pace: Pace;
  placer: Placer;
  /** Where the sockets go. */
  directory: string;
  print(text: string): void;
}

/** A peer on stage, or why it is not. */
interface Player {
  peer: PeerName;
  cast: Cast | null;
  skipped?: string;
  failed?: string;
}

/** Rejects if a payload was not what its sender wrote; a peer that breaks otherwise gets a row that says so. */
export async function runScenarios(plan: Plan): Promise<Row[]> {
  const rows: Row[] = [];
  for (const group of groups(plan)) {
    const { placement, clients } = group[0];
    const cores = plan.placer.place(placement);
    if (cores === null) {
      const skipped = `it needs pinning to one core, and ${plan.placer.unpinnedBecause}`;
      for (const scenario of group) plan.print(`${scenario.name}: skipped: ${skipped}`);
      continue;
    }
    const peers = clients > 1 ? plan.peers : plan.peers.filter((peer) => !needsClients(peer));
    const players = await Promise.all(peers.map((peer) => enter(peer, clients, cores, plan.directory)));
    try {
      for (const scenario of group) {
        const found = await runScenario(scenario, players, cores, plan.pace);
        plan.print(formatScenario(titleOf(scenario, cores), found));
        rows.push(...found);
      }
    } finally {
      await Promise.all(players.flatMap(({ cast }) => (cast === null ? [] : [cast.stop()])));
    }
  }
  return rows;
}

/** Scenarios that share processes. */
function groups({ scenarios, pace }: Plan): Scenario[][] {
  if (!pace.reuseProcesses) return scenarios.map((scenario) => [scenario]);
  const byProcesses = new Map<string, Scenario[]>();
  for (const scenario of scenarios) {
    const key = `${scenario.placement} ${scenario.clients}`;
    byProcesses.set(key, [...(byProcesses.get(key) ?? []), scenario]);
  }
  return [...byProcesses.values()];
}

async function enter(peer: PeerName, clients: number, cores: Cores, directory: string): Promise<Player> {
  try {
    return { peer, cast: await Cast.start(peer, clients, cores, directory) };
  } catch (error) {
    return { peer, cast: null, ...whyNot(error) };
  }
}

async function runScenario(scenario: Scenario, players: readonly Player[], cores: Cores, pace: Pace): Promise<Row[]> {
  const rounds = new Map<PeerName, RoundFigures[]>(players.map(({ peer }) => [peer, []]));
  for (let round = 0; round < pace.rounds; round++) {
    for (const player of players) {
      if (player.cast === null) continue;
      try {
        // Hot: with pauses it would take minutes until the code of every peer is compiled.
        if (round === 0) await player.cast.run({ ...scenario, pauseMs: 0, durationMs: pace.firstWarmUpMs });
        rounds.get(player.peer)!.push(await playRound(player.cast, scenario, pace));
      } catch (error) {
        Object.assign(player, whyNot(error));
        const { cast } = player;
        player.cast = null;
        await cast.stop();
      }
    }
  }
  return players.map(({ peer, skipped, failed }) => {
    const broken = skipped !== undefined || failed !== undefined;
    return {
      ...rowOf(peer, scenario, cores.description, broken ? [] : rounds.get(peer)!),
      ...(skipped === undefined ? {} : { skipped }),
      ...(failed === undefined ? {} : { failed }),
    };
  });
}

async function playRound(cast: Cast, scenario: Scenario, { warmUpMs, durationMs }: Pace): Promise<RoundFigures> {
  await cast.run({ ...scenario, durationMs: warmUpMs });
  const { stretches, serverCpuMicros } = await cast.run({ ...scenario, durationMs });
  return figuresOfRound(scenario.byteLength, stretches, serverCpuMicros);
}

function whyNot(error: unknown): Pick<Player, "skipped" | "failed"> {
  if (error instanceof PeerSkipped) return { skipped: error.message };
  if (error instanceof PeerFailure && error.mismatch) throw error;
  return { failed: error instanceof Error ? error.message : String(error) };
}

function titleOf({ byteLength, inFlight, pauseMs, clients }: Scenario, cores: Cores): string {
  const pause = pauseMs > 0 ? `parked (a pause of ${pauseMs} ms before each call)` : "hot";
  const who = clients > 1 ? `, ${clients} client processes` : "";
  return `── ${sizeName(byteLength)}, ${inFlight} in flight${who}, ${pause}, ${cores.description}`;
}
