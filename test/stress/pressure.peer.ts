/** Both roles of the back-pressure proof: a process may be server, client, or both at once. */
import { createClient } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import type { CommonOptions } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import { sampleMemory } from "./observe.js";
import { checksum } from "./payload.js";
import { monotonicMs, obey } from "./peer.js";

interface Issue {
  readonly path: string;
  /** The server, to be stopped once the connection is there. */
  readonly pid: number;
  readonly calls: number;
  readonly byteLength: number;
}

interface Exchange {
  readonly path: string;
  readonly calls: number;
  readonly inFlight: number;
  readonly byteLength: number;
  readonly memory: NonNullable<CommonOptions["memory"]>;
}

let issued: Promise<unknown> | undefined;
let settled = 0;
let wrong = 0;

obey({
  async listen({
    path,
    memory = {},
    replyBytes = 0,
  }: {
    path: string;
    memory?: CommonOptions["memory"] & object;
    replyBytes?: number;
  }) {
    const reply = new Uint8Array(replyBytes).fill(7);
    const server = createIsthmusServer({
      memory,
      routes: ({ service }) =>
        service(TestService, {
          echo: ({ number, data }) => ({ number, data }),
          checksum: ({ sequence, data }) => ({ sequence, checksum: checksum(data, Number(sequence)), data: reply }),
        }),
    });
    await server.listen(path);
  },
  memory: () => sampleMemory(),
  /** Stops the server and issues all calls in one go. */
  async issue({ path, pid, calls, byteLength }: Issue) {
    const transport = createIsthmusTransport({ address: path });
    const client = createClient(TestService, transport);
    await client.echo({});
    const data = new Uint8Array(byteLength).map((_, i) => i);
    const right = Array.from({ length: calls }, (_, sequence) => checksum(data, sequence));
    process.kill(pid, "SIGSTOP");
    const before = sampleMemory().residentMiB;
    issued = Promise.all(
      right.map(async (expected, sequence) => {
        const reply = await client.checksum({ sequence: BigInt(sequence), data });
        settled++;
        if (reply.checksum !== expected || reply.sequence !== BigInt(sequence)) wrong++;
      }),
    ).then(() => transport.close());
    return { before, after: sampleMemory().residentMiB, pending: transport.stats().pendingCalls };
  },
  progress: () => ({ settled, wrong }),
  async finish() {
    await issued;
    return { settled, wrong };
  },
  async exchange({ path, calls, inFlight, byteLength, memory }: Exchange) {
    await using transport = createIsthmusTransport({ address: path, memory });
    const client = createClient(TestService, transport);
    const data = new Uint8Array(byteLength).map((_, i) => i * 7);
    let next = 0;
    let right = 0;
    const start = monotonicMs();
    const worker = async () => {
      while (next < calls) {
        const sequence = next++;
        const reply = await client.checksum({ sequence: BigInt(sequence), data });
        if (reply.checksum === checksum(data, sequence) && reply.data.every((byte) => byte === 7)) right++;
      }
    };
    await Promise.all(Array.from({ length: inFlight }, worker));
    return { right, milliseconds: monotonicMs() - start };
  },
});
