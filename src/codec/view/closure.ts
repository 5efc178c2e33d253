/**
 * Views without generated code. The positions of the fields are in arrays, by the index of the member in its message.
 */
import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { R, takeInt32, takeTag } from "../wire/read.js";
import { viewRefused } from "../wire/view-mark.js";
import type { Member } from "./members.js";
import { knownNumbers, membersOf } from "./members.js";
import type { Place, Skippers } from "./place.js";
import { checkAttached, skipField, skippers, tooDeep } from "./place.js";
import type { ResolveView, ViewClass } from "./type.js";

interface State extends Place {
  readonly positions: number[];
  readonly counts: number[];
  /** The number of the field that is set in a oneof. */
  readonly cases: number[];
  /** The values that getters have made. */
  readonly made: unknown[];
}

/** Records the value at `R.pos`, whose tag is at `at`. */
type Record = (state: State, at: number, b: Uint8Array) => void;

class ClosureView {
  readonly #state: State;

  constructor(state: State) {
    this.#state = state;
  }

  static state(view: ClosureView): State {
    const state = view.#state;
    if (state.b.length === 0) checkAttached(state.b);
    return state;
  }

  get $unknown(): never {
    throw viewRefused();
  }
}

export function closureView(desc: DescMessage, resolve: ResolveView): ViewClass {
  const members = membersOf(desc, resolve);
  const fields = skippers(desc);
  const records = new Map<number, Record>();
  const holders = new Map<number, (state: State) => boolean>();
  const zeros = members.map(() => 0);
  const View = class extends ClosureView {};
  members.forEach((member, slot) => {
    Object.defineProperty(View.prototype, member.name, { get: getterOf(member, slot), configurable: true });
    for (const field of member.kind === "oneof" ? member.fields : [member.field]) {
      records.set(field.number, recordOf(member, field, slot));
      holders.set(field.number, holderOf(member, field, slot));
    }
  });
  return {
    make(b, start, end, more, room) {
      if (room < 0) tooDeep(desc.typeName);
      const state: State = {
        b,
        start,
        end,
        more,
        room,
        positions: [...zeros],
        counts: [...zeros],
        cases: [...zeros],
        made: [],
      };
      scan(state, start, end, records, fields);
      if (more !== undefined)
        for (let i = 0; i < more.length; i += 2) scan(state, more[i], more[i + 1], records, fields);
      return new View(state);
    },
    holds: (view, number) => holders.get(number)?.(ClosureView.state(view as ClosureView)) ?? false,
    prototype: View.prototype,
  };
}

function scan(state: State, start: number, end: number, records: ReadonlyMap<number, Record>, fields: Skippers): void {
  const { b, room } = state;
  R.pos = start;
  R.len = end;
  while (R.pos < end) {
    const at = R.pos;
    const tag = takeTag(b);
    records.get(tag >>> 3)?.(state, at, b);
    skipField(b, tag, fields, room);
  }
}

function recordOf(member: Member, field: DescField, slot: number): Record {
  const record = anyRecordOf(member, field, slot);
  const known = knownNumbers(field);
  if (known === undefined) return record;
  return (state, at, b) => {
    const start = R.pos;
    const isKnown = known.has(takeInt32(b));
    R.pos = start;
    if (isKnown) record(state, at, b);
  };
}

function anyRecordOf(member: Member, { number }: DescField, slot: number): Record {
  switch (member.kind) {
    case "scalar":
      return ({ positions }) => {
        positions[slot] = R.pos;
      };
    case "message":
      return ({ positions, counts }) => {
        positions[slot] = R.pos;
        counts[slot]++;
      };
    case "collection":
      return ({ positions, counts }, at) => {
        if (counts[slot]++ === 0) positions[slot] = at;
      };
    case "oneof":
      return ({ positions, counts, cases }) => {
        counts[slot] = cases[slot] === number ? counts[slot] + 1 : 1;
        cases[slot] = number;
        positions[slot] = R.pos;
      };
  }
}

function holderOf(member: Member, { number }: DescField, slot: number): (state: State) => boolean {
  switch (member.kind) {
    case "scalar":
      return ({ positions }) => positions[slot] !== 0;
    case "oneof":
      return ({ cases }) => cases[slot] === number;
    default:
      return ({ counts }) => counts[slot] !== 0;
  }
}

function getterOf(member: Member, slot: number): (this: ClosureView) => unknown {
  switch (member.kind) {
    case "scalar": {
      const { initial, read } = member;
      return function (this: ClosureView) {
        const { b, positions } = ClosureView.state(this);
        if (positions[slot] === 0) return initial;
        R.pos = positions[slot];
        R.len = b.length;
        return read(b);
      };
    }
    case "oneof": {
      const { make } = member;
      return function (this: ClosureView) {
        const state = ClosureView.state(this);
        return (state.made[slot] ??= make(state, state.cases[slot], state.positions[slot], state.counts[slot]));
      };
    }
    default: {
      const { kind, make } = member;
      return function (this: ClosureView) {
        const state = ClosureView.state(this);
        if (kind === "message" && state.counts[slot] === 0) return undefined;
        return (state.made[slot] ??= make(state, state.positions[slot], state.counts[slot]));
      };
    }
  }
}
