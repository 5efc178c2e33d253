/** How a server is made: in the calling thread, or spread over worker threads. */
import type { IsthmusServer, IsthmusServerOptions } from "../types/server.js";
import type { IsthmusWorkerServerOptions } from "../types/workers.js";
import { LocalServer } from "./local-server.js";
import { WorkerServer } from "./workers.js";

/**
 * Creates a server that serves Connect's routes: in this thread, or with the option `workers` in worker threads that
 * the connections are spread over. It serves nothing before `listen` is called.
 *
 * @throws ConnectError `InvalidArgument` if an option is unknown or its value is out of range; `FailedPrecondition` if
 * `carrier` is "shm" and shared memory is not available, or with `workers` if there is no addon
 * @throws whatever `routes` throws
 * @example
 * ```ts
 * const server = createIsthmusServer({
 *   routes(router) {
 *     router.service(EchoService, { echo: (request) => ({ text: request.text }) });
 *   },
 * });
 * await server.listen("/run/echo.sock");
 * // Later: open calls may finish.
 * await server.close();
 * ```
 */
export function createIsthmusServer(options: IsthmusServerOptions | IsthmusWorkerServerOptions): IsthmusServer {
  return options?.workers === undefined ? new LocalServer(options) : new WorkerServer(options);
}
