// Builds the addon (build/isthmus.node) and the TypeScript (dist/; the package's modules as CommonJS in dist/cjs).
//
//   node scripts/build.mjs              for work in the checkout
//   node scripts/build.mjs --prebuild   also the package's addons, prebuilds/linux-<cpu>/isthmus.node; with
//                                       ISTHMUS_PREBUILDS=x64 only those of these CPUs
//
// Without a C compiler the rest is built, and isthmus runs without shared memory; a prebuild then fails.

import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { makeCommonJs } from "./commonjs.mjs";
import { makePrebuilds } from "./prebuilds.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);
const prebuild = process.argv.includes("--prebuild");

const compiled = buildAddon();
if (prebuild) {
  if (!compiled) fail("a prebuilt addon can only be made on Linux, with make and a C compiler");
  makePrebuilds(root, process.env.ISTHMUS_PREBUILDS?.split(","), headers(), fail);
}
run("tsc", process.execPath, [
  join(dirname(require.resolve("typescript-native/package.json")), "bin", "tsc"),
  "-p",
  "tsconfig.json",
]);
await makeCommonJs(root);

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
  run("make", "make", [
    "--silent",
    "-C",
    join(root, "native"),
    `OUT=${join(root, "build")}`,
    `HEADERS=${headers()}`,
    `CC=${compiler}`,
  ]);
  return true;
}

function headers() {
  return require("node-api-headers").include_dir;
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
