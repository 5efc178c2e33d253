/** Child processes of tests: started, asked questions, killed by their id, and gone when the test is. */
import assert from "node:assert/strict";
import { fork, spawn } from "node:child_process";
import { once } from "node:events";
import { join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { Owner } from "./temp.js";

const PACKAGE_ROOT = fileURLToPath(new URL("../../../", import.meta.url));
/** Only to end what hangs. */
const START_MS_MAX = 60_000;
const ANSWER_MS_MAX = 120_000;
const SCRIPT_MS_MAX = 120_000;

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
  stderr: string;
}

export interface Child {
  readonly pid: number;
  /** Asks the child's `answers` (see `answerParent`). Rejects with the error's text if it throws there. */
  ask<T = unknown>(question: string, data?: unknown): Promise<T>;
  kill(signal?: NodeJS.Signals): Promise<Exit>;
  readonly exited: Promise<Exit>;
}

interface Question {
  id: number;
  question: string;
  data: unknown;
}
interface Answer {
  id: number;
  value?: unknown;
  error?: string;
}

/** How a process runs: by default like this one. */
export interface Surroundings {
  readonly env?: NodeJS.ProcessEnv;
  /** A command that runs the one that follows it, such as `nice`. */
  readonly wrap?: readonly string[];
  /** The folder of the package whose modules it runs. */
  readonly packageRoot?: string;
}

/** A module of the package that is to run. */
function moduleUrl(path: string, { packageRoot }: Surroundings): URL {
  const here = new URL(path, import.meta.url);
  return packageRoot === undefined
    ? here
    : pathToFileURL(join(packageRoot, relative(PACKAGE_ROOT, fileURLToPath(here))));
}

/**
 * Starts a compiled module, for example "servers/test-server.js", with `data`, and waits until it calls `answerParent`.
 */
export async function startChild(
  owner: Owner,
  module: string,
  data: unknown,
  env: NodeJS.ProcessEnv = {},
  surroundings: Surroundings = {},
): Promise<Child> {
  const path = fileURLToPath(moduleUrl(module, surroundings));
  const [execPath, ...execArgv] = [...(surroundings.wrap ?? []), process.execPath];
  const child = fork(path, [JSON.stringify(data)], {
    execPath,
    execArgv: [...execArgv, ...process.execArgv],
    stdio: ["ignore", "inherit", "pipe", "ipc"],
    env: { ...process.env, ...env },
    serialization: "advanced",
  });
  let stderr = "";
  child.stderr!.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const waiting = new Map<number, (answer: Answer) => void>();
  const exited = new Promise<Exit>((resolve) => {
    child.on("close", (code, signal) => {
      for (const answer of waiting.values())
        answer({ id: 0, error: `the child ended (${String(code ?? signal)}): ${stderr}` });
      waiting.clear();
      resolve({ code, signal, stderr });
    });
  });
  const kill = (signal: NodeJS.Signals = "SIGKILL") => {
    if (child.exitCode === null && child.signalCode === null) child.kill(signal);
    return exited;
  };
  owner.after(() => kill());
  const await_ = (id: number, what: string, limitMs: number) =>
    new Promise<Answer>((resolve) => {
      const timer = setTimeout(
        () => resolve({ id, error: `no answer within ${limitMs} ms: ${what}; ${stderr}` }),
        limitMs,
      );
      waiting.set(id, (answer) => {
        clearTimeout(timer);
        waiting.delete(id);
        resolve(answer);
      });
    });
  child.on("message", (answer: Answer) => waiting.get(answer.id)?.(answer));
  let lastId = 0;
  const ready = await await_(0, `the start of ${module}`, START_MS_MAX);
  if (ready.error !== undefined) {
    await kill();
    throw new Error(ready.error);
  }
  return {
    pid: child.pid!,
    async ask<T>(question: string, askedWith?: unknown) {
      if (!child.connected) throw new Error(`the child has ended: ${stderr}`);
      const id = ++lastId;
      const pending = await_(id, question, ANSWER_MS_MAX);
      child.send({ id, question, data: askedWith } satisfies Question);
      const answer = await pending;
      if (answer.error !== undefined) throw new Error(answer.error);
      return answer.value as T;
    },
    kill,
    exited,
  };
}

export type Answers = Record<string, (data: never) => unknown>;

/** In a child: tells the parent that it is ready, and answers it. The parent alone does not keep the child alive. */
export function answerParent(answers: Answers): void {
  process.on("message", (message: Question) => {
    void (async () => {
      const answer: Answer = { id: message.id };
      try {
        answer.value = await (answers[message.question] as (data: unknown) => unknown)(message.data);
      } catch (error) {
        answer.error = error instanceof Error ? (error.stack ?? error.message) : String(error);
      }
      process.send?.(answer);
    })();
  });
  // A child never outlives its test.
  process.on("disconnect", () => process.exit());
  process.send!({ id: 0 } satisfies Answer);
  process.channel?.unref();
}

/** In a child: the data that `startChild` was given. */
export function childData<T>(): T {
  return JSON.parse(process.argv[2]) as T;
}

export interface ScriptOutcome extends Exit {
  /** What the script said, in order. */
  said: unknown[];
}

const scriptPrelude = (surroundings: Surroundings) => `
import { writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient, Code, ConnectError } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport, peerCredentials } from ${JSON.stringify(moduleUrl("../../src/index.js", surroundings).href)};
import { TestService } from ${JSON.stringify(moduleUrl("../proto/test_pb.js", surroundings).href)};
import { testRoutes } from ${JSON.stringify(moduleUrl("./test-service.js", surroundings).href)};
const data = JSON.parse(process.argv[1]);
const say = (value) => writeSync(1, JSON.stringify(value) + "\\n");
const sayFailure = async (promise) => { try { await promise; say("no failure"); } catch (error) { say({ code: Code[error.code], message: error.message, stack: error.stack }); } };
`;

/**
 * Runs an ES module given as text in a process of its own and waits for its end; what is needed for a client and a
 * server is in scope, with `data`, `say(value)` and `sayFailure(promise)`. Killed after `limitMs`.
 */
export async function runScript(
  owner: Owner,
  code: string,
  data: unknown,
  options: Surroundings & { limitMs?: number } = {},
): Promise<ScriptOutcome> {
  const [command, ...parameters] = [
    ...(options.wrap ?? []),
    process.execPath,
    "--input-type=module",
    "-e",
    scriptPrelude(options) + code,
    JSON.stringify(data),
  ];
  const child = spawn(command, parameters, {
    cwd: options.packageRoot ?? PACKAGE_ROOT,
    env: { ...process.env, ...options.env },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: options.limitMs ?? SCRIPT_MS_MAX,
    killSignal: "SIGKILL",
  });
  owner.after(() => child.kill("SIGKILL"));
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const [code_, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null];
  const said = stdout.split("\n").flatMap((line) => (line === "" ? [] : [JSON.parse(line) as unknown]));
  return { code: code_, signal, stderr, said };
}

/** Like `runScript`, and the script must end by itself, with exit code 0. */
export async function runScriptOk(...parameters: Parameters<typeof runScript>): Promise<ScriptOutcome> {
  const outcome = await runScript(...parameters);
  assert.deepEqual(
    { code: outcome.code, signal: outcome.signal },
    { code: 0, signal: null },
    `${outcome.stderr}\nsaid: ${JSON.stringify(outcome.said)}`,
  );
  return outcome;
}
