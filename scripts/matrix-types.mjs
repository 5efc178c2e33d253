// Installs the packed package, and compiles one file that uses it (test/matrix/types) with every version of TypeScript,
// in every way to resolve modules: strict, and with the declarations of all packages checked. A cell is right if nothing
// is wrong with that file and the package's declarations; it names other packages whose declarations have errors. Prints
// a table, then "N passed, N failed".
//
//   node scripts/matrix-types.mjs           all versions
//   node scripts/matrix-types.mjs 5.4 7.0   these versions of TypeScript only

import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const VERSIONS = ["5.4", "5.6", "5.9", "6.0", "7.0"];
/** Module and resolution, for a file of this format; `before` is the first version of TypeScript that lacks it. */
const WAYS = {
  "node10, CommonJS": { module: "commonjs", moduleResolution: "node10", format: "cjs", before: 7 },
  "node16, ES modules": { module: "node16", moduleResolution: "node16", format: "esm" },
  "node16, CommonJS": { module: "node16", moduleResolution: "node16", format: "cjs" },
  "nodenext, ES modules": { module: "nodenext", moduleResolution: "nodenext", format: "esm" },
  "nodenext, CommonJS": { module: "nodenext", moduleResolution: "nodenext", format: "cjs" },
  bundler: { module: "esnext", moduleResolution: "bundler", format: "esm" },
};

const root = fileURLToPath(new URL("..", import.meta.url));
const { peerDependencies, devDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const versions = process.argv.length > 2 ? process.argv.slice(2) : VERSIONS;
const work = mkdtempSync(join(tmpdir(), "isthmus-types-"));
const failures = [];
let passed = 0;

try {
  const tarball = npm(["pack", "--silent", "--pack-destination", work], root).trim().split("\n").at(-1);
  writeFileSync(join(work, "package.json"), '{ "private": true }');
  const packages = [...Object.keys(peerDependencies), "@types/node"].map((name) => `${name}@${devDependencies[name]}`);
  install(`./${tarball}`, ...packages);
  for (const format of ["esm", "cjs"]) {
    mkdirSync(join(work, format));
    writeFileSync(
      join(work, format, "package.json"),
      JSON.stringify({ type: format === "esm" ? "module" : "commonjs" }),
    );
    cpSync(join(root, "test", "matrix", "types", "use.ts"), join(work, format, "use.ts"));
    cpSync(join(root, "test", "proto", "streams_pb.ts"), join(work, format, "streams_pb.ts"));
  }
  const rows = versions.map(row);
  const titles = Object.keys(WAYS);
  console.log(`\n| TypeScript | ${titles.join(" | ")} |\n| --- |${" --- |".repeat(titles.length)}`);
  for (const cells of rows) console.log(`| ${cells.join(" | ")} |`);
} finally {
  rmSync(work, { recursive: true, force: true });
}
console.log(`\n${passed} passed, ${failures.length} failed`);
process.exitCode = failures.length > 0 || passed === 0 ? 1 : 0;

function row(version) {
  try {
    install(`typescript@~${version}.0`);
  } catch {
    console.log(`skipped: TypeScript ${version} cannot be had here`);
    return [version, ...Object.keys(WAYS).map(() => "skipped")];
  }
  const { version: exact } = JSON.parse(readFileSync(join(work, "node_modules", "typescript", "package.json"), "utf8"));
  return [exact, ...Object.entries(WAYS).map(([title, way]) => cell(exact, title, way))];
}

function cell(version, title, { module, moduleResolution, format, before = Infinity }) {
  const major = Number.parseInt(version, 10);
  if (major >= before) return "not in this version";
  const config = {
    compilerOptions: {
      module,
      moduleResolution,
      strict: true,
      skipLibCheck: false,
      exactOptionalPropertyTypes: true,
      target: "es2022",
      types: ["node"],
      noEmit: true,
      // Version 6 calls node10 deprecated.
      ...(major === 6 && { ignoreDeprecations: "6.0" }),
    },
    files: ["use.ts"],
  };
  writeFileSync(join(work, format, "tsconfig.json"), JSON.stringify(config));
  const { status, stdout } = spawnSync(
    process.execPath,
    ["node_modules/typescript/bin/tsc", "-p", join(format, "tsconfig.json")],
    { cwd: work, encoding: "utf8" },
  );
  const name = `TypeScript ${version}, ${title}`;
  const errors = stdout.split("\n").filter((line) => /error TS\d+/.test(line));
  const others = errors.map((line) => /^node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(line)?.[1] ?? "isthmus");
  if (others.includes("isthmus") || (status !== 0 && errors.length === 0)) {
    failures.push(name);
    console.log(`FAILED  ${name}\n${stdout}`);
    return "**failed**";
  }
  passed++;
  console.log(`passed  ${name}`);
  return others.length === 0 ? "right" : `right, but for ${[...new Set(others)].sort().join(", ")}`;
}

function install(...packages) {
  npm(["install", "--no-audit", "--no-fund", "--silent", "--ignore-scripts", ...packages], work);
}

function npm(args, cwd) {
  return execFileSync("npm", args, { cwd, stdio: ["ignore", "pipe", "inherit"], encoding: "utf8" });
}
