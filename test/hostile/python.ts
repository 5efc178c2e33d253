/** Attacks that are written in Python: Node can neither make some kinds of descriptors nor write to memory from a thread. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { Owner } from "../support/temp.js";

export const noPython = spawnSync("python3", ["-c", ""]).status === 0 ? false : "there is no python3";

/** Runs a script of this folder until the owner ends. `report` is the first thing that it prints. */
export function runPython(owner: Owner, script: string, ...parameters: string[]): { readonly report: Promise<string> } {
  const path = fileURLToPath(new URL(`../../../test/hostile/${script}`, import.meta.url));
  const child = spawn("python3", ["-B", path, ...parameters], { stdio: ["pipe", "pipe", "inherit"] });
  owner.after(async () => {
    const exit = once(child, "exit");
    if (child.kill("SIGKILL")) await exit;
  });
  const report = new Promise<string>((resolve) => {
    child.stdout.once("data", (chunk: Buffer) => resolve(chunk.toString().trim()));
    child.once("exit", (code, signal) => resolve(`${script} ended with ${code ?? signal}`));
  });
  return { report };
}
