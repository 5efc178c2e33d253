/**
 * A server whose connections are served by worker threads. This thread listens, decides who may come in, and hands each
 * client to the worker that has the fewest; handshake, memory and calls are the worker's alone.
 *
 * HAND-1  Each thread closes only numbers of its own, once. A handed descriptor is not moved: the worker makes a duplicate
 *         for itself, and this thread's number stays open until the worker has said `took` or `declined`, or has ended. So
 *         a number in a message always names this client's socket, and no number is closed that somebody else may have
 *         been given meanwhile. What a worker held when it ended, its environment closes.
 * HAND-2  A worker says `took` before it reads. What it said is heard before its end is dealt with (`onExit` empties the
 *         port), so a client that an ended worker did not take is untouched, and goes to another one.
 * HAND-3  A worker that ends is replaced, at once at first and then less and less often, for as long as the server is open.
 */
import { availableParallelism } from "node:os";
import { pathToFileURL } from "node:url";
import { isAbsolute } from "node:path";
import type { ResourceLimits, WorkerOptions } from "node:worker_threads";
import { MessageChannel, receiveMessageOnPort, Worker } from "node:worker_threads";
import type { MessagePort } from "node:worker_threads";
import { Code, ConnectError } from "@connectrpc/connect";
import type { ListenOptions } from "../carrier/listen.js";
import type { Addon, PeerCredentials } from "../os/addon.js";
import { handshakeTimeoutOf, requireSharedMemory } from "./options.js";
import type { Elsewhere, IsthmusServer, IsthmusServerOptions, ListeningAt, LocalServer, ServerStats } from "./server.js";
import type { FromWorker, ToWorker, WorkerSetup } from "./worker-link.js";

export interface WorkersOptions {
  /**
   * The module that each worker loads: an absolute path or a `file:` URL, as `new URL("./routes.js", import.meta.url)`. It exports the
   * function that registers services, as `default` or `routes`, and may export `options`; see {@link RoutesModuleOptions}.
   */
  readonly routes: URL | string;
  /** Worker threads, 1 to 256; by default as many as this process may use CPUs. */
  readonly count?: number;
  /** As for Node's `Worker`; by default as this process has them. */
  readonly env?: WorkerOptions["env"];
  readonly execArgv?: string[];
  readonly resourceLimits?: ResourceLimits;
  /** What the routes module finds as `workerData` of `node:worker_threads`. */
  readonly workerData?: unknown;
  /** Longest wait before a worker that keeps dying is started again, in milliseconds; 5000 by default. */
  readonly restartDelayMsMax?: number;
}

/** What cannot be sent to a thread: the routes module exports it, as `options`. */
export type RoutesModuleOptions = Pick<IsthmusServerOptions, "interceptors" | "contextValues" | "codec" | "shutdownSignal">;

export interface IsthmusWorkerServerOptions extends Omit<IsthmusServerOptions, "workers" | "routes" | keyof RoutesModuleOptions> {
  readonly workers: WorkersOptions;
}

export interface WorkerStats {
  readonly threadId: number;
  readonly connections: number;
  readonly pendingCalls: number;
}

const COUNT_MAX = 256;
const RESTART_MS_FIRST = 50;
const RESTART_MS_MAX_DEFAULT = 5000;
/** A worker that lived this long did not die of how it starts. */
const LONG_LIFE_MS = 10_000;
const CLOSE_TIMEOUT_MS_DEFAULT = 10_000;
/** What a worker that cuts its calls off may need on top. */
const CLOSE_SLACK_MS = 1000;
const NO_STATS: ServerStats = { connections: 0, carriers: { shm: 0, socket: 0, http: 0 }, pendingCalls: 0, openStreams: 0, refused: 0, violations: 0 };

interface Client {
  readonly id: number;
  readonly addon: Addon;
  readonly peer: PeerCredentials;
  /** This thread's number; undefined once a worker has its own. */
  descriptor: number | undefined;
}

class Slot {
  worker: Worker | undefined;
  port: MessagePort | undefined;
  ready = false;
  readySince = 0;
  stats = NO_STATS;
  threadId = 0;
  readonly clients = new Map<number, Client>();
  /** Deaths in a row, none after a long life. */
  deaths = 0;
  restart: NodeJS.Timeout | undefined;
  onReady: ((failure: ConnectError | undefined) => void) | undefined;
  onEnd: (() => void) | undefined;
  reason: string | undefined;
}

export class WorkerServer implements IsthmusServer, Elsewhere {
  private readonly options: IsthmusWorkerServerOptions;
  private readonly routes: string;
  /** Listens, and tells those who are not let in why. */
  private readonly door: LocalServer;
  private readonly slots: Slot[];
  /** Clients that no worker is there for. */
  private readonly waiting = new Map<Client, NodeJS.Timeout>();
  private readonly past = { refused: 0, violations: 0 };
  private started: Promise<void> | undefined;
  private ended: Promise<void> | undefined;
  private lastId = 0;

  constructor(options: IsthmusWorkerServerOptions, doorOf: (elsewhere: Elsewhere) => LocalServer) {
    checkOptions(options);
    this.options = options;
    this.routes = routesUrl(options.workers.routes);
    this.door = doorOf(this);
    requireSharedMemory();
    this.slots = Array.from({ length: countOf(options.workers) }, () => new Slot());
  }

  async listen(address: string, listenOptions?: ListenOptions): Promise<ListeningAt> {
    if (/^(tcp|https?):/.test(address)) {
      throw new ConnectError(`listen on ${address}: only connections to a socket path can be handed to worker threads; serve this address by a server without \`workers\``, Code.FailedPrecondition);
    }
    if (this.ended !== undefined) throw new ConnectError("the server is closed", Code.FailedPrecondition);
    this.started ??= this.start();
    await this.started;
    return this.door.listen(address, listenOptions);
  }

  close({ timeoutMs = CLOSE_TIMEOUT_MS_DEFAULT }: { timeoutMs?: number } = {}): Promise<void> {
    this.ended ??= this.end(timeoutMs);
    return this.ended;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  stats(): ServerStats {
    const { refused, violations } = this.door.stats();
    const sum = { connections: 0, carriers: { shm: 0, socket: 0, http: 0 }, pendingCalls: 0, openStreams: 0, refused: refused + this.past.refused, violations: violations + this.past.violations };
    for (const { stats } of this.slots) {
      sum.connections += stats.connections;
      sum.carriers.shm += stats.carriers.shm;
      sum.carriers.socket += stats.carriers.socket;
      sum.pendingCalls += stats.pendingCalls;
      sum.openStreams += stats.openStreams;
      sum.refused += stats.refused;
      sum.violations += stats.violations;
    }
    const workers = this.slots.filter((slot) => slot.ready).map(({ threadId, stats }) => ({ threadId, connections: stats.connections, pendingCalls: stats.pendingCalls }));
    return { ...sum, workers };
  }

  connections(): number {
    return this.slots.reduce((sum, slot) => sum + slot.clients.size, this.waiting.size);
  }

  give(addon: Addon, descriptor: number, peer: PeerCredentials): void {
    this.place({ id: ++this.lastId, addon, peer, descriptor });
  }

  private place(client: Client): void {
    if (this.ended !== undefined) return this.turnAway(client, new ConnectError("the server is shutting down", Code.Unavailable));
    let best: Slot | undefined;
    for (const slot of this.slots) {
      if (slot.ready && (best === undefined || slot.clients.size < best.clients.size)) best = slot;
    }
    if (best === undefined) {
      const giveUp = () => {
        this.waiting.delete(client);
        this.turnAway(client, new ConnectError("the server's worker threads have died, and none could be started yet", Code.Unavailable));
      };
      this.waiting.set(client, setTimeout(giveUp, handshakeTimeoutOf(this.options)));
      return;
    }
    best.clients.set(client.id, client);
    best.port!.postMessage({ kind: "take", id: client.id, descriptor: client.descriptor!, peer: client.peer } satisfies ToWorker);
  }

  private turnAway({ addon, descriptor, peer }: Client, reason: ConnectError): void {
    this.door.take(addon, descriptor!, peer, reason);
  }

  private async start(): Promise<void> {
    const failures = await Promise.all(this.slots.map((slot) => new Promise<ConnectError | undefined>((resolve) => this.launch(slot, resolve))));
    const failure = failures.find((one) => one !== undefined);
    if (failure === undefined) return;
    this.started = undefined;
    await Promise.all(this.slots.map((slot) => stop(slot)));
    throw failure;
  }

  private launch(slot: Slot, onReady?: Slot["onReady"]): void {
    const { env, execArgv, resourceLimits, workerData } = this.options.workers;
    const { port1, port2 } = new MessageChannel();
    let worker: Worker;
    try {
      worker = new Worker(new URL("./worker-entry.js", import.meta.url), { name: "isthmus", env, execArgv, resourceLimits, workerData });
    } catch (error) {
      port1.close();
      if (onReady === undefined) throw error;
      onReady(ConnectError.from(error, Code.InvalidArgument));
      return;
    }
    Object.assign(slot, { worker, port: port1, ready: false, stats: NO_STATS, threadId: worker.threadId, onReady, reason: undefined });
    port1.on("message", (message: FromWorker) => this.onMessage(slot, message));
    worker.on("error", (error: unknown) => (slot.reason ??= error instanceof Error ? (error.stack ?? error.message) : String(error)));
    worker.on("messageerror", (error) => (slot.reason ??= error.message));
    worker.on("exit", (code) => this.onExit(slot, code));
    worker.postMessage({ port: port2, routes: this.routes, options: plainOptions(this.options) } satisfies WorkerSetup, [port2]);
    // A first start is waited for; listening is what keeps the process alive after that.
    if (onReady === undefined) keepAlive(slot, false);
  }

  private onMessage(slot: Slot, message: FromWorker): void {
    switch (message.kind) {
      case "ready":
        slot.ready = true;
        slot.readySince = performance.now();
        keepAlive(slot, this.ended !== undefined);
        settle(slot, undefined);
        for (const [client, timer] of this.waiting) {
          clearTimeout(timer);
          this.waiting.delete(client);
          this.place(client);
        }
        break;
      case "failed":
        slot.reason = `${this.routes} could not be loaded: ${message.reason}`;
        settle(slot, new ConnectError(`a worker thread: ${slot.reason}`, Code.FailedPrecondition, undefined, undefined, message.error));
        void slot.worker?.terminate();
        break;
      case "took":
      case "declined": {
        const client = slot.clients.get(message.id);
        if (client?.descriptor === undefined) break;
        if (message.kind === "took") {
          client.addon.closeDescriptor(client.descriptor);
          client.descriptor = undefined;
        } else {
          slot.clients.delete(message.id);
          this.turnAway(client, new ConnectError(`the server cannot take another connection: ${message.reason}`, Code.ResourceExhausted));
        }
        break;
      }
      case "gone":
        slot.clients.delete(message.id);
        break;
      case "stats":
        slot.stats = message.stats;
        break;
      case "closed":
        void slot.worker?.terminate();
        break;
    }
  }

  private onExit(slot: Slot, code: number): void {
    for (let left; (left = receiveMessageOnPort(slot.port!)) !== undefined; ) this.onMessage(slot, left.message as FromWorker);
    slot.port!.close();
    const wasReady = slot.ready;
    const { threadId } = slot;
    const clients = [...slot.clients.values()];
    this.past.refused += slot.stats.refused;
    this.past.violations += slot.stats.violations;
    const starting = slot.onReady !== undefined;
    const reason = slot.reason ?? `it ended with exit code ${code}`;
    Object.assign(slot, { worker: undefined, port: undefined, ready: false, stats: NO_STATS });
    slot.clients.clear();
    settle(slot, new ConnectError(`a worker thread ended before it had loaded ${this.routes}: ${reason}`, Code.FailedPrecondition));
    slot.onEnd?.();
    if (!starting && this.started !== undefined && this.ended === undefined) {
      if (wasReady && performance.now() - slot.readySince >= LONG_LIFE_MS) slot.deaths = 0;
      this.replace(slot);
      const lost = clients.filter((client) => client.descriptor === undefined).length;
      process.emitWarning(`worker thread ${threadId} of a server died with ${lost} connections, and is replaced: ${reason}`, { type: "IsthmusWarning", code: "ISTHMUS_WORKER_DIED" });
    }
    for (const client of clients) if (client.descriptor !== undefined) this.place(client);
  }

  private replace(slot: Slot): void {
    const { restartDelayMsMax = RESTART_MS_MAX_DEFAULT } = this.options.workers;
    const delay = slot.deaths === 0 ? 0 : Math.min(RESTART_MS_FIRST * 2 ** (slot.deaths - 1), restartDelayMsMax);
    slot.deaths++;
    slot.restart = setTimeout(() => {
      slot.restart = undefined;
      try {
        this.launch(slot);
      } catch {
        // No memory for a thread now; perhaps later.
        this.replace(slot);
      }
    }, delay).unref();
  }

  private async end(timeoutMs: number): Promise<void> {
    const stopped = this.door.close({ timeoutMs });
    for (const [client, timer] of this.waiting) {
      clearTimeout(timer);
      this.turnAway(client, new ConnectError("the server is shutting down", Code.Unavailable));
    }
    this.waiting.clear();
    await Promise.all(this.slots.map((slot) => this.endSlot(slot, timeoutMs)));
    await stopped;
  }

  private async endSlot(slot: Slot, timeoutMs: number): Promise<void> {
    clearTimeout(slot.restart);
    if (slot.worker === undefined) return;
    if (!slot.ready) return stop(slot);
    keepAlive(slot, true);
    const ended = endOf(slot);
    slot.port!.postMessage({ kind: "close", timeoutMs } satisfies ToWorker);
    const timer = setTimeout(() => void slot.worker?.terminate(), timeoutMs + CLOSE_SLACK_MS);
    await ended;
    clearTimeout(timer);
  }
}

function settle(slot: Slot, failure: ConnectError | undefined): void {
  const { onReady } = slot;
  slot.onReady = undefined;
  onReady?.(failure);
}

function endOf(slot: Slot): Promise<void> {
  return new Promise((resolve) => {
    slot.onEnd = () => {
      slot.onEnd = undefined;
      resolve();
    };
  });
}

async function stop(slot: Slot): Promise<void> {
  if (slot.worker === undefined) return;
  const ended = endOf(slot);
  void slot.worker.terminate();
  await ended;
}

function keepAlive(slot: Slot, on: boolean): void {
  for (const handle of [slot.worker, slot.port]) {
    if (on) handle?.ref();
    else handle?.unref();
  }
}

function countOf({ count = Math.min(availableParallelism(), COUNT_MAX) }: WorkersOptions): number {
  if (Number.isInteger(count) && count >= 1 && count <= COUNT_MAX) return count;
  throw new ConnectError(`option workers.count: expected a whole number from 1 to ${COUNT_MAX}, not ${String(count)}`, Code.InvalidArgument);
}

function routesUrl(routes: URL | string): string {
  if (routes instanceof URL) return routes.href;
  if (typeof routes === "string" && isAbsolute(routes)) return pathToFileURL(routes).href;
  if (typeof routes === "string" && routes.startsWith("file:")) return routes;
  throw new ConnectError(`option workers.routes: expected an absolute path or a URL, as new URL("./routes.js", import.meta.url), not ${JSON.stringify(routes)}`, Code.InvalidArgument);
}

function checkOptions(options: object): void {
  for (const name of ["routes", "interceptors", "contextValues", "codec", "shutdownSignal"]) {
    if ((options as Record<string, unknown>)[name] === undefined) continue;
    const where = name === "routes" ? "name its module as `workers.routes`" : `export it from the routes module: export const options = { ${name} }`;
    throw new ConnectError(`option ${name} cannot be sent to worker threads; ${where}`, Code.InvalidArgument);
  }
}

/** What each worker's server is made with. `allow` and `maxConnections` are decided before a worker hears of a client. */
function plainOptions(options: IsthmusWorkerServerOptions): object {
  const plain: Record<string, unknown> = { ...options, maxConnections: Number.MAX_SAFE_INTEGER };
  delete plain["workers"];
  delete plain["allow"];
  return plain;
}
