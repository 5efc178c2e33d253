/** How many mappings the kernel allows a process. */
import { readFileSync } from "node:fs";

/** The kernel's default. */
const MAPPINGS_MAX_DEFAULT = 65_530;

let limit: number | undefined;

/** `vm.max_map_count`, as it was at the first call; the kernel's default where it cannot be read. */
export function mappingLimit(): number {
  return (limit ??= readLimit());
}

function readLimit(): number {
  try {
    const read = Number(readFileSync("/proc/sys/vm/max_map_count", "latin1"));
    return read > 0 ? read : MAPPINGS_MAX_DEFAULT;
  } catch {
    return MAPPINGS_MAX_DEFAULT;
  }
}
