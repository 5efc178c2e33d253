/**
 * One actor of the model: a synchronous function over a `Port`, run anew for every step that it has not taken before.
 * The port answers its first accesses from the recorded history and, at the first one that is not recorded, notes what
 * the actor wants and unwinds it. So the code under test needs no hooks but the port itself.
 *
 * Where an actor is, is told by the results of its accesses so far; at a turn of its event loop, where its stack is
 * empty, by its objects' contents, so histories that led to the same objects are one.
 */

/** What can happen to an actor when it turns its event loop. */
export const EVENT = {
  /** Nothing: go on. Not offered to an actor that is asleep. */
  goOn: 0,
  /** The doorbell has rung and was not taken. */
  rung: 1,
  /** The program has something to send. */
  send: 2,
  /** The peer is dead. */
  hangup: 3,
} as const;

export interface Turn {
  readonly asleep: boolean;
  /** The event loop itself turns: there may be doorbells and hang-ups, not just other code of the same turn. */
  readonly events: boolean;
  readonly maySend: boolean;
  /** Everything is sent and received: this actor may sleep for ever. */
  readonly complete: boolean;
}

/** An actor's door to what is shared. Every call is one step. */
export interface Port {
  /** The values of `cells`, all read in this step. */
  load(cells: readonly number[]): readonly number[];
  /** @param ordered sequentially consistent; else a plain store */
  store(cells: readonly number[], values: readonly number[], ordered: boolean): void;
  /** Rings the other actor's doorbell. */
  ring(): void;
  /** Takes the rings of the own doorbell. */
  take(): number;
  /** @param digest all that the actor's future depends on, as text */
  turn(turn: Turn, digest: () => string): number;
  /** To be called after code that may have swallowed the exception that unwinds the actor. */
  unwind(): void;
  readonly unwinding: boolean;
}

/** Returns what the actor has to show when it ends. */
export type Program = (port: Port) => number;

export type Operation =
  | { readonly kind: "load"; readonly cells: readonly number[] }
  | {
      readonly kind: "store";
      readonly cells: readonly number[];
      readonly values: readonly number[];
      readonly ordered: boolean;
    }
  | { readonly kind: "ring" }
  | { readonly kind: "take" }
  | { readonly kind: "turn"; readonly turn: Turn; readonly digest: string }
  | { readonly kind: "end"; readonly result: number }
  | { readonly kind: "failed"; readonly detail: string }
  | { readonly kind: "dead" };

/** Where an actor is. */
export interface Place {
  readonly id: number;
  readonly before: Place | undefined;
  /** Result of the operation of `before`. */
  readonly result: number;
  readonly operation: Operation;
  readonly next: Map<number, Place>;
}

/** Results from here on stand for the values of several cells; cells hold less. */
export const CELL_VALUES = 0x10000;

/** One actor: all places that it has been seen at. */
export class Actor {
  readonly start: Place;
  readonly dead: Place;
  private readonly program: Program;
  private places = 0;
  /** Places where its stack is empty, by the contents of its objects. */
  private readonly turns = new Map<string, Place>();
  private readonly tuples: (readonly number[])[] = [];
  private readonly tupleIds = new Map<string, number>();

  constructor(program: Program) {
    this.program = program;
    this.dead = { id: this.places++, before: undefined, result: 0, operation: { kind: "dead" }, next: new Map() };
    this.start = this.place(undefined, 0, []);
  }

  follow(place: Place, result: number): Place {
    let next = place.next.get(result);
    if (next === undefined) {
      next = this.place(place, result, historyOf(place, result));
      place.next.set(result, next);
    }
    return next;
  }

  /** One number for the values of a load. */
  resultOf(values: readonly number[]): number {
    if (values.length === 1) return values[0];
    const key = values.join();
    let id = this.tupleIds.get(key);
    if (id === undefined) {
      id = CELL_VALUES + this.tuples.length;
      this.tuples.push(values);
      this.tupleIds.set(key, id);
    }
    return id;
  }

  private place(before: Place | undefined, result: number, history: readonly number[]): Place {
    const operation = this.run(history);
    if (operation.kind === "turn") {
      const same = this.turns.get(operation.digest);
      if (same !== undefined) return same;
    }
    const place = { id: this.places++, before, result, operation, next: new Map<number, Place>() };
    if (operation.kind === "turn") this.turns.set(operation.digest, place);
    return place;
  }

  /** Runs the program past `history` to what it wants next. */
  private run(history: readonly number[]): Operation {
    let at = 0;
    let wanted: Operation | undefined;
    const perform = (operation: () => Operation): number => {
      if (wanted === undefined) {
        if (at < history.length) return history[at++];
        wanted = operation();
      }
      // Preallocated, and not an Error: it carries nothing and is thrown a million times.
      // eslint-disable-next-line @typescript-eslint/only-throw-error
      throw UNWIND;
    };
    const port: Port = {
      load: (cells) => {
        const result = perform(() => ({ kind: "load", cells }));
        return result < CELL_VALUES ? [result] : this.tuples[result - CELL_VALUES];
      },
      store: (cells, values, ordered) => void perform(() => ({ kind: "store", cells, values, ordered })),
      ring: () => void perform(() => ({ kind: "ring" })),
      take: () => perform(() => ({ kind: "take" })),
      turn: (turn, digest) => perform(() => ({ kind: "turn", turn, digest: `${JSON.stringify(turn)} ${digest()}` })),
      unwind: () => {
        // eslint-disable-next-line @typescript-eslint/only-throw-error
        if (wanted !== undefined) throw UNWIND;
      },
      get unwinding() {
        return wanted !== undefined;
      },
    };
    try {
      const result = this.program(port);
      return wanted ?? { kind: "end", result };
    } catch (error) {
      return wanted ?? { kind: "failed", detail: error instanceof Error ? error.message : String(error) };
    }
  }
}

const UNWIND = Symbol("unwind");

function historyOf(place: Place, result: number): number[] {
  const history = [result];
  for (let at: Place = place; at.before !== undefined; at = at.before) history.push(at.result);
  return history.reverse();
}
