/** Why this end cannot share memory, and the warning about it. */
import { refusalOfMemory } from "../../memory/shm/ability.js";
import { loadAddon } from "../../os/addon.js";

/** Why connections over TCP do not share memory, at both ends. */
export const LACK_OVER_TCP = "the connection is over TCP";
/** Why an end does not share memory that was told not to. */
export const LACK_BY_OPTION = 'its option carrier is "socket"';

/** Why this process, or its runtime, cannot share memory; undefined: it can. */
export function lackOfProcess(): string | undefined {
  const { addon, reason } = loadAddon();
  return addon === undefined ? reason : refusalOfMemory(addon);
}

let warned = false;

/** Leaves the warning to another thread of this process. */
export function leaveWarningToOthers(): void {
  warned = true;
}

/** Warns that messages do not travel through shared memory, although nobody asked for that. Once per thread. */
export function warnOfLack(lack: string): void {
  if (warned) return;
  warned = true;
  process.emitWarning(
    `shared memory is not available here: ${lack}. Messages travel over sockets, which is slower; carrier: "socket" silences this`,
    {
      type: "IsthmusWarning",
      code: "ISTHMUS_NO_SHARED_MEMORY",
    },
  );
}
