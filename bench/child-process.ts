/** A child process of the benchmark: started, asked, and stopped. Every wait has an end. */
import { spawn, type ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";
import { decodeMessage, encodeMessage, LineSplitter } from "./native/lines.js";
import type { FromChild, ToChild } from "./protocol.js";

export const startTimeoutMs = 60_000;
const stopTimeoutMs = 2_000;

/** A peer's processes broke. */
export class PeerFailure extends Error {
  override readonly name = "PeerFailure";
  /** A payload was not what its sender wrote. */
  readonly mismatch: boolean;

  constructor(message: string, mismatch = false) {
    super(message);
    this.mismatch = mismatch;
  }
}

/** The peer is not available on this machine. */
export class PeerSkipped extends Error {
  override readonly name = "PeerSkipped";
}

/** What a child process runs. */
export interface Program {
  /** For error messages. */
  readonly name: string;
  readonly command: readonly string[];
  /** `ipc`: Node's channel. `lines`: lines on standard input and output (`native/lines.ts`). */
  readonly channel: "ipc" | "lines";
}

type Role =
  | "server"
  | "client"
  | "codec/contestant"
  | "payloads/server"
  | "payloads/client"
  | "streams/server"
  | "streams/client"
  | "blocking/client"
  | "services/gateway"
  | "services/http-load"
  | "services/lines-server"
  | "services/lines-client";

/** A program of the benchmark's own, `<role>.js`. */
export function nodeProgram(role: Role, args: readonly string[]): Program {
  const file = fileURLToPath(new URL(`${role}.js`, import.meta.url));
  return { name: `${args[0]}'s ${role}`, command: [process.execPath, file, ...args], channel: "ipc" };
}

/** Whatever happens to the main process, no child outlives it. */
const running = new Set<ChildProcess>();
process.once("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

type Answer<T extends FromChild["type"]> = Extract<FromChild, { type: T }>;

export class Child {
  readonly #process: ChildProcess;
  readonly #name: string;
  readonly #channel: Program["channel"];
  readonly #exited: Promise<void>;
  /** Rejects when the child breaks or ends; never resolves. */
  readonly failure: Promise<never>;
  #fail!: (error: Error) => void;
  #waiting: { type: string; resolve: (message: FromChild) => void } | null = null;
  #stderr = "";

  constructor({ name, command, channel }: Program, core: string | null) {
    this.#name = name;
    this.#channel = channel;
    const [file, ...args] = core === null ? command : ["taskset", "-c", core, ...command];
    this.#process =
      channel === "ipc"
        ? spawn(file, args, { stdio: ["ignore", "ignore", "pipe", "ipc"], serialization: "advanced" })
        : spawn(file, args, { stdio: ["pipe", "pipe", "pipe"] });
    // A child that speaks in lines ends with its standard input, and tidies up.
    if (channel === "ipc") running.add(this.#process);
    this.failure = new Promise((_, reject) => (this.#fail = reject));
    this.failure.catch(() => undefined);
    this.#exited = new Promise((resolve) => {
      this.#process.on("error", (error) => {
        this.#fail(new PeerFailure(`${this.#name} did not start: ${error.message}`));
        resolve();
      });
      this.#process.on("exit", (code, signal) => {
        running.delete(this.#process);
        this.#fail(
          new PeerFailure(`${this.#name} ended (${signal ?? code})${this.#stderr && `: ${this.#stderr.trim()}`}`),
        );
        resolve();
      });
    });
    this.#process
      .stderr!.setEncoding("utf8")
      .on("data", (text: string) => (this.#stderr = (this.#stderr + text).slice(-2_000)));
    if (channel === "ipc") {
      this.#process.on("message", (message: FromChild) => this.#receive(message));
    } else {
      const lines = new LineSplitter((line) => this.#receive(decodeMessage(line)));
      this.#process.stdout!.on("data", (chunk: Buffer) => lines.add(chunk));
      // A child that has ended is reported by its exit.
      this.#process.stdin!.on("error", () => undefined);
    }
  }

  ask<T extends FromChild["type"]>(message: ToChild, type: T, timeoutMs: number): Promise<Answer<T>> {
    const answer = this.next(type, timeoutMs);
    if (this.#channel === "lines") {
      this.#process.stdin!.write(encodeMessage(message));
      return answer;
    }
    this.#process.send(message, (error) => {
      if (error) this.#fail(new PeerFailure(`${this.#name} cannot be reached: ${error.message}`));
    });
    return answer;
  }

  /** The child's next message of this type. */
  async next<T extends FromChild["type"]>(type: T, timeoutMs: number): Promise<Answer<T>> {
    let timer: NodeJS.Timeout | undefined;
    const message = new Promise<FromChild>((resolve, reject) => {
      this.#waiting = { type, resolve };
      timer = setTimeout(
        () => reject(new PeerFailure(`${this.#name} did not say "${type}" within ${timeoutMs} ms`)),
        timeoutMs,
      );
    });
    try {
      return (await Promise.race([message, this.failure])) as Answer<T>;
    } finally {
      clearTimeout(timer);
      this.#waiting = null;
    }
  }

  async stop(): Promise<void> {
    const stop: ToChild = { type: "stop" };
    if (this.#channel === "lines") this.#process.stdin!.end(encodeMessage(stop));
    else if (this.#process.connected) this.#process.send(stop, () => undefined);
    const timer = setTimeout(() => this.#process.kill("SIGKILL"), stopTimeoutMs);
    await this.#exited;
    clearTimeout(timer);
  }

  #receive(message: FromChild): void {
    if (message.type === "unavailable") this.#fail(new PeerSkipped(message.reason));
    else if (message.type === "failed")
      this.#fail(new PeerFailure(`${this.#name} failed: ${message.message}`, message.mismatch));
    else if (this.#waiting?.type === message.type) this.#waiting.resolve(message);
  }
}
