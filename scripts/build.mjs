// Builds the addon (build/isthmus.node) and the TypeScript (dist/).
//
//   node scripts/build.mjs              for work in the checkout
//   node scripts/build.mjs --prebuild   also prebuilds/<platform>-<arch>/isthmus.node, stripped and checked, for the package
//
// Without a C compiler the rest is built, and isthmus runs without shared memory; a prebuild then fails.

import { spawnSync } from "node:child_process";
import { mkdirSync, renameSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

// The prebuilt addon loads wherever Node's own binaries do, and on somewhat older systems.
const GLIBC_NEWEST = [2, 17];

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);
const addon = join(root, "build", "isthmus.node");
const prebuild = process.argv.includes("--prebuild");

const compiled = buildAddon();
if (prebuild) {
  if (!compiled) fail("a prebuilt addon can only be made on Linux, with make and a C compiler");
  makePrebuild();
}
run("tsc", process.execPath, [
  join(dirname(require.resolve("typescript-native/package.json")), "bin", "tsc"),
  "-p",
  "tsconfig.json",
]);

// True if the addon is there and up to date.
function buildAddon() {
  if (process.platform !== "linux") {
    console.log(
      `build: no addon on ${process.platform} (shared memory is for Linux); the socket and http carriers work`,
    );
    return false;
  }
  const compiler = process.env.CC || "cc";
  // CC may have options in it.
  const missing = [compiler.split(" ")[0], "make"].filter(
    (tool) => spawnSync(tool, ["--version"], { stdio: "ignore" }).error !== undefined,
  );
  if (missing.length > 0) {
    console.warn(
      `build: ${missing.join(" and ")} not found, so the addon is not compiled: shared memory does not work, ` +
        "the socket and http carriers do (Debian and Ubuntu: apt-get install build-essential)",
    );
    return false;
  }
  const headers = require("node-api-headers").include_dir;
  run("make", "make", [
    "--silent",
    "-C",
    join(root, "native"),
    `OUT=${join(root, "build")}`,
    `HEADERS=${headers}`,
    `CC=${compiler}`,
  ]);
  return true;
}

function makePrebuild() {
  const folder = join(root, "prebuilds", `${process.platform}-${process.arch}`);
  const target = join(folder, "isthmus.node");
  const unfinished = `${target}.${process.pid}`;
  mkdirSync(folder, { recursive: true });
  run("strip", "strip", ["--strip-unneeded", "-o", unfinished, addon]);

  const tooNew = neededVersions(unfinished).filter((version) => !isOldEnough(version));
  if (tooNew.length > 0) {
    rmSync(unfinished);
    fail(
      `the addon needs ${tooNew.join(", ")}; allowed is up to GLIBC_${GLIBC_NEWEST.join(".")} (use syscall(2) for newer calls)`,
    );
  }
  renameSync(unfinished, target);
  console.log(`build: ${relative(root, target)}, needs at most GLIBC_${GLIBC_NEWEST.join(".")}`);
}

function isOldEnough(version) {
  const match = /^GLIBC_(\d+)\.(\d+)/.exec(version);
  if (match === null) return false;
  const [major, minor] = [Number(match[1]), Number(match[2])];
  return major < GLIBC_NEWEST[0] || (major === GLIBC_NEWEST[0] && minor <= GLIBC_NEWEST[1]);
}

// The symbol versions that an ELF file needs of its libraries, as GLIBC_2.17.
function neededVersions(path) {
  const { status, stdout, error } = spawnSync("readelf", ["--version-info", "--wide", path], { encoding: "utf8" });
  if (error !== undefined || status !== 0) fail(`readelf ${path}: ${error?.message ?? `exit code ${status}`}`);
  const needs = stdout.slice(stdout.indexOf("Version needs section"));
  return [...new Set([...needs.matchAll(/Name: (\S+)/g)].map(([, version]) => version))];
}

function run(name, command, parameters) {
  const { status, signal, error } = spawnSync(command, parameters, { cwd: root, stdio: "inherit" });
  if (error !== undefined) fail(`${name} cannot be started: ${error.message}`);
  if (status !== 0) fail(`${name} failed (${signal ?? `exit code ${status}`})`);
}

function fail(message) {
  console.error(`build: ${message}`);
  process.exit(1);
}
