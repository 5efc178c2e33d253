/** Server and client in containers. A container sees the shared folder as /shared and nothing else of the other one. */
import { subscribe } from "node:diagnostics_channel";
import { once } from "node:events";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { createClient } from "@connectrpc/connect";
import type {
  Isolation,
  IsthmusServer,
  IsthmusTransport,
  ListenOptions,
  PeerCredentials,
  ServerConnectionEvent,
  ServerStats,
  TransportStats,
} from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport, loan, peerCredentials } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import type { Failure } from "../stress/peer.js";
import { failureOf, obey } from "../stress/peer.js";
import { hash32 } from "../stress/settings.js";

export interface Surroundings {
  readonly pid: number;
  readonly uid: number;
  readonly uidMap: string;
  /** By name, the kernel's number of the namespace. */
  readonly namespaces: Record<string, string>;
  /** What is in the root folder. */
  readonly root: string[];
  readonly shared: string[];
}

export interface Outcome<T> {
  readonly value?: T;
  readonly failure?: Failure;
}

export interface Exchange {
  readonly seed: number;
  /** Bytes of each request and of its reply. */
  readonly sizes: readonly number[];
}

export interface Exchanged {
  readonly carrier: string | undefined;
  /** Bytes of requests, and of replies, that arrived as they should. */
  readonly requestBytes: number;
  readonly replyBytes: number;
  /** Large requests that went out from where they were built, and that were copied; large replies that were leased. */
  readonly loansSent: number;
  readonly copies: number;
  readonly leases: number;
}

export interface Listening {
  readonly path: string;
  readonly options?: ListenOptions;
  /** Lets everybody in who reaches the socket. */
  readonly allowAll?: boolean;
  readonly isolation?: Isolation;
}

export interface Connecting {
  readonly path: string;
  readonly isolation?: Isolation;
}

/** How far the other end is trusted, and why. */
export type Trusted = Pick<TransportStats, "isolation" | "isolationReason">;

const NAMESPACES = ["user", "pid", "mnt", "net", "ipc"];

let server: IsthmusServer;
const asked: PeerCredentials[] = [];
const clients: Trusted[] = [];
let aborted = 0;

let transport: IsthmusTransport;
let held: Promise<Failure | undefined>[] = [];

obey({
  surroundings: (): Surroundings => ({
    pid: process.pid,
    uid: process.getuid!(),
    uidMap: readFileSync("/proc/self/uid_map", "utf8").trim().replaceAll(/\s+/g, " "),
    namespaces: Object.fromEntries(NAMESPACES.map((name) => [name, readlinkSync(`/proc/self/ns/${name}`)])),
    root: readdirSync("/"),
    shared: readdirSync("/shared"),
  }),

  async listen({ path, options, allowAll, isolation }: Listening): Promise<Outcome<undefined>> {
    subscribe("isthmus:server:connection", (message) => {
      const { isolation, isolationReason } = message as ServerConnectionEvent;
      clients.push({ isolation, isolationReason });
    });
    server = createIsthmusServer({
      carrier: "shm",
      ...(isolation === undefined ? {} : { isolation }),
      ...(allowAll === true ? { allow: (peer: PeerCredentials) => asked.push(peer) > 0 } : {}),
      routes: ({ service }) =>
        service(TestService, {
          whoami: (_, { values }) => ({ ...values.get(peerCredentials) }),
          /** Checks every byte of the request, and replies with as many others. */
          async checksum({ sequence, data }, context) {
            const seed = Number(sequence);
            assertBytes("request", data, contentOf(seed, data.length));
            const reply = await loan(context, data.length);
            reply.set(contentOf(seed + 1, data.length));
            return { sequence, data: reply };
          },
          async wait(_, { signal }) {
            await once(signal, "abort");
            aborted++;
            return {};
          },
        }),
    });
    return outcomeOf(server.listen(path, options).then(() => undefined));
  },
  /** The credentials that `allow` was asked about. */
  asked: () => asked,
  serverState: (): ServerStats & { aborted: number } => ({ ...server.stats(), aborted }),
  closeServer: () => server.close({ timeoutMs: 1000 }),

  connect({ path, isolation }: Connecting) {
    transport = createIsthmusTransport({
      address: path,
      carrier: "shm",
      ...(isolation === undefined ? {} : { isolation }),
    });
  },
  /** How far this client trusts the server, once it is connected. */
  async trusted(): Promise<Trusted> {
    await transport.connect();
    const { isolation, isolationReason } = transport.stats();
    return { isolation, isolationReason };
  },
  /** How far the server trusts the clients that have connected. */
  clients: () => clients,
  whoami: () =>
    outcomeOf(
      createClient(TestService, transport)
        .whoami({})
        .then(({ pid, uid, gid }) => ({ pid, uid, gid })),
    ),
  async exchange({ seed, sizes }: Exchange): Promise<Exchanged> {
    const client = createClient(TestService, transport);
    const before = transport.stats().connection;
    let requestBytes = 0;
    let replyBytes = 0;
    for (const [at, size] of sizes.entries()) {
      const sequence = seed + 2 * at;
      // It is checked there: a request that differs is an error here.
      const request = await loan(transport, size);
      request.set(contentOf(sequence, size));
      const { data } = await client.checksum({ sequence: BigInt(sequence), data: request });
      requestBytes += size;
      assertBytes("reply", data, contentOf(sequence + 1, size));
      replyBytes += data.length;
    }
    const after = transport.stats().connection!;
    const since = (counter: "spansSentInPlace" | "spansCopiedIn" | "spansLeased") =>
      after[counter] - (before?.[counter] ?? 0);
    return {
      carrier: transport.carrier,
      requestBytes,
      replyBytes,
      loansSent: since("spansSentInPlace"),
      copies: since("spansCopiedIn"),
      leases: since("spansLeased"),
    };
  },
  /** Leaves calls open. `released` says how they ended. */
  hold(count: number) {
    const client = createClient(TestService, transport);
    held = Array.from({ length: count }, () => client.wait({}).then(() => undefined, failureOf));
  },
  released: () => Promise.all(held),
});

async function outcomeOf<T>(promise: Promise<T>): Promise<Outcome<T>> {
  try {
    return { value: await promise };
  } catch (error) {
    return { failure: failureOf(error) };
  }
}

/** Bytes that both ends make alike. */
function contentOf(seed: number, byteLength: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(byteLength / 4));
  for (let at = 0; at < words.length; at++) words[at] = hash32(seed, at, 7);
  return new Uint8Array(words.buffer, 0, byteLength);
}

function assertBytes(what: string, got: Uint8Array, expected: Uint8Array): void {
  if (Buffer.compare(got, expected) !== 0)
    throw new Error(`a ${what} of ${expected.length} bytes arrived changed, with ${got.length} bytes`);
}
