// Installs the packed package in a project of its own, and runs one program (test/matrix/project) with it in every way:
// Node's versions × ES modules and CommonJS × plain, TypeScript, runners, bundlers. Prints a table of what each cell
// saw, then "N passed, N failed". What cannot be had of the registry is skipped by name.
//
//   node scripts/matrix.mjs                 everything
//   node scripts/matrix.mjs jest esbuild    these ways only
//   node scripts/matrix.mjs --node 22       with this version of Node only; may be repeated
//   node scripts/matrix.mjs --keep          leaves the project's folder, and prints its name

import { execFileSync, spawnSync } from "node:child_process";
import {
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { findNode } from "./nodes.mjs";

const NODES = [20, 22, 24, 26];
const FORMATS = ["esm", "cjs"];
const BUNDLERS = ["esbuild", "webpack", "rollup"];
/** A single executable: esbuild's bundle inside of a copy of Node. */
const EXECUTABLE = "sea";
const WAYS = ["plain", "typescript", "jest", "vitest", "tsx", ...BUNDLERS, EXECUTABLE];
const TOOLS = {
  jest: ["jest"],
  vitest: ["vitest"],
  tsx: ["tsx"],
  esbuild: ["esbuild"],
  webpack: ["webpack"],
  sea: ["esbuild", "postject"],
  rollup: ["rollup", "@rollup/plugin-node-resolve", "@rollup/plugin-commonjs"],
};
const RUN_MS_MAX = 300_000;
/** What each cell must see. */
const RIGHT = "shm: echo, thread 0, stream 012, loan, thread 0, right, worker, thread of its own, right";
const RIGHT_WITHOUT_ADDON = /^socket: echo, .* right, no worker: .*ISTHMUS_ADDON/;

const root = fileURLToPath(new URL("..", import.meta.url));
const { peerDependencies, devDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const parameters = process.argv.slice(2);
const nodesChosen = parameters.flatMap((word, i) => (parameters[i - 1] === "--node" ? [Number(word)] : []));
const waysChosen = parameters.filter((word, i) => !word.startsWith("--") && parameters[i - 1] !== "--node");
for (const way of waysChosen)
  if (!WAYS.includes(way)) throw new Error(`there is no way "${way}"; expected ${WAYS.join(", ")}`);
const ways = waysChosen.length === 0 ? WAYS : waysChosen;
const work = mkdtempSync(join(tmpdir(), "isthmus-matrix-project-"));
const missing = new Set();
const failures = [];
let passed = 0;

try {
  prepare();
  const rows = [];
  for (const major of nodesChosen.length === 0 ? NODES : nodesChosen) {
    const node = findNode((found) => found === major, major, work);
    if (node === undefined) console.log(`skipped: Node.js ${major} cannot be had here`);
    else for (const format of FORMATS) rows.push(row(node, format));
  }
  console.log(`\n| Node.js | modules | ${ways.join(" | ")} |\n| --- | --- |${" --- |".repeat(ways.length)}`);
  for (const cells of rows) console.log(`| ${cells.join(" | ")} |`);
} finally {
  if (parameters.includes("--keep")) console.log(`kept: ${work}`);
  else for (const folder of [work, `${work}-bundles`]) rmSync(folder, { recursive: true, force: true });
}
console.log(`\n${passed} passed, ${failures.length} failed`);
process.exitCode = failures.length > 0 || passed === 0 ? 1 : 0;

/** Packs, installs, compiles and bundles: once, for all versions of Node. */
function prepare() {
  const project = join(root, "test", "matrix", "project");
  cpSync(project, work, { recursive: true });
  writeFileSync(join(work, "package.json"), '{ "private": true }');
  const tarball = npm(["pack", "--silent", "--pack-destination", work], root).trim().split("\n").at(-1);
  const peers = Object.keys(peerDependencies).map((name) => `${name}@${devDependencies[name]}`);
  const base = ["@types/node", "typescript"].map((name) => `${name}@${devDependencies[name]}`);
  install(`./${tarball}`, ...peers, ...base);
  for (const way of ways) {
    try {
      if (way in TOOLS) install(...TOOLS[way]);
    } catch {
      missing.add(way);
      console.log(`skipped: ${way} cannot be had here`);
    }
  }
  for (const format of FORMATS) {
    writeType(join(work, "plain", format), format);
    for (const name of ["main.ts", "program.ts", "routes.ts"]) cpSync(join(work, name), join(work, format, name));
    cpSync(join(root, "test", "proto", "streams_pb.ts"), join(work, format, "streams_pb.ts"));
    writeType(join(work, format), format);
    // tsx runs the sources, which are elsewhere, so that no other tool takes them for the compiled files.
    cpSync(join(work, format), join(work, "sources", format), { recursive: true });
    const options = ["--strict", "--skipLibCheck", "false", "--module", "nodenext", "--target", "es2022"];
    const files = ["main.ts", "program.ts", "routes.ts"].map((name) => join(format, name));
    expectOk("tsc", process.execPath, ["node_modules/typescript/bin/tsc", ...options, "--types", "node", ...files]);
    const wanted = ways.map((way) => (way === EXECUTABLE ? "esbuild" : way));
    for (const bundler of BUNDLERS.filter((name) => wanted.includes(name) && !missing.has(name))) {
      const out = bundleFolder(bundler, format);
      mkdirSync(out, { recursive: true });
      expectOk(`${bundler}, ${format}`, process.execPath, ["bundle.mjs", bundler, format, out]);
    }
  }
}

function writeType(folder, format) {
  writeFileSync(join(folder, "package.json"), JSON.stringify({ type: format === "esm" ? "module" : "commonjs" }));
}

function row(node, format) {
  const cells = ways.map((way) => cell(node, format, way));
  return [node.version, format === "esm" ? "ES modules" : "CommonJS", ...cells];
}

function cell(node, format, way) {
  if (missing.has(way)) return "skipped";
  const name = `Node.js ${node.version}, ${format}, ${way}`;
  if (way === EXECUTABLE) {
    // Node 20 has it as an experiment only. Its main script is CommonJS.
    if (format === "esm" || node.major < 22) return "–";
    makeExecutable(node);
  }
  const { seen, output } = look(node, format, way);
  const isRight = seen === RIGHT;
  const isRightWithout = ![...BUNDLERS, EXECUTABLE].includes(way) || isRightWithoutAddon(node, format, way);
  if (isRight && isRightWithout) {
    passed++;
    console.log(`passed  ${name}`);
    return "shm";
  }
  failures.push(name);
  console.log(`FAILED  ${name}: ${isRight ? "wrong without the addon" : (seen ?? "")}\n${output}`);
  return "**failed**";
}

function look(node, format, way) {
  const result = join(work, "result.txt");
  rmSync(result, { force: true });
  const { program = node.path, args, cwd = join(work, format), env = {} } = commandOf(node, way, format);
  const { status, stdout, stderr } = spawnSync(program, args, {
    cwd,
    encoding: "utf8",
    timeout: RUN_MS_MAX,
    env: { ...process.env, NODE_TEST_CONTEXT: undefined, MATRIX_RESULT: result, CI: "true", ...env },
  });
  const output = `${stdout}${stderr}`;
  if (status !== 0) return { seen: undefined, output };
  return { seen: way === "jest" || way === "vitest" ? readFileSync(result, "utf8") : stdout.trim(), output };
}

function commandOf(node, way, format) {
  const bin = (path) => join(work, "node_modules", path);
  switch (way) {
    case "plain":
      return { args: ["main.js"], cwd: join(work, "plain", format) };
    case "jest":
      return {
        args: [...(format === "esm" ? ["--experimental-vm-modules"] : []), bin("jest/bin/jest.js"), "jest.test.js"],
      };
    case "vitest":
      return { args: [bin("vitest/vitest.mjs"), "run", "vitest.test"] };
    case "tsx":
      return {
        args: [bin("tsx/dist/cli.mjs"), "main.ts"],
        cwd: join(work, "sources", format),
        env: tsxRoutes(node, format),
      };
    case "typescript":
      return { args: ["main.js"] };
    case EXECUTABLE:
      return executableIn(bundleFolder(way, format));
    default:
      return { args: ["main.js"], cwd: bundleFolder(way, format) };
  }
}

/** On Node 20, tsx's loader does not reach worker threads: there the routes load it themselves. */
function tsxRoutes(node, format) {
  const routes = pathToFileURL(join(work, "sources", format, "routes.ts")).href;
  return node.major > 20 ? {} : { MATRIX_ENTRY: join(work, "tsx-routes.mjs"), MATRIX_ROUTES: routes };
}

/** The same bundle, in a folder without the addon. */
function isRightWithoutAddon(node, format, way) {
  const bare = mkdtempSync(join(tmpdir(), "isthmus-matrix-bare-"));
  try {
    cpSync(bundleFolder(way, format), bare, { recursive: true });
    rmSync(join(bare, "isthmus.node"));
    const bundle = { program: node.path, args: ["main.js"], env: {} };
    const { program, args, env } = way === EXECUTABLE ? executableIn(bare) : bundle;
    const { status, stdout, stderr } = spawnSync(program, args, {
      cwd: bare,
      encoding: "utf8",
      env: { ...process.env, ...env },
    });
    return status === 0 && RIGHT_WITHOUT_ADDON.test(stdout) && stderr.includes("ISTHMUS_NO_SHARED_MEMORY");
  } finally {
    rmSync(bare, { recursive: true, force: true });
  }
}

/** Makes a single executable of this Node and esbuild's bundle. */
function makeExecutable(node) {
  const folder = bundleFolder(EXECUTABLE, "cjs");
  rmSync(folder, { recursive: true, force: true });
  cpSync(bundleFolder("esbuild", "cjs"), folder, { recursive: true });
  const [config, blob, program] = ["sea.json", "program.blob", "program"].map((name) => join(folder, name));
  const main = join(folder, "main.js");
  writeFileSync(config, JSON.stringify({ main, output: blob, disableExperimentalSEAWarning: true }));
  expectOk("the executable's blob", node.path, ["--experimental-sea-config", config]);
  const path = spawnSync(node.path, ["-p", "process.execPath"], { encoding: "utf8" }).stdout.trim();
  copyFileSync(realpathSync(path), program);
  const fuse = ["--sentinel-fuse", "NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2"];
  const postject = "node_modules/postject/dist/cli.js";
  expectOk("postject", process.execPath, [postject, program, "NODE_SEA_BLOB", blob, ...fuse]);
  rmSync(main);
}

function executableIn(folder) {
  return { program: join(folder, "program"), args: [], cwd: folder, env: { MATRIX_FOLDER: folder } };
}

/** Outside of the project, so that a bundle finds nothing in its node_modules. */
function bundleFolder(bundler, format) {
  return `${work}-bundles/${bundler}-${format}`;
}

function expectOk(what, command, args) {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: work, encoding: "utf8", timeout: RUN_MS_MAX });
  if (status !== 0) throw new Error(`${what} failed:\n${stdout}${stderr}`);
}

function install(...packages) {
  npm(["install", "--no-audit", "--no-fund", "--silent", "--ignore-scripts", ...packages], work);
}

function npm(args, cwd) {
  return execFileSync("npm", args, { cwd, stdio: ["ignore", "pipe", "inherit"], encoding: "utf8" });
}
