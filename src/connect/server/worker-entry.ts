/**
 * Entry point of a server's worker thread: loads the user's routes, and serves the connections that the main thread
 * hands over. `workers.ts` says who owns a descriptor when.
 */
import { parentPort } from "node:worker_threads";
import { leaveWarningToOthers } from "../../carrier/handshake/lack.js";
import { requireAddon } from "../../os/addon.js";
import { clearInterval, queueMicrotask, setInterval } from "../../os/timers.js";
import { MODULE_OPTIONS } from "../options/table.js";
import type { IsthmusServerOptions } from "../types/server.js";
import { LocalServer } from "./local-server.js";
import type { FromWorker, ToWorker, WorkerSetup } from "./worker-link.js";

/** How old the main thread's statistics may be, in milliseconds. */
const STATS_INTERVAL_MS = 250;
/** The options that a routes module may export. */
const EXPORTED = MODULE_OPTIONS.filter((name) => name !== "routes") as readonly string[];

function serve({ port, options }: WorkerSetup, module: Partial<IsthmusServerOptions>): void {
  const addon = requireAddon();
  // The main thread has printed the warning already.
  leaveWarningToOthers();
  const server = new LocalServer({ ...options, ...module } as IsthmusServerOptions);
  const tell = (message: FromWorker) => port.postMessage(message);
  let told = "";
  let ticking: NodeJS.Timeout | undefined;
  const tellStats = () => {
    const stats = server.stats();
    const text = JSON.stringify(stats);
    if (text !== told) tell({ kind: "stats", stats });
    told = text;
    if (stats.connections > 0) {
      ticking ??= setInterval(tellStats, STATS_INTERVAL_MS).unref();
    } else {
      clearInterval(ticking);
      ticking = undefined;
    }
  };
  port.on("message", (message: ToWorker) => {
    if (message.kind === "close") {
      void server.close({ timeoutMs: message.timeoutMs }).finally(() => tell({ kind: "closed" }));
      return;
    }
    if (message.kind === "health") return server.health?.set(message.service, message.status);
    const { id, descriptor, peer, leftMs } = message;
    let own: number;
    try {
      own = addon.duplicateDescriptor(descriptor);
    } catch (error) {
      tell({ kind: "declined", id, reason: error instanceof Error ? error.message : String(error) });
      return;
    }
    // SUBTLE: sent before the first byte is read. If the main thread does not receive it, it may give the client to
    // another worker.
    tell({ kind: "took", id });
    server.take({ addon, descriptor: own, peer, leftMs }, undefined, (gone) => {
      // Posted later, because the server still counts a closed connection until this returns.
      queueMicrotask(tellStats);
      if (gone) tell({ kind: "gone", id });
    });
  });
  tell({ kind: "ready" });
}

interface RoutesModule {
  readonly default?: unknown;
  readonly routes?: unknown;
  readonly options?: unknown;
}

/** What a module exports. If it is CommonJS, that is `default`. */
function exportsOf(module: RoutesModule): RoutesModule {
  const { default: all } = module;
  return typeof all === "object" && all !== null ? { ...module, default: undefined, ...all } : module;
}

/** @throws Error that says what is wrong with the module */
function partsOf(module: RoutesModule): Partial<IsthmusServerOptions> {
  const routes = module.default ?? module.routes;
  if (typeof routes !== "function")
    throw new Error("it has no routes: export a function that registers services, as `default` or as `routes`");
  const { options = {} } = module;
  if (typeof options !== "object" || options === null) throw new Error("its export `options` is not an object");
  for (const name of Object.keys(options)) {
    if (EXPORTED.includes(name)) continue;
    throw new Error(
      `its export \`options\` has ${name}; it may have ${EXPORTED.join(", ")}; pass all other options to createIsthmusServer`,
    );
  }
  return { ...options, routes: routes as IsthmusServerOptions["routes"] };
}

if (parentPort === null)
  throw new Error("isthmus/worker is the entry point of a server's worker threads: bundle it, do not import it");
const parent = parentPort;

parent.once("message", (setup: WorkerSetup) => {
  // From now on the port to the parent is for the routes module, and does not keep the thread alive.
  parent.unref();
  setup.port.ref();
  void (async () => {
    try {
      const module = (await import(/* webpackIgnore: true */ /* @vite-ignore */ setup.routes)) as RoutesModule;
      serve(setup, partsOf(exportsOf(module)));
    } catch (error) {
      const reason = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
      setup.port.postMessage({
        kind: "failed",
        reason,
        error: error instanceof Error ? new Error(error.stack ?? error.message) : undefined,
      } satisfies FromWorker);
    }
  })();
});
