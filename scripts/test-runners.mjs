// Installs the packed package in a project of its own, beside jest, vitest and sinon, and runs the suites of
// test/runners there: calls, streams and deadlines while timers are faked. What cannot be had of the registry is
// skipped by name.
import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const RUN_MS_MAX = 900_000;
const root = fileURLToPath(new URL("..", import.meta.url));
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const work = mkdtempSync(join(tmpdir(), "isthmus-runners-"));
const npm = (args, options = {}) =>
  execFileSync("npm", args, { cwd: work, stdio: ["ignore", "pipe", "inherit"], encoding: "utf8", ...options });
const install = (...packages) =>
  npm(["install", "--no-audit", "--no-fund", "--silent", "--ignore-scripts", ...packages]);
const complaints = [];

function has(name) {
  try {
    install(name);
    return true;
  } catch {
    console.log(`skipped: ${name} cannot be had here`);
    return false;
  }
}

function run(what, args) {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, {
    cwd: work,
    encoding: "utf8",
    timeout: RUN_MS_MAX,
    env: { ...process.env, NODE_TEST_CONTEXT: undefined },
  });
  if (status === 0) return console.log(`passed: ${what}`);
  complaints.push(what);
  console.log(`FAILED: ${what}\n${stdout}${stderr}`);
}

try {
  cpSync(join(root, "test", "runners", "project"), work, { recursive: true });
  writeFileSync(join(work, "package.json"), '{ "private": true, "type": "module" }');
  const tarball = npm(["pack", "--silent", "--pack-destination", work], { cwd: root }).trim().split("\n").at(-1);
  const peers = Object.keys(manifest.peerDependencies).map((name) => `${name}@${manifest.devDependencies[name]}`);
  install(`./${tarball}`, ...peers);

  for (const suite of ["later", "globally"])
    run(`node:test, timers faked ${suite}`, ["--test", `node/${suite}.test.mjs`]);
  if (has("sinon")) {
    for (const suite of ["later", "globally"])
      run(`sinon, timers faked ${suite}`, ["--test", `node/sinon-${suite}.test.mjs`]);
    run("sinon, everything faked", ["node/sinon-everything.mjs"]);
  }
  if (has("jest")) {
    for (const suite of ["later", "globally"])
      run(`jest, timers faked ${suite}`, [
        "--experimental-vm-modules",
        "node_modules/jest/bin/jest.js",
        "--config",
        `jest.${suite}.json`,
      ]);
  }
  if (has("vitest")) {
    for (const suite of ["later", "globally"])
      run(`vitest, timers faked ${suite}`, [
        "node_modules/vitest/vitest.mjs",
        "run",
        "--config",
        `vitest.${suite}.config.mjs`,
      ]);
  }
} finally {
  rmSync(work, { recursive: true, force: true });
}
process.exit(complaints.length === 0 ? 0 : 1);
