/**
 * The processes that the demo starts. Each is ended by its own handle, never by name. None outlives the demo, because
 * the forked ones also end when the channel to this process closes.
 */
import type { ChildProcess } from "node:child_process";
import { fork, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

export interface CommandResult {
  /** null if it was killed. */
  readonly exitCode: number | null;
  readonly output: string;
  readonly errorOutput: string;
}

const ERROR_OUTPUT_MAX = 4096;
const START_MILLIS_MAX = 10_000;
const STOP_MILLIS_MAX = 1000;

/** A forked program of the demo. */
export class Program {
  readonly pid: number;
  readonly exited: Promise<void>;
  private readonly child: ChildProcess;
  private readonly name: string;
  private errorOutput = "";

  constructor(name: string, child: ChildProcess) {
    this.name = name;
    this.child = child;
    this.pid = child.pid ?? 0;
    this.exited = new Promise((resolve) => child.once("exit", () => resolve()).once("error", () => resolve()));
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.errorOutput = (this.errorOutput + text).slice(-ERROR_OUTPUT_MAX);
    });
  }

  /** The next message from the process. @throws Error that says why there is none */
  async message<T>(): Promise<T> {
    const { child } = this;
    return new Promise((resolve, reject) => {
      const fail = (what: string) => settle(() => reject(new Error(`the ${this.name} ${what}${this.lastWords()}`)));
      const timer = setTimeout(() => fail(`did not answer within ${START_MILLIS_MAX / 1000} s`), START_MILLIS_MAX);
      const onMessage = (message: unknown) => settle(() => resolve(message as T));
      const onClose = () => fail("ended");
      const onError = (error: Error) => fail(`cannot be started: ${error.message}`);
      const settle = (act: () => void) => {
        clearTimeout(timer);
        child.off("message", onMessage).off("close", onClose).off("error", onError);
        act();
      };
      child.on("message", onMessage).on("close", onClose).on("error", onError);
    });
  }

  send(message: string): void {
    if (this.child.connected) this.child.send(message);
  }

  /** `kill -9`, by its process id. */
  kill(): void {
    this.child.kill("SIGKILL");
  }

  /** Waits a while for it to end by itself. */
  async stop(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null || this.pid === 0) return;
    if (this.child.connected) this.child.disconnect();
    const timer = setTimeout(() => this.kill(), STOP_MILLIS_MAX);
    await this.exited;
    clearTimeout(timer);
  }

  private lastWords(): string {
    const lines = this.errorOutput.trim().split("\n");
    // Of an uncaught error's report, the line that names it.
    const line = lines.find((text) => /^\w*Error\b/.test(text)) ?? lines[0];
    return line === "" ? "" : `: ${line}`;
  }
}

export class Children {
  private readonly programs = new Set<Program>();
  private readonly commands = new Set<ChildProcess>();
  private closed = false;

  /** Starts a program that lies beside this file. */
  fork(name: string, file: string, args: readonly string[]): Program {
    this.mustBeOpen();
    const path = fileURLToPath(new URL(file, import.meta.url));
    const program = new Program(name, fork(path, args, { stdio: ["ignore", "ignore", "pipe", "ipc"], execArgv: [] }));
    this.programs.add(program);
    void program.exited.then(() => this.programs.delete(program));
    return program;
  }

  /** Runs a shell command to its end. */
  async run(command: string): Promise<CommandResult> {
    this.mustBeOpen();
    // In a process group of its own: Ctrl-C is for the demo, and all of a pipe can be ended at once.
    const child = spawn("/bin/sh", ["-c", command], { stdio: ["ignore", "pipe", "pipe"], detached: true });
    this.commands.add(child);
    const texts = { output: "", errorOutput: "" };
    child.stdout.setEncoding("utf8").on("data", (text: string) => (texts.output += text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => (texts.errorOutput += text));
    try {
      return await new Promise((resolve, reject) => {
        child.once("error", reject).once("close", (exitCode) => resolve({ exitCode, ...texts }));
      });
    } finally {
      this.commands.delete(child);
    }
  }

  /** Ends every process that still runs; synchronous, so that it also works during exit. */
  killAll(): void {
    this.closed = true;
    for (const program of this.programs) program.kill();
    for (const { pid, exitCode, signalCode } of this.commands) {
      if (pid === undefined || exitCode !== null || signalCode !== null) continue;
      try {
        process.kill(-pid, "SIGKILL");
      } catch {
        // It has just ended.
      }
    }
  }

  private mustBeOpen(): void {
    if (this.closed) throw new Error("the demo is ending");
  }
}
