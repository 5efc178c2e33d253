/** What tests see of V8's collections. */
import type { PerformanceEntry } from "node:perf_hooks";
import { constants, PerformanceObserver } from "node:perf_hooks";
import { setImmediate } from "node:timers/promises";

const { NODE_PERFORMANCE_GC_MINOR, NODE_PERFORMANCE_GC_MAJOR, NODE_PERFORMANCE_GC_FLAGS_FORCED } = constants;

export interface Collections {
  /** Of the young generation, because somebody asked. */
  readonly forced: number;
  /** Of the old generation. */
  readonly old: number;
}

/** How often memory was collected while `act` ran. */
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

/** How often the young generation was collected because somebody asked. */
export const forcedCollections = async (act: () => unknown): Promise<number> => (await collectionsDuring(act)).forced;
