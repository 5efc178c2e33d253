/** The private memory that all clients of this thread together may make it keep. */
import { totalmem } from "node:os";
import { getHeapStatistics } from "node:v8";
import { KeptPool } from "../../memory/kept/kept-bytes.js";
import { memoryLimitBytes } from "../../os/cgroup.js";

let pool: KeptPool | undefined;

/**
 * Half of the memory that there is, and no more than V8's heap may have: decoded messages are on the heap, and count
 * with at least what they take there.
 */
export function keptPool(): KeptPool {
  if (pool !== undefined) return pool;
  const memoryBytes = Math.min(memoryLimitBytes() ?? Infinity, totalmem());
  return (pool = new KeptPool(Math.min(memoryBytes / 2, getHeapStatistics().heap_size_limit)));
}
