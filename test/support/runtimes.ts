/** Runtimes other than Node that can run the tests' programs, where their binaries are to be had. */
import type { ChildProcess } from "node:child_process";
import { spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Owner } from "./temp.js";
import { waitUntil, within } from "./waiting.js";

const packageRoot = fileURLToPath(new URL("../../../", import.meta.url));

export interface Runtime {
  readonly name: "Node" | "Bun" | "Deno";
  /** The command that runs the module that follows it. */
  readonly command: readonly string[];
  /** Why it cannot be used here; false if it can. */
  readonly skip: string | false;
}

export const node: Runtime = { name: "Node", command: [process.execPath], skip: false };
export const bun = other("Bun", []);
export const deno = other("Deno", ["run", "--quiet", "--allow-all", "--node-modules-dir=manual"]);

/**
 * Looked for where the environment says (`ISTHMUS_BUN`, `ISTHMUS_DENO`), on the path, and among the package's own
 * binaries.
 */
function other(name: "Bun" | "Deno", parameters: readonly string[]): Runtime {
  const said = process.env[`ISTHMUS_${name.toUpperCase()}`];
  const folders = [...(process.env["PATH"] ?? "").split(":"), join(packageRoot, "node_modules/.bin")];
  const program = said ?? folders.map((folder) => join(folder, name.toLowerCase())).find(existsSync);
  if (program === undefined) return { name, command: [], skip: `${name} is not installed` };
  const { error, status } = spawnSync(program, ["--version"], { stdio: "ignore" });
  return {
    name,
    command: [program, ...parameters],
    skip: error === undefined && status === 0 ? false : `${program} does not run`,
  };
}

export interface Run {
  readonly process: ChildProcess;
  /** All that it wrote so far. */
  output(): string;
  /** Its exit code, once it has ended by itself or by a signal. */
  readonly ended: Promise<number | null>;
}

/** Runs a module; killed when the test is over. */
export function run(owner: Owner, { command }: Runtime, module: string, ...parameters: readonly string[]): Run {
  const [program, ...before] = command;
  const child = spawn(program, [...before, module, ...parameters], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, NO_COLOR: "1" },
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const ended = new Promise<number | null>((resolve) => child.on("close", (code) => resolve(code)));
  owner.after(() => {
    child.kill("SIGKILL");
    return ended;
  });
  return { process: child, output: () => output, ended };
}

/** Waits until it has written a text. */
export async function written(started: Run, text: string): Promise<void> {
  await waitUntil(`"${text}"`, () => started.output().includes(text) || started.output());
}

/** Waits for its end; what it wrote. */
export async function finished(started: Run, withinMs = 60_000): Promise<{ code: number | null; output: string }> {
  const code = await within(withinMs, `a program that wrote ${started.output()}`, started.ended);
  return { code, output: started.output() };
}
