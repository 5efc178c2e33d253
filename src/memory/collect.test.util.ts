/** What tests see of V8's collections. */
import type { PerformanceEntry } from "node:perf_hooks";
import { constants, PerformanceObserver } from "node:perf_hooks";
import { setImmediate } from "node:timers/promises";

/** How often the young generation was collected because somebody asked, while `act` ran. */
export async function forcedCollections(act: () => void): Promise<number> {
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
