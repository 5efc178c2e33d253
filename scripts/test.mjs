// Runs compiled tests (npm run build). Sources are the truth: a stale file in dist/ whose source is gone is not run,
// and it is an error if no test is found.
//
//   node scripts/test.mjs                          the unit and end-to-end tests
//   node scripts/test.mjs e2e stress               these groups of unit, e2e, system, conformance and stress, or `all`
//   node scripts/test.mjs src/memory/shm/ring.test.ts  these files or folders
//   node scripts/test.mjs timing                   the tests of time, *.timing.test.ts: they need a machine that has nothing else to do
//   node scripts/test.mjs unit --watch             again after each change
//
// Options with two dashes go to Node's test runner. With ISTHMUS_ADDON=none the same tests run without the addon, but
// for those that need it. With ISTHMUS_TEST_PLATFORM=darwin besides, the package takes the system for that one.

import { spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { NEEDS_ADDON } from "./needs-addon.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));

// One more than there are cores, because many tests wait for a process or a deadline.
const AT_ONCE = availableParallelism() + 1;
// Folders, and how many files of them run at once: batches, one after the other.
const GROUPS = {
  unit: [{ folders: ["src", "bench", "examples"], concurrency: AT_ONCE }],
  e2e: [{ folders: ["test/e2e", "test/structure", "test/docs"], concurrency: AT_ONCE }],
  // Whole systems: many processes or threads, containers, other runtimes, every pair of carriers.
  system: [{ folders: ["test/system"], concurrency: AT_ONCE }],
  conformance: [{ folders: ["test/conformance"], concurrency: 1 }],
  // Attacks by raw peers; they watch how long the event loop stops.
  hostile: [{ folders: ["test/hostile"], concurrency: 1 }],
  stress: [
    // Half of them compute on one core, the others mostly wait for processes to end.
    { folders: ["test/fault", "test/fuzz", "test/model"], concurrency: availableParallelism() },
    // They start many processes each, and watch their memory and processor time.
    { folders: ["test/stress"], concurrency: 1 },
  ],
};

const parameters = process.argv.slice(2);
const options = parameters.filter((parameter) => parameter.startsWith("--"));
const chosen = parameters.filter((parameter) => !parameter.startsWith("--"));
const timing = chosen[0] === "timing";

function testsIn(path) {
  const names = statSync(path).isDirectory()
    ? readdirSync(path, { recursive: true }).map((name) => join(path, name))
    : [path];
  // The starter is a project of its own: see scripts/starter.mjs.
  const own = names.filter((name) => !name.startsWith(join(root, "examples", "starter")));
  return own.filter((name) => name.endsWith(".test.ts") && name.endsWith(".timing.test.ts") === timing);
}

function batches() {
  if (timing)
    return [
      {
        concurrency: 1,
        files: Object.values(GROUPS)
          .flat()
          .flatMap(({ folders }) => filesIn(folders)),
      },
    ];
  const names = chosen.length === 0 ? ["unit", "e2e"] : chosen.includes("all") ? Object.keys(GROUPS) : chosen;
  const groups = names
    .filter((name) => name in GROUPS)
    .flatMap((name) => GROUPS[name])
    .map(({ concurrency, folders }) => ({ concurrency, files: filesIn(folders) }));
  const paths = names.filter((name) => !(name in GROUPS));
  return paths.length === 0
    ? groups
    : [...groups, { concurrency: 1, files: paths.flatMap((path) => filesIn([given(path)])) }];
}

const filesIn = (folders) =>
  folders
    .flatMap((folder) => testsIn(join(root, folder)))
    .map((path) => relative(root, path))
    .sort();

// A path as the user wrote it: from where npm was called.
function given(path) {
  const candidates = [resolve(process.env.INIT_CWD ?? process.cwd(), path), join(root, path)];
  const found = candidates.find(existsSync);
  if (found === undefined)
    fail(`${path}: neither a file or folder nor one of ${Object.keys(GROUPS).join(", ")}, all, timing`);
  return relative(root, found);
}

// What can run here; the others are named.
function runnable(files) {
  if (process.env.ISTHMUS_ADDON !== "none") return files;
  for (const file of Object.keys(NEEDS_ADDON))
    if (!existsSync(join(root, file))) fail(`scripts/needs-addon.mjs: there is no ${file}`);
  return files.filter((file) => {
    if (!(file in NEEDS_ADDON)) return true;
    console.log(`skipped without the addon: ${file}: ${NEEDS_ADDON[file]}`);
    return false;
  });
}

function fail(message) {
  console.error(message);
  process.exit(1);
}

const { ISTHMUS_TEST_PLATFORM: platform } = process.env;
if (platform !== undefined) {
  if (process.env.ISTHMUS_ADDON !== "none") fail("ISTHMUS_TEST_PLATFORM: set ISTHMUS_ADDON=none too");
  console.log(`process.platform is faked: ${platform}. The system itself is ${process.platform}.`);
  const preload = `--import=${new URL("./fake-platform.mjs", import.meta.url)}`;
  process.env.NODE_OPTIONS = `${process.env.NODE_OPTIONS ?? ""} ${preload}`;
}

const runs = batches().map(({ concurrency, files }) => ({
  concurrency,
  files: runnable(files).map((file) => join("dist", file.replace(/\.ts$/, ".js"))),
}));
if (runs.every(({ files }) => files.length === 0)) fail("no test found");

if (options.includes("--watch")) {
  const compiler = join(
    dirname(createRequire(import.meta.url).resolve("typescript-native/package.json")),
    "bin",
    "tsc",
  );
  const builder = spawn(process.execPath, [compiler, "-p", "tsconfig.json", "--watch", "--preserveWatchOutput"], {
    cwd: root,
    stdio: ["ignore", "ignore", "inherit"],
  });
  process.on("exit", () => builder.kill());
  // One run that watches: a second one would wait for it for ever.
  runs.splice(0, runs.length, { concurrency: 1, files: runs.flatMap(({ files }) => files) });
}
let failed = false;
for (const { concurrency, files } of runs) {
  if (files.length === 0) continue;
  const { status } = spawnSync(
    process.execPath,
    ["--test", `--test-concurrency=${concurrency}`, ...options, ...files],
    { cwd: root, stdio: "inherit" },
  );
  failed ||= status !== 0;
}
process.exit(failed ? 1 : 0);
