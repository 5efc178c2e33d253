// Runs every compiled test but those of time, `*.timing.test.ts`; with `--timing` those alone: they need a machine that has
// nothing else to do. Sources are the truth: a stale file in dist/ whose source is gone is not run, and it is an error if no
// test is found.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const [timing, ...options] = process.argv[2] === "--timing" ? [true, ...process.argv.slice(3)] : [false, ...process.argv.slice(2)];
const tests = ["src", "test", "bench", "examples"]
  .filter((folder) => existsSync(join(root, folder)))
  .flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true })
      .filter((name) => name.endsWith(".test.ts") && name.endsWith(".timing.test.ts") === timing)
      .map((name) => join("dist", folder, name.replace(/\.ts$/, ".js"))),
  )
  .sort();
if (tests.length === 0) {
  console.error("no test found");
  process.exit(1);
}
// One file at a time: the tests measure processes, and two at once on a small machine disturb each other.
const run = spawnSync(process.execPath, ["--test", "--test-concurrency=1", ...options, ...tests], { cwd: root, stdio: "inherit" });
process.exit(run.status ?? 1);
