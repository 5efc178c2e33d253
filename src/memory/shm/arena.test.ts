import assert from "node:assert/strict";
import test from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { Arena, COMMIT_STEP_BYTES } from "./arena.js";
import { createCommitBudget } from "./budget.js";
import { ARENA_UNIT_BYTES } from "./layout.js";
import type { Random } from "./random.test.util.js";
import { randomOf, violationOf } from "./random.test.util.js";

const STEP_UNITS = COMMIT_STEP_BYTES / ARENA_UNIT_BYTES;
/** The largest block in the first step: unit 0 holds the header. */
const FIRST_BYTES = COMMIT_STEP_BYTES - ARENA_UNIT_BYTES;

interface Options {
  readonly byteLength?: number;
  readonly memoryLimitBytes?: number | undefined;
}

function makeArena({ byteLength = 4 * COMMIT_STEP_BYTES, memoryLimitBytes }: Options = {}) {
  const log: string[] = [];
  const state = { rooms: 0, failure: undefined as Error | undefined, taken: 0 };
  const budget = createCommitBudget(memoryLimitBytes);
  const counting = {
    take: (bytes: number) => budget.take(bytes) && ((state.taken += bytes), true),
    give: (bytes: number) => (budget.give(bytes), (state.taken -= bytes), undefined),
    get explanation() {
      return budget.explanation;
    },
  };
  const pages = {
    byteLength,
    commit(offset: number, bytes: number) {
      if (state.failure !== undefined) throw state.failure;
      log.push(`commit ${offset} ${bytes}`);
    },
    decommit: (offset: number, bytes: number) => void log.push(`give back ${offset} ${bytes}`),
  };
  const arena = new Arena(pages, counting, () => void state.rooms++);
  return { arena, log, state };
}

/** Creates an arena and commits all its steps. */
async function makeGrown(byteLength: number) {
  const made = makeArena({ byteLength });
  while (made.arena.committedBytes < byteLength) {
    assert.ok(made.arena.grow());
    await nextTurn();
  }
  return made;
}

function sendAndRelease(arena: Arena, unit: number): void {
  arena.handOver(unit);
  arena.release(unit, arena.generationOf(unit));
}

/** The reference implementation: it tracks each unit that is out. */
class Book {
  readonly blocks = new Map<number, number>();
  private readonly units: boolean[];

  constructor(units: number) {
    this.units = new Array<boolean>(units).fill(false);
    this.units[0] = true;
  }

  take(unit: number, byteLength: number): void {
    const count = Math.max(1, Math.ceil(byteLength / ARENA_UNIT_BYTES));
    for (let i = unit; i < unit + count; i++) {
      assert.equal(this.units[i], false, `ARENA-1: unit ${i} is handed out twice, is the header, or does not exist`);
      this.units[i] = true;
    }
    this.blocks.set(unit, count);
  }

  decommit(unit: number): void {
    this.units.fill(false, unit, unit + this.blocks.get(unit)!);
    this.blocks.delete(unit);
  }

  pick(random: Random): number {
    return [...this.blocks.keys()][random(this.blocks.size)];
  }

  /** The length of the longest free range, in units. */
  get longestFree(): number {
    let longest = 0;
    let run = 0;
    for (const out of this.units) {
      run = out ? 0 : run + 1;
      longest = Math.max(longest, run);
    }
    return longest;
  }

  get outUnits(): number {
    return [...this.blocks.values()].reduce((sum, units) => sum + units, 0);
  }
}

test("ARENA-1, ARENA-2: random blocks never overlap, and an allocation fails only if no free stretch is long enough", async (context) => {
  const random = randomOf(context);
  const byteLength = 2 * COMMIT_STEP_BYTES;
  const { arena } = await makeGrown(byteLength);
  const book = new Book(byteLength / ARENA_UNIT_BYTES);
  for (let round = 0; round < 20_000; round++) {
    // Phases that mostly allocate alternate with phases that mostly free, so that the arena is full and empty many
    // times.
    const giving = Math.floor(round / 500) % 2 === 1;
    if (book.blocks.size > 0 && random(10) < (giving ? 7 : 3)) {
      const unit = book.pick(random);
      if (random(2) === 0) sendAndRelease(arena, unit);
      else arena.free(unit);
      book.decommit(unit);
    } else {
      const bytes = random(8) === 0 ? random(byteLength / 4) : random(16 * ARENA_UNIT_BYTES);
      const unit = arena.allocate(bytes);
      if (unit >= 0) book.take(unit, bytes);
      else
        assert.ok(book.longestFree < Math.max(1, Math.ceil(bytes / ARENA_UNIT_BYTES)), "a free stretch was not found");
    }
    assert.equal(arena.outstanding, book.blocks.size);
    if (round % 100 === 0) assert.equal(arena.outstandingBytes, book.outUnits * ARENA_UNIT_BYTES);
  }
  for (const unit of book.blocks.keys()) sendAndRelease(arena, unit);
  assert.equal(arena.outstandingBytes, 0);
  assert.equal(arena.allocate(byteLength - ARENA_UNIT_BYTES), 1, "free neighbours are joined back to the full size");
});

test("free neighbours are joined in whatever order they come back", async () => {
  for (const order of [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
  ]) {
    const { arena } = await makeGrown(COMMIT_STEP_BYTES);
    const third = Math.floor((STEP_UNITS - 1) / 3);
    const sizes = [third, third, STEP_UNITS - 1 - 2 * third];
    const blocks = sizes.map((units) => arena.allocate(units * ARENA_UNIT_BYTES));
    assert.equal(arena.allocate(1), -1);
    for (const i of order) arena.free(blocks[i]);
    assert.equal(arena.allocate(FIRST_BYTES), 1);
  }
});

test("of free blocks of a size, the one freed last is used first", async () => {
  const { arena } = await makeGrown(COMMIT_STEP_BYTES);
  const blocks = Array.from({ length: 9 }, () => arena.allocate(4 * ARENA_UNIT_BYTES));
  // Only every other one is freed, so that none are joined.
  const freed = [blocks[1], blocks[5], blocks[3], blocks[7]];
  for (const unit of freed) arena.free(unit);
  assert.deepEqual(
    freed.map(() => arena.allocate(4 * ARENA_UNIT_BYTES)),
    freed.reverse(),
  );
});

test("the only free block that is large enough is found behind many of its size class that are not", async () => {
  const { arena } = await makeGrown(COMMIT_STEP_BYTES);
  // Four to seven units are one class. Every other block stays out, so that none are joined.
  const blocks = [7, ...new Array<number>(20).fill(4)].map(
    (units) => [arena.allocate(units * ARENA_UNIT_BYTES), arena.allocate(1)][0],
  );
  while (arena.allocate(8 * ARENA_UNIT_BYTES) >= 0);
  while (arena.allocate(1) >= 0);
  for (const unit of blocks) arena.free(unit);
  assert.equal(arena.allocate(6 * ARENA_UNIT_BYTES), blocks[0]);
  assert.equal(arena.allocate(6 * ARENA_UNIT_BYTES), -1);
});

test("ARENA-2: a block has another generation each time it goes out", async () => {
  const { arena } = await makeGrown(COMMIT_STEP_BYTES);
  const unit = arena.allocate(1);
  const first = arena.generationOf(unit);
  arena.handOver(unit);
  arena.release(unit, first);
  assert.equal(arena.allocate(1), unit);
  assert.notEqual(arena.generationOf(unit), first);
  arena.handOver(unit);
  assert.throws(() => arena.release(unit, first), violationOf("RELEASE-2", /generation/));
});

test("ARENA-2: the peer cannot release what it was not given, nor what it gave back, while we hold it", async () => {
  const { arena } = await makeGrown(COMMIT_STEP_BYTES);
  const unit = arena.allocate(1);
  const generation = arena.generationOf(unit);
  assert.throws(
    () => arena.release(unit, generation),
    violationOf("RELEASE-2", /not the start of a block that is out/),
  );
  assert.equal(arena.isOut(unit, generation, 1), false);
  arena.handOver(unit);
  assert.equal(arena.isOut(unit, generation, ARENA_UNIT_BYTES), true);
  assert.equal(arena.isOut(unit, generation, ARENA_UNIT_BYTES + 1), false);
  assert.equal(arena.isOut(unit, generation + 1, 1), false);
  arena.takeOver(unit);
  assert.throws(() => arena.release(unit, generation), violationOf("RELEASE-2"));
  assert.equal(arena.outstanding, 1);
  arena.free(unit);
  assert.equal(arena.outstanding, 0);
});

test("ARENA-2: a block that both sides hold is free when the last hold goes, whoever's it is", async () => {
  const { arena } = await makeGrown(COMMIT_STEP_BYTES);
  for (const peerFirst of [true, false]) {
    const unit = arena.allocate(1);
    const generation = arena.generationOf(unit);
    arena.lend(unit);
    arena.hold(unit);
    const steps = [() => arena.release(unit, generation), () => arena.free(unit)];
    if (!peerFirst) steps.reverse();
    for (const step of steps) {
      step();
      assert.equal(arena.outstanding, 1);
    }
    arena.free(unit);
    assert.equal(arena.outstanding, 0);
  }
});

test("ARENA-2: what is not held cannot be dropped: that is our own bug", async () => {
  const { arena } = await makeGrown(COMMIT_STEP_BYTES);
  const unit = arena.allocate(4 * ARENA_UNIT_BYTES);
  assert.throws(() => arena.free(unit + 1), /broken invariant: ARENA-2/);
  arena.free(unit);
  assert.throws(() => arena.free(unit), /broken invariant: ARENA-2/);
});

test("blocks of no bytes and of one byte take a unit, the largest takes all", async () => {
  const { arena } = await makeGrown(COMMIT_STEP_BYTES);
  assert.equal(arena.allocate(COMMIT_STEP_BYTES), -1);
  const whole = arena.allocate(FIRST_BYTES);
  assert.equal(whole, 1);
  assert.equal(arena.allocate(0), -1);
  arena.free(whole);
  arena.allocate(0);
  arena.allocate(1);
  assert.equal(arena.outstandingBytes, 2 * ARENA_UNIT_BYTES);
});

test("ARENA-3: nothing is handed out before it is committed", () => {
  const { arena, log } = makeArena();
  assert.equal(arena.allocate(1), -1);
  assert.deepEqual(log, []);
  assert.equal(arena.committedBytes, ARENA_UNIT_BYTES);
  assert.equal(arena.grow(), true);
  assert.deepEqual(log, [`commit ${ARENA_UNIT_BYTES} ${FIRST_BYTES}`]);
  assert.equal(arena.allocate(1), 1);
});

test("ARENA-3: at most one step is committed per turn of the event loop, and whoever waits is told in a later one", async () => {
  const { arena, state } = makeArena();
  assert.equal(arena.grow(), true);
  assert.equal(arena.grow(), false);
  assert.equal(arena.committedBytes, COMMIT_STEP_BYTES);
  assert.equal(state.rooms, 0);
  await nextTurn();
  assert.equal(state.rooms, 1);
  assert.equal(arena.grow(), true);
  assert.equal(arena.committedBytes, 2 * COMMIT_STEP_BYTES);
  await nextTurn();
  assert.equal(state.rooms, 2);
});

test("a block larger than a step is had after as many turns as it has steps", async () => {
  const { arena } = makeArena();
  const bytes = 3 * COMMIT_STEP_BYTES;
  for (let step = 0; step < 3; step++) {
    assert.equal(arena.allocate(bytes), -1);
    assert.equal(arena.grow(), true);
    await nextTurn();
  }
  assert.equal(arena.allocate(bytes), -1, "the header's unit is missing");
  arena.grow();
  assert.equal(arena.allocate(bytes), 1);
});

test("an arena does not grow past its limit, whole steps or not", async () => {
  for (const byteLength of [
    COMMIT_STEP_BYTES / 2,
    COMMIT_STEP_BYTES,
    2 * COMMIT_STEP_BYTES,
    COMMIT_STEP_BYTES + 65536,
  ]) {
    const { arena, log } = await makeGrown(byteLength);
    assert.equal(arena.committedBytes, byteLength);
    assert.equal(arena.grow(), false);
    assert.equal(log.length, Math.ceil(byteLength / COMMIT_STEP_BYTES));
    assert.equal(arena.allocate(byteLength), -1);
    assert.equal(arena.allocate(byteLength - ARENA_UNIT_BYTES), 1);
  }
});

test("ARENA-3: without budget the arena does not grow, and says what the limit is and how to raise it", () => {
  const { arena, log } = makeArena({ memoryLimitBytes: COMMIT_STEP_BYTES });
  assert.equal(arena.exhausted, undefined);
  assert.equal(arena.grow(), false);
  assert.deepEqual(log, []);
  assert.match(arena.exhausted!, /half of this cgroup's memory limit of 2097152.*raise/);
});

test("a refusal is not exhaustion while there is something to wait for", async () => {
  const { arena } = makeArena({ memoryLimitBytes: 2 * COMMIT_STEP_BYTES });
  assert.equal(arena.grow(), true);
  await nextTurn();
  const unit = arena.allocate(FIRST_BYTES);
  assert.equal(arena.grow(), false);
  assert.equal(arena.exhausted, undefined);
  arena.free(unit);
  assert.equal(arena.exhausted, undefined);
});

test("a block that could not be used is free again, and says why while it is the only one", async () => {
  const { arena } = await makeGrown(COMMIT_STEP_BYTES);
  const other = arena.allocate(1);
  const unit = arena.allocate(1);
  arena.free(unit, new Error("no mapping left"));
  assert.equal(arena.exhausted, undefined, "the other may come back");
  arena.free(other);
  assert.equal(arena.exhausted, undefined, "it came back: worth another try");
  arena.free(arena.allocate(FIRST_BYTES), new Error("no mapping left"));
  assert.equal(arena.exhausted, "no mapping left");
  assert.equal(arena.allocate(FIRST_BYTES), 1);
});

test("ARENA-3: a commit that the kernel refuses gives the budget back, and the next may succeed", () => {
  const { arena, state } = makeArena();
  state.failure = new Error("ENOSPC: no space left");
  assert.equal(arena.grow(), false);
  assert.equal(state.taken, 0);
  assert.equal(arena.exhausted, "ENOSPC: no space left");
  assert.equal(arena.committedBytes, ARENA_UNIT_BYTES);
  state.failure = undefined;
  assert.equal(arena.grow(), true);
  assert.equal(arena.exhausted, undefined);
  assert.equal(arena.allocate(FIRST_BYTES), 1);
});

test("trimming gives back all but the first step, and what was given back can be had again", async () => {
  const { arena, log, state } = await makeGrown(3 * COMMIT_STEP_BYTES);
  const unit = arena.allocate(COMMIT_STEP_BYTES);
  assert.equal(arena.trim(), 0, "a block is out");
  const generation = arena.generationOf(unit);
  sendAndRelease(arena, unit);
  const late = arena.allocate(3 * COMMIT_STEP_BYTES - ARENA_UNIT_BYTES);
  arena.free(late);
  log.length = 0;
  assert.equal(arena.trim(), 2 * COMMIT_STEP_BYTES);
  assert.deepEqual(log, [`give back ${COMMIT_STEP_BYTES} ${2 * COMMIT_STEP_BYTES}`]);
  assert.equal(state.taken, FIRST_BYTES);
  assert.equal(arena.committedBytes, COMMIT_STEP_BYTES);
  assert.equal(arena.trim(), 0);

  assert.throws(() => arena.release(STEP_UNITS, 1), violationOf("RELEASE-2"), "beyond what is committed");
  assert.equal(arena.allocate(COMMIT_STEP_BYTES), -1);
  assert.equal(arena.allocate(FIRST_BYTES), 1);
  assert.ok(arena.generationOf(1) > generation, "generations are not forgotten");
  assert.equal(arena.grow(), true);
  assert.equal(arena.allocate(COMMIT_STEP_BYTES), STEP_UNITS);
});

test("an arena that was trimmed and grown again joins up as before", async (context) => {
  const random = randomOf(context);
  const byteLength = 3 * COMMIT_STEP_BYTES;
  const { arena } = await makeGrown(byteLength);
  for (let round = 0; round < 20; round++) {
    const book = new Book(arena.committedBytes / ARENA_UNIT_BYTES);
    for (let i = 0; i < 50; i++) {
      const bytes = random(64 * ARENA_UNIT_BYTES);
      const unit = arena.allocate(bytes);
      if (unit >= 0) book.take(unit, bytes);
      if (book.blocks.size > 0 && random(3) === 0) {
        const back = book.pick(random);
        sendAndRelease(arena, back);
        book.decommit(back);
      }
    }
    for (const unit of book.blocks.keys()) arena.free(unit);
    if (random(2) === 0) arena.trim();
    while (random(3) > 0 && arena.grow()) await nextTurn();
    const all = arena.committedBytes - ARENA_UNIT_BYTES;
    const unit = arena.allocate(all);
    assert.equal(unit, 1);
    arena.free(unit);
  }
});

test("closing gives the whole budget back, once, and nothing grows or calls afterwards", async () => {
  const { arena, state, log } = makeArena();
  arena.grow();
  arena.close();
  arena.close();
  assert.equal(state.taken, 0);
  assert.equal(arena.grow(), false);
  assert.equal(arena.trim(), 0);
  assert.equal(log.length, 1);
  await nextTurn();
  assert.equal(state.rooms, 0);
});

test("a block that the peer has several times counts once for each release that may come (BLOCKS-3)", () => {
  const { arena } = makeArena();
  arena.grow();
  const unit = arena.allocate(1);
  const other = arena.allocate(1);
  const generation = arena.generationOf(unit);
  assert.equal(arena.releasesDue, 2);
  arena.lend(unit);
  assert.equal(arena.releasesDue, 2);
  arena.lend(unit);
  arena.handOver(unit);
  assert.equal(arena.releasesDue, 4);
  arena.release(unit, generation);
  arena.takeOver(unit);
  assert.equal(arena.releasesDue, 2);
  arena.release(unit, generation);
  assert.equal(arena.outstanding, 2, "what was taken over is still held");
  assert.throws(() => arena.release(unit, generation), violationOf("RELEASE-2"));
  arena.free(unit);
  arena.free(other);
  assert.deepEqual([arena.releasesDue, arena.outstanding], [0, 0]);
});
