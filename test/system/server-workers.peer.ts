/**
 * A client process of a server with worker threads. It calls without a pause until it is told to stop, checks every
 * answer, and keeps count.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createIsthmusTransport, leaseOf, loan } from "../../src/index.js";
import { StreamService } from "../proto/streams_pb.js";
import { TestService } from "../proto/test_pb.js";
import { patternBytes } from "../support/checksum.js";
import { answerParent, childData } from "../support/processes.js";
import type { CallsSettings, Tally, WorkersPeerData } from "./server-workers-load.test.js";

const { path } = childData<WorkersPeerData>();
const transport = createIsthmusTransport({ address: path });
const client = createClient(TestService, transport);
const streams = createClient(StreamService, transport);

const tally = { started: 0, answered: 0, wrong: 0, failures: [] as string[], tags: {} as Record<string, number> };
let stopping = false;
let lanes: Promise<void>[] = [];
let held: Promise<string> | undefined;
/** A stream that nobody can read any more is given up. */
let readers: AsyncIterator<unknown>[] = [];
const release = new AbortController();

const isPattern = (data: Uint8Array, byteLength: number, seed: number) =>
  Buffer.compare(data, patternBytes(byteLength, seed)) === 0;
const nameOf = (error: unknown) => (error instanceof ConnectError ? Code[error.code] : String(error));

async function lane(dataBytesMax: number): Promise<void> {
  while (!stopping) {
    const sequence = ++tally.started;
    const byteLength = (sequence * 7919) % dataBytesMax;
    try {
      const { text, data } = await client.echo({ data: patternBytes(byteLength, sequence) });
      tally.answered++;
      tally.tags[text] = (tally.tags[text] ?? 0) + 1;
      if (!isPattern(data, byteLength, sequence)) tally.wrong++;
    } catch (error) {
      tally.failures.push(nameOf(error));
      // A failure that repeats is one too many, and no reason to spin.
      await sleep(10);
    }
  }
}

async function* items(count: number, dataBytes: number): AsyncGenerator<{ number: bigint; data: Uint8Array }> {
  for (let i = 0; i < count; i++) yield await Promise.resolve({ number: BigInt(i), data: patternBytes(dataBytes, i) });
}

// Until it is told to end, or killed.
setInterval(() => undefined, 60_000);

answerParent({
  /** The thread that serves this client. */
  thread: async () => Number((await client.wait({ milliseconds: 0 })).number),
  async start({ lanes: count, dataBytesMax }: CallsSettings) {
    lanes = Array.from({ length: count }, () => lane(dataBytesMax));
    while (tally.answered < count) await sleep(5);
  },
  tally: (): Tally => tally,
  async stop(): Promise<Tally> {
    stopping = true;
    await Promise.all(lanes);
    return tally;
  },
  /** Opens a call that is not answered, and one of each kind of stream that goes on. */
  async hold() {
    const options = { signal: release.signal };
    held = client.wait({ milliseconds: 600_000 }, options).then(() => "answered", nameOf);
    const endless = async function* () {
      for (let i = 0; ; i++) {
        await sleep(1);
        yield { number: BigInt(i), data: patternBytes(20_000, i) };
      }
    };
    readers = [
      streams.count({ count: 1_000_000n, dataBytes: 20_000, pauseMs: 1 }, options),
      streams.chat(endless(), options),
    ].map((stream) => stream[Symbol.asyncIterator]());
    streams.sum(endless(), options).catch(() => undefined);
    await Promise.all(readers.map((reader) => reader.next()));
  },
  /** How the held call ended; it is cancelled if it is still open. */
  async held() {
    release.abort();
    return held;
  },
  /** Payloads of `sizes` by loan and from the heap, there and back. */
  async payloads(sizes: number[]) {
    const wrong: string[] = [];
    let leased = 0;
    for (const [i, byteLength] of sizes.entries()) {
      for (const kind of ["loan", "heap"] as const) {
        const content = patternBytes(byteLength, i);
        const bytes = kind === "loan" ? await loan(transport, byteLength) : content;
        if (kind === "loan") bytes.set(content);
        const { data } = await client.echo({ data: bytes });
        if (!isPattern(data, byteLength, i)) wrong.push(`${kind} of ${byteLength}`);
        if (leaseOf(data) !== undefined) leased++;
      }
    }
    return { wrong, leased };
  },
  /** Each kind of stream with `count` items. */
  async streams({ count, dataBytes }: { count: number; dataBytes: number }) {
    const seen = { counted: 0, chatted: 0 };
    for await (const { number, data } of streams.count({ count: BigInt(count), dataBytes })) {
      if (Number(number) === seen.counted && isPattern(data, dataBytes, seen.counted)) seen.counted++;
    }
    for await (const { number, data } of streams.chat(items(count, dataBytes))) {
      if (Number(number) === seen.chatted && isPattern(data, dataBytes, seen.chatted)) seen.chatted++;
    }
    const sums = await streams.sum(items(count, dataBytes));
    return { ...seen, summed: Number(sums.items), dataBytes: Number(sums.dataBytes) };
  },
  /** How many items of a slow stream came. */
  async slowStream({ count, pauseMs }: { count: number; pauseMs: number }) {
    let seen = 0;
    for await (const { number } of streams.count({ count: BigInt(count), pauseMs }))
      if (Number(number) === seen) seen++;
    return seen;
  },
  close: () => transport.close(),
});
