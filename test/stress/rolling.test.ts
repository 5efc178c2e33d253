/**
 * A server is replaced again and again while it is called 10,000 times a second; every call is counted at both ends.
 */
import assert from "node:assert/strict";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { inspect } from "node:util";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import type { TransportStateEvent } from "../../src/index.js";
import { createIsthmusTransport } from "../../src/index.js";
import { StreamService } from "../proto/streams_pb.js";
import { TestService } from "../proto/test_pb.js";
import { tempFolder } from "../support/temp.js";
import { waitUntil } from "../support/waiting.js";
import type { Peer } from "./processes.js";
import { startPeer } from "./processes.js";
import type { RollingSettings } from "./rolling.peer.js";
import { scaled, skip } from "./settings.js";

const CALLS_PER_MS = 10;
/** A machine that cannot do that many gets fewer: what piles up would only make each server take long to close. */
const OPEN_MAX = 4000;
const RESTARTS = scaled(4, 20);
/** Between two restarts. */
const SERVING_MS = scaled(300, 2000);
const LARGE_BYTES = 200_000;

/** A call, and all that is known of it at this end. */
interface Call {
  settled: number;
  error: unknown;
  /** It was open when its connection was lost. */
  wasInFlight: boolean;
}

/** A path, the servers on it one after the other, and what they have run. */
class Service {
  readonly path: string;
  private readonly context: TestContext;
  private readonly folder: string;
  private readonly logs: string[] = [];

  constructor(context: TestContext) {
    this.context = context;
    this.folder = tempFolder(context);
    this.path = join(this.folder, "server.sock");
  }

  async start(takeover: boolean): Promise<Peer> {
    const log = join(this.folder, `${this.logs.length}.log`);
    this.logs.push(log);
    const server = await startPeer(this.context, new URL("./rolling.peer.js", import.meta.url));
    await server.ask("listen", { path: this.path, log, takeover } satisfies RollingSettings);
    return server;
  }

  /** How often each call was run. */
  runs(): Map<number, number> {
    const runs = new Map<number, number>();
    for (const log of this.logs) {
      const bytes = new Uint8Array(readFileSync(log));
      for (const key of new BigUint64Array(bytes.buffer, 0, bytes.length >> 3))
        runs.set(Number(key), (runs.get(Number(key)) ?? 0) + 1);
    }
    return runs;
  }
}

/** Calls at a fixed rate until it is told to stop. */
class Load {
  readonly calls: Call[] = [];
  private readonly open = new Set<Call>();
  private readonly transport;
  private readonly client;
  private readonly streams;
  private readonly timer: NodeJS.Timeout;
  private start = performance.now();
  private readonly answered: Promise<void>[] = [];

  constructor(context: TestContext, path: string, carrier: "shm" | "socket") {
    this.transport = createIsthmusTransport({ address: path, carrier });
    this.client = createClient(TestService, this.transport);
    this.streams = createClient(StreamService, this.transport);
    const onState = (message: unknown) => {
      const { transport, previous } = message as TransportStateEvent;
      if (transport === this.transport && previous === "ready") for (const call of this.open) call.wasInFlight = true;
    };
    subscribe("isthmus:transport:state", onState);
    this.timer = setInterval(() => this.catchUp(), 1);
    context.after(async () => {
      unsubscribe("isthmus:transport:state", onState);
      clearInterval(this.timer);
      await this.transport.close();
    });
  }

  get connections(): number {
    return this.transport.stats().connections;
  }

  private catchUp(): void {
    const due = (performance.now() - this.start) * CALLS_PER_MS;
    while (this.calls.length < due && this.open.size < OPEN_MAX) void this.call(this.calls.length);
    // What is overdue is left out.
    if (this.calls.length < due) this.start = performance.now() - this.calls.length / CALLS_PER_MS;
  }

  private async call(number: number): Promise<void> {
    const call: Call = { settled: 0, error: undefined, wasInFlight: false };
    this.calls.push(call);
    this.open.add(call);
    try {
      const data = new Uint8Array(number % 1000 === 999 ? LARGE_BYTES : 64).fill(number);
      const reply = await this.client.echo({ number: BigInt(number), data });
      assert.equal(reply.number, BigInt(number));
      assert.deepEqual([reply.data.length, reply.data[0]], [data.length, number & 0xff]);
    } catch (error) {
      call.error = error;
    }
    call.settled++;
    this.open.delete(call);
  }

  /** A stream that takes about as long as a server serves. */
  stream(): void {
    const count = BigInt(Math.round(SERVING_MS / 2));
    const read = async () => {
      let expected = 0n;
      for await (const { number } of this.streams.count({ count })) assert.equal(number, expected++);
      assert.equal(expected, count);
    };
    this.answered.push(read());
  }

  async stop(): Promise<void> {
    clearInterval(this.timer);
    await waitUntil("all calls to be settled", () => this.open.size === 0 || this.openCalls());
    await Promise.all(this.answered);
  }

  private openCalls(): string {
    const numbers = [...this.open].map((call) => this.calls.indexOf(call));
    return `${numbers.length} are open, such as ${numbers.slice(0, 10).join(", ")}; ${JSON.stringify(this.transport.stats())}`;
  }

  /** What went wrong, as texts with how often. */
  failures(): Map<string, number> {
    const texts = new Map<string, number>();
    for (const { error } of this.calls) {
      if (error === undefined) continue;
      const text = error instanceof Error ? String(error) : inspect(error);
      texts.set(text, (texts.get(text) ?? 0) + 1);
    }
    return texts;
  }
}

async function roll(
  context: TestContext,
  carrier: "shm" | "socket",
  restart: (service: Service, server: Peer, load: Load) => Promise<Peer>,
): Promise<{ load: Load; runs: Map<number, number> }> {
  const service = new Service(context);
  let server = await service.start(false);
  const load = new Load(context, service.path, carrier);
  for (let i = 0; i < RESTARTS; i++) {
    await sleep(SERVING_MS);
    server = await restart(service, server, load);
    // It may be in a pause between two attempts, which can be longer than a server serves here.
    await waitUntil(
      "the client to have come to the next server",
      () => load.connections >= i + 2 || `${load.connections} connections`,
    );
  }
  await sleep(SERVING_MS);
  await load.stop();
  context.diagnostic(`${load.calls.length} calls over ${load.connections} connections, ${RESTARTS} restarts`);
  assert.ok(load.connections > RESTARTS, `${load.connections} connections`);
  assert.ok(
    load.calls.every(({ settled }) => settled === 1),
    "every call is settled once",
  );
  return { load, runs: service.runs() };
}

/** Every call succeeded, and was run once. */
function assertNothingLost({ load, runs }: { load: Load; runs: Map<number, number> }): void {
  assert.deepEqual([...load.failures()], []);
  assert.equal(runs.size, load.calls.length);
  assert.deepEqual(
    [...runs].filter(([, count]) => count !== 1),
    [],
  );
}

for (const carrier of ["shm", "socket"] as const) {
  describe(`10,000 calls a second over ${carrier}`, { skip: carrier === "shm" ? skip : false }, () => {
    test("lose none to servers that take the path over from each other, and each is run once", async (context) => {
      assertNothingLost(
        await roll(context, carrier, async (service, server, load) => {
          load.stream();
          const next = await service.start(true);
          await server.ask("close");
          await server.ask("exit");
          return next;
        }),
      );
    });

    test("lose none to a server that is closed before the next one starts, and each is run once", async (context) => {
      assertNothingLost(
        await roll(context, carrier, async (service, server, load) => {
          load.stream();
          await server.ask("close");
          await server.ask("exit");
          return service.start(false);
        }),
      );
    });

    test("lose to kill -9 only what was in flight, and nothing is run twice", async (context) => {
      const { load, runs } = await roll(context, carrier, async (service, server) => {
        await server.kill();
        return service.start(false);
      });
      const failed = load.calls.filter(({ error }) => error !== undefined);
      context.diagnostic(`${failed.length} calls failed: ${JSON.stringify([...load.failures()])}`);
      for (const { error, wasInFlight } of failed) {
        assert.ok(error instanceof ConnectError && error.code === Code.Unavailable, String(error));
        assert.match(error.message, /connection lost/);
        assert.ok(wasInFlight, "a call that was not in flight has failed");
      }
      for (const [number, count] of runs) assert.equal(count, 1, `call ${number}`);
      for (const [number, { error }] of load.calls.entries())
        if (error === undefined) assert.equal(runs.get(number), 1, `call ${number}`);
    });
  });
}
