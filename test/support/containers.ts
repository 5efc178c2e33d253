/**
 * Containers as far as the kernel makes them: namespaces of their own for users, processes, mounts, network and System
 * V IPC, and a read-only root of their own in which there is neither /dev nor the host's /tmp. Programs are the host's;
 * one folder is shared, at /shared. Made with `unshare`, so no container runtime is needed.
 */
import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, realpathSync } from "node:fs";
import { dirname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";
import type { Owner } from "./temp.js";
import { tempFolder } from "./temp.js";

export interface ContainerOptions {
  /** The user that the container's root is on the host; this process's by default. */
  readonly hostUid?: number;
  /** Whether the program runs in a further user namespace, in which no user has a number. */
  readonly unmapped?: boolean;
  /** Whether the shared folder is mounted for reading only. */
  readonly readOnly?: boolean;
}

/** Where a container sees the shared folder. */
export const SHARED = "/shared";

// pivot_root and not chroot: the kernel allows no further user namespaces in a chroot.
const SET_UP = `
set -eu
root=$1; shared=$2; access=$3; shift 3
mount -t tmpfs -o mode=755 tmpfs "$root"
while [ "$1" != -- ]; do mkdir -p "$root$1"; mount --rbind "$1" "$root$1"; shift; done; shift
mkdir -p "$root/proc" "$root${SHARED}" "$root/tmp"
mount -t proc proc "$root/proc"
mount --bind "$shared" "$root${SHARED}"
mount -o "remount,bind,$access" "$root${SHARED}"
mount -o remount,bind,ro "$root"
cd "$root"
pivot_root . .
umount -l .
exec "$@"
`;

/** A folder that containers of any user can reach, and that their users may write in. */
export function sharedFolder(owner: Owner): string {
  const folder = join(openFolder(owner), "shared");
  mkdirSync(folder);
  chmodSync(folder, 0o777);
  return folder;
}

/** The command that runs what follows it in a new container. Killing it kills all that is in the container. */
export function containerCommand(
  owner: Owner,
  shared: string,
  { hostUid, unmapped, readOnly }: ContainerOptions = {},
): string[] {
  const id = String(hostUid);
  const asUser = hostUid === undefined ? [] : ["setpriv", "--reuid", id, "--regid", id, "--clear-groups"];
  const unshare = [
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "--net",
    "--ipc",
    "--pid",
    "--fork",
    "--kill-child",
  ];
  const setUp = [
    "sh",
    "-c",
    SET_UP,
    "container",
    openFolder(owner),
    shared,
    readOnly === true ? "ro" : "rw",
    ...programFolders(),
    "--",
  ];
  return [...asUser, ...unshare, ...setUp, ...(unmapped === true ? ["unshare", "--user"] : [])];
}

/** Why such a container cannot be made here, in the words of whoever refused; false if it can. */
export function containerRefusal(options: ContainerOptions = {}): string | false {
  const cleaners: (() => unknown)[] = [];
  const owner: Owner = { after: (clean) => cleaners.push(clean) };
  try {
    const [command, ...parameters] = [
      ...containerCommand(owner, sharedFolder(owner), options),
      process.execPath,
      "--version",
    ];
    const { status, error, stderr } = spawnSync(command, parameters, { encoding: "utf8" });
    if (error !== undefined) return error.message;
    return status !== 0 && `containers cannot be made here: ${stderr.trim() || `exit code ${status}`}`;
  } finally {
    for (const clean of cleaners) clean();
  }
}

function openFolder(owner: Owner): string {
  const folder = tempFolder(owner);
  chmodSync(folder, 0o755);
  return folder;
}

/** What node and our code need of the host. */
function programFolders(): string[] {
  const packageRoot = fileURLToPath(new URL("../../../", import.meta.url)).replace(/\/$/, "");
  const wanted = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    dirname(process.execPath),
    packageRoot,
    realpathSync(join(packageRoot, "node_modules")),
  ];
  const isInside = (path: string, folder: string) => path.startsWith(folder + sep);
  return wanted.filter((path) => existsSync(path) && !wanted.some((other) => isInside(path, other)));
}
