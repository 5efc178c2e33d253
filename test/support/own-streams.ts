/** A server in this process whose handlers of the stream service a test brings along, with one client of it. */
import type { Client, ServiceImpl } from "@connectrpc/connect";
import { createClient } from "@connectrpc/connect";
import type {
  IsthmusServer,
  IsthmusServerOptions,
  IsthmusTransport,
  IsthmusTransportOptions,
} from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { StreamService } from "../proto/streams_pb.js";
import type { Owner } from "./temp.js";
import { tempSocket } from "./temp.js";
import { waitUntil } from "./waiting.js";

export interface OwnStreams {
  readonly server: IsthmusServer;
  readonly path: string;
  readonly transport: IsthmusTransport;
  readonly client: Client<typeof StreamService>;
}

interface OwnStreamsOptions {
  readonly server?: Omit<IsthmusServerOptions, "routes">;
  readonly client?: Omit<IsthmusTransportOptions, "address">;
}

export async function serveStreams(
  owner: Owner,
  handlers: Partial<ServiceImpl<typeof StreamService>>,
  options: OwnStreamsOptions = {},
): Promise<OwnStreams> {
  const path = tempSocket(owner);
  const server = createIsthmusServer({
    ...options.server,
    routes: ({ service }) => void service(StreamService, { echo: (item) => item, ...handlers }),
  });
  await server.listen(path);
  owner.after(() => server.close({ timeoutMs: 0 }));
  const transport = createIsthmusTransport({ ...options.client, address: path });
  owner.after(() => transport.close());
  return { server, path, transport, client: createClient(StreamService, transport) };
}

/** Both ends have forgotten every stream. */
export async function allEnded({ server, transport }: OwnStreams): Promise<void> {
  await waitUntil("all streams to be over at both ends", () => {
    const open = { server: server.stats().openStreams, client: transport.stats().connection?.openStreams ?? 0 };
    return (open.server === 0 && open.client === 0) || JSON.stringify(open);
  });
}

export async function collect<T>(messages: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const message of messages) all.push(message);
  return all;
}

/** Items numbered from 0 on. */
export async function* items(count: number, dataBytes = 0): AsyncGenerator<{ number: bigint; data: Uint8Array }> {
  for (let i = 0; i < count; i++)
    yield await Promise.resolve({ number: BigInt(i), data: new Uint8Array(dataBytes).fill(i) });
}
