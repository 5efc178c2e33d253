/** Builds the native peers' programs into `build/bench`, each once in a run. */
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { NativePeerName } from "../peers/peer.js";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const sources = join(root, "bench", "native");
const output = join(root, "build", "bench");
/** Go fetches its modules the first time. */
const buildTimeoutMs = 600_000;

/** The program cannot be built on this machine. */
export class NativeUnavailable extends Error {
  override readonly name = "NativeUnavailable";
}

const built = new Map<string, Promise<string>>();

/** @returns the program's file; rejects with {@link NativeUnavailable} if there is no compiler, or no modules */
export function buildNative(peer: NativePeerName): Promise<string> {
  const language = peer.startsWith("c-") ? "c" : "go";
  let file = built.get(language);
  if (file === undefined) {
    mkdirSync(output, { recursive: true });
    file = language === "c" ? buildC() : buildGo();
    built.set(language, file);
  }
  return file;
}

async function buildC(): Promise<string> {
  await run("make", ["--silent", "-C", sources, `OUT=${output}`], sources);
  return join(output, "pair");
}

async function buildGo(): Promise<string> {
  const file = join(output, "peers");
  await run("go", ["build", "-buildvcs=false", "-o", file, "."], join(sources, "go"));
  return file;
}

/** Of the compilers and of Go's modules; null for what is not there. */
export function nativeVersions(): Record<string, string | null> {
  const modules = readFileSync(join(sources, "go", "go.mod"), "utf8");
  const moduleVersion = (path: string) => new RegExp(`^\\s*${path} v(\\S+)$`, "m").exec(modules)?.[1] ?? null;
  return {
    cc: firstLineOf(process.env["CC"] ?? "cc", "--version")?.replace(/^cc /, "") ?? null,
    go: firstLineOf("go", "version")?.replace(/^go version /, "") ?? null,
    "grpc-go": moduleVersion("google.golang.org/grpc"),
    "shmipc-go": moduleVersion("github.com/cloudwego/shmipc-go"),
  };
}

function firstLineOf(command: string, argument: string): string | null {
  const { status, stdout } = spawnSync(command, [argument], { encoding: "utf8" });
  return status === 0 ? stdout.split("\n", 1)[0] : null;
}

/** Resolves when the command has succeeded. */
function run(command: string, args: readonly string[], cwd: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd, stdio: ["ignore", "ignore", "pipe"], timeout: buildTimeoutMs });
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    child.on("error", (error) => reject(new NativeUnavailable(`${command} cannot be started: ${error.message}`)));
    child.on("close", (code, signal) => {
      if (code === 0) resolve();
      else reject(new NativeUnavailable(`${command} failed (${signal ?? code}): ${firstProblem(stderr)}`));
    });
  });
}

function firstProblem(stderr: string): string {
  const lines = stderr.split("\n").filter((line) => line !== "" && !line.startsWith("go: downloading "));
  return lines.length > 0 ? lines[0] : "no reason given";
}
