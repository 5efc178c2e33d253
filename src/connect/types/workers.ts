/** Options of servers that spread their connections over worker threads. Types only. */
import type { ResourceLimits, WorkerOptions } from "node:worker_threads";
import type { IsthmusServerOptions } from "./server.js";

/** Options for the worker threads of a server. */
export interface WorkersOptions {
  /**
   * The module that each worker loads: an absolute path or a `file:` URL, such as `new URL("./routes.js",
   * import.meta.url)`. It exports the function that registers services, as `default` or `routes`, and may export
   * `options`; see {@link RoutesModuleOptions}.
   */
  readonly routes: URL | string;
  /** Number of worker threads, 1 to 256; by default the number of CPUs that this process may use. */
  readonly count?: number;
  /** As for Node's `Worker`; the process's by default. */
  readonly env?: WorkerOptions["env"];
  /** As for Node's `Worker`; the process's by default. */
  readonly execArgv?: string[];
  /** As for Node's `Worker`; none by default. */
  readonly resourceLimits?: ResourceLimits;
  /** The value that the routes module sees as `workerData` of `node:worker_threads`. */
  readonly workerData?: unknown;
  /**
   * Time limit for a worker to start and load the module, in milliseconds; 30,000 by default. A worker that takes
   * longer is terminated. Then the first `listen` fails with `FailedPrecondition`, while a replacement is tried again.
   */
  readonly loadTimeoutMs?: number;
  /** Longest pause before a worker that keeps dying is started again, in milliseconds; 5000 by default. */
  readonly restartDelayMsMax?: number;
}

/** Server options that cannot be sent to a thread. The routes module exports them as `options`. */
export type RoutesModuleOptions = Pick<
  IsthmusServerOptions,
  "interceptors" | "requestGate" | "contextValues" | "codec" | "shutdownSignal"
>;

/** Options of `createIsthmusServer` for a server with worker threads. */
export interface IsthmusWorkerServerOptions
  extends Omit<IsthmusServerOptions, "workers" | "routes" | keyof RoutesModuleOptions> {
  readonly workers: WorkersOptions;
}
