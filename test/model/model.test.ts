/**
 * The rings, their space wake-ups, the way back of blocks, and sleep and wake, under every interleaving of two sides
 * within small bounds and with either side dying at every step. `ISTHMUS_MODEL=deep` takes larger bounds (minutes).
 *
 * In every state: RING-1, RING-2, RING-3, and no more rings than sleeps (BELL-2). Of what arrives: whole frames, in
 * order, once, unmodified. Of where it ends: nobody sleeps with frames to send or to receive (BELL-1); a survivor
 * closes because of the hang-up and nothing else, and a client has then delivered exactly what the dead server had
 * published.
 */
import assert from "node:assert/strict";
import type { TestContext } from "node:test";
import test from "node:test";
import { exploreScenario } from "./check.js";
import * as defects from "./defects.js";
import type { Exploration, Failure } from "./explorer.js";
import type { Burst, Scenario } from "./scenario.js";

const deep = process.env["ISTHMUS_MODEL"] === "deep";

const FRAME: Burst = ["frame"];
const TWO: Burst = ["frame", "frame"];
const THREE: Burst = ["frame", "frame", "frame"];
const MESSAGE: Burst = ["message"];
const MIXED: Burst = ["message", "frame"];

/** A ring holds one frame of 32 bytes, or two. */
const ONE_FRAME = 32;
const TWO_FRAMES = 64;

const usual = {
  ringBytes: TWO_FRAMES,
  releaseSlots: 2,
  blocks: 0,
  eager: false,
  invariants: true,
  frameSteps: 2,
  deaths: true,
  buffered: "none",
  statesMax: deep ? 25_000_000 : 3_000_000,
} as const;

const scenarios: readonly Scenario[] = [
  { ...usual, name: "a frame each way", sends: [[FRAME], [FRAME]] },
  { ...usual, name: "frames one way through a ring that holds one", ringBytes: ONE_FRAME, sends: [[FRAME, FRAME], []] },
  { ...usual, name: "frames one way through a ring that holds two", sends: [[FRAME, FRAME, FRAME], []] },
  { ...usual, name: "a burst one way through a ring that holds one", ringBytes: ONE_FRAME, sends: [[THREE], []] },
  {
    ...usual,
    name: "two sides that only send, in rings that hold one",
    ringBytes: ONE_FRAME,
    eager: true,
    frameSteps: 1,
    sends: [[TWO], [TWO]],
  },
  { ...usual, name: "a message through the only block", blocks: 1, sends: [[MESSAGE], []] },
  {
    ...usual,
    name: "a message through two blocks, but one slot to release them",
    blocks: 2,
    releaseSlots: 1,
    sends: [[MESSAGE], []],
  },
  { ...usual, name: "a frame passes a message", blocks: 1, eager: true, frameSteps: 1, sends: [[MIXED], []] },
  { ...usual, name: "a frame each way, plain stores buffered as on x86", buffered: "data", sends: [[FRAME], [FRAME]] },
  {
    ...usual,
    name: "room for one frame, plain stores buffered as on x86",
    buffered: "data",
    ringBytes: ONE_FRAME,
    sends: [[FRAME, FRAME], []],
  },
  { ...usual, name: "a frame each way, served asleep", servesAsleep: true, sends: [[FRAME], [FRAME]] },
  {
    ...usual,
    name: "room for one frame, served asleep",
    servesAsleep: true,
    ringBytes: ONE_FRAME,
    sends: [[FRAME, FRAME], []],
  },
  {
    ...usual,
    name: "a message through the only block, served asleep",
    servesAsleep: true,
    blocks: 1,
    sends: [[MESSAGE], []],
  },
];

const deepScenarios: readonly Scenario[] = [
  {
    ...usual,
    name: "two frames each way, each by itself, room for one",
    ringBytes: ONE_FRAME,
    frameSteps: 1,
    deaths: false,
    sends: [
      [FRAME, FRAME],
      [FRAME, FRAME],
    ],
  },
  {
    ...usual,
    name: "bursts of three each way, room for one",
    ringBytes: ONE_FRAME,
    eager: true,
    frameSteps: 1,
    sends: [[THREE], [THREE]],
  },
  { ...usual, name: "a message, then a frame", blocks: 1, frameSteps: 1, sends: [[MESSAGE, FRAME], []] },
  { ...usual, name: "a message one way, a frame the other", blocks: 1, frameSteps: 1, sends: [[MESSAGE], [FRAME]] },
];

for (const scenario of deep ? [...scenarios, ...deepScenarios] : scenarios) {
  test(`every interleaving ends well: ${scenario.name}`, (context) => {
    const exploration = exploreScenario(scenario);
    report(context, exploration);
    assert.ok(exploration.failure === undefined, textOf(exploration.failure));
    assert.ok(exploration.ends > 0);
  });
}

const withoutDeaths = { ...usual, deaths: false, invariants: false };
const frames = { ...withoutDeaths, name: "frames one way", sends: [[FRAME, FRAME], []] } as const;
const crowded = {
  ...withoutDeaths,
  name: "frames one way, room for one",
  ringBytes: ONE_FRAME,
  sends: [[FRAME, FRAME], []],
} as const;
const blocks = {
  ...withoutDeaths,
  name: "a message through the only block",
  blocks: 1,
  sends: [[MESSAGE], []],
} as const;

const broken: readonly [what: string, scenario: Scenario, kind: Failure["kind"], detail: RegExp][] = [
  [
    "BELL-2: a flag instead of the number of the sleep",
    { ...frames, defect: defects.parkedFlag },
    "lost wake-up",
    /B sleeps for ever/,
  ],
  [
    "BELL-1: looking before parking instead of after",
    { ...frames, defect: defects.looksBeforeParking },
    "lost wake-up",
    /B sleeps for ever/,
  ],
  [
    "BELL-1: a second look that forgets room in the ring",
    { ...crowded, defect: defects.looksForFramesOnly },
    "lost wake-up",
    /A sleeps for ever/,
  ],
  [
    "BELL-1: a second look that forgets blocks",
    { ...blocks, defect: defects.looksForFramesOnly },
    "lost wake-up",
    /A sleeps for ever/,
  ],
  [
    "BELL-3: taking the doorbell's bytes after draining",
    { ...frames, defect: defects.takesDoorbellLate },
    "lost wake-up",
    /sleeps for ever/,
  ],
  [
    "RING-1: publishing the tail before the frame is written",
    { ...frames, defect: defects.publishesBeforeWriting },
    "actor failed",
    /FRAME-1|modified|arrived/,
  ],
  [
    "RING-2: writing what is published",
    { ...frames, invariants: true, defect: defects.publishesBeforeWriting },
    "invariant",
    /RING-2/,
  ],
  [
    "RING-2: publishing the head before the frame is copied out",
    { ...crowded, defect: defects.consumesBeforeReading },
    "actor failed",
    /modified|arrived/,
  ],
  [
    "POLL-6: waiting for room with a sleep word that does not say so",
    { ...crowded, sends: [[THREE], []], servesAsleep: true, defect: defects.keepsItsSleepWord },
    "lost wake-up",
    /A sleeps for ever/,
  ],
  [
    "POLL-6: looking before parking instead of after, served asleep",
    { ...frames, servesAsleep: true, defect: defects.looksBeforeParking },
    "lost wake-up",
    /B sleeps for ever/,
  ],
  ["no ring for space", { ...crowded, defect: defects.neverRingsForSpace }, "lost wake-up", /A sleeps for ever/],
  ["no ring for blocks", { ...blocks, defect: defects.neverRingsForBlocks }, "lost wake-up", /A sleeps for ever/],
  [
    "WORDS-1: buffered stores instead of sequentially consistent ones",
    { ...frames, buffered: "all", defect: defects.onlyTheMemory },
    "lost wake-up",
    /B sleeps for ever/,
  ],
];

for (const [what, scenario, kind, detail] of broken) {
  test(`the model finds what breaks ${what}`, (context) => {
    const whole: Scenario = { ...scenario, buffered: "none", invariants: true, defect: {} };
    assert.ok(exploreScenario(whole).failure === undefined, "and nothing where nothing is broken");
    const exploration = exploreScenario(scenario);
    report(context, exploration);
    const { failure } = exploration;
    assert.ok(failure !== undefined, "not found");
    context.diagnostic(`${failure.kind}: ${failure.detail}, after ${failure.trace.length} steps`);
    assert.equal(failure.kind, kind, textOf(failure));
    assert.match(failure.detail, detail, textOf(failure));
    if (kind !== "lost wake-up") return;
    assert.equal(
      exploreScenario({ ...scenario, deaths: true }).failure?.kind,
      kind,
      "that a sleeper may die hides nothing",
    );
  });
}

test("a bound that is not exhausted is a failure", () => {
  const { failure } = exploreScenario({ ...frames, statesMax: 100 });
  assert.equal(failure?.kind, "not exhausted");
});

function report(context: TestContext, { states, transitions, ends, seconds }: Exploration): void {
  context.diagnostic(`${states} states, ${transitions} transitions, ${ends} ends, ${seconds.toFixed(2)} s`);
}

function textOf(failure: Failure | undefined): string {
  return failure === undefined ? "" : [`${failure.kind}: ${failure.detail}`, ...failure.trace].join("\n  ");
}
