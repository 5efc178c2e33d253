/** The client's process of the payloads' part: `client.js PATH`. */
import { createClient } from "@connectrpc/connect";
import { createIsthmusTransport, loan, release } from "../../src/index.js";
import { runChild, send } from "../child.js";
import { mergeSorted, percentile } from "../measure.js";
import { PayloadMismatch, PayloadPattern } from "../payload.js";
import { EchoService } from "../proto/bench_pb.js";
import type { BandwidthRow, FlatRow, Times } from "./task.js";
import { idOf, OPERATION } from "./task.js";

const smallBytes = 64;
const largeBytes = 64 << 20;
const bandwidthSizes = [1, 4, 16, 64].map((mib) => mib << 20);

runChild(([path]) => {
  const transport = createIsthmusTransport({ address: path, carrier: "shm", leases: "scoped" });
  const client = createClient(EchoService, transport);
  const pattern = new PayloadPattern(largeBytes);
  const small = new Uint8Array(smallBytes);
  const scratch = new Uint8Array(largeBytes);
  /** Whose bytes are in it. */
  let scratchNumber = 0;

  /**
   * One call; returns its time in µs. What is written before and read after is the same work for small and large ones.
   */
  async function callOnce(direction: FlatRow["direction"], isLarge: boolean, number: number): Promise<number> {
    const byteLength = isLarge ? largeBytes : smallBytes;
    const data = isLarge && direction !== "reply" ? await loan(transport, largeBytes) : small;
    const isLoaned = data.length === largeBytes;
    pattern.produce(isLoaned ? data : scratch, number, "request");
    if (!isLoaned) scratchNumber = number;
    const id = idOf(
      direction === "echo" ? OPERATION.echo : direction === "reply" && isLarge ? OPERATION.reply : OPERATION.take,
      byteLength,
    );
    const called = process.hrtime.bigint();
    const reply = await client.echo({ id, data });
    const micros = Number(process.hrtime.bigint() - called) / 1_000;
    if (direction === "echo" && isLarge) pattern.check(reply.data, number, "request");
    else pattern.check(scratch, scratchNumber, "request");
    if (
      direction === "reply" &&
      isLarge &&
      (reply.data.length !== largeBytes || reply.data[0] !== 1 || reply.data[largeBytes - 1] !== 2)
    ) {
      throw new PayloadMismatch(`payload mismatch: call ${number} was answered with something else`);
    }
    release(reply);
    return micros;
  }

  /**
   * So many calls of each kind that V8 has compiled what they run, as in any process that has served for a while.
   * Nobody looks at these bytes.
   */
  async function warmUp(direction: FlatRow["direction"], calls: number): Promise<void> {
    const id = idOf(
      direction === "echo" ? OPERATION.echo : direction === "reply" ? OPERATION.reply : OPERATION.take,
      largeBytes,
    );
    for (let number = 0; number < calls; number++) {
      await client.echo({ id: idOf(OPERATION.take, smallBytes), data: small });
      release(await client.echo({ id, data: direction === "reply" ? small : await loan(transport, largeBytes) }));
    }
  }

  async function flat(direction: FlatRow["direction"], calls: number): Promise<FlatRow> {
    const [smallTimes, largeTimes]: [number[], number[]] = [[], []];
    const before = transport.stats().connection;
    for (let number = 0; number < calls; number++) {
      smallTimes.push(await callOnce(direction, false, number));
      largeTimes.push(await callOnce(direction, true, number + 1));
    }
    const after = transport.stats().connection!;
    const copies =
      after.spansCopiedIn + after.spansCopiedOut - (before?.spansCopiedIn ?? 0) - (before?.spansCopiedOut ?? 0);
    // The first tenth warms the arena up.
    const kept = Math.floor(calls / 10);
    return {
      direction,
      byteLength: largeBytes,
      small: timesOf(smallTimes.slice(kept)),
      large: timesOf(largeTimes.slice(kept)),
      copies,
    };
  }

  async function bandwidth(byteLength: number, rounds: number): Promise<BandwidthRow> {
    const data = new Uint8Array(byteLength);
    const target = new Uint8Array(byteLength).fill(1);
    const [calls, copies]: [number[], number[]] = [[], []];
    // As above: until V8 has compiled what large heap payloads run.
    for (let call = 0; call < Math.min(1000, (rounds << 27) / byteLength); call++)
      await client.echo({ id: idOf(OPERATION.take, byteLength), data });
    for (let round = 0; round < rounds; round++) {
      // In bursts: the server is awake for all but the first call.
      for (let i = 0; i < 8; i++) {
        data[i] = round;
        const called = process.hrtime.bigint();
        const { id: entered } = await client.echo({ id: idOf(OPERATION.take, byteLength), data });
        if (i > 0) calls.push(Number(entered - called));
      }
      for (let i = 0; i < 8; i++) {
        data[i] = round + 1;
        const from = process.hrtime.bigint();
        target.set(data);
        if (i > 0) copies.push(Number(process.hrtime.bigint() - from));
      }
    }
    const rate = (nanos: number[]) => byteLength / percentile(Float64Array.from(nanos).sort(), 0.5);
    return { byteLength, call: rate(calls), copy: rate(copies) };
  }

  return Promise.resolve(async (message) => {
    if (message.type === "stop") {
      await transport.close();
      process.exit(0);
    }
    if (message.type !== "payloads") return;
    const { calls, rounds } = message;
    const rows: FlatRow[] = [];
    for (const direction of ["request", "reply", "echo"] as const) {
      await warmUp(direction, calls * 5);
      rows.push(await flat(direction, calls));
    }
    const bandwidths: BandwidthRow[] = [];
    for (const byteLength of bandwidthSizes) bandwidths.push(await bandwidth(byteLength, rounds));
    send({ type: "payloads", results: { flat: rows, bandwidth: bandwidths } });
  });
});

function timesOf(micros: readonly number[]): Times {
  const sorted = mergeSorted([Float64Array.from(micros)]);
  return {
    p50: percentile(sorted, 0.5),
    mean: micros.reduce((sum, each) => sum + each, 0) / micros.length,
    p99: percentile(sorted, 0.99),
  };
}
