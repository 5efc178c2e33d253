/**
 * Where a body of the suite over every carrier runs: what the messages travel over, and whether client and server share
 * a process. A scene has a server of StreamService that its tests share, and makes further ones with options.
 */
import type { Client, Interceptor } from "@connectrpc/connect";
import { createClient, createContextValues } from "@connectrpc/connect";
import type { IsthmusServerOptions, IsthmusTransport, IsthmusTransportOptions, ServerStats } from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { StreamService } from "../proto/streams_pb.js";
import type { Child } from "./processes.js";
import { startChild } from "./processes.js";
import type { Script, Seen } from "./stream-service.js";
import { recordMessages, seenHere, streamRoutes, streamValue, tellToReadHere, totalsHere } from "./stream-service.js";
import type { Owner } from "./temp.js";
import { tempSocket } from "./temp.js";

export const CARRIERS = ["shared memory", "Unix socket", "TCP socket", "HTTP/2"] as const;
export type CarrierName = (typeof CARRIERS)[number];
export type Place = "one process" | "two processes";

/** Options that can be sent to another process. */
export type SceneServerOptions = Pick<
  IsthmusServerOptions,
  "maxTimeoutMs" | "readMaxBytes" | "writeMaxBytes" | "memory" | "leases"
> & {
  /** Installs an interceptor that records what passes. */
  readonly recorded?: boolean;
};

export type SceneClientOptions = Pick<
  IsthmusTransportOptions,
  "readMaxBytes" | "writeMaxBytes" | "memory" | "leases" | "defaultTimeoutMs"
> & {
  readonly interceptors?: Interceptor[];
};

export interface StreamServerData {
  readonly address: string;
  readonly options: SceneServerOptions;
}

/** A server as a process sees its own. */
export interface StreamServerHere {
  readonly address: string;
  close(timeoutMs?: number): Promise<void>;
  stats(): ServerStats;
}

export interface SceneServer {
  readonly address: string;
  readonly carrier: CarrierName;
  /** Undefined in the test's own process. */
  readonly child: Child | undefined;
  /** What the handlers saw that were called under this name. */
  seen(call: string): Promise<Seen>;
  totals(prefix: string): Promise<ReturnType<typeof totalsHere>>;
  /** The handler called under this name, which waits for it, reads from now on. */
  tellToRead(call: string): Promise<void>;
  stats(): Promise<ServerStats>;
  /** Collects the garbage of a process of its own. */
  collect(): Promise<void>;
  close(timeoutMs?: number): Promise<void>;
}

export interface SceneClient {
  readonly transport: IsthmusTransport;
  readonly client: Client<typeof StreamService>;
}

/** Serves StreamService in this process. */
export async function serveStreamsHere(data: StreamServerData): Promise<StreamServerHere> {
  const { recorded, ...options } = data.options;
  const contextValues = () => createContextValues().set(streamValue, "of the server");
  const server = createIsthmusServer({
    ...options,
    ...(recorded === true ? { interceptors: [recordMessages] } : {}),
    routes: streamRoutes,
    contextValues,
  });
  const listening = await server.listen(data.address);
  return {
    address: listening.address,
    close: (timeoutMs) => server.close(timeoutMs === undefined ? {} : { timeoutMs }),
    stats: () => server.stats(),
  };
}

export function connectStreams(
  owner: Owner,
  server: Pick<SceneServer, "address" | "carrier">,
  options: SceneClientOptions = {},
): SceneClient {
  const transport = createIsthmusTransport({ ...options, address: server.address, ...carrierOption(server.carrier) });
  owner.after(() => transport.close());
  return { transport, client: createClient(StreamService, transport) };
}

function carrierOption(carrier: CarrierName): Pick<IsthmusTransportOptions, "carrier"> {
  if (carrier === "shared memory") return { carrier: "shm" };
  return carrier === "Unix socket" ? { carrier: "socket" } : {};
}

let calls = 0;

export class Scene {
  readonly carrier: CarrierName;
  readonly place: Place;
  /** Whether large values are leased, not copied. */
  readonly hasLeases: boolean;
  /**
   * Whether the frames are Isthmus's own. Over HTTP/2 some things are as Node's and Connect's code has them: requests
   * that are broken off look like requests that ended, reasons of aborts are others, and handlers may start before a
   * call is refused.
   */
  readonly isOwn: boolean;
  private readonly owner: Owner;
  private sharedServer: Promise<SceneServer> | undefined;

  constructor(owner: Owner, carrier: CarrierName, place: Place) {
    this.owner = owner;
    this.carrier = carrier;
    this.place = place;
    this.hasLeases = carrier === "shared memory";
    this.isOwn = carrier !== "HTTP/2";
  }

  /** A server with the default options, the same for all tests. */
  async server(): Promise<SceneServer> {
    this.sharedServer ??= this.serve(this.owner);
    return this.sharedServer;
  }

  async serve(owner: Owner, options: SceneServerOptions = {}, place = this.place): Promise<SceneServer> {
    const { carrier } = this;
    const address =
      { "TCP socket": "tcp:127.0.0.1:0", "HTTP/2": "http://127.0.0.1:0" }[carrier as string] ?? tempSocket(owner);
    const data: StreamServerData = { address, options };
    if (place === "one process") {
      const server = await serveStreamsHere(data);
      owner.after(() => server.close(0));
      return {
        carrier,
        child: undefined,
        address: server.address,
        seen: (call) => Promise.resolve(seenHere(call)),
        totals: (prefix) => Promise.resolve(totalsHere(prefix)),
        tellToRead: (call) => Promise.resolve(tellToReadHere(call)),
        stats: () => Promise.resolve(server.stats()),
        collect: () => Promise.resolve(),
        close: (timeoutMs) => server.close(timeoutMs),
      };
    }
    const child = await startChild(owner, "servers/stream-server.js", data);
    return {
      carrier,
      child,
      address: await child.ask<string>("address"),
      seen: (call) => child.ask("seen", call),
      totals: (prefix) => child.ask("totals", prefix),
      tellToRead: (call) => child.ask("tellToRead", call),
      stats: () => child.ask("stats"),
      collect: () => child.ask("collect"),
      close: (timeoutMs) => child.ask("close", timeoutMs),
    };
  }

  /** A client of the shared server. */
  async connect(owner: Owner, options?: SceneClientOptions): Promise<SceneClient & { readonly server: SceneServer }> {
    const server = await this.server();
    return { ...connectStreams(owner, server, options), server };
  }

  /** A name for a call that no other has. */
  newCall(): string {
    return `call-${++calls}`;
  }
}

/** Headers that have the handler follow `script`, and be recorded as `call`. */
export function scripted(script: Script, call = ""): { headers: Record<string, string> } {
  return { headers: { "x-script": JSON.stringify(script), "x-call": call } };
}
