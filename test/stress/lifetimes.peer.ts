/** Both ends of the proof that loans and leases last; `lifetimes.test.ts` says what is proved. */
import { ConnectError, createClient } from "@connectrpc/connect";
import type { IsthmusTransport, LeaseLifetime } from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport, loan, release } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import type { MemorySample } from "./observe.js";
import { collectGarbage, sampleMemory, waitUntil } from "./observe.js";
import { obey } from "./peer.js";

const MIB = 1 << 20;
const SAMPLES = 60;

export interface Lasted {
  readonly right: number;
  readonly client: MemorySample[];
  readonly inUseBytes: number;
  readonly leases: number;
  readonly milliseconds: number;
}

export interface Ended {
  readonly codes: number[];
  readonly consumed: number;
  readonly settledTwice: number;
}

let transport: IsthmusTransport;
let ended: Promise<Ended> | undefined;
let handling = 0;
const samples: MemorySample[] = [];

function client() {
  return createClient(TestService, transport);
}

/** First, last and one byte in between say which call it is. */
function mark(bytes: Uint8Array, id: number): void {
  for (const at of [0, bytes.length >> 1, bytes.length - 1]) bytes[at] = id;
}

function isMarked(bytes: Uint8Array, id: number): boolean {
  return [0, bytes.length >> 1, bytes.length - 1].every((at) => bytes[at] === (id & 0xff));
}

obey({
  async listen({ path, leases, every }: { path: string; leases: LeaseLifetime; every: number }) {
    let served = 0;
    const server = createIsthmusServer({
      leases,
      routes: ({ service }) =>
        service(TestService, {
          async echo({ number, data }, context) {
            if (++served % every === 0) samples.push(sampleMemory());
            if (!isMarked(data, Number(number))) throw new Error(`the request is not ${number}`);
            if (number % 2n === 0n) return { data };
            const bytes = await loan(context, data.length);
            mark(bytes, Number(number));
            return { data: bytes };
          },
          checksum({ sequence, data }) {
            return isMarked(data, Number(sequence)) ? { sequence } : {};
          },
          async wait() {
            handling++;
            await new Promise(() => undefined);
            return {};
          },
        }),
    });
    await server.listen(path);
  },
  samples: () => samples,
  handling: () => handling,
  async connect({ path, leases }: { path: string; leases: LeaseLifetime }) {
    transport = createIsthmusTransport({ address: path, leases });
    await client().checksum({ data: new Uint8Array(1) });
  },
  async last({ calls, inFlight }: { calls: number; inFlight: number }): Promise<Lasted> {
    const { echo, checksum } = client();
    const start = performance.now();
    const client_: MemorySample[] = [];
    let next = 0;
    let right = 0;
    const every = Math.ceil(calls / SAMPLES);
    const worker = async () => {
      while (next < calls) {
        const id = next++;
        if (id % every === 0) client_.push(sampleMemory());
        // In turn a loan and memory of the heap, echoed and answered with a loan.
        const data = (id >> 1) % 2 === 0 ? await loan(transport, MIB) : new Uint8Array(MIB);
        mark(data, id);
        const reply = await echo({ number: BigInt(id), data });
        if (reply.data.length === MIB && isMarked(reply.data, id)) right++;
        if (id % 3 === 0) release(reply);
      }
    };
    await Promise.all(Array.from({ length: inFlight }, worker));
    const milliseconds = performance.now() - start;
    let { arenaInUseBytes: inUseBytes, leases } = transport.stats().connection!;
    for (let round = 0; round < 20 && (inUseBytes > 0 || leases > 0); round++) {
      await collectGarbage();
      // The server collects garbage when this side waits for memory, or is asked to from outside.
      await checksum({ data: new Uint8Array(1) });
      ({ arenaInUseBytes: inUseBytes, leases } = transport.stats().connection!);
    }
    return { right, client: client_, inUseBytes, leases, milliseconds };
  },
  inUse: async () => {
    await collectGarbage();
    await client().checksum({ data: new Uint8Array(1) });
    const { arenaInUseBytes, leases } = transport.stats().connection!;
    return { arenaInUseBytes, leases };
  },
  async burst({ calls, byteLength }: { calls: number; byteLength: number }) {
    const data = new Uint8Array(byteLength).fill(1);
    const replies = await Promise.all(
      Array.from({ length: calls }, (_, i) =>
        client()
          .checksum({ sequence: BigInt(1), data })
          .then(({ sequence }) => sequence === 1n && i >= 0),
      ),
    );
    return replies.filter(Boolean).length;
  },
  /** Calls that the server takes and never answers, each with a loan, and as many that it could not take yet. */
  async hang({ loans, byteLength }: { loans: number; byteLength: number }) {
    const sent: Uint8Array[] = [];
    const codes: number[] = [];
    let settledTwice = 0;
    const calls = [];
    for (let i = 0; i < loans; i++) {
      const bytes = await loan(transport, byteLength);
      sent.push(bytes);
      let settled = false;
      calls.push(
        transport
          .unary(TestService.method.wait, undefined, undefined, undefined, {
            milliseconds: 1,
            $unknown: [{ no: 3, wireType: 2, data: new Uint8Array(1) }],
          })
          .then(
            () => undefined,
            () => (settled ? settledTwice++ : (settled = true)),
          ),
        client()
          .echo({ number: 1n, data: bytes })
          .then(
            () => codes.push(0),
            (error: unknown) => codes.push(ConnectError.from(error).code),
          ),
      );
    }
    ended = Promise.all(calls).then(() => ({
      codes,
      consumed: sent.filter((bytes) => bytes.length === 0).length,
      settledTwice,
    }));
    return sent.length;
  },
  async ended() {
    const outcome = await ended!;
    await waitUntil("the connection to be over", () => transport.state === "idle");
    return outcome;
  },
});
