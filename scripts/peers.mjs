// Runs end-to-end suites of the built tree (npm run build) against other versions of the packages that it works with:
// the lowest and the newest of each that the ranges of package.json allow. A line per combination, then "N passed, N
// failed".
//
//   node scripts/peers.mjs          the suites that Connect's, grpc-js's and protobuf-es's behaviour shows in
//   node scripts/peers.mjs --all    all end-to-end suites
//
// A combination whose packages ask for a newer Node.js than this one runs with another: `node22` or newer on the path,
// else the binary that npm has of it. If there is none, the combination is skipped by name.

import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { findNode } from "./nodes.mjs";

const SUITES = [
  "abort",
  "context",
  "deadline",
  "errors",
  "every-carrier",
  "failover",
  "grpc-js",
  "http",
  "interceptors",
  "metadata",
  "relayed-errors",
  "request-gate",
  "streams",
  "unary",
];
// What suites need besides, in the versions of the checkout; `--all` needs the others.
const TOOLS = ["@connectrpc/validate", "@bufbuild/protovalidate"];
const TOOLS_OF_ALL = ["typescript", "fast-check", "@types/node", "node-api-headers", "yaml"];
// The same of files, besides the built tree: some suites run the examples, or compile TypeScript and C.
const FILES_OF_ALL = [
  "docs",
  "examples",
  "README.md",
  "native",
  "tsconfig.json",
  join("test", "proto"),
  join("test", "support", "native"),
];

const root = fileURLToPath(new URL("..", import.meta.url));
const { peerDependencies, devDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const runsAll = process.argv.includes("--all");
const work = mkdtempSync(join(tmpdir(), "isthmus-peers-"));
const failures = [];
let passed = 0;

try {
  const ranges = Object.entries(peerDependencies);
  const combinations = {
    lowest: Object.fromEntries(ranges.map(([name, range]) => [name, lowestOf(range)])),
    newest: Object.fromEntries(ranges.map(([name, range]) => [name, newestOf(name, range)])),
  };
  for (const [title, versions] of Object.entries(combinations)) run(title, versions);
} finally {
  rmSync(work, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failures.length} failed`);
process.exitCode = failures.length > 0 || passed === 0 ? 1 : 0;

function run(title, versions) {
  const packages = Object.entries(versions).map(([name, version]) => `${basename(name)} ${version}`);
  const name = `${title}: ${packages.join(", ")}`;
  const needed = Math.max(...Object.entries(versions).map(([package_, version]) => nodeNeeded(package_, version)));
  const node = findNode((major) => major >= needed, needed, work);
  if (node === undefined) {
    console.log(`skipped  ${name}: it needs Node.js ${needed}, and there is none`);
    return;
  }
  const folder = install(title, versions);
  const tests = ["e2e", "system"].flatMap((folder) =>
    readdirSync(join(root, "test", folder))
      .filter((file) => file.endsWith(".test.ts") && (runsAll || SUITES.includes(file.slice(0, -".test.ts".length))))
      .map((file) => join("dist", "test", folder, file.replace(/\.ts$/, ".js"))),
  );
  const started = Date.now();
  const { stdout, stderr } = spawnSync(
    node.path,
    ["--test", "--test-reporter=tap", `--test-concurrency=${availableParallelism() + 1}`, ...tests],
    {
      cwd: folder,
      encoding: "utf8",
      maxBuffer: 1 << 30,
    },
  );
  const count = (what) => Number(new RegExp(`^# ${what} (\\d+)$`, "m").exec(stdout)?.[1] ?? 0);
  const ok = count("pass") > 0 && count("fail") === 0 && count("cancelled") === 0;
  const seconds = Math.round((Date.now() - started) / 1000);
  console.log(
    `${ok ? "passed " : "FAILED "}  ${name}; Node.js ${node.version}: ${count("pass")} tests passed, ${count("fail")} failed, ${count("skipped")} skipped, ${seconds} s`,
  );
  if (ok) {
    passed++;
  } else {
    failures.push(name);
    console.log(failed(stdout) || stderr);
  }
}

// The failed tests, with what TAP says of each.
function failed(tap) {
  const lines = tap.split("\n");
  return lines
    .flatMap((line, i) =>
      /^\s*not ok /.test(line) && !lines.slice(i, i + 8).some((next) => next.includes("subtestsFailed"))
        ? lines.slice(i, i + 20)
        : [],
    )
    .join("\n");
}

// A folder with the built tree and these versions.
function install(title, versions) {
  const folder = join(work, title);
  mkdirSync(join(folder, "build"), { recursive: true });
  const tools = [...TOOLS, ...(runsAll ? TOOLS_OF_ALL : [])].map((tool) => [tool, devDependencies[tool]]);
  writeFileSync(
    join(folder, "package.json"),
    JSON.stringify({ private: true, type: "module", dependencies: { ...versions, ...Object.fromEntries(tools) } }),
  );
  // What the tools themselves ask for does not count.
  npm(["install", "--silent", "--legacy-peer-deps", "--no-package-lock", "--prefer-offline"], folder);
  cpSync(join(root, "package.json"), join(folder, "package.json"));
  cpSync(join(root, "dist"), join(folder, "dist"), { recursive: true });
  const addon = join("build", "isthmus.node");
  if (existsSync(join(root, addon))) cpSync(join(root, addon), join(folder, addon));
  if (runsAll) for (const extra of FILES_OF_ALL) cpSync(join(root, extra), join(folder, extra), { recursive: true });
  return folder;
}

// Of a caret range, the version that it names.
function lowestOf(range) {
  const version = /^\^(\d+\.\d+\.\d+)$/.exec(range)?.[1];
  if (version === undefined) throw new Error(`the range ${range} of a peer is not of the kind ^1.2.3`);
  return version;
}

function newestOf(name, range) {
  const versions = [JSON.parse(npm(["view", `${name}@${range}`, "version", "--json"], root))].flat();
  return versions
    .filter((version) => /^\d+\.\d+\.\d+$/.test(version))
    .sort((a, b) => a.localeCompare(b, "en", { numeric: true }))
    .at(-1);
}

// The lowest major version of Node.js that a package asks for.
function nodeNeeded(name, version) {
  const output = npm(["view", `${name}@${version}`, "engines.node", "--json"], root).trim();
  return Number(/>=\s*v?(\d+)/.exec(output)?.[1] ?? 0);
}

function npm(parameters, cwd) {
  const { status, stdout, stderr, error } = spawnSync("npm", parameters, { cwd, encoding: "utf8" });
  if (error !== undefined) throw new Error(`npm cannot be started: ${error.message}`);
  if (status !== 0) throw new Error(`npm ${parameters.join(" ")} failed: ${stderr}${stdout}`);
  return stdout;
}
