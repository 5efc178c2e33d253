/** What the programs do differently for each carrier: where they listen, and what they say when they connect. */
import { join } from "node:path";
import { compressionGzip } from "@connectrpc/connect-node";
import type { IsthmusServer, IsthmusTransportOptions } from "../../../src/index.js";
import type { ClientCompatRequest, ServerCompatRequest } from "./schema.js";

export const CARRIERS = ["shm", "socket", "http"] as const;
export type Carrier = (typeof CARRIERS)[number];

/** By the runner's `Protocol`. */
const PROTOCOLS = [undefined, "connect", "grpc", "grpc-web"] as const;
/** By the runner's `Compression`. */
const COMPRESSIONS = [undefined, undefined, compressionGzip];

/** Where a server listens, in the runner's words: it hands on the host as it is, and wants a port. */
export interface Place {
  readonly host: string;
  readonly port: number;
  readonly pemCert?: Uint8Array;
}

/** @param folder for sockets */
export async function listenOver(
  carrier: Carrier,
  server: IsthmusServer,
  { useTls, serverCreds, clientTlsCert }: ServerCompatRequest,
  folder: string,
): Promise<Place> {
  if (carrier !== "http") {
    const path = join(folder, `${process.pid}.sock`);
    await server.listen(path);
    return { host: path, port: 1 };
  }
  if (!useTls) return placeOf(await server.listen("http://127.0.0.1:0"));
  const { cert, key } = serverCreds!;
  const clients =
    clientTlsCert.length === 0 ? {} : { requestCert: true, rejectUnauthorized: true, ca: Buffer.from(clientTlsCert) };
  return {
    ...placeOf(
      await server.listen("https://127.0.0.1:0", {
        tls: { cert: Buffer.from(cert), key: Buffer.from(key), ...clients },
      }),
    ),
    pemCert: cert,
  };
}

function placeOf({ address }: { address: string }): Place {
  const { hostname, port } = new URL(address);
  return { host: hostname, port: Number(port) };
}

export function transportOptionsFor(carrier: Carrier, request: ClientCompatRequest): IsthmusTransportOptions {
  const { host, port, messageReceiveLimit, serverTlsCert, clientTlsCreds } = request;
  const readMaxBytes = messageReceiveLimit;
  if (carrier !== "http") return { address: host, carrier, readMaxBytes };
  const protocol = PROTOCOLS[request.protocol];
  if (protocol === undefined) throw new Error(`there is no protocol ${request.protocol}`);
  const compression = COMPRESSIONS[request.compression];
  const own =
    clientTlsCreds === undefined
      ? {}
      : { cert: Buffer.from(clientTlsCreds.cert), key: Buffer.from(clientTlsCreds.key) };
  return {
    address: `${serverTlsCert.length > 0 ? "https" : "http"}://${host}:${port}`,
    readMaxBytes,
    protocol,
    // Less than no bytes: the runner wants empty messages compressed too.
    ...(compression === undefined
      ? {}
      : { sendCompression: compression, acceptCompression: [compression], compressMinBytes: -1 }),
    nodeOptions: { ca: Buffer.from(serverTlsCert), ...own },
  };
}
