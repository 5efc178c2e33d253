/**
 * Connect's conformance runner: a Go program, which also has the reference client and server in it. Neither it nor
 * anything made from its sources is part of this project: Go gets and builds it, once per version, into
 * `node_modules/.cache`.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const MODULE = "connectrpc.com/conformance";
const VERSION = "v1.0.7";

const DOWNLOAD_MS_MAX = 120_000;
/** Of the first build, on a slow machine. */
const BUILD_MS_MAX = 600_000;

const cache = fileURLToPath(
  new URL(`../../../../node_modules/.cache/isthmus/connectconformance-${VERSION}/`, import.meta.url),
);

export interface Runner {
  readonly program: string;
  /** The folder with the sources it was built from. */
  readonly sources: string;
}

/** The runner, or the reason why it cannot be had here. @throws Error if what was got cannot be built */
export function getRunner(): Runner | string {
  const folder = mkdtempSync(join(tmpdir(), "isthmus-go-"));
  try {
    return install(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function install(folder: string): Runner | string {
  if (go(["version"], folder, DOWNLOAD_MS_MAX).error?.code === "ENOENT") return "no Go here";
  const download = go(["mod", "download", "-json", `${MODULE}@${VERSION}`], folder, DOWNLOAD_MS_MAX);
  const { Dir: sources, Error: refusal } = JSON.parse(download.stdout || "{}") as { Dir?: string; Error?: string };
  if (sources === undefined) return `Go cannot get ${MODULE}@${VERSION}: ${refusal ?? download.complaint}`;
  const program = join(cache, "connectconformance");
  if (!existsSync(program)) {
    mkdirSync(cache, { recursive: true });
    const unfinished = mkdtempSync(join(cache, "unfinished-"));
    try {
      const build = go(["install", `${MODULE}/cmd/connectconformance@${VERSION}`], folder, BUILD_MS_MAX, {
        GOBIN: unfinished,
      });
      if (build.complaint !== undefined) {
        // What it depends on is fetched now. The compiler names the package first.
        if (/^# /m.test(build.stderr)) throw new Error(`Go cannot build ${MODULE}@${VERSION}:\n${build.stderr}`);
        return `Go cannot get what ${MODULE}@${VERSION} depends on: ${build.complaint}`;
      }
      renameSync(join(unfinished, "connectconformance"), program);
    } finally {
      rmSync(unfinished, { recursive: true, force: true });
    }
  }
  return { program, sources };
}

interface Outcome {
  readonly stdout: string;
  readonly stderr: string;
  readonly error: NodeJS.ErrnoException | undefined;
  /** Why it failed, if it did, in a line. */
  readonly complaint: string | undefined;
}

/** Runs Go in a folder without a module, so that no user's settings of one apply. */
function go(parameters: readonly string[], cwd: string, timeout: number, environment: NodeJS.ProcessEnv = {}): Outcome {
  const { status, stdout, stderr, error } = spawnSync("go", parameters, {
    cwd,
    encoding: "utf8",
    timeout,
    env: { ...process.env, GOFLAGS: "", GOWORK: "off", ...environment },
  });
  return {
    stdout,
    stderr,
    error,
    complaint: error?.message ?? (status === 0 ? undefined : (stderr.trim().split("\n").at(-1) ?? "")),
  };
}
