/**
 * One worker thread of a server, from its start to its end: loads the routes, becomes ready, takes clients, and is
 * closed or dies. A thread is never restarted; `workers.ts` makes another one.
 *
 * THREAD-1  A thread that is not ready within its time to load is terminated, even if its module never returns.
 * THREAD-2  `onEnd` is called once, after all messages of the thread. `ready` has settled by then.
 */
import { MessageChannel, receiveMessageOnPort, Worker } from "node:worker_threads";
import type { MessagePort } from "node:worker_threads";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Addon, PeerCredentials } from "../../os/addon.js";
import { workerEntry } from "../../os/package-files.js";
import { clearTimeout, nowMs, setTimeout, sleep } from "../../os/timers.js";
import { TIMER_MS_MAX } from "../../rpc/deadline.js";
import type { HealthStatus } from "../types/health.js";
import type { ServerStats } from "../types/server.js";
import type { FromWorker, ToWorker, WorkerSetup } from "./worker-link.js";
import type { WorkersOptions } from "../types/workers.js";

export const NO_STATS: ServerStats = {
  connections: 0,
  carriers: { shm: 0, socket: 0, http: 0 },
  carrierReason: undefined,
  isolated: 0,
  pendingCalls: 0,
  openStreams: 0,
  handshakes: 0,
  handlers: 0,
  keptBytes: 0,
  refused: 0,
  violations: 0,
};

/** Additional time for a worker to close after it has cut off its calls. */
const CLOSE_SLACK_MS = 1000;
/** A thread inside a system call ends only when the call returns. It is not waited for longer than this. */
const STOP_MS_MAX = 5000;

export interface WorkerClient {
  readonly id: number;
  readonly addon: Addon;
  readonly peer: PeerCredentials;
  /** Descriptor of this thread; undefined once a worker has a duplicate of its own. */
  descriptor: number | undefined;
  /** End of the time for its handshake, by this thread's `nowMs`. */
  readonly until: number;
}

/** Time left for a client's handshake, in milliseconds. */
export function leftMsOf({ until }: WorkerClient): number {
  return Math.max(until - nowMs(), 1);
}

export interface WorkerThreadOwner {
  onReady(): void;
  onTook(client: WorkerClient): void;
  onDeclined(client: WorkerClient, reason: string): void;
  /**
   * The thread has ended and leaves the clients in `clients`. Called once.
   * @param reason why it ended, if it was not told to
   */
  onEnd(reason: string): void;
}

export interface WorkerThreadSetup extends Omit<WorkerSetup, "port"> {
  readonly worker: Pick<WorkersOptions, "env" | "execArgv" | "resourceLimits" | "workerData">;
  readonly loadTimeoutMs: number;
}

export class WorkerThread {
  /** SUBTLE: a copy, because Node's property is −1 after the thread has ended. */
  readonly threadId: number;
  readonly clients = new Map<number, WorkerClient>();
  /** Resolves when the thread can take clients; rejects with a ConnectError if it ends before. */
  readonly ready: Promise<void>;
  stats = NO_STATS;
  /** Time of `performance.now()`; undefined before the thread is ready. */
  readySince: number | undefined;
  /** Whether it was told to end. Then its end is not a death. */
  dismissed = false;
  private readonly worker: Worker;
  private readonly port: MessagePort;
  private readonly owner: WorkerThreadOwner;
  private readonly routes: string;
  private readonly ended: Promise<void>;
  private readonly loading: NodeJS.Timeout;
  private settleReady!: (failure: ConnectError | undefined) => void;
  private resolveEnded!: () => void;
  private reason: string | undefined;
  private hasEnded = false;

  /** @throws ConnectError `InvalidArgument` if no thread can be started with these options */
  constructor({ worker, routes, options, loadTimeoutMs }: WorkerThreadSetup, owner: WorkerThreadOwner) {
    const { port1, port2 } = new MessageChannel();
    this.worker = startWorker(worker, { port: port2, routes, options });
    this.threadId = this.worker.threadId;
    this.port = port1;
    this.owner = owner;
    this.routes = routes;
    this.ready = new Promise((resolve, reject) => {
      this.settleReady = (failure) => (failure === undefined ? resolve() : reject(failure));
    });
    // Only the first start is waited for.
    this.ready.catch(() => undefined);
    this.ended = new Promise((resolve) => (this.resolveEnded = resolve));
    this.port.on("message", (message: FromWorker) => this.onMessage(message));
    this.worker.on(
      "error",
      (error: unknown) => (this.reason ??= error instanceof Error ? (error.stack ?? error.message) : String(error)),
    );
    this.worker.on("messageerror", (error) => (this.reason ??= error.message));
    this.worker.on("exit", (code) => this.onExit(code));
    const tooLong = `${routes} was not loaded within ${loadTimeoutMs} ms (option workers.loadTimeoutMs); does it wait for something at its top level, or never return?`;
    this.loading = setTimeout(() => this.failLoading(tooLong, undefined), loadTimeoutMs).unref();
  }

  /** Whether the thread can take clients now. */
  get isReady(): boolean {
    return this.readySince !== undefined && !this.hasEnded && !this.dismissed;
  }

  take(client: WorkerClient): void {
    this.clients.set(client.id, client);
    this.post({
      kind: "take",
      id: client.id,
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- open until a thread took it (HAND-1)
      descriptor: client.descriptor!,
      peer: client.peer,
      leftMs: leftMsOf(client),
    });
  }

  /**
   * Lets its calls finish, then ends it. Calls still open after `timeoutMs` are cut off. Resolves when the thread has
   * ended.
   */
  async close(timeoutMs: number): Promise<void> {
    if (!this.isReady) return this.stop();
    this.dismissed = true;
    this.keepProcessAlive(true);
    this.post({ kind: "close", timeoutMs });
    const timer = setTimeout(() => void this.worker.terminate(), Math.min(timeoutMs + CLOSE_SLACK_MS, TIMER_MS_MAX));
    await this.ended;
    clearTimeout(timer);
  }

  /** Ends the thread at once. Resolves when it has ended, or cannot be ended. */
  async stop(): Promise<void> {
    this.dismissed = true;
    void this.worker.terminate();
    const abort = new AbortController();
    await Promise.race([this.ended, sleep(STOP_MS_MAX, undefined, { signal: abort.signal }).catch(() => undefined)]);
    abort.abort();
  }

  /** Whether the thread keeps the process alive. */
  keepProcessAlive(on: boolean): void {
    for (const handle of [this.worker, this.port]) {
      if (on) handle.ref();
      else handle.unref();
    }
  }

  /** Once it is ready. */
  setHealth(service: string, status: HealthStatus): void {
    this.post({ kind: "health", service, status });
  }

  private post(message: ToWorker): void {
    this.port.postMessage(message);
  }

  private onMessage(message: FromWorker): void {
    switch (message.kind) {
      case "ready":
        // Too late: the thread is being terminated.
        if (this.reason !== undefined) break;
        clearTimeout(this.loading);
        this.readySince = nowMs();
        // From now on, listening keeps the process alive.
        this.keepProcessAlive(this.dismissed);
        this.settleReady(undefined);
        if (this.isReady) this.owner.onReady();
        break;
      case "failed":
        this.failLoading(`${this.routes} could not be loaded: ${message.reason}`, message.error);
        break;
      case "took":
      case "declined": {
        const client = this.clients.get(message.id);
        if (client?.descriptor === undefined) break;
        if (message.kind === "took") {
          this.owner.onTook(client);
        } else {
          this.clients.delete(message.id);
          this.owner.onDeclined(client, message.reason);
        }
        break;
      }
      case "gone":
        this.clients.delete(message.id);
        break;
      case "stats":
        this.stats = message.stats;
        break;
      case "closed":
        void this.worker.terminate();
        break;
    }
  }

  private failLoading(reason: string, cause: unknown): void {
    clearTimeout(this.loading);
    this.reason ??= reason;
    this.settleReady(
      new ConnectError(`a worker thread: ${reason}`, Code.FailedPrecondition, undefined, undefined, cause),
    );
    void this.worker.terminate();
  }

  private onExit(code: number): void {
    clearTimeout(this.loading);
    this.hasEnded = true;
    for (let left; (left = receiveMessageOnPort(this.port)) !== undefined; ) this.onMessage(left.message as FromWorker);
    this.port.close();
    const reason = this.reason ?? `it ended with exit code ${code}`;
    this.settleReady(
      new ConnectError(`a worker thread ended before it had loaded ${this.routes}: ${reason}`, Code.FailedPrecondition),
    );
    this.owner.onEnd(reason);
    this.resolveEnded();
  }
}

function startWorker(
  { env, execArgv, resourceLimits, workerData }: WorkerThreadSetup["worker"],
  setup: WorkerSetup,
): Worker {
  let worker: Worker | undefined;
  try {
    worker = new Worker(findEntry(), {
      name: "isthmus",
      env,
      execArgv,
      resourceLimits,
      workerData,
    });
    worker.postMessage(setup, [setup.port]);
    return worker;
  } catch (error) {
    // This closes the other end of the channel too.
    setup.port.close();
    void worker?.terminate();
    if (error instanceof ConnectError) throw error;
    const text = error instanceof Error ? error.message : String(error);
    throw new ConnectError(
      `a worker thread cannot be started with these options: ${text}`,
      Code.InvalidArgument,
      undefined,
      undefined,
      error,
    );
  }
}

/** @throws ConnectError `FailedPrecondition` that says where the entry point is looked for */
function findEntry(): string {
  try {
    return workerEntry();
  } catch (error) {
    throw new ConnectError(String((error as Error).message), Code.FailedPrecondition, undefined, undefined, error);
  }
}
