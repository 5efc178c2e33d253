/** Server and client of the proofs of sudden death: each keeps record of what happens to it when the other goes. */
import { once } from "node:events";
import { createClient } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import type { IsthmusServer, IsthmusTransport, ServerStats } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import type { Failure } from "../stress/peer.js";
import { failureOf, monotonicMs, obey } from "../stress/peer.js";
import { createRandom } from "../stress/settings.js";

/** Of the calls in flight, so many wait in a handler; the rest go back and forth. */
const WAITING_CALLS = 8;

export interface Loaded {
  readonly answered: number;
  /** Calls that ended more or less than once. */
  readonly notOnce: number;
  readonly failures: Failure[];
  readonly stillPending: number;
}

export interface LoadOptions {
  readonly inFlight: number;
  readonly large: boolean;
  readonly seed: number;
}

export type ServerState = ServerStats & { readonly waiting: number; readonly abortedAt: number[] };

let server: IsthmusServer;
let waiting = 0;
let abortedAt: number[] = [];

let transport: IsthmusTransport;
let load: Promise<Loaded>;

/** Calls of the load that were answered so far. */
let answered = 0;

obey({
  async listen(path: string) {
    server = createIsthmusServer({
      routes: ({ service }) =>
        service(TestService, {
          echo: ({ text, number }) => ({ text, number }),
          /** Answers with as many MiB as the sequence number says. */
          checksum: ({ sequence, data }) => ({
            sequence,
            checksum: data.length,
            data: new Uint8Array(Number(sequence) << 20),
          }),
          async wait(_, { signal }) {
            waiting++;
            await once(signal, "abort");
            waiting--;
            abortedAt.push(monotonicMs());
            return {};
          },
        }),
    });
    await server.listen(path);
  },
  serverState: (): ServerState => ({ ...server.stats(), waiting, abortedAt }),
  forgetAborts() {
    abortedAt = [];
  },
  closeServer: (timeoutMs: number) => server.close({ timeoutMs }),
  connect(path: string) {
    // A call that begins after the death does not wait for the next server: the load is to end.
    transport = createIsthmusTransport({ address: path, waitForReady: false });
  },
  /** One call; how it ended, and how long it took. */
  async call({
    timeoutMs,
    requestMiB = 0,
    replyMiB = 0,
  }: {
    timeoutMs?: number;
    requestMiB?: number;
    replyMiB?: number;
  }) {
    const client = createClient(TestService, transport);
    const start = monotonicMs();
    try {
      const options = timeoutMs === undefined ? undefined : { timeoutMs };
      const reply = await client.checksum(
        { sequence: BigInt(replyMiB), data: new Uint8Array(requestMiB << 20) },
        options,
      );
      if (reply.checksum !== requestMiB << 20 || reply.data.length !== replyMiB << 20)
        throw new Error("a wrong answer");
      return { failure: undefined, milliseconds: monotonicMs() - start };
    } catch (error) {
      return { failure: failureOf(error), milliseconds: monotonicMs() - start };
    }
  },
  pending: () => transport.stats(),
  /**
   * Keeps `inFlight` calls pending until they fail: small ones, or large ones too. Answers once the connection carries
   * them.
   */
  async startLoad({ inFlight, large, seed }: LoadOptions) {
    const client = createClient(TestService, transport);
    await client.echo({});
    load = keepCalling(inFlight, large, createRandom(seed));
  },
  answered: () => answered,
  finishLoad: () => load,
});

async function keepCalling(inFlight: number, large: boolean, random: () => number): Promise<Loaded> {
  answered = 0;
  const client = createClient(TestService, transport);
  const failures: Failure[] = [];
  let notOnce = 0;
  const once = async (call: () => Promise<unknown>): Promise<boolean> => {
    let ends = 0;
    try {
      await call().finally(() => ends++);
      answered++;
    } catch (error) {
      failures.push(failureOf(error));
    }
    if (ends !== 1) notOnce++;
    return failures.length === 0;
  };
  const worker = async (name: number) => {
    if (name < WAITING_CALLS) {
      await once(() => client.wait({ milliseconds: 1_000_000 }));
      return;
    }
    for (let going = true; going; ) {
      const kind = large ? random() : 1;
      if (kind < 0.1)
        going = await once(() => client.checksum({ data: new Uint8Array(Math.floor(random() * (2 << 20))) }));
      else if (kind < 0.2) going = await once(() => client.checksum({ sequence: 1n }));
      else going = await once(() => client.echo({ text: "x".repeat(Math.floor(random() * 2000)) }));
    }
  };
  await Promise.all(Array.from({ length: inFlight }, (_, name) => worker(name)));
  return { answered, notOnce, failures, stillPending: transport.stats().pendingCalls };
}
