/** What a process holds, as the kernel sees it. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { collectSoon } from "../../src/memory/v8/gc.js";

export interface Descriptors {
  /**
   * Open descriptors, but for that of the memory that a thread keeps to receive into (RECEIVE-2), which comes with the
   * first message that needs it.
   */
  open: number;
  /** Mappings of memfds: own segments and peers'. */
  mappings: number;
}

/** Of this process, when garbage does not count: leased payloads keep their mapping until they are collected. */
export function ownDescriptors(): Descriptors {
  collectSoon();
  return descriptorsOf(process.pid);
}

export function descriptorsOf(pid: number): Descriptors {
  const maps = readFileSync(`/proc/${pid}/maps`, "utf8").split("\n");
  return {
    open: readdirSync(`/proc/${pid}/fd`).filter((fd) => !isReceiveMemory(`/proc/${pid}/fd/${fd}`)).length,
    mappings: maps.filter((line) => line.includes("/memfd:")).length,
  };
}

function isReceiveMemory(descriptor: string): boolean {
  try {
    return readlinkSync(descriptor).includes("isthmus-receive");
  } catch {
    // That of the listing itself is closed by now, and counts as ever.
    return false;
  }
}

/** Clock ticks (of 10 ms) that a process has spent on a CPU. */
export function cpuTicksOf(pid: number): number {
  // The second field is the command in parentheses, which may contain anything.
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
  return Number(fields[11]) + Number(fields[12]);
}
