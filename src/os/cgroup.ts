/**
 * The memory and CPU time that the cgroup allows this process. Shared memory is charged to the cgroup, and the kernel
 * kills a process that exceeds the limit instead of failing the call. So the limit has to be known before pages are
 * committed.
 *
 * Files are read through one function that is passed in; the parsers take their contents. Nothing here throws: a file
 * that cannot be read or understood counts as no limit. Limits can change while the process runs, so the values are
 * only those of this moment.
 */
import { readFileSync } from "node:fs";
import { posix } from "node:path";

/** A file's contents, or undefined if it cannot be read. */
export type ReadFile = (path: string) => string | undefined;

/** The smallest memory limit of this process's cgroup and its ancestors, in bytes; undefined if there is no limit. */
export function memoryLimitBytes(read: ReadFile = readOrUndefined): number | undefined {
  return smallest(
    limitingFolders("memory", read).map(({ version, folder }) =>
      parseByteLimit(read(posix.join(folder, version === 2 ? "memory.max" : "memory.limit_in_bytes"))),
    ),
  );
}

/** The CPU time that the cgroup grants, in cores, such as 0.5 or 4; undefined if there is no quota. */
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
  /** The cgroup that is mounted at `mountPoint`; "/" unless only a part of the hierarchy is mounted. */
  root: string;
  mountPoint: string;
  /** Only of version 1. Empty for version 2, where a folder has all the controllers that its ancestors enabled. */
  controllers: string[];
}

/** Parses /proc/self/mountinfo to the cgroup hierarchies in it. */
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

/** Parses /proc/self/cgroup to the process's cgroup in each hierarchy: by controller, or "" for version 2. */
export function parseMembership(text: string): Map<string, string> {
  const paths = new Map<string, string>();
  for (const line of text.split("\n")) {
    // 4:cpu,cpuacct:/path (version 1), 0::/path (version 2). The path may contain colons.
    const match = /^\d+:([^:]*):(\/.*)$/.exec(line);
    if (match === null) continue;
    for (const controller of match[1].split(",")) paths.set(controller, match[2]);
  }
  return paths;
}

/** The folders whose limits apply to `path`: its own and its ancestors', as far up as the mount shows them. */
export function foldersOf(mount: CgroupMount, path: string): string[] {
  const folders: string[] = [];
  for (let rest = pathInside(mount.root, path); rest !== ""; rest = rest.slice(0, rest.lastIndexOf("/"))) {
    folders.push(posix.join(mount.mountPoint, rest));
  }
  return [...folders, mount.mountPoint];
}

/** Parses memory.max or memory.limit_in_bytes. Undefined for "max", and for version 1's equivalent (nearly 2^63). */
export function parseByteLimit(text: string | undefined): number | undefined {
  const bytes = parseNumber(text);
  return bytes !== undefined && Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** Parses cpu.max: "quota period" in microseconds, or "max period". */
export function parseCpuMax(text: string | undefined): number | undefined {
  const [quota, period] = (text ?? "").trim().split(/\s+/);
  return parseCpuQuota(quota, period);
}

/** Parses cpu.cfs_quota_us and cpu.cfs_period_us. A quota of -1 means no limit. */
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
 * The part of `path` after `root`: "", or with a leading slash. In a container, /proc may show the host's paths while
 * the mount shows only a part of the hierarchy. Then the path is outside of the root, and the mounted part is the
 * container's own cgroup.
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
