import assert from "node:assert/strict";
import { test } from "node:test";
import { getHeapStatistics } from "node:v8";
import type { BlockUser } from "./block-views.js";
import { BlockViews } from "./block-views.js";
import { collectSoon, collectYoung, useIdleTime } from "../v8/gc.js";
import { forcedCollections } from "../v8/gc.test.util.js";
import { transferBuffer } from "../v8/array-buffer-transfer.js";

const UNIT_BYTES = 4096;

function createViews(arenaBytes = 1 << 20) {
  let made = 0;
  const arena = {
    byteLength: arenaBytes,
    upTo: () => new Uint8Array(0),
    viewOf: (_offset: number, byteLength: number) => {
      made++;
      return new ArrayBuffer(byteLength);
    },
    detach: (buffer: ArrayBuffer) => void transferBuffer(buffer),
    listenToFreedViews: () => undefined,
  };
  return { views: new BlockViews(arena, UNIT_BYTES), made: () => made };
}

function createUser(): BlockUser {
  return { view: undefined, onCollected: () => undefined };
}

test("a unit's ArrayBuffer is used again for the same bytes, and never twice at a time", () => {
  const { views, made } = createViews();
  const [first, second] = [createUser(), createUser()];
  const a = views.open(3, 0, 64, first);
  const b = views.open(3, 0, 64, second);
  assert.equal(made(), 2);
  assert.equal(views.detach(a, first), true);
  assert.equal(views.detach(a, first), false);
  assert.equal(views.detach(b, second), true);
  assert.deepEqual([a.byteLength, b.byteLength], [0, 0]);
  const c = views.open(3, 0, 64, first);
  assert.equal(made(), 2);
  const d = views.open(3, 0, 64, second);
  assert.equal(made(), 3);
  assert.ok(c !== d && c.byteLength === 64 && d.byteLength === 64);
  views.detach(c, first);
  // Other bytes of the same block.
  assert.equal(views.open(3, 64, 128, first).byteLength, 128);
  assert.equal(made(), 4);
});

test("any number of units has ArrayBuffers, of which a bounded number wait", () => {
  const { views, made } = createViews();
  const users = Array.from({ length: 5_000 }, createUser);
  for (let round = 0; round < 2; round++) {
    const buffers = users.map((user, unit) => views.open(unit, 0, 8, user));
    for (const [unit, user] of users.entries()) assert.equal(views.detach(buffers[unit], user), true);
  }
  assert.ok(views.reused > 0 && views.reused <= 64, `${views.reused} were used again`);
  assert.equal(made() + views.reused, 10_000);
  views.clear();
  views.open(0, 0, 8, users[0]);
  assert.equal(made() + views.reused, 10_001);
});

test("collections of the young generation free what is used again and again, also after one of the old generation", () => {
  const { views } = createViews();
  const use = (times: number) => {
    for (let i = 0; i < times; i++) {
      const user = createUser();
      views.detach(views.open(i % 5, 0, 64, user), user);
    }
  };
  use(5_000);
  assert.equal(collectSoon(), true);
  const heapBytes: number[] = [];
  for (let round = 0; round < 8; round++) {
    use(5_000);
    collectYoung();
    heapBytes.push(getHeapStatistics().used_heap_size);
  }
  const grownBytes = Math.max(...heapBytes) - Math.min(...heapBytes);
  assert.ok(grownBytes < 2 << 20, `the heap grew by ${(grownBytes / 2 ** 20).toFixed(1)} MiB`);
});

test("what was not given back is collected in idle time, else when more of it is opened", async () => {
  const mebibyte = 1 << 20;
  const { views } = createViews(64 * mebibyte);
  let unit = 0;
  const open = (count: number) => {
    for (let i = 0; i < count; i++) views.open(unit++, 0, mebibyte, createUser());
  };
  const counts = [
    await forcedCollections(() => open(5)),
    await forcedCollections(() => assert.equal(useIdleTime(), true)),
    await forcedCollections(() => assert.equal(useIdleTime(), false)),
    await forcedCollections(() => open(9)),
    await forcedCollections(() => open(1)),
    // Not collected again: only 1 MiB was opened since.
    await forcedCollections(() => assert.equal(useIdleTime(), true)),
  ];
  assert.deepEqual(counts, [0, 1, 0, 0, 1, 0]);
});

test("views that are over ask for no idle time, whether they did before or not", () => {
  const mebibyte = 1 << 20;
  const { views } = createViews(64 * mebibyte);
  const open = (count: number) => {
    for (let unit = 0; unit < count; unit++) views.open(unit, 0, mebibyte, createUser());
  };
  open(5);
  views.clear();
  assert.equal(useIdleTime(), false);
  open(5);
  assert.equal(useIdleTime(), false);
});
