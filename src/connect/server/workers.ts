/**
 * A server whose connections are served by worker threads. This thread listens, decides who may come in, and hands each
 * client to the worker that has the fewest; handshake, memory and calls are the worker's alone.
 *
 * HAND-1  Each thread closes only numbers of its own, once. A handed descriptor is not moved: the worker makes a
 *         duplicate for itself, and this thread's number stays open until the worker has said `took` or `declined`, or
 *         has ended. So a number in a message always names this client's socket, and no number is closed that somebody
 *         else may have been given meanwhile. What a worker held when it ended, its environment closes.
 * HAND-2  A worker says `took` before it reads. What it said is heard before its end is dealt with (THREAD-2), so a
 *         client that an ended worker did not take is untouched, and goes to another one.
 * HAND-3  A worker that ends is replaced, at once at first and then less and less often, for as long as the server is
 *         open. But one that does not get through the first `listen` fails that, and no thread is left.
 */
import { availableParallelism } from "node:os";
import { pathToFileURL } from "node:url";
import { isAbsolute } from "node:path";
import type { ResourceLimits, WorkerOptions } from "node:worker_threads";
import { Code, ConnectError } from "@connectrpc/connect";
import { nameOf, parseAddress } from "../../carrier/address.js";
import type { ListenOptions } from "../../carrier/handshake/listen.js";
import { withRetryability } from "../../carrier/retryability.js";
import type { Addon, PeerCredentials } from "../../os/addon.js";
import { clearTimeout, nowMs, setTimeout } from "../../os/timers.js";
import { TIMER_MS_MAX } from "../../rpc/deadline.js";
import { checkOptional, checkOptions } from "../options/check.js";
import { isUrl } from "../options/kinds.js";
import { DEFAULTS, listenTable, MODULE_OPTIONS, serverCloseTable, workerServerTable } from "../options/table.js";
import { handshakeTimeoutOf, requireAddon } from "../options/options.js";
import type {
  ConnectionSink,
  IsthmusServer,
  IsthmusServerOptions,
  ListeningAt,
  LocalServer,
  ServerStats,
} from "./server.js";
import type { WorkerClient } from "./worker-thread.js";
import { leftMsOf, WorkerThread } from "./worker-thread.js";

export interface WorkersOptions {
  /**
   * The module that each worker loads: an absolute path or a `file:` URL, as `new URL("./routes.js", import.meta.url)`.
   * It exports the function that registers services, as `default` or `routes`, and may export `options`; see {@link
   * RoutesModuleOptions}.
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
  /**
   * Longest time that a worker may take to start and load the module, in milliseconds; 30,000 by default. One that
   * takes longer is ended: the first `listen` fails with `FailedPrecondition`, a worker that replaces another one is
   * tried again.
   */
  readonly loadTimeoutMs?: number;
  /** Longest wait before a worker that keeps dying is started again, in milliseconds; 5000 by default. */
  readonly restartDelayMsMax?: number;
}

/** What cannot be sent to a thread: the routes module exports it, as `options`. */
export type RoutesModuleOptions = Pick<
  IsthmusServerOptions,
  "interceptors" | "requestGate" | "contextValues" | "codec" | "shutdownSignal"
>;

export interface IsthmusWorkerServerOptions
  extends Omit<IsthmusServerOptions, "workers" | "routes" | keyof RoutesModuleOptions> {
  readonly workers: WorkersOptions;
}

export interface WorkerStats {
  readonly threadId: number;
  readonly connections: number;
  readonly pendingCalls: number;
}

const RESTART_MS_FIRST = 50;
/** A worker that lived this long did not die of how it starts. */
const LONG_LIFE_MS = 10_000;

/** A place for a worker. */
interface Slot {
  thread: WorkerThread | undefined;
  /** Deaths in a row, none after a long life. */
  deaths: number;
  restart: NodeJS.Timeout | undefined;
}

export class WorkerServer implements IsthmusServer, ConnectionSink {
  private readonly options: IsthmusWorkerServerOptions;
  private readonly routes: string;
  /** Listens, and tells those who are not let in why. */
  private readonly door: LocalServer;
  private readonly slots: Slot[];
  private readonly loadTimeoutMs: number;
  private readonly restartDelayMsMax: number;
  /** Clients that no worker is there for. */
  private readonly waiting = new Map<WorkerClient, NodeJS.Timeout>();
  private readonly past = { refused: 0, violations: 0 };
  private started: Promise<void> | undefined;
  /** All workers were ready once. */
  private hasStarted = false;
  private ended: Promise<void> | undefined;
  private lastId = 0;

  constructor(
    given: IsthmusWorkerServerOptions,
    doorOf: (options: IsthmusWorkerServerOptions, sink: ConnectionSink) => LocalServer,
  ) {
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
    // Timers count no further: given more they fire at once.
    this.loadTimeoutMs = Math.min(loadTimeoutMs, TIMER_MS_MAX);
    this.restartDelayMsMax = Math.min(restartDelayMsMax, TIMER_MS_MAX);
    this.door = doorOf(options, this);
    requireAddon();
    this.slots = Array.from({ length: count }, () => ({ thread: undefined, deaths: 0, restart: undefined }));
  }

  async listen(address: string, listenOptions?: ListenOptions): Promise<ListeningAt> {
    const parsed = parseAddress(address);
    checkOptional(listenTable, listenOptions, `listen on ${nameOf(parsed)}: `);
    if (parsed.kind !== "unix") {
      throw new ConnectError(
        `listen on ${address}: only connections to a socket path can be handed to worker threads; serve this address by a server without \`workers\``,
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
      pendingCalls: 0,
      openStreams: 0,
      refused: refused + this.past.refused,
      violations: violations + this.past.violations,
    };
    for (const { stats } of this.threads()) {
      sum.connections += stats.connections;
      sum.carriers.shm += stats.carriers.shm;
      sum.carriers.socket += stats.carriers.socket;
      sum.pendingCalls += stats.pendingCalls;
      sum.openStreams += stats.openStreams;
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

  connections(): number {
    return this.threads().reduce((sum, { clients }) => sum + clients.size, this.waiting.size);
  }

  give(addon: Addon, descriptor: number, peer: PeerCredentials, leftMs: number): void {
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
    this.door.take(addon, descriptor!, peer, reason, handshakeTimeoutOf(this.options));
  }

  private async start(): Promise<void> {
    try {
      await Promise.all(this.slots.map(async (slot) => this.launch(slot).ready));
      this.hasStarted = true;
    } catch (failure) {
      await Promise.all(this.slots.map((slot) => stopSlot(slot)));
      // So that one may try again.
      this.started = undefined;
      if (this.ended === undefined) throw failure;
    }
    if (this.ended !== undefined)
      throw new ConnectError(
        `the server was closed while its worker threads loaded ${this.routes}`,
        Code.FailedPrecondition,
      );
  }

  /** @throws ConnectError if there is no such thread to be had */
  private launch(slot: Slot): WorkerThread {
    const setup = {
      worker: this.options.workers,
      routes: this.routes,
      options: plainOptions(this.options),
      loadTimeoutMs: this.loadTimeoutMs,
    };
    const thread: WorkerThread = new WorkerThread(setup, {
      onReady: () => this.placeWaiting(),
      onTook: (client) => {
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

  private placeWaiting(): void {
    for (const [client, timer] of this.waiting) {
      clearTimeout(timer);
      this.waiting.delete(client);
      this.place(client);
    }
  }

  private onEnd(slot: Slot, thread: WorkerThread, reason: string): void {
    const { threadId, clients, stats, readySince, dismissed } = thread;
    // One that could not be ended in time may have been given up.
    if (slot.thread === thread) slot.thread = undefined;
    this.past.refused += stats.refused;
    this.past.violations += stats.violations;
    const left = [...clients.values()];
    // The first one of a slot that never was ready fails the first `listen`.
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
        // No memory for a thread now; perhaps later.
        this.replace(slot);
        warn(`a worker thread of a server could not be replaced, and is tried again: ${(error as Error).message}`);
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

/** Ends the slot's thread, at once without `timeoutMs`; there is no other one after it. */
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
 * What each worker's server is made with. `allow` and `maxConnections` are decided before a worker hears of a client.
 */
function plainOptions(options: IsthmusWorkerServerOptions): object {
  const plain: Record<string, unknown> = { ...options, maxConnections: Number.MAX_SAFE_INTEGER };
  delete plain["workers"];
  delete plain["allow"];
  return plain;
}
