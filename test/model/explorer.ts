/**
 * Explores every interleaving of two actors that share memory, with death at every step.
 *
 *   state       = where both actors are × shared memory, doorbells included (× store buffers)
 *   transition  = one access of one actor, or its death, or one buffered store reaching memory
 *
 * EXPLORE-1  The search is depth first with memory of all states; it ends when there is no new state, and fails rather
 *            than stop early (`statesMax`).
 * EXPLORE-2  A state that can go on to itself is a failure ("endless"): then every interleaving ends, whatever the
 *            scheduler does, and no fairness needs to be assumed.
 * EXPLORE-3  A state in which nobody can go on must be one in which nobody needs to.
 */
import type { Place, Program } from "./actor.js";
import { Actor, CELL_VALUES, EVENT } from "./actor.js";
import { DONE, OPEN, StateTable } from "./state-table.js";

export interface Model {
  readonly name: string;
  readonly programs: readonly [Program, Program];
  readonly cellNames: readonly string[];
  /** Cells that count the rings of each actor's doorbell: not taken yet, and in all. */
  readonly doorbells: readonly [number, number];
  readonly ringTotals: readonly [number, number];
  /** A complaint about a state of the memory. */
  invariant(cells: readonly number[]): string | undefined;
  /** A complaint about a store that is about to reach memory. */
  onStore(
    cells: readonly number[],
    actor: number,
    stored: readonly number[],
    values: readonly number[],
  ): string | undefined;
  /** A complaint about an actor that ended with this result. */
  onEnd(cells: readonly number[], actor: number, result: number): string | undefined;
  readonly deaths: boolean;
  /**
   * Which stores go through a first-in first-out buffer of their actor, as on x86: none; plain ones ("data": what the
   * shipped code compiles to, an ordered store waits until the buffer is empty); or all of them.
   */
  readonly buffered: "none" | "data" | "all";
  readonly statesMax: number;
}

export interface Failure {
  readonly kind: "lost wake-up" | "invariant" | "actor failed" | "endless" | "not exhausted";
  readonly detail: string;
  readonly trace: readonly string[];
}

export interface Exploration {
  readonly states: number;
  readonly transitions: number;
  /** States in which nobody can go on, other than by dying. */
  readonly ends: number;
  readonly seconds: number;
  readonly failure: Failure | undefined;
}

interface BufferedStore {
  readonly cells: readonly number[];
  readonly values: readonly number[];
}

interface Memory {
  readonly id: number;
  readonly cells: readonly number[];
  readonly buffers: readonly [readonly BufferedStore[], readonly BufferedStore[]];
  readonly complaint: string | undefined;
}

interface State {
  readonly places: readonly [Place, Place];
  readonly memory: Memory;
}

interface Step {
  readonly to: State;
  readonly actor: number;
  readonly what: "step" | "dies" | "flush";
  readonly event: number;
  readonly complaint: string | undefined;
}

interface Visit {
  readonly state: State;
  readonly steps: readonly Step[];
  at: number;
}

const ACTORS = "AB";

export function explore(model: Model): Exploration {
  const started = performance.now();
  const explorer = new Explorer(model);
  const failure = explorer.run();
  const { states, transitions, ends } = explorer;
  return { states, transitions, ends, seconds: (performance.now() - started) / 1000, failure };
}

class Explorer {
  states = 0;
  transitions = 0;
  ends = 0;
  private readonly model: Model;
  private readonly actors: readonly [Actor, Actor];
  private readonly memories = new Map<string, Memory>();
  private readonly known = new StateTable();
  private readonly visits: Visit[] = [];

  constructor(model: Model) {
    this.model = model;
    this.actors = [new Actor(model.programs[0]), new Actor(model.programs[1])];
  }

  run(): Failure | undefined {
    const memory = this.memory(new Array<number>(this.model.cellNames.length).fill(0), [[], []]);
    const failure = this.enter({ places: [this.actors[0].start, this.actors[1].start], memory });
    if (failure !== undefined) return failure;
    for (let visit = this.visits.at(-1); visit !== undefined; visit = this.visits.at(-1)) {
      if (visit.at === visit.steps.length) {
        this.mark(visit.state, DONE);
        this.visits.pop();
        continue;
      }
      const step = visit.steps[visit.at++];
      this.transitions++;
      if (step.complaint !== undefined) return this.failure("invariant", step.complaint);
      const { places, memory } = step.to;
      const colour = this.known.get(places[0].id, places[1].id, memory.id);
      if (colour === OPEN)
        return this.failure("endless", "these steps lead back to a state on the way to them (EXPLORE-2)");
      if (colour === DONE) continue;
      const found = this.enter(step.to);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  private mark({ places, memory }: State, colour: number): void {
    this.known.set(places[0].id, places[1].id, memory.id, colour);
  }

  private enter(state: State): Failure | undefined {
    if (this.states === this.model.statesMax)
      return this.failure("not exhausted", `more than ${this.states} states (EXPLORE-1)`);
    this.states++;
    this.mark(state, OPEN);
    if (state.memory.complaint !== undefined) return this.failure("invariant", state.memory.complaint);
    for (const [actor, { operation }] of state.places.entries()) {
      if (operation.kind === "failed") return this.failure("actor failed", `${ACTORS[actor]}: ${operation.detail}`);
      if (operation.kind === "end") {
        const complaint = this.model.onEnd(state.memory.cells, actor, operation.result);
        if (complaint !== undefined) return this.failure("invariant", complaint);
      }
    }
    const steps = this.stepsFrom(state);
    // SUBTLE: whoever sleeps for ever can still die, but nobody may have to for the other to go on.
    if (steps.every(({ what }) => what === "dies")) {
      this.ends++;
      const complaint = complaintAboutEnd(state);
      if (complaint !== undefined) return this.failure("lost wake-up", complaint);
    }
    this.visits.push({ state, steps, at: 0 });
    return undefined;
  }

  private stepsFrom(state: State): Step[] {
    const steps: Step[] = [];
    for (const actor of [0, 1]) {
      const alive = state.places[actor].operation.kind !== "dead";
      const peerAlive = state.places[1 - actor].operation.kind !== "dead";
      if (state.memory.buffers[actor].length > 0) steps.push(this.flush(state, actor));
      if (!alive) continue;
      this.addSteps(steps, state, actor, peerAlive);
      if (this.model.deaths && peerAlive && state.places[actor].operation.kind !== "end") {
        steps.push(this.step(state, actor, this.actors[actor].dead, state.memory, "dies"));
      }
    }
    return steps;
  }

  private addSteps(steps: Step[], state: State, actor: number, peerAlive: boolean): void {
    const place = state.places[actor];
    const { operation } = place;
    const { memory } = state;
    const { doorbells, ringTotals, buffered } = this.model;
    const go = (result: number, after = memory, complaint?: string) => {
      steps.push(this.step(state, actor, this.actors[actor].follow(place, result), after, "step", result, complaint));
    };
    switch (operation.kind) {
      case "load":
        go(this.actors[actor].resultOf(operation.cells.map((cell) => visible(memory, actor, cell))));
        break;
      case "store": {
        const { cells, values, ordered } = operation;
        if (buffered === "all" || (buffered === "data" && !ordered)) {
          const buffers: [readonly BufferedStore[], readonly BufferedStore[]] = [...memory.buffers];
          buffers[actor] = [...buffers[actor], { cells, values }];
          go(0, this.memory(memory.cells, buffers));
        } else if (memory.buffers[actor].length === 0) {
          go(
            0,
            this.memory(written(memory.cells, cells, values), memory.buffers),
            this.model.onStore(memory.cells, actor, cells, values),
          );
        }
        break;
      }
      case "ring": {
        const [pending, total] = [doorbells[1 - actor], ringTotals[1 - actor]];
        go(
          0,
          this.memory(
            written(memory.cells, [pending, total], [memory.cells[pending] + 1, memory.cells[total] + 1]),
            memory.buffers,
          ),
        );
        break;
      }
      case "take":
        go(memory.cells[doorbells[actor]], this.memory(written(memory.cells, [doorbells[actor]], [0]), memory.buffers));
        break;
      case "turn":
        if (!operation.turn.asleep) go(EVENT.goOn);
        if (operation.turn.events && memory.cells[doorbells[actor]] > 0) go(EVENT.rung);
        if (operation.turn.maySend) go(EVENT.send);
        // A process is gone only when its last stores are where they belong.
        if (operation.turn.events && !peerAlive && memory.buffers[1 - actor].length === 0) go(EVENT.hangup);
        break;
      case "end":
      case "failed":
      case "dead":
        break;
    }
  }

  private flush(state: State, actor: number): Step {
    const { cells, buffers } = state.memory;
    const [first, ...rest] = buffers[actor];
    const left: [readonly BufferedStore[], readonly BufferedStore[]] = [...buffers];
    left[actor] = rest;
    const after = this.memory(written(cells, first.cells, first.values), left);
    return {
      ...this.step(state, actor, state.places[actor], after, "flush"),
      complaint: this.model.onStore(cells, actor, first.cells, first.values),
    };
  }

  private step(
    state: State,
    actor: number,
    place: Place,
    memory: Memory,
    what: Step["what"],
    event = 0,
    complaint?: string,
  ): Step {
    const places: readonly [Place, Place] = actor === 0 ? [place, state.places[1]] : [state.places[0], place];
    return { to: { places, memory }, actor, what, event, complaint };
  }

  private memory(cells: readonly number[], buffers: Memory["buffers"]): Memory {
    let key = String.fromCharCode(...cells);
    if (buffers[0].length + buffers[1].length > 0) key += JSON.stringify(buffers);
    let memory = this.memories.get(key);
    if (memory === undefined) {
      const odd = cells.findIndex((value) => !(value >= 0 && value < CELL_VALUES));
      const complaint = odd >= 0 ? `${this.model.cellNames[odd]} = ${cells[odd]}` : this.model.invariant(cells);
      memory = { id: this.memories.size, cells, buffers, complaint };
      this.memories.set(key, memory);
    }
    return memory;
  }

  private failure(kind: Failure["kind"], detail: string): Failure {
    return { kind, detail, trace: this.visits.filter(({ at }) => at > 0).map((visit) => this.describe(visit)) };
  }

  private describe({ state, steps, at }: Visit): string {
    const { actor, what, event } = steps[at - 1];
    const who = ACTORS[actor];
    const name = (cells: readonly number[]) => cells.map((cell) => this.model.cellNames[cell]).join(" ");
    const { operation } = state.places[actor];
    if (what === "dies") return `${who} dies`;
    if (what === "flush") return `${who}'s store of ${name(state.memory.buffers[actor][0].cells)} reaches memory`;
    switch (operation.kind) {
      case "load":
        return `${who} loads ${name(operation.cells)}: ${operation.cells.map((cell) => visible(state.memory, actor, cell)).join(" ")}`;
      case "store":
        return `${who} stores ${name(operation.cells)} = ${operation.values.join(" ")}`;
      case "turn":
        return `${who} ${operation.turn.asleep ? "asleep" : "awake"}: ${Object.keys(EVENT)[event]}`;
      default:
        return `${who} ${operation.kind}s`;
    }
  }
}

function visible(memory: Memory, actor: number, cell: number): number {
  for (let i = memory.buffers[actor].length - 1; i >= 0; i--) {
    const { cells, values } = memory.buffers[actor][i];
    const at = cells.indexOf(cell);
    if (at >= 0) return values[at];
  }
  return memory.cells[cell];
}

function written(memory: readonly number[], cells: readonly number[], values: readonly number[]): readonly number[] {
  const after = memory.slice();
  for (let i = 0; i < cells.length; i++) after[cells[i]] = values[i];
  return after;
}

/** Nobody can go on: does somebody need to? */
function complaintAboutEnd({ places }: State): string | undefined {
  const waits = places.flatMap(({ operation }, actor) => {
    if (operation.kind !== "turn" || operation.turn.complete) return [];
    return [`${ACTORS[actor]} sleeps for ever with frames to send or to receive`];
  });
  return waits.length > 0 ? waits.join("; ") : undefined;
}
