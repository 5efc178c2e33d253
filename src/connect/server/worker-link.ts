/** What the main thread of a server and its workers tell each other. */
import type { MessagePort } from "node:worker_threads";
import type { PeerCredentials } from "../../os/addon.js";
import type { ServerStats } from "../types/server.js";

/** The first message to a worker, before the routes module runs. */
export interface WorkerSetup {
  readonly port: MessagePort;
  /** URL of the routes module. */
  readonly routes: string;
  /** The server's options, as far as they are plain. */
  readonly options: object;
}

export type ToWorker =
  /** The number is the sender's, and stays open until it is answered: `took` or `declined`. */
  | {
      readonly kind: "take";
      readonly id: number;
      readonly descriptor: number;
      readonly peer: PeerCredentials;
      readonly leftMs: number;
    }
  | { readonly kind: "close"; readonly timeoutMs: number };

export type FromWorker =
  | { readonly kind: "ready" }
  /** The routes could not be had. */
  | { readonly kind: "failed"; readonly reason: string; readonly error: unknown }
  | { readonly kind: "took"; readonly id: number }
  | { readonly kind: "declined"; readonly id: number; readonly reason: string }
  | { readonly kind: "gone"; readonly id: number }
  | { readonly kind: "stats"; readonly stats: ServerStats }
  | { readonly kind: "closed" };
