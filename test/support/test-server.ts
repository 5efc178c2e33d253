/** A server of the test services, in this process or in one of its own, and clients of it. */
import type { Client } from "@connectrpc/connect";
import type { ListenOptions, ServerStats } from "../../src/index.js";
import { createClient, createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import type { IsthmusServerOptions, IsthmusTransport, IsthmusTransportOptions } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import type { Child } from "./processes.js";
import { startChild } from "./processes.js";
import type { Descriptors } from "./resources.js";
import type { Owner } from "./temp.js";
import { tempSocket } from "./temp.js";
import type { Observation } from "./test-service.js";
import { observations, testRoutes } from "./test-service.js";
import { waitUntil } from "./waiting.js";

/** Options that can be sent to another process. */
type PlainServerOptions = Pick<
  IsthmusServerOptions,
  | "maxTimeoutMs"
  | "maxConnections"
  | "maxStreams"
  | "readMaxBytes"
  | "writeMaxBytes"
  | "memory"
  | "polling"
  | "handshakeTimeoutMs"
  | "leases"
  | "isolation"
  | "streamWindowBytes"
  | "keepAlive"
  | "carrier"
>;

export interface TestServerData {
  address: string;
  options?: PlainServerOptions;
  listen?: ListenOptions;
  allowAll?: boolean;
}

export interface TestServer {
  readonly path: string;
  stats(): Promise<ServerStats>;
  /** What the handlers of `Wait` have seen so far. */
  observations(): Promise<Observation[]>;
  close(timeoutMs?: number): Promise<void>;
}

export interface TestServerProcess extends TestServer {
  readonly child: Child;
  resources(): Promise<Descriptors>;
  /** Closes, and says how many calls of `Wait` there were. */
  closeCounting(): Promise<number>;
}

export const PLACES = ["one process", "two processes"] as const;
export type Place = (typeof PLACES)[number];

export function startServer(owner: Owner, place: Place, options: PlainServerOptions = {}): Promise<TestServer> {
  return place === "one process" ? serveHere(owner, options) : serveInChild(owner, options);
}

async function serveHere(owner: Owner, options: PlainServerOptions): Promise<TestServer> {
  const path = tempSocket(owner);
  const server = createIsthmusServer({ ...options, routes: testRoutes });
  await server.listen(path);
  owner.after(() => server.close({ timeoutMs: 0 }));
  return {
    path,
    stats: () => Promise.resolve(server.stats()),
    observations: () => Promise.resolve(observations),
    close: (timeoutMs) => server.close(timeoutMs === undefined ? {} : { timeoutMs }),
  };
}

export async function serveInChild(
  owner: Owner,
  options: PlainServerOptions = {},
  more: Partial<TestServerData> = {},
): Promise<TestServerProcess> {
  const path = more.address ?? tempSocket(owner);
  const child = await startChild(owner, "servers/test-server.js", {
    address: path,
    options,
    ...more,
  } satisfies TestServerData);
  return {
    path,
    child,
    stats: () => child.ask("stats"),
    observations: () => child.ask("observations"),
    resources: () => child.ask("resources"),
    close: (timeoutMs) => child.ask("close", timeoutMs),
    closeCounting: () => child.ask("close"),
  };
}

export interface TestClient {
  readonly transport: IsthmusTransport;
  readonly client: Client<typeof TestService>;
}

/** Has one client come and go, so that what both ends make once and keep is made. */
export async function warmUp(server: TestServer): Promise<void> {
  const transport = createIsthmusTransport({ address: server.path });
  await createClient(TestService, transport).echo({ data: new Uint8Array(100_000) });
  await transport.close();
  await waitUntil("the first client to be gone", async () => (await server.stats()).connections === 0);
}

/** A client in this process. */
export function connectTo(
  owner: Owner,
  server: { path: string },
  options: Partial<IsthmusTransportOptions> = {},
): TestClient {
  const transport = createIsthmusTransport({ ...options, address: server.path });
  owner.after(() => transport.close());
  return { transport, client: createClient(TestService, transport) };
}
