/** What is measured: sizes, calls in flight, pauses, placements. And for how long. */

/**
 * `two`: the client's process on one core, the server's on another. `one`: both on one core. `shared`: all processes on
 * the same two cores, and the scheduler places them.
 */
export type Placement = "two" | "one" | "shared";

export interface Scenario {
  readonly name: string;
  readonly byteLength: number;
  /** Calls in flight of each client. */
  readonly inFlight: number;
  /** The server hands the request's bytes back without looking at them, so that the call is all that is timed. */
  readonly echo: boolean;
  readonly pauseMs: number;
  /** The first calls of fresh processes, so many, without a warm-up; null: what comes after one. */
  readonly coldCalls: number | null;
  readonly placement: Placement;
  /** Client processes. */
  readonly clients: number;
}

export interface Pace {
  readonly rounds: number;
  /** In place of them, starts of cold processes. */
  readonly coldStarts: number;
  /** Before a scenario's first round, without pauses. */
  readonly firstWarmUpMs: number;
  /** Before each round. */
  readonly warmUpMs: number;
  readonly durationMs: number;
  /**
   * Peers' processes serve all scenarios with the same placement, in place of fresh ones for each: faster, less clean.
   */
  readonly reuseProcesses: boolean;
}

const kib = 1024;
const mib = 1024 * kib;
/** Long enough for every peer to go to sleep. */
const parkMs = 2;
const coldCalls = 1_000;

export const paces = {
  full: { rounds: 5, coldStarts: 3, firstWarmUpMs: 1_000, warmUpMs: 100, durationMs: 1_000, reuseProcesses: false },
  quick: { rounds: 2, coldStarts: 2, firstWarmUpMs: 150, warmUpMs: 50, durationMs: 200, reuseProcesses: true },
  smoke: { rounds: 1, coldStarts: 1, firstWarmUpMs: 20, warmUpMs: 20, durationMs: 100, reuseProcesses: true },
} satisfies Record<string, Pace>;

const echoes = [echo(64), echo(mib), echo(16 * mib), echo(64 * mib)];

export const scenarios: readonly Scenario[] = [
  ...[64, kib, 16 * kib, 64 * kib].flatMap((byteLength) => [hot(byteLength, 1), hot(byteLength, 64)]),
  ...[mib, 16 * mib].flatMap((byteLength) => [hot(byteLength, 1), hot(byteLength, 4)]),
  ...echoes,
  parked(64, "two"),
  parked(64 * kib, "two"),
  hot(64, 1, "one"),
  hot(64, 64, "one"),
  parked(64, "one"),
  parkedCold(64, "two"),
  parkedCold(64, "one"),
  hot(64, 1, "shared", 4),
  hot(64, 16, "shared", 4),
];

/** With the native peers, whose payloads are of up to 64 KiB. */
export const nativeScenarios: readonly Scenario[] = [64, 4 * kib, 64 * kib].flatMap((byteLength) =>
  (["two", "one"] as const).flatMap((placement) => [
    hot(byteLength, 1, placement),
    hot(byteLength, 64, placement),
    parked(byteLength, placement),
    parkedCold(byteLength, placement),
  ]),
);

export const quickNativeScenarios: readonly Scenario[] = [
  hot(64, 1),
  hot(64, 64),
  parked(64, "two"),
  parkedCold(64, "two"),
  hot(64, 1, "one"),
];

export const smokeNativeScenarios: readonly Scenario[] = [
  hot(0, 1, "shared"),
  hot(1_001, 16, "shared"),
  hot(64 * kib, 64, "shared"),
  { ...parkedCold(1_001, "shared"), coldCalls: 20 },
];

/** The scenarios that the bars are about. */
export const quickScenarios: readonly Scenario[] = [
  hot(64, 1),
  hot(64, 64),
  hot(mib, 1),
  hot(64, 1, "one"),
  hot(64, 64, "one"),
  parked(64, "one"),
  hot(64, 1, "shared", 4),
  ...echoes,
];

/** Odd sizes on purpose. */
export const smokeScenarios: readonly Scenario[] = [
  hot(0, 1, "shared"),
  hot(1_001, 16, "shared"),
  hot(mib + 13, 4, "shared"),
  { ...echo(mib), placement: "shared" },
  { ...parkedCold(1_001, "shared"), coldCalls: 20 },
];

function hot(byteLength: number, inFlight: number, placement: Placement = "two", clients = 1): Scenario {
  const name = nameOf("hot", byteLength, inFlight, placement, clients);
  return { name, byteLength, inFlight, echo: false, pauseMs: 0, coldCalls: null, placement, clients };
}

function parked(byteLength: number, placement: Placement): Scenario {
  const name = nameOf("parked", byteLength, 1, placement, 1);
  return { ...hot(byteLength, 1, placement), name, pauseMs: parkMs };
}

function parkedCold(byteLength: number, placement: Placement): Scenario {
  const name = nameOf("parked-cold", byteLength, 1, placement, 1);
  return { ...parked(byteLength, placement), name, coldCalls };
}

function echo(byteLength: number): Scenario {
  return { ...hot(byteLength, 1), name: nameOf("echo", byteLength, 1, "two", 1), echo: true };
}

function nameOf(
  mode: "hot" | "parked" | "parked-cold" | "echo",
  byteLength: number,
  inFlight: number,
  placement: Placement,
  clients: number,
): string {
  const where = { two: "two-cores", one: "one-core", shared: "shared-cores" }[placement];
  return `${mode}-${sizeName(byteLength)}-x${inFlight}-${where}${clients > 1 ? `-${clients}-clients` : ""}`;
}

export function sizeName(byteLength: number): string {
  if (byteLength >= mib && byteLength % mib === 0) return `${byteLength / mib}MiB`;
  if (byteLength >= kib && byteLength % kib === 0) return `${byteLength / kib}KiB`;
  return `${byteLength}B`;
}
