import assert from "node:assert/strict";
import test from "node:test";
import {
  cpuQuotaCores,
  foldersOf,
  memoryLimitBytes,
  parseByteLimit,
  parseCpuMax,
  parseCpuQuota,
  parseMembership,
  parseMounts,
} from "./cgroup.js";

const GIB = 1024 ** 3;
const V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
const V1_NO_LIMIT = "9223372036854771712\n";

/** Reads files that exist only in this map, and records which ones were requested. */
function files(contents: Record<string, string>) {
  return (path: string) => contents[path];
}

test("version 2: the smallest limit up to the mount holds", () => {
  const read = files({
    "/proc/self/cgroup": "0::/user.slice/app.service\n",
    "/proc/self/mountinfo": V2_MOUNT,
    "/sys/fs/cgroup/user.slice/app.service/memory.max": "max\n",
    "/sys/fs/cgroup/user.slice/app.service/cpu.max": "400000 100000\n",
    "/sys/fs/cgroup/user.slice/memory.max": `${2 * GIB}\n`,
    "/sys/fs/cgroup/user.slice/cpu.max": "150000 100000\n",
  });
  assert.equal(memoryLimitBytes(read), 2 * GIB);
  assert.equal(cpuQuotaCores(read), 1.5);
});

test("version 2 in a container with its own cgroup namespace: the limit is at the mount", () => {
  const read = files({
    "/proc/self/cgroup": "0::/\n",
    "/proc/self/mountinfo": V2_MOUNT,
    "/sys/fs/cgroup/memory.max": `${64 << 20}\n`,
    "/sys/fs/cgroup/cpu.max": "max 100000\n",
  });
  assert.equal(memoryLimitBytes(read), 64 << 20);
  assert.equal(cpuQuotaCores(read), undefined);
});

test("version 1: each controller has its own hierarchy", () => {
  const read = files({
    "/proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/docker/abc\n",
    "/proc/self/mountinfo":
      "36 25 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
      "37 25 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
    "/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": `${GIB}\n`,
    "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes": V1_NO_LIMIT,
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": V1_NO_LIMIT,
    "/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "50000\n",
    "/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
    "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
    "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
  });
  assert.equal(memoryLimitBytes(read), GIB);
  assert.equal(cpuQuotaCores(read), 0.5);
});

test("version 1 in a container that sees the host's paths: the mounted part is its own", () => {
  const read = files({
    "/proc/self/cgroup": "4:memory:/docker/abc\n",
    "/proc/self/mountinfo": "37 25 0:31 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": `${GIB}\n`,
  });
  assert.equal(memoryLimitBytes(read), GIB);
});

test("both versions side by side: the smaller limit holds", () => {
  const read = files({
    "/proc/self/cgroup": "4:memory:/a\n0::/b\n",
    "/proc/self/mountinfo":
      "37 25 0:31 / /mnt/with\\040space rw - cgroup cgroup rw,memory\n" +
      "38 25 0:32 / /unified rw - cgroup2 none rw\n",
    "/mnt/with space/a/memory.limit_in_bytes": `${3 * GIB}\n`,
    "/unified/b/memory.max": `${2 * GIB}\n`,
  });
  assert.equal(memoryLimitBytes(read), 2 * GIB);
});

test("no files, empty files and nonsense are no limit", () => {
  assert.equal(memoryLimitBytes(files({})), undefined);
  assert.equal(cpuQuotaCores(files({})), undefined);
  const nonsense = files({
    "/proc/self/cgroup": "\n::\n0:\nx:y\n0::relative\n0::/\n",
    "/proc/self/mountinfo": `\n - \n1 2 3\n1 2 3 4 - cgroup2\n${V2_MOUNT}`,
    "/sys/fs/cgroup/memory.max": "",
    "/sys/fs/cgroup/cpu.max": "fast",
  });
  assert.equal(memoryLimitBytes(nonsense), undefined);
  assert.equal(cpuQuotaCores(nonsense), undefined);
});

test("this machine's own files are understood without throwing", () => {
  const limit = memoryLimitBytes();
  const quota = cpuQuotaCores();
  assert.ok(limit === undefined || (Number.isSafeInteger(limit) && limit >= 0));
  assert.ok(quota === undefined || quota > 0);
});

test("membership: controllers share a path, and a path may have colons", () => {
  const paths = parseMembership("11:cpu,cpuacct:/a:b/c\n1:name=systemd:/init.scope\n0::/x\n");
  assert.equal(paths.get("cpu"), "/a:b/c");
  assert.equal(paths.get("cpuacct"), "/a:b/c");
  assert.equal(paths.get(""), "/x");
  assert.equal(paths.get("memory"), undefined);
});

test("mounts: optional fields may be there or not, other file systems are passed over", () => {
  const mounts = parseMounts(
    "22 1 0:20 / /proc rw - proc proc rw\n" +
      "30 23 0:26 / /sys/fs/cgroup rw shared:9 master:1 - cgroup2 cgroup2 rw\n" +
      "31 23 0:27 /part /odd\\011place rw - cgroup cgroup rw,cpu,cpuacct\n",
  );
  assert.deepEqual(mounts, [
    { version: 2, root: "/", mountPoint: "/sys/fs/cgroup", controllers: [] },
    { version: 1, root: "/part", mountPoint: "/odd\tplace", controllers: ["rw", "cpu", "cpuacct"] },
  ]);
});

test("the folders of a cgroup go from itself to the mount", () => {
  const mount = (root: string) => ({ version: 2 as const, root, mountPoint: "/m", controllers: [] });
  assert.deepEqual(foldersOf(mount("/"), "/a/b"), ["/m/a/b", "/m/a", "/m"]);
  assert.deepEqual(foldersOf(mount("/"), "/"), ["/m"]);
  assert.deepEqual(foldersOf(mount("/a"), "/a/b"), ["/m/b", "/m"]);
  assert.deepEqual(foldersOf(mount("/a"), "/a"), ["/m"]);
  assert.deepEqual(foldersOf(mount("/a"), "/ab"), ["/m"], "a shared beginning is no ancestor");
  assert.deepEqual(foldersOf(mount("/"), "/../other"), ["/m"], "outside of the cgroup namespace");
});

test("limits in words and numbers", () => {
  assert.equal(parseByteLimit("1048576\n"), 1048576);
  assert.equal(parseByteLimit("0\n"), 0);
  assert.equal(parseByteLimit("max\n"), undefined);
  assert.equal(parseByteLimit(V1_NO_LIMIT), undefined);
  assert.equal(parseByteLimit(undefined), undefined);
  assert.equal(parseCpuMax("50000 100000\n"), 0.5);
  assert.equal(parseCpuMax("max 100000\n"), undefined);
  assert.equal(parseCpuMax(""), undefined);
  assert.equal(parseCpuQuota("-1\n", "100000\n"), undefined);
  assert.equal(parseCpuQuota("100000", "0"), undefined);
});
