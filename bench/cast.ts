/** The processes of one peer: a server and its clients. They are started, asked, and stopped here. */
import { join } from "node:path";
import { Child, startTimeoutMs, type Program } from "./child-process.js";
import type { Cores } from "./machine.js";
import { programOf } from "./programs.js";
import type { PeerName } from "./peers/peer.js";
import type { Load, Stretch } from "./protocol.js";

const answerTimeoutMs = 10_000;
/** What a stretch may take beyond its duration: the last calls of a slow peer, on a busy machine. */
const stretchGraceMs = 30_000;

/** What a peer's processes are to be like. */
export interface Setup {
  /** Client processes. */
  readonly clients: number;
  /** Connections of each client. */
  readonly connections: number;
  /** How long the server's handler waits before it answers. */
  readonly waitMs: number;
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
  static async start(peer: PeerName, setup: Setup, cores: Cores, directory: string): Promise<Cast> {
    const path = join(directory, `${peer}.sock`);
    const started: Child[] = [];
    const start = async (program: Program, core: string | null): Promise<Child> => {
      const child = new Child(program, core);
      started.push(child);
      await child.next("ready", startTimeoutMs);
      return child;
    };
    try {
      const inClient = peer === "worker";
      const server = inClient
        ? null
        : await start(await programOf(peer, "server", [path, String(setup.waitMs)]), cores.server);
      const clientCore = inClient ? cores.both : cores.client;
      const numbers = Array.from({ length: setup.clients }, (_, number) => String(number));
      const clients = await Promise.all(
        numbers.map(async (number) =>
          start(await programOf(peer, "client", [path, number, String(setup.connections)]), clientCore),
        ),
      );
      return new Cast(peer, server, clients);
    } catch (error) {
      await Promise.all(started.map((child) => child.stop()));
      throw error;
    }
  }

  /** Lets all clients work at once. @returns what each did, and the processor time of the server */
  async run(load: Load): Promise<{ stretches: Stretch[]; serverCpuMicros: number }> {
    const cpuFrom = await this.serverCpuMicros();
    const answering = this.#clients.map((client) =>
      client.ask({ type: "run", load }, "stretch", load.durationMs + stretchGraceMs),
    );
    const serverFailure = this.#server?.failure ?? new Promise<never>(() => undefined);
    const answers = await Promise.race([Promise.all(answering), serverFailure]);
    const serverCpuMicros = (await this.serverCpuMicros()) - cpuFrom;
    return { stretches: answers.map(({ stretch }) => stretch), serverCpuMicros };
  }

  async stop(): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.stop()));
    await this.#server?.stop();
  }

  /** Since the server's start; 0 where it is a thread of the client. */
  async serverCpuMicros(): Promise<number> {
    if (this.#server === null) return 0;
    return (await this.#server.ask({ type: "usage" }, "usage", answerTimeoutMs)).cpuMicros;
  }
}
