/** Server and clients that pause at random, so that both ends fall asleep and wake at every possible moment. */
import { setImmediate as turn, setTimeout as sleep } from "node:timers/promises";
import { createClient } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import { obey } from "./peer.js";
import { createRandom } from "./settings.js";

const PAUSE_MS_MAX = 3;

export interface PingPong {
  readonly calls: number;
  readonly milliseconds: number;
  readonly slowestMs: number;
  readonly sleeps: number;
  readonly doorbellsReceived: number;
  readonly doorbellsRung: number;
}

/** Waits in one of the ways in which programs wait, or not at all. */
async function pause(random: () => number): Promise<void> {
  const kind = random();
  const milliseconds = random() ** 3 * PAUSE_MS_MAX;
  if (kind < 0.2) return sleep(milliseconds);
  if (kind < 0.4) return turn();
  if (kind < 0.6) busy(milliseconds / 6);
}

function busy(milliseconds: number): void {
  for (const end = performance.now() + milliseconds; performance.now() < end; );
}

obey({
  async listen({ path, seed }: { path: string; seed: number }) {
    const random = createRandom(seed);
    const server = createIsthmusServer({
      routes: ({ service }) =>
        service(TestService, {
          async echo(request) {
            await pause(random);
            return { number: request.number, data: request.data };
          },
        }),
    });
    await server.listen(path);
  },
  async pingPong({
    path,
    seed,
    milliseconds,
    inFlight,
  }: {
    path: string;
    seed: number;
    milliseconds: number;
    inFlight: number;
  }): Promise<PingPong> {
    const random = createRandom(seed);
    const transport = createIsthmusTransport({ address: path });
    const client = createClient(TestService, transport);
    // Making the connection is not what is measured.
    await client.echo({});
    let calls = 0;
    let slowestMs = 0;
    const end = performance.now() + milliseconds;
    const worker = async () => {
      while (performance.now() < end) {
        await pause(random);
        const data = new Uint8Array(random() < 0.05 ? 100_000 : Math.floor(random() * 500));
        const start = performance.now();
        // A lost wake-up would let the call wait for ever; then the deadline ends the proof.
        await client.echo({ number: BigInt(calls), data }, { timeoutMs: 300_000 });
        slowestMs = Math.max(slowestMs, performance.now() - start);
        calls++;
      }
    };
    await Promise.all(Array.from({ length: inFlight }, worker));
    const { sleeps, doorbellsReceived, doorbellsRung } = transport.stats().connection!;
    await transport.close();
    return { calls, milliseconds, slowestMs, sleeps, doorbellsReceived, doorbellsRung };
  },
});
