// Finds Node.js in other versions: on the path, as `node22`, or as npm has it.
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/**
 * @param isFit of a major version, whether it will do
 * @param wanted the major version that is installed from npm if none on the path will do
 * @param folder where it is installed
 * @returns path, version and major version; undefined if there is none
 */
export function findNode(isFit, wanted, folder) {
  const onPath = [process.execPath, ...["20", "22", "24", "26"].map((major) => `node${major}`)]
    .map(tryNode)
    .find((node) => node !== undefined && isFit(node.major));
  if (onPath !== undefined) return onPath;
  const into = join(folder, `node-${wanted}`);
  mkdirSync(into, { recursive: true });
  writeFileSync(join(into, "package.json"), '{ "private": true }');
  const name = `node-${process.platform}-${process.arch}`;
  const { status } = spawnSync("npm", ["install", "--silent", "--no-package-lock", `${name}@${wanted}`], {
    cwd: into,
    stdio: "ignore",
  });
  return status === 0 ? tryNode(join(into, "node_modules", name, "bin", "node")) : undefined;
}

function tryNode(path) {
  const { status, stdout } = spawnSync(path, ["--version"], { encoding: "utf8" });
  if (status !== 0) return undefined;
  const version = stdout.trim().replace(/^v/, "");
  return { path, version, major: Number.parseInt(version, 10) };
}
