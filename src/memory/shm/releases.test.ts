import assert from "node:assert/strict";
import test from "node:test";
import { Arena } from "./arena.js";
import { ARENA_UNIT_BYTES, RELEASE_SLOTS_MAX, RING_DATA_OFFSET, WORD } from "./layout.js";
import { randomOf, violationOf } from "./random.test.util.js";
import { ReleaseReader, ReleaseWriter } from "./releases.js";

const SLOTS = 8;
const UNITS = 64;

/** A receiver of blocks, and their owner with a real arena. */
function makeRoute(slots = SLOTS) {
  const shared = new Int32Array(RING_DATA_OFFSET / 4);
  const pages = { byteLength: UNITS * ARENA_UNIT_BYTES, commit: () => undefined, decommit: () => undefined };
  const budget = { take: () => true, give: () => undefined, explanation: "" };
  const arena = new Arena(pages, budget, () => undefined);
  arena.grow();
  const reader = new ReleaseReader(shared, slots);
  const collect = () => reader.collect((unit, generation) => arena.release(unit, generation));
  /** Allocates a block and lends it to the peer. */
  const send = (byteLength: number) => {
    const unit = arena.allocate(byteLength);
    arena.handOver(unit);
    return unit;
  };
  return { writer: new ReleaseWriter(shared, slots), reader, arena, shared, collect, send };
}

/** Does what a hostile receiver can do: publishes an arbitrary entry. */
function releaseAs(unit: (block: number) => number, generation: (real: number) => number): () => number {
  const { writer, arena, collect, send } = makeRoute();
  send(ARENA_UNIT_BYTES);
  const block = send(4 * ARENA_UNIT_BYTES);
  writer.release(unit(block), generation(arena.generationOf(block)));
  writer.publish();
  return collect;
}

const same = (value: number) => value;

test("entries are seen when they are published, not before", () => {
  const { writer, reader, arena, collect, send } = makeRoute();
  const unit = send(1);
  assert.equal(writer.publish(), false);
  writer.release(unit, arena.generationOf(unit));
  assert.equal(reader.hasReleases(), false);
  assert.equal(collect(), 0);
  assert.equal(writer.publish(), true);
  assert.equal(writer.publish(), false);
  assert.equal(reader.hasReleases(), true);
  assert.equal(collect(), 1);
  assert.equal(reader.hasReleases(), false);
  assert.equal(arena.outstanding, 0);
});

test("RELEASE-1: blocks go round and round through as many slots as may be out", (context) => {
  const random = randomOf(context);
  const { writer, arena, collect, send } = makeRoute();
  const out: number[] = [];
  for (let round = 0; round < 20_000; round++) {
    if (out.length < SLOTS && random(2) === 0) {
      out.push(send(1 + random(4 * ARENA_UNIT_BYTES)));
    } else if (out.length > 0) {
      const [unit] = out.splice(random(out.length), 1);
      writer.release(unit, arena.generationOf(unit));
      if (random(3) > 0) writer.publish();
    }
    collect();
    // A block that is released but not published is still out for the owner, and keeps its slot.
    if (arena.outstanding === SLOTS) {
      writer.publish();
      collect();
    }
    assert.ok(arena.outstanding >= out.length);
  }
  writer.publish();
  collect();
  assert.equal(arena.outstanding, out.length);
});

test("all slots can be in use at once, also the largest number of them", () => {
  for (const slots of [1, SLOTS, 4096]) {
    assert.ok(slots <= RELEASE_SLOTS_MAX);
    const { writer, reader } = makeRoute(slots);
    for (let lap = 0; lap < 2; lap++) {
      for (let i = 0; i < slots; i++) writer.release(i + 1, lap);
      writer.publish();
      const seen: number[] = [];
      assert.equal(
        reader.collect((unit, generation) => seen.push(unit + generation)),
        slots,
      );
      assert.deepEqual(
        seen,
        Array.from({ length: slots }, (_, i) => i + 1 + lap),
      );
    }
  }
});

test("RELEASE-1: more entries than slots, or a count that goes back, is a violation", () => {
  for (const count of [SLOTS + 1, -1, 0x7fffffff, -0x80000000]) {
    const { shared, collect } = makeRoute();
    shared[WORD.released] = count;
    assert.throws(collect, violationOf("RELEASE-1", /release entries in a ring of 8/), `count ${count}`);
  }
});

test("the count of entries goes on where it wraps", () => {
  const { writer, reader, shared } = makeRoute();
  for (const end of [writer, reader]) (end as unknown as { count: number }).count = 0x7ffffffe;
  for (let i = 0; i < 6; i++) {
    writer.release(7, i);
    writer.publish();
    assert.equal(
      reader.collect((unit, generation) => assert.deepEqual([unit, generation], [7, i])),
      1,
    );
  }
  assert.equal(shared[WORD.released], (0x7ffffffe + 6) | 0);
});

test("RELEASE-2: a block under a generation that it does not have is a violation", () => {
  assert.throws(
    releaseAs(same, (generation) => generation + 1),
    violationOf("RELEASE-2", /is out under generation 1, not 2/),
  );
  assert.throws(
    releaseAs(same, (generation) => generation - 1),
    violationOf("RELEASE-2"),
  );
  assert.throws(
    releaseAs(same, () => 0xffffffff),
    violationOf("RELEASE-2", /not 4294967295/),
  );
});

test("RELEASE-2: a unit inside a block, its last, the header's or one that does not exist is a violation", () => {
  const elsewhere: ((block: number) => number)[] = [
    (block) => block + 1,
    (block) => block + 3,
    () => 0,
    () => UNITS - 1,
    () => UNITS,
    () => 0x7fffffff,
    () => 0xffffffff,
  ];
  for (const unit of elsewhere) {
    assert.throws(
      releaseAs(unit, same),
      violationOf("RELEASE-2", /is not the start of a block that is out/),
      String(unit),
    );
  }
});

test("RELEASE-2: a second release is a violation, whether its neighbours are free or out", () => {
  for (const [before, after] of [
    [true, true],
    [true, false],
    [false, true],
    [false, false],
  ]) {
    const { writer, arena, collect, send } = makeRoute();
    const [left, block, right] = [arena.allocate(1), send(1), arena.allocate(1)];
    if (!before) arena.free(left);
    if (!after) arena.free(right);
    for (let times = 0; times < 2; times++) writer.release(block, arena.generationOf(block));
    writer.publish();
    assert.throws(collect, violationOf("RELEASE-2", /is not the start of a block that is out/));
  }
});

test("RELEASE-2: a release that comes late, when the block is out again, is a violation", () => {
  const { writer, arena, collect, send } = makeRoute();
  const block = send(1);
  const generation = arena.generationOf(block);
  writer.release(block, generation);
  writer.publish();
  collect();
  assert.equal(send(1), block);
  writer.release(block, generation);
  writer.publish();
  assert.throws(collect, violationOf("RELEASE-2", /generation/));
});
