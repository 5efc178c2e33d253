// What a new user does, from an empty folder to the first call over shared memory: the steps of
// examples/starter/README.md with the packed tarball, with Node and npm on the path and no compiler. Prints the seconds
// of each step.

import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const work = mkdtempSync(join(tmpdir(), "isthmus-starter-"));
const app = join(work, "app");
const bin = join(work, "bin");
let seconds = 0;

try {
  const pack = ["pack", "--silent", "--pack-destination", work];
  const tarball = execFileSync("npm", pack, { cwd: root, encoding: "utf8" }).trim().split("\n").at(-1);
  mkdirSync(app);
  mkdirSync(bin);
  for (const program of ["node", "npm", "sh"]) symlinkSync(find(program), join(bin, program));
  step("npm", "install", "--no-audit", "--no-fund", join(work, tarball));
  cpSync(join(app, "node_modules", "isthmus", "examples", "starter"), app, { recursive: true });
  step("npm", "install", "--no-audit", "--no-fund");
  step("npm", "run", "build");
  await callServer();
  console.log(`from an empty folder to the first call: ${seconds.toFixed(1)} s, without a compiler`);
  step("npm", "test");
  console.log("the starter works");
} finally {
  rmSync(work, { recursive: true, force: true });
}

/** The server in one process, the client in another. */
async function callServer() {
  const server = spawn("node", ["dist/src/server.js"], {
    cwd: app,
    env: environment(),
    stdio: ["ignore", "pipe", "inherit"],
  });
  try {
    await once(server.stdout, "data");
    const output = step("npm", "run", "client");
    if (!output.includes("Hello, world! (over shm)")) throw new Error(`the client said: ${output}`);
  } finally {
    server.kill("SIGTERM");
    await once(server, "exit");
  }
}

function step(program, ...parameters) {
  const before = performance.now();
  const { status, stdout, stderr } = spawnSync(program, parameters, { cwd: app, encoding: "utf8", env: environment() });
  const took = (performance.now() - before) / 1000;
  const shown = [program, ...parameters].join(" ").replace(work, "").slice(0, 60);
  if (status !== 0) throw new Error(`${shown} failed:\n${stdout}${stderr}`);
  seconds += took;
  console.log(`${took.toFixed(1)} s  ${shown}`);
  return stdout;
}

function environment() {
  return { PATH: bin, HOME: process.env.HOME, TMPDIR: work, ADDRESS: `unix:${join(work, "starter.sock")}` };
}

function find(program) {
  if (program === "node") return process.execPath;
  const folder = process.env.PATH.split(":").find(
    (path) => spawnSync("test", ["-x", join(path, program)]).status === 0,
  );
  return realpathSync(join(folder, program));
}
