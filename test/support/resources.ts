/**
 * What a process holds, as the kernel sees it: without the memory that a thread keeps to receive into (RECEIVE-2), which
 * comes with the first message that needs it and stays.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { collectSoon } from "../../src/memory/v8/gc.js";
import { loadAddon } from "../../src/os/addon.js";

const never = new Int32Array(new SharedArrayBuffer(4));
const RECEIVE_MEMORY = "isthmus-receive";

export interface Descriptors {
  open: number;
  /** Mappings of memfds: own segments and peers'. */
  mappings: number;
}

/** Of this process, when garbage does not count: leased payloads keep their mapping until they are collected. */
export function ownDescriptors(): Descriptors {
  collectSoon();
  waitForCloses();
  return descriptorsOf(process.pid);
}

/** Blocks until the addon's threads have closed what this process gave them: it does not count any more. */
export function waitForCloses(): void {
  const { addon } = loadAddon();
  for (let round = 0; round < 10_000 && (addon?.closesUnderWay() ?? 0) > 0; round++) Atomics.wait(never, 0, 0, 1);
}

export function descriptorsOf(pid: number): Descriptors {
  const maps = readFileSync(`/proc/${pid}/maps`, "utf8").split("\n");
  return {
    open: readdirSync(`/proc/${pid}/fd`).filter((fd) => !targetOf(`/proc/${pid}/fd/${fd}`).includes(RECEIVE_MEMORY))
      .length,
    mappings: maps.filter((line) => line.includes("/memfd:") && !line.includes(RECEIVE_MEMORY)).length,
  };
}

function targetOf(descriptor: string): string {
  try {
    return readlinkSync(descriptor);
  } catch {
    // That of the listing itself is closed by now, and counts as ever.
    return "";
  }
}

/** Clock ticks (of 10 ms) that a process has spent on a CPU. */
export function cpuTicksOf(pid: number): number {
  // The second field is the command in parentheses, which may contain anything.
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
  return Number(fields[11]) + Number(fields[12]);
}
