/**
 * The processes of one peer: a server and its clients. They are started, asked, and stopped here; every wait has an
 * end.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Cores } from "./machine.js";
import type { PeerName } from "./peers/peer.js";
import type { FromChild, Load, Stretch, ToChild } from "./protocol.js";

export const startTimeoutMs = 60_000;
const answerTimeoutMs = 10_000;
/** What a stretch may take beyond its duration: the last calls of a slow peer, on a busy machine. */
const stretchGraceMs = 30_000;
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

export class Cast {
  readonly peer: PeerName;
  readonly #server: Child | null;
  readonly #clients: Child[];

  private constructor(peer: PeerName, server: Child | null, clients: Child[]) {
    this.peer = peer;
    this.#server = server;
    this.#clients = clients;
  }

  /** @param directory where the peer's socket goes */
  static async start(peer: PeerName, clientCount: number, cores: Cores, directory: string): Promise<Cast> {
    const path = join(directory, `${peer}.sock`);
    const started: Child[] = [];
    const start = async (role: "server" | "client", args: string[], core: string | null): Promise<Child> => {
      const child = new Child(role, [peer, path, ...args], core);
      started.push(child);
      await child.next("ready", startTimeoutMs);
      return child;
    };
    try {
      const inClient = peer === "worker";
      const server = inClient ? null : await start("server", [], cores.server);
      const clientCore = inClient ? cores.both : cores.client;
      const numbers = Array.from({ length: clientCount }, (_, number) => String(number));
      const clients = await Promise.all(numbers.map((number) => start("client", [number], clientCore)));
      return new Cast(peer, server, clients);
    } catch (error) {
      await Promise.all(started.map((child) => child.stop()));
      throw error;
    }
  }

  /** Lets all clients work at once. @returns what each did, and the processor time of the server */
  async run(load: Load): Promise<{ stretches: Stretch[]; serverCpuMicros: number }> {
    const cpuFrom = await this.#serverCpuMicros();
    const answering = this.#clients.map((client) =>
      client.ask({ type: "run", load }, "stretch", load.durationMs + stretchGraceMs),
    );
    const serverFailure = this.#server?.failure ?? new Promise<never>(() => undefined);
    const answers = await Promise.race([Promise.all(answering), serverFailure]);
    const serverCpuMicros = (await this.#serverCpuMicros()) - cpuFrom;
    return { stretches: answers.map(({ stretch }) => stretch), serverCpuMicros };
  }

  async stop(): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.stop()));
    await this.#server?.stop();
  }

  async #serverCpuMicros(): Promise<number> {
    if (this.#server === null) return 0;
    return (await this.#server.ask({ type: "usage" }, "usage", answerTimeoutMs)).cpuMicros;
  }
}

/** Whatever happens to the main process, no child outlives it. */
const running = new Set<ChildProcess>();
process.once("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

type Answer<T extends FromChild["type"]> = Extract<FromChild, { type: T }>;

/** A child process, whose program is `<role>.js`. */
export class Child {
  readonly #process: ChildProcess;
  readonly #name: string;
  readonly #exited: Promise<void>;
  /** Rejects when the child breaks or ends; never resolves. */
  readonly failure: Promise<never>;
  #fail!: (error: Error) => void;
  #waiting: { type: string; resolve: (message: FromChild) => void } | null = null;
  #stderr = "";

  constructor(
    role:
      | "server"
      | "client"
      | "codec/contestant"
      | "payloads/server"
      | "payloads/client"
      | "streams/server"
      | "streams/client"
      | "blocking/client",
    args: string[],
    core: string | null,
  ) {
    this.#name = `${args[0]}'s ${role}`;
    const command = [process.execPath, fileURLToPath(new URL(`${role}.js`, import.meta.url)), ...args];
    if (core !== null) command.unshift("taskset", "-c", core);
    this.#process = spawn(command[0], command.slice(1), {
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      serialization: "advanced",
    });
    running.add(this.#process);
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
    this.#process.on("message", (message: FromChild) => this.#receive(message));
  }

  ask<T extends FromChild["type"]>(message: ToChild, type: T, timeoutMs: number): Promise<Answer<T>> {
    const answer = this.next(type, timeoutMs);
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
    if (this.#process.connected) this.#process.send({ type: "stop" } satisfies ToChild, () => undefined);
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
