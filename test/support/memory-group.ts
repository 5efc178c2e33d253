/** A memory control group for processes of a test. */
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { waitUntil } from "./waiting.js";

export interface MemoryGroup {
  /** A command that runs another one in the group. */
  readonly wrap: readonly string[];
  /** Removes the group when its processes are gone. To be registered after they are: a test's hooks run in order. */
  remove(): Promise<void>;
}

/** Makes a group inside of this process's own; undefined where none can be made. */
export function memoryGroup(limitBytes: number): MemoryGroup | undefined {
  const group = make(limitBytes);
  if (group === undefined) return undefined;
  return {
    wrap: ["/bin/sh", "-c", `echo $$ > ${join(group, "cgroup.procs")} && exec "$@"`, "sh"],
    remove: () =>
      waitUntil("the memory control group to be removed", () => {
        try {
          rmdirSync(group);
          return true;
        } catch (error) {
          return String(error);
        }
      }),
  };
}

/** Of version 1, or of version 2 where this process's own group delegates memory. */
function make(limitBytes: number): string | undefined {
  const lines = readFileSync("/proc/self/cgroup", "utf8").split("\n");
  const name = `isthmus-${process.pid}-${Math.floor(performance.now())}`;
  for (const line of lines) {
    const [, controllers = "", own = ""] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    const isV2 = line.startsWith("0::");
    if (!isV2 && controllers !== "memory") continue;
    const group = join(isV2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory", own, name);
    try {
      mkdirSync(group);
      writeFileSync(join(group, isV2 ? "memory.max" : "memory.limit_in_bytes"), String(limitBytes));
      return group;
    } catch {
      try {
        rmdirSync(group);
      } catch {
        // It was not made.
      }
    }
  }
  return undefined;
}
