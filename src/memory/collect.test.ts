import assert from "node:assert/strict";
import type { PerformanceEntry } from "node:perf_hooks";
import { constants, PerformanceObserver } from "node:perf_hooks";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { collectYoung, countCopied } from "./collect.js";

/** How often the young generation was collected because somebody asked, while `act` ran. */
async function forcedCollections(act: () => void): Promise<number> {
  let count = 0;
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const { kind, flags } = (entry as PerformanceEntry & { readonly detail: { readonly kind: number; readonly flags: number } }).detail;
      if (kind === constants.NODE_PERFORMANCE_GC_MINOR && (flags & constants.NODE_PERFORMANCE_GC_FLAGS_FORCED) !== 0) count++;
    }
  });
  observer.observe({ entryTypes: ["gc"] });
  act();
  for (let turn = 0; turn < 10; turn++) await setImmediate();
  observer.disconnect();
  return count;
}

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
