/**
 * Streams for long: many GiB of loans through one in flat memory; a thousand of which one is slow; and messages of all
 * sizes in both directions while ring and arena are small, so that writers wait all the time. Checked: nothing is lost,
 * doubled, out of turn or damaged, and memory stays bounded.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { describe, test } from "node:test";
import { growthMiB, maximum, median } from "./observe.js";
import type { MemorySample } from "./observe.js";
import type { Peer } from "./processes.js";
import { scratchFolder, startPeer } from "./processes.js";
import { scaled, seedOf, skip } from "./settings.js";
import type {
  Carried,
  ConnectOptions,
  CrowdCarried,
  CrowdRun,
  ListenOptions,
  LoanRun,
  MixedRun,
  Received,
} from "./streams.peer.js";

const program = new URL("./streams.peer.js", import.meta.url);
const MEBIBYTE = 1 << 20;
const LOAN_BYTES = 64 * MEBIBYTE;
/** 4 GiB; 100 GiB in the long form. */
const LOANS = scaled(64, 1600);
const GROWTH_MIB_MAX = 24;
/** The arena's default. */
const ARENA_BYTES_MAX = 256 * MEBIBYTE;
const CROWD = 1000;
/** What the slow stream's writer may be ahead of its reader. */
const AHEAD_BYTES_MAX = 8 * MEBIBYTE;
const SLOW_MESSAGES = 50_000;
const CROWD_GROWTH_MIB_MAX = 64;
const MIXED_STREAMS = 4;
const MIXED_MESSAGES = scaled(25_000, 2_500_000);

interface Pair {
  readonly server: Peer;
  readonly client: Peer;
}

async function startPair(context: TestContext, options: Omit<ListenOptions, "path">): Promise<Pair> {
  const [server, client] = await Promise.all([startPeer(context, program), startPeer(context, program)]);
  const path = join(scratchFolder(context), "streams.sock");
  await server.ask("listen", { ...options, path } satisfies ListenOptions);
  await client.ask("connect", { ...options, path } satisfies ConnectOptions);
  return { server, client };
}

describe("a stream of large loans (leases: scoped)", { skip }, () => {
  for (const direction of ["up", "down"] as const) {
    test(`${(LOANS * LOAN_BYTES) / 2 ** 30} GiB go ${direction} in messages of 64 MiB, undamaged and in flat memory`, {
      timeout: scaled(600_000, 3_600_000),
    }, async (context) => {
      const { server, client } = await startPair(context, { leases: "scoped", carrier: "shm" });
      const carry = (run: LoanRun) => client.ask<Carried>("carryLoans", run, scaled(500_000, 3_500_000));
      // What is made once and kept, is made.
      await carry({ direction, messages: 8, loanBytes: LOAN_BYTES, stamped: true });
      await server.ask("forget");
      const carried = await carry({ direction, messages: LOANS, loanBytes: LOAN_BYTES, stamped: true });
      const atServer = await server.ask<{ received: Received; samples: MemorySample[] }>("received");
      const received = direction === "down" ? carried.received : atServer.received;
      assert.deepEqual(received, { messages: LOANS, bytes: LOANS * LOAN_BYTES, damaged: 0, misplaced: 0 });
      for (const [who, samples] of [
        ["client", carried.samples],
        ["server", atServer.samples],
      ] as const) {
        if (samples.length === 0) continue;
        const resident = samples.map(({ residentMiB }) => residentMiB);
        const text = `${who}: resident grew by ${growthMiB(resident).toFixed(1)} MiB, peak ${maximum(resident).toFixed(0)} MiB`;
        context.diagnostic(text);
        assert.ok(growthMiB(resident) < GROWTH_MIB_MAX, text);
      }
      assert.ok(carried.arenaBytesMax <= ARENA_BYTES_MAX, `${carried.arenaBytesMax} bytes of the arena were in use`);
      context.diagnostic(
        `${((LOANS * LOAN_BYTES) / carried.milliseconds / 1e6).toFixed(1)} GB/s with each page stamped and read; arena ${carried.arenaBytesMax / MEBIBYTE} MiB at most`,
      );

      const perMessage = async (loanBytes: number, messages: number) =>
        (1000 * (await carry({ direction, messages, loanBytes, stamped: false })).milliseconds) / messages;
      const costs: number[][] = [[], []];
      for (let round = 0; round < 5; round++) {
        // So many that the tens of milliseconds in which a stream gets going do not count.
        costs[0].push(await perMessage(64, 20_000));
        costs[1].push(await perMessage(LOAN_BYTES, 20_000));
      }
      context.diagnostic(
        `per message, untouched: ${median(costs[0]).toFixed(1)} µs with 64 B, ${median(costs[1]).toFixed(1)} µs with 64 MiB`,
      );
    });
  }
});

for (const carrier of ["shm", "socket"] as const) {
  describe(`streams over ${carrier}`, { skip: carrier === "shm" && skip }, () => {
    test(`of ${CROWD} streams one is slow: the others go on, it is held back, and gets everything in the end`, {
      timeout: 600_000,
    }, async (context) => {
      const { server, client } = await startPair(context, { carrier });
      const run: CrowdRun = { streams: CROWD - 1, messages: scaled(100, 1000), dataBytes: 1024 };
      const carry = async () => {
        const carried = await client.ask<CrowdCarried>("carryCrowd", run);
        assert.equal(carried.messages, run.streams * run.messages);
        return { rate: carried.messages / carried.milliseconds, residentMiB: carried.residentMiBMax };
      };
      await carry();
      const alone: Awaited<ReturnType<typeof carry>>[] = [];
      const withSlow: typeof alone = [];
      let aheadBytes = 0;
      for (let round = 0; round < 3; round++) {
        alone.push(await carry());
        await client.ask("openSlow", { messages: SLOW_MESSAGES, dataBytes: run.dataBytes });
        withSlow.push(await carry());
        aheadBytes = Math.max(aheadBytes, (await server.ask<number>("slowSent")) * run.dataBytes);
        assert.equal(await client.ask<number>("finishSlow"), SLOW_MESSAGES);
      }
      const rates = [median(alone.map(({ rate }) => rate)), median(withSlow.map(({ rate }) => rate))];
      const resident = [
        maximum(alone.map(({ residentMiB }) => residentMiB)),
        maximum(withSlow.map(({ residentMiB }) => residentMiB)),
      ];
      context.diagnostic(
        `${rates[0].toFixed(0)} messages/ms without, ${rates[1].toFixed(0)} with a slow reader: ${((100 * rates[1]) / rates[0]).toFixed(0)} %; ` +
          `its writer was ${aheadBytes >> 10} KiB ahead; resident ${resident[0].toFixed(0)} and ${resident[1].toFixed(0)} MiB at most`,
      );
      assert.ok(aheadBytes > 0 && aheadBytes <= AHEAD_BYTES_MAX, `${aheadBytes} bytes ahead`);
      assert.ok(
        resident[1] - resident[0] < CROWD_GROWTH_MIB_MAX,
        `${resident[1]} MiB, and ${resident[0]} MiB without a slow reader`,
      );
    });

    test(`${2 * MIXED_STREAMS * MIXED_MESSAGES} messages go both ways through a small ring and a small arena, each once, in order and whole`, {
      timeout: scaled(600_000, 3_600_000),
    }, async (context) => {
      const memory = { ringBytes: 64 << 10, arenaBytes: 256 << 10 };
      const { server, client } = await startPair(context, { carrier, memory });
      const run: MixedRun = { streams: MIXED_STREAMS, messages: MIXED_MESSAGES, seed: seedOf(context) };
      const carried = await client.ask<Carried>("carryMixed", run, scaled(500_000, 3_500_000));
      const { received } = await server.ask<{ received: Received }>("received");
      for (const [who, { messages, damaged, misplaced }] of [
        ["client", carried.received],
        ["server", received],
      ] as const) {
        assert.deepEqual(
          { messages, damaged, misplaced },
          { messages: MIXED_STREAMS * MIXED_MESSAGES, damaged: 0, misplaced: 0 },
          who,
        );
      }
      const seconds = carried.milliseconds / 1000;
      context.diagnostic(
        `${Math.round((2 * MIXED_STREAMS * MIXED_MESSAGES) / seconds)} messages/s, ${Math.round((carried.received.bytes + received.bytes) / seconds / 1e6)} MB/s`,
      );
    });
  });
}
