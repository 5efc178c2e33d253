/** What the figures were taken on, and how processes are pinned to cores. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Placement } from "./scenarios.js";

export interface Machine {
  cpu: string;
  cores: number;
  kernel: string;
  architecture: string;
  memoryBytes: number;
}

export function describeMachine(): Machine {
  const cpus = os.cpus();
  return {
    cpu: cpus[0]?.model.trim() ?? "unknown",
    cores: cpus.length,
    kernel: `${os.type()} ${os.release()}`,
    architecture: os.arch(),
    memoryBytes: os.totalmem(),
  };
}

/** Versions of what is compared; null for what is not installed. */
export function packageVersions(): Record<string, string | null> {
  const names = [
    "@bufbuild/protobuf",
    "@connectrpc/connect",
    "@connectrpc/connect-node",
    "@grpc/grpc-js",
    "zeromq",
    "protobufjs",
  ];
  return { isthmus: ownVersion(), ...Object.fromEntries(names.map((name) => [name, versionOf(name)])) };
}

function ownVersion(): string | null {
  for (let folder = dirname(fileURLToPath(import.meta.url)); folder !== dirname(folder); folder = dirname(folder)) {
    const found = readPackage(join(folder, "package.json"));
    if (found?.name === "isthmus") return found.version;
  }
  return null;
}

function versionOf(name: string): string | null {
  const paths = createRequire(import.meta.url).resolve.paths(name) ?? [];
  for (const path of paths) {
    const found = readPackage(join(path, name, "package.json"));
    if (found !== null) return found.version;
  }
  return null;
}

function readPackage(path: string): { name: string; version: string } | null {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as { name: string; version: string };
  } catch {
    return null;
  }
}

/** Which cores each kind of process runs on, as a list for `taskset -c`; null where it is not pinned. */
export interface Cores {
  server: string | null;
  client: string | null;
  /** For a client whose process holds its server as a thread. */
  both: string | null;
  /** For the report. */
  description: string;
}

/** Places processes. Pinning takes `taskset` and two cores that this process may use. */
export class Placer {
  readonly #cores: readonly number[];
  /** Why processes are not pinned; null if they are. */
  readonly unpinnedBecause: string | null;

  constructor() {
    this.#cores = allowedCores();
    const works = spawnSync("taskset", ["-c", String(this.#cores[0] ?? 0), "true"]).status === 0;
    this.unpinnedBecause = !works
      ? "taskset is not available"
      : this.#cores.length < 2
        ? "there is only one core"
        : null;
  }

  /** null if the placement is not possible here. */
  place(placement: Placement): Cores | null {
    const [first, second] = this.#cores;
    if (this.unpinnedBecause !== null) {
      if (placement === "one") return null;
      return { server: null, client: null, both: null, description: "unpinned" };
    }
    const [a, b, pair] = [String(first), String(second), `${first},${second}`];
    switch (placement) {
      case "two":
        return { client: a, server: b, both: pair, description: `client on core ${a}, server on core ${b}` };
      case "one":
        return { client: a, server: a, both: a, description: `all on core ${a}` };
      case "shared":
        return {
          client: pair,
          server: pair,
          both: pair,
          description: `all on cores ${a} and ${b}, unpinned between them`,
        };
    }
  }
}

function allowedCores(): number[] {
  try {
    const [, list] = /^Cpus_allowed_list:\s*(\S+)/m.exec(readFileSync("/proc/self/status", "utf8")) ?? [];
    return parseCoreList(list ?? "");
  } catch {
    return os.cpus().map((_, i) => i);
  }
}

/** "0-2,5" is 0, 1, 2, 5. */
export function parseCoreList(list: string): number[] {
  return list
    .split(",")
    .filter(Boolean)
    .flatMap((part) => {
      const [from, to = from] = part.split("-").map(Number);
      return Array.from({ length: to - from + 1 }, (_, i) => from + i);
    });
}
