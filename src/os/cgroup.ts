/**
 * What the cgroup allows this process: memory and CPU time. Shared memory is charged to it, and the kernel kills a
 * process that goes over its limit instead of failing the call, so the limit has to be known before pages are
 * committed.
 *
 * Files are read through one function that is passed in; the parsers take contents. Nothing here throws: what cannot be
 * read or understood is no limit. The values are those of this moment; limits can be changed while we run.
 */

import { readFileSync } from "node:fs";
import { posix } from "node:path";

/** A file's contents, or undefined if it cannot be read. */
export type ReadFile = (path: string) => string | undefined;

/** The smallest memory limit of this process's cgroup and its ancestors, in bytes; undefined if there is none. */
export function memoryLimitBytes(read: ReadFile = readOrUndefined): number | undefined {
  return smallest(
    limitingFolders("memory", read).map(({ version, folder }) =>
      parseByteLimit(read(posix.join(folder, version === 2 ? "memory.max" : "memory.limit_in_bytes"))),
    ),
  );
}

/** How many cores' worth of CPU time the cgroup grants, such as 0.5 or 4; undefined if there is no quota. */
export function cpuQuotaCores(read: ReadFile = readOrUndefined): number | undefined {
  return smallest(
    limitingFolders("cpu", read).map(({ version, folder }) => {
      const readIn = (name: string) => read(posix.join(folder, name));
      if (version === 2) return parseCpuMax(readIn("cpu.max"));
      return parseCpuQuota(readIn("cpu.cfs_quota_us"), readIn("cpu.cfs_period_us"));
    }),
  );
}

export type Controller = "memory" | "cpu";

/** A mounted cgroup hierarchy. */
export interface CgroupMount {
  version: 1 | 2;
  /** The cgroup that is seen at `mountPoint`; "/" unless a part of the hierarchy is mounted. */
  root: string;
  mountPoint: string;
  /** Of version 1; empty for version 2, where a folder has all the controllers that its ancestors enabled. */
  controllers: string[];
}

/** The hierarchies in the text of /proc/self/mountinfo. */
export function parseMounts(mountinfo: string): CgroupMount[] {
  const mounts: CgroupMount[] = [];
  for (const line of mountinfo.split("\n")) {
    // 36 35 0:31 /root /mount/point rw,relatime shared:9 - cgroup cgroup rw,memory
    const [mount = "", fileSystem = ""] = line.split(" - ", 2);
    const [, , , root, mountPoint] = mount.split(" ");
    const [type, , options = ""] = fileSystem.split(" ");
    if (root === undefined || mountPoint === undefined) continue;
    if (type !== "cgroup" && type !== "cgroup2") continue;
    mounts.push({
      version: type === "cgroup2" ? 2 : 1,
      root: unescapeMountPath(root),
      mountPoint: unescapeMountPath(mountPoint),
      controllers: type === "cgroup2" ? [] : options.split(","),
    });
  }
  return mounts;
}

/** The process's cgroup in each hierarchy, from the text of /proc/self/cgroup: by controller, and "" for version 2. */
export function parseMembership(text: string): Map<string, string> {
  const paths = new Map<string, string>();
  for (const line of text.split("\n")) {
    // 4:cpu,cpuacct:/path (version 1), 0::/path (version 2). A path may have colons.
    const match = /^\d+:([^:]*):(\/.*)$/.exec(line);
    if (match === null) continue;
    for (const controller of match[1].split(",")) paths.set(controller, match[2]);
  }
  return paths;
}

/** The folders whose limits hold for `path`: its own and its ancestors', as far up as the mount shows them. */
export function foldersOf(mount: CgroupMount, path: string): string[] {
  const folders: string[] = [];
  for (let rest = pathInside(mount.root, path); rest !== ""; rest = rest.slice(0, rest.lastIndexOf("/"))) {
    folders.push(posix.join(mount.mountPoint, rest));
  }
  return [...folders, mount.mountPoint];
}

/** memory.max or memory.limit_in_bytes. "max", and what version 1 writes for it (nearly 2^63), is undefined. */
export function parseByteLimit(text: string | undefined): number | undefined {
  const bytes = parseNumber(text);
  return bytes !== undefined && Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** cpu.max: "quota period" in microseconds, or "max period". */
export function parseCpuMax(text: string | undefined): number | undefined {
  const [quota, period] = (text ?? "").trim().split(/\s+/);
  return parseCpuQuota(quota, period);
}

/** cpu.cfs_quota_us and cpu.cfs_period_us; a quota of -1 is none. */
export function parseCpuQuota(quota: string | undefined, period: string | undefined): number | undefined {
  const quotaMicros = parseNumber(quota);
  const periodMicros = parseNumber(period);
  if (quotaMicros === undefined || periodMicros === undefined || quotaMicros === 0 || periodMicros === 0)
    return undefined;
  return quotaMicros / periodMicros;
}

function limitingFolders(controller: Controller, read: ReadFile): { version: 1 | 2; folder: string }[] {
  const membership = parseMembership(read("/proc/self/cgroup") ?? "");
  const mounts = parseMounts(read("/proc/self/mountinfo") ?? "");
  return mounts.flatMap((mount) => {
    if (mount.version === 1 && !mount.controllers.includes(controller)) return [];
    const path = membership.get(mount.version === 2 ? "" : controller);
    if (path === undefined) return [];
    return foldersOf(mount, path).map((folder) => ({ version: mount.version, folder }));
  });
}

/**
 * The part of `path` behind `root`, "" or with a slash in front. A path outside the root happens in containers (their
 * /proc shows the host's paths, their mount only a part): what is mounted there is then the container's own cgroup.
 */
function pathInside(root: string, path: string): string {
  const prefix = root === "/" ? "" : root;
  if (path.split("/").includes("..")) return "";
  if (path !== prefix && !path.startsWith(`${prefix}/`)) return "";
  const inside = path.slice(prefix.length);
  return inside === "/" ? "" : inside;
}

/** Spaces, tabs, newlines and backslashes are octal in mountinfo: "\040". */
function unescapeMountPath(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

function parseNumber(text: string | undefined): number | undefined {
  const digits = (text ?? "").trim();
  return /^\d+$/.test(digits) ? Number(digits) : undefined;
}

function smallest(limits: (number | undefined)[]): number | undefined {
  const known = limits.filter((limit) => limit !== undefined);
  return known.length > 0 ? Math.min(...known) : undefined;
}

function readOrUndefined(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
