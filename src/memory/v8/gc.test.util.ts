/** Counts V8's garbage collections, for tests. */
import type { PerformanceEntry } from "node:perf_hooks";
import { constants, PerformanceObserver } from "node:perf_hooks";
import { setImmediate } from "node:timers/promises";

const { NODE_PERFORMANCE_GC_MINOR, NODE_PERFORMANCE_GC_MAJOR, NODE_PERFORMANCE_GC_FLAGS_FORCED } = constants;

export interface Collections {
  /** Requested collections of the young generation. */
  readonly forced: number;
  /** Collections of the old generation. */
  readonly old: number;
}

/** Counts the collections while `act` runs. */
export async function collectionsDuring(act: () => unknown): Promise<Collections> {
  let forced = 0;
  let old = 0;
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const { kind, flags } = (
        entry as PerformanceEntry & { readonly detail: { readonly kind: number; readonly flags: number } }
      ).detail;
      if (kind === NODE_PERFORMANCE_GC_MINOR && (flags & NODE_PERFORMANCE_GC_FLAGS_FORCED) !== 0) forced++;
      if (kind === NODE_PERFORMANCE_GC_MAJOR) old++;
    }
  });
  observer.observe({ entryTypes: ["gc"] });
  await act();
  for (let turn = 0; turn < 10; turn++) await setImmediate();
  observer.disconnect();
  return { forced, old };
}

/** Counts the requested collections of the young generation while `act` runs. */
export const forcedCollections = async (act: () => unknown): Promise<number> => (await collectionsDuring(act)).forced;
