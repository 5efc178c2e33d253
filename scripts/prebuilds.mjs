// Makes the addons of the package, prebuilds/linux-<cpu>/isthmus.node: one for each CPU, for glibc and musl alike. Each
// is stripped, and checked for what one of the two C libraries lacks.

import { spawnSync } from "node:child_process";
import { mkdirSync, renameSync, rmSync } from "node:fs";
import { join, relative } from "node:path";

// The addon loads wherever Node's own binaries do, and on somewhat older systems.
const GLIBC_NEWEST = [2, 17];
// Each is built with this compiler, or with the one that the variable names, such as CC_ARM64.
const TARGETS = {
  x64: { triplet: "x86_64-linux-gnu", machine: "x86_64", debian: "gcc-x86-64-linux-gnu" },
  arm64: { triplet: "aarch64-linux-gnu", machine: "aarch64", debian: "gcc-aarch64-linux-gnu" },
};
// Of functions with two underscores, the ones that musl has too. Others are the insides of glibc: fortified functions,
// macros' helpers, and thread-local variables, which the two libraries lay out differently in a module that is loaded
// late.
const COMMON = ["__cxa_finalize", "__errno_location", "__gmon_start__", "__stack_chk_fail", "__stack_chk_guard"];

/**
 * @param root the checkout
 * @param cpus names of CPUs, as in process.arch; all that the package supports if it is undefined
 * @param headers the include folder of node-api-headers
 * @param fail ends the build with a message
 */
export function makePrebuilds(root, cpus, headers, fail) {
  for (const cpu of cpus ?? Object.keys(TARGETS)) {
    const target = TARGETS[cpu];
    if (target === undefined)
      fail(`there is no prebuilt addon for "${cpu}"; expected ${Object.keys(TARGETS).join(" or ")}`);
    makePrebuild(root, cpu, target, headers, fail);
  }
}

function makePrebuild(root, cpu, target, headers, fail) {
  const compiler = compilerOf(cpu, target, fail);
  const out = join(root, "build", cpu);
  const make = spawnSync(
    "make",
    [
      "--silent",
      "-C",
      join(root, "native"),
      `OUT=${out}`,
      `HEADERS=${headers}`,
      `CC=${compiler}`,
      // Of musl's names for the C library, libc.so.6 is one. What else the compiler would link, musl does not have.
      "LIBS=-nodefaultlibs -l:libc.so.6",
    ],
    { stdio: "inherit" },
  );
  if (make.status !== 0) fail(`make for ${cpu} failed (${make.error?.message ?? `exit code ${make.status}`})`);

  const folder = join(root, "prebuilds", `linux-${cpu}`);
  const path = join(folder, "isthmus.node");
  const unfinished = `${path}.${process.pid}`;
  mkdirSync(folder, { recursive: true });
  output(fail, tool(target, "strip"), ["--strip-unneeded", "-o", unfinished, join(out, "isthmus.node")]);
  const complaints = check(unfinished, target, fail);
  if (complaints.length > 0) {
    rmSync(unfinished);
    fail(`the addon for ${cpu}:\n  ${complaints.join("\n  ")}`);
  }
  renameSync(unfinished, path);
  console.log(
    `build: ${relative(root, path)}, for glibc from ${GLIBC_NEWEST.join(".")} on and for musl, by ${compiler}`,
  );
}

function compilerOf(cpu, { triplet, debian }, fail) {
  const variable = `CC_${cpu.toUpperCase()}`;
  const candidates = [
    process.env[variable],
    cpu === process.arch ? process.env.CC || "cc" : undefined,
    `${triplet}-gcc`,
  ].filter((candidate) => candidate !== undefined);
  // A compiler may have options in it.
  const found = candidates.find((candidate) => {
    const [program, ...options] = candidate.split(" ");
    return spawnSync(program, [...options, "--version"], { stdio: "ignore" }).status === 0;
  });
  if (found === undefined)
    fail(
      `no compiler for ${cpu}: ${candidates.join(", ")} cannot be run. Install one (Debian and Ubuntu: apt-get install ` +
        `${debian}), name one in ${variable}, or set ISTHMUS_PREBUILDS=${process.arch} to pack without it`,
    );
  return found;
}

/** What an addon has that one of the C libraries lacks. */
function check(path, { machine }, fail) {
  const complaints = [];
  const header = output(fail, "readelf", ["--file-header", path]);
  const isFor = machine === "x86_64" ? /Machine:.*X86-64/ : /Machine:.*AArch64/;
  if (!isFor.test(header)) complaints.push(`it is not for ${machine}; the compiler is for another CPU`);

  const versions = output(fail, "readelf", ["--version-info", "--wide", path]);
  const needs = [...versions.slice(versions.indexOf("Version needs section")).matchAll(/Name: (\S+)/g)];
  for (const version of new Set(needs.map(([, name]) => name)))
    if (!isOldEnough(version))
      complaints.push(`it needs ${version}; allowed is up to GLIBC_${GLIBC_NEWEST.join(".")} (use syscall(2))`);

  const dynamic = output(fail, "readelf", ["--dynamic", "--wide", path]);
  for (const [, library] of dynamic.matchAll(/\(NEEDED\).*\[(.+)\]/g))
    if (library !== "libc.so.6") complaints.push(`it needs the library ${library}, which musl does not have`);

  const symbols = output(fail, "readelf", ["--dyn-syms", "--wide", path]);
  for (const [, name] of symbols.matchAll(/ UND (__[^@\s]+)/g))
    if (!COMMON.includes(name)) complaints.push(`it needs ${name}, a function of glibc alone`);
  return complaints;
}

function isOldEnough(version) {
  const match = /^GLIBC_(\d+)\.(\d+)/.exec(version);
  if (match === null) return false;
  const [major, minor] = [Number(match[1]), Number(match[2])];
  return major < GLIBC_NEWEST[0] || (major === GLIBC_NEWEST[0] && minor <= GLIBC_NEWEST[1]);
}

/** A tool for the files of a CPU: that of its cross compiler, else the machine's own. */
function tool({ triplet }, name) {
  const own = `${triplet}-${name}`;
  return spawnSync(own, ["--version"], { stdio: "ignore" }).status === 0 ? own : name;
}

function output(fail, command, parameters) {
  const { status, stdout, error } = spawnSync(command, parameters, {
    encoding: "utf8",
    env: { ...process.env, LC_ALL: "C" },
  });
  if (error !== undefined || status !== 0)
    fail(`${command} ${parameters.join(" ")}: ${error?.message ?? `exit code ${status}`}`);
  return stdout;
}
