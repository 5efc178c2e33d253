/**
 * The lock under which a socket path is taken and given up (LISTEN-2): `.NAME.lock` beside the path, for as long as it
 * is held. Only its owner can open it, so a user who may merely read the directory cannot hold it.
 *
 * With the addon it is a file with `flock`, which ends with the process that holds it: a file that is left behind is
 * taken over at once. Without, it is a directory, since Node cannot lock files. That, or a file that this user cannot
 * open, is broken if it stays for `LOCK_PATIENCE_MS`, although it is held for milliseconds only. A process that was
 * stopped for that long while it held such a lock may lose its path.
 */
import { randomBytes } from "node:crypto";
import { lstatSync, mkdirSync, renameSync, rmdirSync, rmSync, unlinkSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Addon } from "../../os/addon.js";
import { nowMs, sleep } from "../../os/timers.js";

export const LOCK_PATIENCE_MS = 5000;
const AGAIN_MS = 5;

/** Unlocks. */
export type Unlock = () => void;

/**
 * Waits for the lock of `path`.
 * @throws ConnectError `Unavailable` if a live process holds it for long; the system's error if the directory cannot be
 *   written
 */
export async function lockPath(addon: Addon | undefined, path: string): Promise<Unlock> {
  const name = join(dirname(path), `.${basename(path)}.lock`);
  let holder = "";
  let since = nowMs();
  for (const start = since; ; await sleep(AGAIN_MS)) {
    const lock = addon === undefined ? tryDirectory(name) : tryFile(addon, name);
    if (typeof lock === "function") return lock;
    if (lock === "held" && nowMs() - start > LOCK_PATIENCE_MS)
      throw new ConnectError(
        `listen on ${path}: another process has held the lock ${name} for ${LOCK_PATIENCE_MS} ms; if it is stopped, end it`,
        Code.Unavailable,
      );
    const now = identityOf(name);
    if (now !== holder) {
      holder = now;
      since = nowMs();
    } else if (lock === "unknown" && nowMs() - since > LOCK_PATIENCE_MS) {
      breakLock(name);
    }
  }
}

/** "held": a live process has it. "unknown": something is there, and it cannot be told whether it is held. */
type NotLocked = "held" | "unknown";

function tryFile(addon: Addon, name: string): Unlock | NotLocked {
  let descriptor: number;
  try {
    descriptor = addon.lockFile(name);
  } catch (error) {
    // A directory, or the file of another user.
    if (identityOf(name) !== "") return "unknown";
    throw error;
  }
  if (descriptor < 0) return "held";
  return () => {
    // Before it is unlocked, or the file of the next holder would be removed.
    ignoringErrors(() => unlinkSync(name));
    addon.closeDescriptor(descriptor);
  };
}

function tryDirectory(name: string): Unlock | NotLocked {
  try {
    mkdirSync(name, { mode: 0o700 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return "unknown";
    throw error;
  }
  return () => ignoringErrors(() => rmdirSync(name));
}

function identityOf(name: string): string {
  const found = lstatSync(name, { throwIfNoEntry: false });
  return found === undefined ? "" : `${found.ino} ${found.birthtimeMs} ${found.mtimeMs}`;
}

/** If several processes break a lock, one succeeds. */
function breakLock(name: string): void {
  const broken = `${name}.${randomBytes(4).toString("hex")}`;
  ignoringErrors(() => {
    renameSync(name, broken);
    rmSync(broken, { recursive: true, force: true });
  });
}

/** Another process was faster, or has broken the lock. */
function ignoringErrors(act: () => void): void {
  try {
    act();
  } catch {
    // As above.
  }
}
