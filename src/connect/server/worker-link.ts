/** The messages between a server's main thread and its workers. */
import type { MessagePort } from "node:worker_threads";
import type { PeerCredentials } from "../../os/addon.js";
import type { HealthStatus } from "../types/health.js";
import type { ServerStats } from "../types/server.js";

/** The first message to a worker, before the routes module runs. */
export interface WorkerSetup {
  readonly port: MessagePort;
  /** URL of the routes module. */
  readonly routes: string;
  /** The server's options that can be sent to a thread. */
  readonly options: object;
}

export type ToWorker =
  /** The descriptor is the sender's. It stays open until the worker has answered `took` or `declined`. */
  | {
      readonly kind: "take";
      readonly id: number;
      readonly descriptor: number;
      readonly peer: PeerCredentials;
      readonly leftMs: number;
    }
  | { readonly kind: "health"; readonly service: string; readonly status: HealthStatus }
  | { readonly kind: "close"; readonly timeoutMs: number };

export type FromWorker =
  | { readonly kind: "ready" }
  /** The routes module could not be loaded. */
  | { readonly kind: "failed"; readonly reason: string; readonly error: unknown }
  | { readonly kind: "took"; readonly id: number }
  | { readonly kind: "declined"; readonly id: number; readonly reason: string }
  | { readonly kind: "gone"; readonly id: number }
  | { readonly kind: "stats"; readonly stats: ServerStats }
  | { readonly kind: "closed" };
