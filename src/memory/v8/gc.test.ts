import assert from "node:assert/strict";
import { test } from "node:test";
import { collectYoung, countCopied, useIdleTime, whenIdle } from "./gc.js";
import { forcedCollections } from "./gc.test.util.js";

const copy = (mebibytes: number) => {
  for (let i = 0; i < mebibytes * 16; i++) countCopied(64 << 10);
};

test("the young generation is collected after 20 MiB of copies, and again after as many", async () => {
  collectYoung();
  const counts: number[] = [];
  counts.push(await forcedCollections(() => copy(16)));
  counts.push(await forcedCollections(() => copy(8)));
  counts.push(await forcedCollections(() => copy(40)));
  assert.deepEqual(counts, [0, 1, 2]);
});

test("what waits for idle time is done once, in order, and what it asks for is left for the next time", () => {
  const done: string[] = [];
  whenIdle(() => {
    done.push("first");
    whenIdle(() => done.push("third"));
  });
  whenIdle(() => done.push("second"));
  assert.equal(useIdleTime(), true);
  assert.deepEqual(done, ["first", "second"]);
  assert.deepEqual([useIdleTime(), useIdleTime()], [true, false]);
  assert.deepEqual(done, ["first", "second", "third"]);
});
