/** Part 2: the same Connect client and the same routes, over gRPC on a Unix socket and over Isthmus. */
import net from "node:net";
import type { Transport } from "@connectrpc/connect";
import { createClient } from "@connectrpc/connect";
import { ProbeService } from "./demo_pb.js";
import type { Call, CpuMeter, Measurement } from "./measure.js";
import { IN_FLIGHT, Subject } from "./measure.js";
import type { DemoContext, Verdict } from "./part.js";
import { passed, skipped } from "./part.js";
import type { Screen } from "./screen.js";
import { bar, count, figure, padEnd, padStart, rough } from "./text.js";

/** Per transport; less if the previous parts took long. */
const MEASURE_MILLIS = { full: 4000, quick: 500 };
/** Reserved for the parts after this one. */
const RESERVED_MILLIS = 8000;
const WARM_UP_MILLIS = { full: 400, quick: 200 };
/** The two take turns, so that a noisy neighbour disturbs both. */
const ROUNDS = { full: 8, quick: 2 };
const TEXT = "the same call, the same client, another transport";

export async function runComparison(context: DemoContext): Promise<Verdict> {
  const { screen, sockets, analytics, quick } = context;
  screen.print(
    screen.red('   - const transport = createGrpcTransport({ baseUrl: "http://localhost", nodeOptions });'),
    screen.green("   + const transport = createIsthmusTransport({ address });"),
    screen.dim("     const client = createClient(ProbeService, transport);") +
      screen.dim("  // stays, as do .proto and routes"),
  );
  if (analytics.grpcProblem !== undefined) return skipped(`the server has no gRPC: ${analytics.grpcProblem}`);
  const grpc = await openGrpc(sockets.grpcPath);
  if ("problem" in grpc) return skipped(`the client has no gRPC: ${grpc.problem}`);

  const pick = <T>(choice: { full: T; quick: T }) => (quick ? choice.quick : choice.full);
  const [warmUp, rounds] = [pick(WARM_UP_MILLIS), pick(ROUNDS)];
  const left = (context.endsAt - performance.now() - RESERVED_MILLIS) / 2;
  const millis = Math.min(pick(MEASURE_MILLIS), Math.max(left, MEASURE_MILLIS.quick));
  const cpu = cpuOfBoth(context.transport);
  const overGrpc = new Subject(echo(grpc.transport), cpu);
  const overIsthmus = new Subject(echo(context.transport), cpu);
  try {
    for (const subject of [overGrpc, overIsthmus]) await subject.warmUp(warmUp);
    for (let round = 0; round < rounds; round++) {
      screen.live([screen.dim(`   measuring: ${"●".repeat(round)}${"○".repeat(rounds - round)}`)]);
      // The order changes, too.
      const inTurn = round % 2 === 0 ? [overGrpc, overIsthmus] : [overIsthmus, overGrpc];
      for (const subject of inTurn) await subject.measure(millis / rounds);
    }
  } finally {
    grpc.close();
  }
  const [a, b] = [overGrpc.result(), overIsthmus.result()];
  screen.print(...table(screen, a, b));
  return passed(
    `${count(a.answers + b.answers)} answers from one server process, each the right one; gRPC went over a Unix socket`,
  );
}

/** Loaded only here: it is an optional package. */
async function openGrpc(path: string): Promise<{ transport: Transport; close: () => void } | { problem: string }> {
  try {
    const { createGrpcTransport, Http2SessionManager } = await import("@connectrpc/connect-node");
    // The transport's option nodeOptions does the same; a session manager can also be closed.
    const sessionManager = new Http2SessionManager(
      "http://localhost",
      {},
      { createConnection: () => net.connect(path) },
    );
    const transport = createGrpcTransport({ baseUrl: "http://localhost", sessionManager });
    return { transport, close: () => sessionManager.abort() };
  } catch (error) {
    return { problem: (error as Error).message.split("\n")[0] };
  }
}

function echo(transport: Transport): Call {
  const client = createClient(ProbeService, transport);
  return async (number) => {
    const sent = BigInt(number);
    const reply = await client.echo({ text: TEXT, number: sent });
    if (reply.number !== sent || reply.text !== TEXT)
      throw new Error(`call ${number} got the answer of call ${reply.number}`);
  };
}

function cpuOfBoth(transport: Transport): CpuMeter {
  const client = createClient(ProbeService, transport);
  return async () => {
    const { cpuMicros } = await client.inspect({});
    const { user, system } = process.cpuUsage();
    return cpuMicros + user + system;
  };
}

/** A line per figure: the two values as bars on one scale, and how many times better the second is. */
function table(screen: Screen, grpc: Measurement, isthmus: Measurement): string[] {
  const nameWidth = 22;
  const valueWidth = 11;
  const timesWidth = 8;
  const barWidth = Math.max(
    4,
    Math.min(18, Math.floor((screen.width - 3 - nameWidth - 2 * valueWidth - timesWidth) / 2)),
  );
  const micros = (value: number) => (value < 10_000 ? `${figure(value)} µs` : `${figure(value / 1000)} ms`);
  const line = (
    name: string,
    figureOf: (measurement: Measurement) => number,
    format: (value: number) => string,
    moreIsBetter: boolean,
  ) => {
    const [a, b] = [figureOf(grpc), figureOf(isthmus)];
    const cell = (value: number, colour: (text: string) => string) =>
      padEnd(`${colour(bar(value / Math.max(a, b), barWidth))} ${format(value)}`, barWidth + valueWidth);
    const times = `${figure(moreIsBetter ? b / a : a / b)} ×`;
    return `   ${padEnd(name, nameWidth)}${cell(a, screen.yellow)}${cell(b, screen.cyan)}${padStart(screen.bold(times), timesWidth)}`;
  };
  return [
    `   ${padEnd("", nameWidth)}${padEnd("gRPC, HTTP/2", barWidth + valueWidth)}${padEnd("Isthmus", barWidth + valueWidth)}${padStart(screen.dim("better"), timesWidth)}`,
    line("p50, one at a time", ({ p50Micros }) => p50Micros, micros, false),
    line("p99", ({ p99Micros }) => p99Micros, micros, false),
    line("CPU per call", ({ cpuMicrosOne }) => cpuMicrosOne, micros, false),
    line(`calls/s, ${IN_FLIGHT} at a time`, ({ callsPerSecond }) => callsPerSecond, rough, true),
    line("CPU per call", ({ cpuMicrosMany }) => cpuMicrosMany, micros, false),
  ];
}
