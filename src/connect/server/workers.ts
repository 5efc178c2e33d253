/**
 * A server whose connections are served by worker threads. This thread listens, decides which clients to admit, and
 * gives each client to the worker with the fewest. Handshake, memory and calls belong to the worker.
 *
 * HAND-1  Each thread closes only its own descriptors, once. A descriptor is not moved to a worker: the worker makes a
 *         duplicate, and this thread's descriptor stays open until the worker has said `took` or `declined`, or has
 *         ended. So a number in a message always names this client's socket, and no number is closed that may have been
 *         reused for something else meanwhile. Descriptors of a worker that has ended are closed by its environment.
 * HAND-2  A worker says `took` before it reads. Its messages are received before its end is handled (THREAD-2). So a
 *         client that an ended worker did not take is untouched, and goes to another worker.
 * HAND-3  A worker that ends is replaced as long as the server is open, at once at first, then after growing pauses. A
 *         worker that ends during the first `listen` makes it fail, and all threads are stopped.
 */
import { availableParallelism } from "node:os";
import { pathToFileURL } from "node:url";
import { isAbsolute } from "node:path";
import { Code, ConnectError } from "@connectrpc/connect";
import type { PeerCredentials } from "../../os/addon.js";
import { nameOf, parseAddress } from "../../carrier/address.js";
import type { ListenOptions } from "../../carrier/handshake/listen.js";
import { withRetryability } from "../../carrier/retryability.js";
import { clearTimeout, nowMs, setTimeout } from "../../os/timers.js";
import { TIMER_MS_MAX } from "../../rpc/deadline.js";
import { checkOptional, checkOptions } from "../options/check.js";
import { isUrl } from "../options/kinds.js";
import { DEFAULTS } from "../options/defaults.js";
import { listenTable, MODULE_OPTIONS, serverCloseTable, workerServerTable } from "../options/table.js";
import { handshakeTimeoutOf, requireAddonForWorkers } from "../options/options.js";
import type { HealthStatus, ServerHealth } from "../types/health.js";
import type { IsthmusServer, ListeningAt, ServerStats } from "../types/server.js";
import type { IsthmusWorkerServerOptions } from "../types/workers.js";
import type { AcceptedClient, ConnectionSink } from "./local-server.js";
import { LocalServer } from "./local-server.js";
import type { WorkerClient } from "./worker-thread.js";
import { leftMsOf, WorkerThread } from "./worker-thread.js";

const RESTART_MS_FIRST = 50;
/** A worker that lived this long did not die of a problem at its start. */
const LONG_LIFE_MS = 10_000;

/** A place for a worker. */
interface Slot {
  thread: WorkerThread | undefined;
  /** Number of deaths in a row, reset after a long life. */
  deaths: number;
  restart: NodeJS.Timeout | undefined;
}

export class WorkerServer implements IsthmusServer, ConnectionSink {
  readonly health: ServerHealth | undefined;
  /** Statuses that were set, for threads that are started later. */
  private readonly statuses = new Map<string, HealthStatus>();
  private readonly options: IsthmusWorkerServerOptions;
  private readonly routes: string;
  /** Listens, and tells refused clients why they are refused. */
  private readonly door: LocalServer;
  private readonly slots: Slot[];
  private readonly loadTimeoutMs: number;
  private readonly restartDelayMsMax: number;
  /** Clients that wait for a worker, with the timers that end their wait. */
  private readonly waiting = new Map<WorkerClient, NodeJS.Timeout>();
  private readonly past = { refused: 0, violations: 0 };
  private started: Promise<void> | undefined;
  /** Whether all workers have been ready once. */
  private hasStarted = false;
  private ended: Promise<void> | undefined;
  private lastId = 0;

  constructor(given: IsthmusWorkerServerOptions) {
    const options = checkOptions(workerServerTable, given);
    refuseModuleOptions(options);
    this.options = options;
    const {
      routes,
      count = Math.min(availableParallelism(), DEFAULTS.workersMax),
      loadTimeoutMs = DEFAULTS.loadTimeoutMs,
      restartDelayMsMax = DEFAULTS.restartDelayMsMax,
    } = options.workers;
    this.routes = isUrl(routes) ? routes.href : isAbsolute(routes) ? pathToFileURL(routes).href : routes;
    // Timers count no further. Given more, they fire at once.
    this.loadTimeoutMs = Math.min(loadTimeoutMs, TIMER_MS_MAX);
    this.restartDelayMsMax = Math.min(restartDelayMsMax, TIMER_MS_MAX);
    this.door = new LocalServer({ ...options, workers: undefined, routes: () => undefined }, this);
    if (options.health === true) this.health = this.healthOfThreads(this.door.health);
    requireAddonForWorkers();
    this.slots = Array.from({ length: count }, () => ({ thread: undefined, deaths: 0, restart: undefined }));
  }

  async listen(address: string, listenOptions?: ListenOptions): Promise<ListeningAt> {
    const parsed = parseAddress(address);
    checkOptional(listenTable, listenOptions, `listen on ${nameOf(parsed)}: `);
    if (parsed.kind !== "unix") {
      throw new ConnectError(
        `listen on ${address}: only connections to a socket path can be handed to worker threads; serve this address with a server without \`workers\``,
        Code.FailedPrecondition,
      );
    }
    if (this.ended !== undefined) throw new ConnectError("the server is closed", Code.FailedPrecondition);
    this.started ??= this.start();
    await this.started;
    return this.door.listen(address, listenOptions);
  }

  async close(options?: { timeoutMs?: number }): Promise<void> {
    const { timeoutMs = DEFAULTS.closeTimeoutMs } = checkOptional(serverCloseTable, options);
    await (this.ended ??= this.end(timeoutMs));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  toJSON(): ServerStats {
    return this.stats();
  }

  stats(): ServerStats {
    const { refused, violations, carrierReason } = this.door.stats();
    const sum = {
      connections: 0,
      carriers: { shm: 0, socket: 0, http: 0 },
      carrierReason,
      isolated: 0,
      pendingCalls: 0,
      openStreams: 0,
      handshakes: 0,
      handlers: 0,
      keptBytes: 0,
      refused: refused + this.past.refused,
      violations: violations + this.past.violations,
    };
    for (const { stats } of this.threads()) {
      sum.connections += stats.connections;
      sum.carriers.shm += stats.carriers.shm;
      sum.carriers.socket += stats.carriers.socket;
      sum.isolated += stats.isolated;
      sum.pendingCalls += stats.pendingCalls;
      sum.openStreams += stats.openStreams;
      sum.handshakes += stats.handshakes;
      sum.handlers += stats.handlers;
      sum.keptBytes += stats.keptBytes;
      sum.refused += stats.refused;
      sum.violations += stats.violations;
    }
    const serving = this.threads().filter(({ readySince }) => readySince !== undefined);
    return {
      ...sum,
      workers: serving.map(({ threadId, stats }) => ({
        threadId,
        connections: stats.connections,
        pendingCalls: stats.pendingCalls,
      })),
    };
  }

  clients(): readonly PeerCredentials[] {
    const clients = [...this.waiting.keys(), ...this.threads().flatMap(({ clients }) => [...clients.values()])];
    return clients.map(({ peer }) => peer);
  }

  give({ addon, descriptor, peer, leftMs }: AcceptedClient): void {
    this.place({ id: ++this.lastId, addon, peer, descriptor, until: nowMs() + leftMs });
  }

  private threads(): WorkerThread[] {
    return this.slots.flatMap(({ thread }) => thread ?? []);
  }

  private place(client: WorkerClient): void {
    if (this.ended !== undefined)
      return this.turnAway(
        client,
        withRetryability(new ConnectError("the server is shutting down", Code.Unavailable), "draining"),
      );
    let best: WorkerThread | undefined;
    for (const thread of this.threads()) {
      if (thread.isReady && (best === undefined || thread.clients.size < best.clients.size)) best = thread;
    }
    if (best !== undefined) return best.take(client);
    const fail = () => {
      this.waiting.delete(client);
      this.turnAway(
        client,
        withRetryability(
          new ConnectError("the server's worker threads have died, and none could be started yet", Code.Unavailable),
          "draining",
        ),
      );
    };
    this.waiting.set(client, setTimeout(fail, leftMsOf(client)));
  }

  private turnAway({ addon, descriptor, peer }: WorkerClient, reason: ConnectError): void {
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- open until a thread took it (HAND-1)
    this.door.take({ addon, descriptor: descriptor!, peer, leftMs: handshakeTimeoutOf(this.options) }, reason);
  }

  private async start(): Promise<void> {
    try {
      await Promise.all(this.slots.map(async (slot) => this.launch(slot).ready));
      this.hasStarted = true;
    } catch (failure) {
      await Promise.all(this.slots.map((slot) => stopSlot(slot)));
      // The next `listen` may try again.
      this.started = undefined;
      if (this.ended === undefined) throw failure;
    }
    if (this.ended !== undefined)
      throw new ConnectError(
        `the server was closed while its worker threads loaded ${this.routes}`,
        Code.FailedPrecondition,
      );
  }

  /** @throws ConnectError if no thread can be started */
  private launch(slot: Slot): WorkerThread {
    const setup = {
      worker: this.options.workers,
      routes: this.routes,
      options: plainOptions(this.options),
      loadTimeoutMs: this.loadTimeoutMs,
    };
    const thread: WorkerThread = new WorkerThread(setup, {
      onReady: () => {
        for (const [service, status] of this.statuses) thread.setHealth(service, status);
        this.placeWaiting();
      },
      onTook: (client) => {
        // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- open until a thread took it (HAND-1)
        client.addon.closeDescriptor(client.descriptor!);
        client.descriptor = undefined;
      },
      onDeclined: (client, reason) =>
        this.turnAway(
          client,
          new ConnectError(`the server cannot take another connection: ${reason}`, Code.ResourceExhausted),
        ),
      onEnd: (reason) => this.onEnd(slot, thread, reason),
    });
    slot.thread = thread;
    return thread;
  }

  /** @param door where a status is checked first */
  private healthOfThreads(door: ServerHealth | undefined): ServerHealth {
    return {
      set: (service, status) => {
        door?.set(service, status);
        this.statuses.set(service, status);
        for (const thread of this.threads()) if (thread.isReady) thread.setHealth(service, status);
      },
      get: (service) => door?.get(service),
    };
  }

  private placeWaiting(): void {
    for (const [client, timer] of this.waiting) {
      clearTimeout(timer);
      this.waiting.delete(client);
      this.place(client);
    }
  }

  private onEnd(slot: Slot, thread: WorkerThread, reason: string): void {
    const { threadId, clients, stats, readySince, dismissed } = thread;
    // A thread that could not be ended in time may have lost its slot.
    if (slot.thread === thread) slot.thread = undefined;
    this.past.refused += stats.refused;
    this.past.violations += stats.violations;
    const left = [...clients.values()];
    // If the first thread of a slot was never ready, the first `listen` fails instead.
    if (!dismissed && (this.hasStarted || readySince !== undefined || slot.deaths > 0)) {
      if (readySince !== undefined && nowMs() - readySince >= LONG_LIFE_MS) slot.deaths = 0;
      this.replace(slot);
      const lost = left.filter((client) => client.descriptor === undefined).length;
      warn(`worker thread ${threadId} of a server died with ${lost} connections, and is replaced: ${reason}`);
    }
    for (const client of left) if (client.descriptor !== undefined) this.place(client);
  }

  private replace(slot: Slot): void {
    const delay = slot.deaths === 0 ? 0 : Math.min(RESTART_MS_FIRST * 2 ** (slot.deaths - 1), this.restartDelayMsMax);
    slot.deaths++;
    slot.restart = setTimeout(() => {
      slot.restart = undefined;
      try {
        this.launch(slot).keepProcessAlive(false);
      } catch (error) {
        // There may be memory for a thread later.
        this.replace(slot);
        warn(`a worker thread of a server could not be replaced; trying again: ${(error as Error).message}`);
      }
    }, delay).unref();
  }

  private async end(timeoutMs: number): Promise<void> {
    const stopped = this.door.close({ timeoutMs });
    for (const [client, timer] of this.waiting) {
      clearTimeout(timer);
      this.turnAway(
        client,
        withRetryability(new ConnectError("the server is shutting down", Code.Unavailable), "draining"),
      );
    }
    this.waiting.clear();
    await Promise.all(this.slots.map((slot) => stopSlot(slot, timeoutMs)));
    await stopped;
  }
}

/** Ends the slot's thread, at once without `timeoutMs`, and does not replace it. */
async function stopSlot(slot: Slot, timeoutMs?: number): Promise<void> {
  clearTimeout(slot.restart);
  slot.restart = undefined;
  slot.deaths = 0;
  await (timeoutMs === undefined ? slot.thread?.stop() : slot.thread?.close(timeoutMs));
}

function warn(text: string): void {
  process.emitWarning(text, { type: "IsthmusWarning", code: "ISTHMUS_WORKER_DIED" });
}

function refuseModuleOptions(options: object): void {
  for (const name of MODULE_OPTIONS) {
    if ((options as Record<string, unknown>)[name] === undefined) continue;
    const where =
      name === "routes"
        ? "name its module as `workers.routes`"
        : `export it from the routes module: export const options = { ${name} }`;
    throw new ConnectError(`option ${name} cannot be sent to worker threads; ${where}`, Code.InvalidArgument);
  }
}

/**
 * The options for each worker's server. `allow` and `maxConnections` are applied before a worker learns of a client.
 */
function plainOptions(options: IsthmusWorkerServerOptions): object {
  const plain: Record<string, unknown> = { ...options, maxConnections: Number.MAX_SAFE_INTEGER };
  delete plain["workers"];
  delete plain["allow"];
  return plain;
}
