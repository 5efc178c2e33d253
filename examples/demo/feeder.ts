/** Sends log lines to the analytics process by typed calls: one call per line, or many lines in one call. */
import type { Client } from "@connectrpc/connect";
import type { AnalyticsService } from "./demo_pb.js";
import { eachLine, WholeLines } from "./lines.js";

/** Lines that were sent in one of the two ways. */
export interface Tally {
  lines: number;
  calls: number;
  /** Time during which calls of this kind were under way. */
  millis: number;
}

/** Calls that one tick may issue. */
const SINGLES_AT_ONCE = 1024;
const BATCHES_IN_FLIGHT = 4;
const LINE_BYTES_MAX = 64 << 20;

export class Feeder {
  readonly singles: Tally = { lines: 0, calls: 0, millis: 0 };
  readonly batches: Tally = { lines: 0, calls: 0, millis: 0 };
  private readonly client: Client<typeof AnalyticsService>;
  private readonly log: number;
  private readonly lines = new WholeLines();
  private readonly inFlight = new Set<Promise<void>>();
  private batchStart = 0;

  constructor(client: Client<typeof AnalyticsService>, log: number) {
    this.client = client;
    this.log = log;
  }

  get linesCounted(): number {
    return this.singles.lines + this.batches.lines;
  }

  /**
   * Sends the lines that `chunk` completes. Its memory must stay as it is until `end`.
   * @throws what a call fails with; Error for a line that is too long
   */
  async push(chunk: Buffer, onePerCall: boolean): Promise<void> {
    const block = this.lines.push(chunk);
    if (this.lines.pendingBytes > LINE_BYTES_MAX)
      throw new Error(`a line of more than ${LINE_BYTES_MAX >> 20} MiB; that is no log`);
    if (block !== undefined) await this.send(block, onePerCall);
  }

  /** Sends the last line, if it is unfinished, and waits for all calls. */
  async end(onePerCall: boolean): Promise<void> {
    const last = this.lines.end();
    if (last !== undefined) await this.send(last, onePerCall);
    await this.settle();
  }

  private send(lines: Buffer, onePerCall: boolean): Promise<void> {
    return onePerCall ? this.sendSingles(lines) : this.sendBatch(lines);
  }

  private async sendSingles(block: Buffer): Promise<void> {
    await this.settle();
    const start = performance.now();
    let calls: Promise<{ lines: number }>[] = [];
    const settle = async () => {
      for (const { lines } of await Promise.all(calls)) this.singles.lines += lines;
      this.singles.calls += calls.length;
      calls = [];
    };
    for (const line of eachLine(block)) {
      calls.push(this.client.ingest({ log: this.log, line }));
      if (calls.length === SINGLES_AT_ONCE) await settle();
    }
    await settle();
    this.singles.millis += performance.now() - start;
  }

  private async sendBatch(lines: Buffer): Promise<void> {
    while (this.inFlight.size >= BATCHES_IN_FLIGHT) await Promise.race(this.inFlight);
    // SUBTLE: after the wait, during which all of them may have ended and been timed.
    if (this.inFlight.size === 0) this.batchStart = performance.now();
    const call = this.client.ingestBatch({ log: this.log, lines }).then((reply) => {
      this.batches.lines += reply.lines;
      this.batches.calls++;
      this.inFlight.delete(call);
      if (this.inFlight.size === 0) this.batches.millis += performance.now() - this.batchStart;
    });
    // The next caller that waits gets the failure.
    call.catch(() => undefined);
    this.inFlight.add(call);
  }

  private async settle(): Promise<void> {
    await Promise.all(this.inFlight);
  }
}
