/** Starts the server that the attacks are made on, and honest clients beside them. */
import type { IsthmusServerOptions, ServerStats } from "../../src/index.js";
import type { Child } from "../support/processes.js";
import { startChild } from "../support/processes.js";
import type { Descriptors } from "../support/resources.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";

/** Options that can be sent to another process. */
type PlainOptions = Pick<
  IsthmusServerOptions,
  "carrier" | "handshakeTimeoutMs" | "limits" | "maxConnections" | "maxStreams" | "memory" | "readMaxBytes"
>;

export interface HostileServerData {
  readonly path: string;
  readonly options: PlainOptions;
  readonly allowAll: boolean;
}

export interface Condition extends NodeJS.MemoryUsage {
  readonly stats: ServerStats;
  /** Handlers that run now, the most that ran at once, and how many were called. */
  readonly handlers: { readonly running: number; readonly peak: number; readonly started: number };
  /** The longest that the event loop stood since the last question, in milliseconds. */
  readonly stoodMs: number;
}

export interface AttackedServer {
  readonly path: string;
  readonly child: Child;
  condition(): Promise<Condition>;
  resources(): Promise<Descriptors>;
  /** Lets the handlers settle that linger now. */
  release(): Promise<void>;
}

export async function serveAttacked(
  owner: Owner,
  options: PlainOptions = {},
  { allowAll = false, wrap }: { allowAll?: boolean; wrap?: readonly string[] } = {},
): Promise<AttackedServer> {
  const path = tempSocket(owner);
  const data: HostileServerData = { path, options, allowAll };
  const child = await startChild(owner, "../hostile/server.peer.js", data, {}, wrap === undefined ? {} : { wrap });
  return {
    path,
    child,
    condition: () => child.ask("condition"),
    resources: () => child.ask("resources"),
    release: () => child.ask("release"),
  };
}
