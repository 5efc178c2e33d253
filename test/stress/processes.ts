/**
 * Real processes for the proofs: a test starts a peer program, asks it to do things, and kills it by its pid in the
 * end, whatever happens. A peer program answers with `obey` (see `peer.ts`).
 */
import type { ChildProcess } from "node:child_process";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";

/** Only to end what hangs. */
const ANSWER_MS_MAX = 300_000;

export interface PeerOptions {
  readonly nodeFlags?: readonly string[];
  /** A shell line run first, for example `ulimit -n 64`. */
  readonly before?: string;
  /** A command that runs the program, for example `["nice"]`; it must pass its descriptors on. */
  readonly wrap?: readonly string[];
}

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface Peer {
  readonly pid: number;
  /** Runs one of the program's commands. Rejects if it fails, if the process ends first, or after `timeoutMs`. */
  ask<T = void>(command: string, argument?: unknown, timeoutMs?: number): Promise<T>;
  signal(name: NodeJS.Signals): void;
  /** SIGKILL, and waits until the process is gone. */
  kill(): Promise<void>;
  readonly exited: Promise<Exit>;
  /** When the kernel closed the process's descriptors, seen here by its channel; on the clock of `monotonicMs`. */
  readonly hungUpAt: Promise<number>;
  readonly alive: boolean;
}

interface Answer {
  readonly id: number;
  readonly result?: unknown;
  readonly error?: string;
}

/** Starts `program` (a URL of a compiled module) and waits until it obeys. It is killed when the test ends. */
export async function startPeer(context: TestContext, program: URL, options: PeerOptions = {}): Promise<Peer> {
  const node = [
    ...(options.wrap ?? []),
    process.execPath,
    "--expose-gc",
    ...(options.nodeFlags ?? []),
    fileURLToPath(program),
  ];
  const [command, ...parameters] =
    options.before === undefined ? node : ["sh", "-c", `${options.before} && exec "$@"`, "sh", ...node];
  const child = spawn(command, parameters, { stdio: ["ignore", "inherit", "pipe", "ipc"] });
  const peer = new ChildPeer(child);
  context.after(() => peer.kill());
  await peer.ask("ready");
  return peer;
}

class ChildPeer implements Peer {
  readonly exited: Promise<Exit>;
  readonly hungUpAt: Promise<number>;
  private readonly child: ChildProcess;
  private readonly waiting = new Map<number, { resolve: (result: unknown) => void; reject: (error: Error) => void }>();
  private nextId = 1;
  private stderr = "";
  private over: Exit | undefined;

  constructor(child: ChildProcess) {
    this.child = child;
    child.stderr?.on("data", (chunk: Buffer) => {
      this.stderr = (this.stderr + chunk.toString()).slice(-8000);
    });
    child.on("message", (answer: Answer) => {
      const waiting = this.waiting.get(answer.id);
      this.waiting.delete(answer.id);
      if (answer.error === undefined) waiting?.resolve(answer.result);
      else waiting?.reject(new Error(`peer ${child.pid}: ${answer.error}`));
    });
    this.hungUpAt = new Promise((resolve) =>
      child.on("disconnect", () => resolve(Number(process.hrtime.bigint()) / 1e6)),
    );
    this.exited = new Promise((resolve) => {
      const end = (code: number | null, signal: NodeJS.Signals | null) => {
        this.over ??= { code, signal };
        resolve(this.over);
        const error = new Error(`peer ${child.pid} ended (exit code ${code}, signal ${signal}) ${this.stderr}`);
        for (const { reject } of this.waiting.values()) reject(error);
        this.waiting.clear();
      };
      child.on("exit", end);
      child.on("error", () => end(null, null));
    });
  }

  get pid(): number {
    return this.child.pid!;
  }

  get alive(): boolean {
    return this.over === undefined;
  }

  ask<T>(command: string, argument?: unknown, timeoutMs = ANSWER_MS_MAX): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.over !== undefined) return reject(new Error(`peer ${this.pid} has ended: ${this.stderr}`));
      const id = this.nextId++;
      const timer = setTimeout(() => {
        this.waiting.delete(id);
        reject(new Error(`peer ${this.pid} did not finish "${command}" within ${timeoutMs} ms ${this.stderr}`));
      }, timeoutMs);
      const settle = (act: () => void) => {
        clearTimeout(timer);
        act();
      };
      this.waiting.set(id, {
        resolve: (result) => settle(() => resolve(result as T)),
        reject: (error) => settle(() => reject(error)),
      });
      this.child.send({ id, command, argument });
    });
  }

  signal(name: NodeJS.Signals): void {
    process.kill(this.pid, name);
  }

  async kill(): Promise<void> {
    if (this.over === undefined) this.child.kill("SIGKILL");
    await this.exited;
  }
}

/** A folder for sockets that goes when the test ends. */
export function scratchFolder(context: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "isthmus-"));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}
