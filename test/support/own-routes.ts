/** A server in this process whose handlers a test brings along, with one client of it. */
import type { Client, ServiceImpl } from "@connectrpc/connect";
import { createClient } from "@connectrpc/connect";
import type {
  IsthmusServer,
  IsthmusServerOptions,
  IsthmusTransport,
  IsthmusTransportOptions,
  TransportStats,
} from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { collectSoon } from "../../src/memory/v8/gc.js";
import { KindsService } from "../proto/kinds_pb.js";
import { TestService } from "../proto/test_pb.js";
import type { Owner } from "./temp.js";
import { tempSocket } from "./temp.js";
import type { TestServerProcess } from "./test-server.js";
import { waitUntil } from "./waiting.js";

export interface OwnRoutes {
  readonly server: IsthmusServer;
  readonly path: string;
  readonly transport: IsthmusTransport;
  readonly client: Client<typeof TestService>;
  readonly kinds: Client<typeof KindsService>;
}

interface OwnRoutesOptions {
  readonly server?: Omit<IsthmusServerOptions, "routes">;
  readonly client?: Omit<IsthmusTransportOptions, "address">;
}

/** Echoes kinds; the test service is `handlers`. The connection is made. */
export async function serveOwn(
  owner: Owner,
  handlers: Partial<ServiceImpl<typeof TestService>>,
  options: OwnRoutesOptions = {},
): Promise<OwnRoutes> {
  const path = tempSocket(owner);
  const server = createIsthmusServer({
    ...options.server,
    routes: ({ service }) => {
      service(TestService, handlers);
      service(KindsService, { echo: (request) => request });
    },
  });
  await server.listen(path);
  owner.after(() => server.close({ timeoutMs: 0 }));
  const transport = createIsthmusTransport({ ...options.client, address: path });
  owner.after(() => transport.close());
  const kinds = createClient(KindsService, transport);
  await kinds.echo({});
  return { server, path, transport, client: createClient(TestService, transport), kinds };
}

/** The figures of a client's connection. */
export function connectionOf(transport: IsthmusTransport): NonNullable<TransportStats["connection"]> {
  const { connection } = transport.stats();
  if (connection === undefined) throw new Error("there is no connection");
  return connection;
}

/**
 * Waits until nothing of this client's memory is in use, or leased to it, collecting garbage here and in the server's
 * process.
 */
export async function allReturned(transport: IsthmusTransport, server?: object): Promise<void> {
  const { echo } = createClient(KindsService, transport);
  await waitUntil("all blocks to be back", async () => {
    collectSoon();
    if (server !== undefined && "resources" in server) await (server as TestServerProcess).resources();
    // A side looks for what came back when it has something to do.
    await echo({});
    const { arenaInUseBytes, loans, leases } = connectionOf(transport);
    return (arenaInUseBytes === 0 && loans === 0 && leases === 0) || JSON.stringify({ arenaInUseBytes, loans, leases });
  });
}

/** `byteLength` bytes that follow from `seed`, and differ from those of any other seed nearly everywhere. */
export function pattern(seed: number, byteLength: number): Uint8Array {
  const bytes = new Uint8Array(byteLength);
  fillPattern(bytes, seed);
  return bytes;
}

export function fillPattern(bytes: Uint8Array, seed: number): void {
  for (let i = 0, word = Math.imul(seed + 1, 0x9e3779b1); i < bytes.length; i++) {
    word = (Math.imul(word, 1_664_525) + 1_013_904_223) | 0;
    bytes[i] = word >>> 24;
  }
}

/** Where `bytes` are not the pattern of `seed`; −1 if they are. */
export function patternFault(bytes: Uint8Array, seed: number): number {
  for (let i = 0, word = Math.imul(seed + 1, 0x9e3779b1); i < bytes.length; i++) {
    word = (Math.imul(word, 1_664_525) + 1_013_904_223) | 0;
    if (bytes[i] !== word >>> 24) return i;
  }
  return -1;
}
