/** What keeps this end from sharing memory, and the one warning of it. */
import { refusalOfMemory } from "../../memory/shared/ability.js";
import { loadAddon } from "../../os/addon.js";

/** What a connection over TCP lacks, at both ends. */
export const LACK_OVER_TCP = "the connection is over TCP";
/** What an end lacks that was told to. */
export const LACK_BY_OPTION = 'its option carrier is "socket"';

/** What this process, or its runtime, lacks; undefined: it can share memory. */
export function lackOfProcess(): string | undefined {
  const { addon, reason } = loadAddon();
  return addon === undefined ? reason : refusalOfMemory(addon);
}

let warned = false;

/** Another thread of this process warns. */
export function leaveWarningToOthers(): void {
  warned = true;
}

/**
 * Warns once (a worker thread that a user made for itself) that something nobody asked for keeps messages off shared
 * memory.
 */
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
