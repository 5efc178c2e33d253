/**
 * Measures codecs: each contestant in a process of its own, with all shapes, one at a time. Their stretches are
 * interleaved, A B C A B C, so what disturbs the machine disturbs all alike.
 */
import { Child, nodeProgram, PeerFailure, PeerSkipped, startTimeoutMs } from "../child-process.js";
import type { Cores } from "../machine.js";
import { median } from "../measure.js";
import { codecNames, kinds, type CodecName, type CodecRow, type Kind } from "./rows.js";
import { shapeNames } from "./shapes.js";
import type { CodecTask, PreparedRow } from "./task.js";

/** What a stretch may take beyond its duration, and what preparing may. */
const graceMs = 60_000;

export interface CodecPace {
  readonly rounds: number;
  /** Of one stretch. */
  readonly ms: number;
  /** For each row, before anything is measured. */
  readonly warmMs: number;
  readonly heapRounds: number;
  readonly heapMs: number;
}

export const codecPaces = {
  full: { rounds: 11, ms: 30, warmMs: 300, heapRounds: 3, heapMs: 30 },
  quick: { rounds: 3, ms: 15, warmMs: 90, heapRounds: 1, heapMs: 15 },
  smoke: { rounds: 1, ms: 1, warmMs: 3, heapRounds: 1, heapMs: 1 },
} satisfies Record<string, CodecPace>;

interface Player {
  readonly codec: CodecName;
  child: Child | null;
  readonly rows: Map<string, Figures>;
  skipped?: string;
  failed?: string;
}

interface Figures {
  readonly prepared: PreparedRow;
  readonly ns: number[];
  readonly heap: (number | null)[];
}

/**
 * Rejects if contestants read different things of the same messages; one that breaks otherwise gets rows that say so.
 */
export async function runCodecs(pace: CodecPace, cores: Cores): Promise<CodecRow[]> {
  const players = await Promise.all(codecNames.map((codec) => enter(codec, cores.both)));
  try {
    checkSums(players);
    await Promise.all(
      players.map((player) =>
        attempt(player, { do: "warm", ms: pace.warmMs }, pace.warmMs * kinds.length * shapeNames.length),
      ),
    );
    for (let round = 0; round < pace.rounds; round++) {
      await interleave(players, round, async (player, { prepared: { shape, kind }, ns }) => {
        const figure = await attempt(player, { do: "time", shape, kind, ms: pace.ms }, pace.ms);
        if (figure !== null) ns.push(figure);
      });
    }
    for (let round = 0; round < pace.heapRounds; round++) {
      await interleave(players, round, async (player, { prepared: { shape, kind }, heap }) => {
        heap.push(await attempt(player, { do: "heap", shape, kind, ms: pace.heapMs }, pace.heapMs));
      });
    }
  } finally {
    await Promise.all(players.flatMap(({ child }) => (child === null ? [] : [child.stop()])));
  }
  return players.flatMap(rowsOf);
}

async function enter(codec: CodecName, core: string | null): Promise<Player> {
  const player: Player = { codec, child: new Child(nodeProgram("codec/contestant", [codec]), core), rows: new Map() };
  try {
    await player.child!.next("ready", startTimeoutMs);
    const { answer } = await player.child!.ask({ type: "codec", task: { do: "prepare" } }, "codec", graceMs);
    if ("rows" in answer)
      for (const row of answer.rows) player.rows.set(keyOf(row.kind, row.shape), { prepared: row, ns: [], heap: [] });
  } catch (error) {
    await leave(player, error);
  }
  return player;
}

/** Every contestant's stretch of a row, then the next row; another one begins in each round. */
async function interleave(
  players: readonly Player[],
  round: number,
  measure: (player: Player, figures: Figures) => Promise<void>,
): Promise<void> {
  const order = players.map((_, at) => players[(at + round) % players.length]);
  for (const kind of kinds) {
    for (const shape of shapeNames) {
      for (const player of order) {
        const figures = player.rows.get(keyOf(kind, shape));
        if (figures !== undefined) await measure(player, figures);
      }
    }
  }
}

/** @returns null from a contestant that has left, or leaves now */
async function attempt(player: Player, task: CodecTask, ms: number): Promise<number | null> {
  if (player.child === null) return null;
  try {
    const { answer } = await player.child.ask({ type: "codec", task }, "codec", ms + graceMs);
    return "figure" in answer ? answer.figure : null;
  } catch (error) {
    await leave(player, error);
    return null;
  }
}

async function leave(player: Player, error: unknown): Promise<void> {
  const { child } = player;
  player.child = null;
  if (error instanceof PeerSkipped) player.skipped = error.message;
  else player.failed = error instanceof Error ? error.message : String(error);
  await child?.stop();
}

/** What is read of a decoded message is the same, whoever decoded it. */
function checkSums(players: readonly Player[]): void {
  const sums = new Map<string, { codec: CodecName; sum: number }>();
  for (const { codec, rows } of players) {
    for (const [key, { prepared }] of rows) {
      if (prepared.kind === "encode") continue;
      const first = sums.get(key) ?? { codec, sum: prepared.sum };
      sums.set(key, first);
      if (first.sum !== prepared.sum) {
        throw new PeerFailure(
          `${codec} and ${first.codec} read different things of the same messages (${key}: ${prepared.sum}, ${first.sum})`,
          true,
        );
      }
    }
  }
}

function rowsOf({ codec, rows, skipped, failed }: Player): CodecRow[] {
  const none = { nsPerOp: null, heapBytesPerOp: null, rounds: 0 };
  if (rows.size === 0) {
    // It never came as far as to say what it would do.
    return [
      {
        codec,
        kind: "encode",
        shape: shapeNames[0],
        wireBytes: 0,
        ...none,
        ...(skipped === undefined ? {} : { skipped }),
        ...(failed === undefined ? {} : { failed }),
      },
    ];
  }
  return [...rows.values()].map(({ prepared: { kind, shape, wireBytes }, ns, heap }) => {
    const row = { codec, kind, shape, wireBytes };
    if (failed !== undefined) return { ...row, ...none, failed };
    return { ...row, nsPerOp: median(ns), heapBytesPerOp: median(heap), rounds: ns.length };
  });
}

function keyOf(kind: Kind, shape: string): string {
  return `${kind} ${shape}`;
}
