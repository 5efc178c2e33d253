// Builds the addon with the address and undefined behaviour sanitizers, and runs the tests in src/os/ with it, from the
// built tree (npm run build). Skipped by name where the compiler has no libasan.
//
//   node scripts/sanitize.mjs                           all tests in src/os/
//   node scripts/sanitize.mjs src/os/segment.test.ts    only these files
//
// The tests run in a copy of the package that has the sanitized addon as its build/isthmus.node. A report of a sanitizer
// ends the process that it is about, and so fails its test.

import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { isAbsolute, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const compiler = process.env.CC || "cc";

const runtime = process.platform === "linux" ? sanitizerRuntime() : undefined;
if (runtime === undefined) {
  console.log(`skipped  the sanitized addon: ${compiler} has no libasan here (Debian and Ubuntu: apt-get install gcc)`);
  process.exit(0);
}
const work = mkdtempSync(join(tmpdir(), "isthmus-sanitize-"));
let status;
try {
  status = test(copyPackage(build()));
} finally {
  rmSync(work, { recursive: true, force: true });
}
process.exitCode = status === 0 ? 0 : 1;

// The path of libasan.so. The compiler prints the bare name of a file that it does not have.
function sanitizerRuntime() {
  const { stdout, error } = spawnSync("sh", ["-c", `${compiler} -print-file-name=libasan.so`], { encoding: "utf8" });
  const path = error === undefined ? stdout.trim() : "";
  return isAbsolute(path) ? path : undefined;
}

function build() {
  const headers = createRequire(import.meta.url)("node-api-headers").include_dir;
  const { status: made } = spawnSync(
    "make",
    ["--silent", "-C", join(root, "native"), "SANITIZE=1", `OUT=${work}`, `HEADERS=${headers}`, `CC=${compiler}`],
    { stdio: "inherit" },
  );
  if (made !== 0) throw new Error("the sanitized addon does not build");
  return join(work, "sanitized", "isthmus.node");
}

function copyPackage(addon) {
  if (!existsSync(join(root, "dist"))) throw new Error("there is no dist/: run npm run build first");
  const folder = join(work, "package");
  mkdirSync(join(folder, "build"), { recursive: true });
  cpSync(join(root, "package.json"), join(folder, "package.json"));
  cpSync(join(root, "dist", "src"), join(folder, "dist", "src"), { recursive: true });
  cpSync(addon, join(folder, "build", "isthmus.node"));
  symlinkSync(join(root, "node_modules"), join(folder, "node_modules"));
  return folder;
}

function test(folder) {
  const chosen = process.argv.slice(2);
  const sources =
    chosen.length > 0
      ? chosen
      : readdirSync(join(root, "src", "os"))
          .filter((name) => name.endsWith(".test.ts") && !name.endsWith(".timing.test.ts"))
          .map((name) => join("src", "os", name));
  const files = sources.map((file) => join("dist", file.replace(/\.ts$/, ".js")));
  const environment = {
    LD_PRELOAD: [runtime, process.env.LD_PRELOAD].filter((path) => path).join(" "),
    // No leak detection, because Node frees little when it exits. No handling of SIGSEGV, because a test expects it. A
    // small quarantine of freed memory, because tests measure how much memory the process has.
    ASAN_OPTIONS: "detect_leaks=0:handle_segv=0:handle_sigbus=0:quarantine_size_mb=8",
    UBSAN_OPTIONS: "print_stacktrace=1",
  };
  // Without the addon, the tests would be skipped.
  const door = JSON.stringify(pathToFileURL(join(folder, "dist", "src", "os", "addon.js")).href);
  const load = `const { requireAddon } = await import(${door}); requireAddon();`;
  const loaded = spawnSync(process.execPath, ["--input-type=module", "-e", load], {
    stdio: "inherit",
    env: { ...process.env, ...environment },
  });
  if (loaded.status !== 0) throw new Error("the sanitized addon does not load");
  return spawnSync(process.execPath, ["--test", "--test-concurrency=1", ...files], {
    cwd: folder,
    stdio: "inherit",
    env: { ...process.env, ...environment },
  }).status;
}
