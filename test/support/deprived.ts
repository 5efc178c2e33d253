/**
 * Processes that are refused what shared memory needs: a system call, by a filter of the kernel's as containers have
 * it, or ArrayBuffers over foreign memory, by an addon that was compiled against a Node-API like Electron's. Both are
 * made with a C compiler, once per test process.
 */
import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { loadAddon } from "../../src/os/addon.js";

const packageRoot = fileURLToPath(new URL("../../../", import.meta.url));
const sources = join(packageRoot, "test/support/native");
const compiler = process.env["CC"] ?? "cc";

const folder = mkdtempSync(join(tmpdir(), "isthmus-deprived-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

/** Why no such process can be made here; false if it can. */
export const noDeprivation: string | false =
  loadAddon().reason ??
  failureOf(compiler, ["-O1", "-o", join(folder, "refuse"), join(sources, "refuse.c")]) ??
  failureOf(...refusing("memfd_create", "EPERM", "true")) ??
  false;

function failureOf(command: string, parameters: readonly string[]): string | undefined {
  const { error, status, stderr } = spawnSync(command, parameters, { encoding: "utf8" });
  if (error !== undefined) return `${command} cannot be run: ${error.message}`;
  return status === 0 ? undefined : `${command} failed: ${stderr}`;
}

/** The command that runs `program` without a system call. */
export function refusing(
  systemCall: "memfd_create" | "fallocate" | "fstatfs",
  error: "EPERM" | "ENOSYS" | "EMFILE",
  ...program: readonly string[]
): [command: string, parameters: string[]] {
  return [join(folder, "refuse"), [systemCall, error, ...program]];
}

let copy: string | undefined;

/** The folder of a copy of this package whose addon cannot make ArrayBuffers over foreign memory. */
export function withoutExternalBuffers(): string {
  if (copy !== undefined) return copy;
  const made = join(folder, "package");
  for (const part of ["dist/src", "dist/test/support", "dist/test/proto", "package.json"])
    cpSync(join(packageRoot, part), join(made, part), { recursive: true });
  symlinkSync(join(packageRoot, "node_modules"), join(made, "node_modules"));
  const headers = join(dirname(createRequire(import.meta.url).resolve("node-api-headers/package.json")), "include");
  const flags = `-include ${join(sources, "no-external-buffers.h")}`;
  const failure = failureOf("make", [
    "--silent",
    "-C",
    join(packageRoot, "native"),
    `OUT=${join(made, "build")}`,
    `HEADERS=${headers}`,
    `CC=${compiler}`,
    `CPPFLAGS=${flags}`,
  ]);
  if (failure !== undefined) throw new Error(failure);
  return (copy = made);
}
