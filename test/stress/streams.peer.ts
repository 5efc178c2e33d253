/**
 * Server and client of the proofs of streams. What a message holds follows from the seed, the direction and its number,
 * so both ends know what has to come.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { HandlerContext, Transport } from "@connectrpc/connect";
import { createClient } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport, loan } from "../../src/index.js";
import type {
  IsthmusServer,
  IsthmusServerOptions,
  IsthmusTransport,
  IsthmusTransportOptions,
} from "../../src/index.js";
import type { Item, ItemSchema } from "../proto/streams_pb.js";
import { StreamService } from "../proto/streams_pb.js";
import { crc32 } from "../support/checksum.js";
import { collectGarbage, sampleMemory } from "./observe.js";
import type { MemorySample } from "./observe.js";
import type { Failure } from "./peer.js";
import { failureOf, monotonicMs, obey } from "./peer.js";
import { hash32 } from "./settings.js";

export type ListenOptions = Pick<IsthmusServerOptions, "memory" | "leases" | "carrier"> & { readonly path: string };
export type ConnectOptions = Pick<IsthmusTransportOptions, "memory" | "leases" | "carrier" | "waitForReady"> & {
  readonly path: string;
};

/** What the receivers of this process found. */
export interface Received {
  readonly messages: number;
  readonly bytes: number;
  readonly damaged: number;
  /** Lost, doubled or out of turn. */
  readonly misplaced: number;
}

export interface Carried {
  readonly received: Received;
  readonly milliseconds: number;
  readonly samples: MemorySample[];
  /** The most that was in use of this side's arena. */
  readonly arenaBytesMax: number;
}

/** A stream of messages of `loanBytes`, built in loans. */
export interface LoanRun {
  readonly direction: "up" | "down";
  readonly messages: number;
  readonly loanBytes: number;
  /** Whether each page is stamped with the message's number, and looked at. */
  readonly stamped: boolean;
}

export interface MixedRun {
  readonly streams: number;
  /** Of each stream, in each direction. */
  readonly messages: number;
  readonly seed: number;
}

export interface CrowdRun {
  readonly streams: number;
  readonly messages: number;
  readonly dataBytes: number;
}

export interface CrowdCarried {
  readonly messages: number;
  readonly milliseconds: number;
  readonly residentMiBMax: number;
}

export interface EndedStreams {
  /** Streams that ended more or less than once. */
  readonly notOnce: number;
  readonly failures: Failure[];
  readonly requestsOpen: number;
  readonly answered: number;
}

export interface DeathState {
  readonly connections: number;
  readonly pendingCalls: number;
  readonly violations: number;
  readonly running: number;
  readonly started: number;
  readonly unaborted: number;
}

const UP = 1;
const DOWN = 2;
const PAGE_BYTES = 4096;
/** Samples of memory that a run takes. */
const SAMPLES = 40;

let server: IsthmusServer;
let transport: IsthmusTransport;
let received = { messages: 0, bytes: 0, damaged: 0, misplaced: 0 };
let samples: MemorySample[] = [];
let slow: AsyncIterator<Item>;
let slowSent = 0;
let running = 0;
let started = 0;
let unaborted = 0;
let load: Promise<EndedStreams>;

type ItemInit = MessageInitShape<typeof ItemSchema>;

/** Mostly small; some go in blocks, some in fragments. */
function sizeOf(seed: number, direction: number, stream: number, number: number): number {
  const hash = hash32(seed + stream, number, direction);
  const kind = hash & 0xff;
  const size = hash >>> 8;
  if (kind < 4) return 30_000 + (size % 60_000);
  if (kind < 20) return 3000 + (size % 12_000);
  return size % 300;
}

function mixed(seed: number, direction: number, stream: number, number: number): ItemInit {
  const data = new Uint8Array(sizeOf(seed, direction, stream, number));
  for (let i = 0; i < data.length; i++) data[i] = hashByte(seed, direction, stream, number, i);
  return { number: BigInt(number), text: crc32(data).toString(16), data };
}

function hashByte(seed: number, direction: number, stream: number, number: number, at: number): number {
  return (Math.imul(seed + number + (stream << 8) + direction, 0x9e3779b1) + Math.imul(at, 0x85ebca6b)) >>> 24;
}

function checkMixed(
  { number, text, data }: Item,
  seed: number,
  direction: number,
  stream: number,
  expected: number,
): void {
  received.messages++;
  received.bytes += data.length;
  if (Number(number) !== expected) received.misplaced++;
  if (data.length !== sizeOf(seed, direction, stream, Number(number)) || crc32(data).toString(16) !== text)
    received.damaged++;
  if (data.length > 0 && data[data.length - 1] !== hashByte(seed, direction, stream, Number(number), data.length - 1))
    received.damaged++;
}

async function* mixedItems(run: MixedRun, direction: number, stream: number): AsyncGenerator<ItemInit> {
  for (let number = 0; number < run.messages; number++) {
    yield mixed(run.seed, direction, stream, number);
    // Now and then somebody else gets a turn.
    if ((hash32(run.seed, number, 99 + stream) & 0x3ff) === 0) await sleep(1);
  }
}

async function checkAll(
  messages: AsyncIterable<Item>,
  run: MixedRun,
  direction: number,
  stream: number,
): Promise<void> {
  let expected = 0;
  for await (const item of messages) checkMixed(item, run.seed, direction, stream, expected++);
  received.misplaced += run.messages - expected;
}

async function* loaned(run: LoanRun, owner: Transport | HandlerContext): AsyncGenerator<ItemInit> {
  for (let number = 0; number < run.messages; number++) {
    const data = await loan(owner, run.loanBytes);
    if (run.stamped) for (let at = number % 4; at < data.length; at += PAGE_BYTES) data[at] = stampOf(number, at);
    yield { number: BigInt(number), data };
  }
}

function stampOf(number: number, at: number): number {
  return Math.imul(number + 1, 0x9e3779b1 + at) >>> 24;
}

async function takeLoaned(messages: AsyncIterable<Item>, run: LoanRun): Promise<void> {
  let expected = 0;
  for await (const { number, data } of messages) {
    received.messages++;
    received.bytes += data.length;
    if (Number(number) !== expected) received.misplaced++;
    if (data.length !== run.loanBytes) received.damaged++;
    if (run.stamped) {
      for (let at = expected % 4; at < data.length; at += PAGE_BYTES) {
        if (data[at] === stampOf(expected, at)) continue;
        received.damaged++;
        break;
      }
    }
    if (expected % Math.ceil(run.messages / SAMPLES) === 0 && run.stamped) samples.push(sampleMemory());
    expected++;
  }
  received.misplaced += run.messages - expected;
}

function forget(): void {
  received = { messages: 0, bytes: 0, damaged: 0, misplaced: 0 };
  samples = [];
}

function runOf<T>(context: HandlerContext): T {
  return JSON.parse(context.requestHeader.get("x-run") ?? "{}") as T;
}

async function* counted<T>(messages: AsyncIterable<T>, context: HandlerContext): AsyncGenerator<T> {
  running++;
  started++;
  try {
    yield* messages;
  } finally {
    running--;
    if (!context.signal.aborted) unaborted++;
  }
}

obey({
  async listen({ path, ...options }: ListenOptions) {
    server = createIsthmusServer({
      ...options,
      routes: ({ service }) =>
        service(StreamService, {
          echo: (request) => request,
          count(request, context) {
            if (context.requestHeader.has("x-run")) return loaned(runOf<LoanRun>(context), context);
            return crowd(Number(request.count), request.dataBytes, request.failMessage === "slow");
          },
          async sum(requests, context) {
            await takeLoaned(requests, runOf<LoanRun>(context));
            return { items: BigInt(received.messages) };
          },
          chat(requests, context) {
            const run = runOf<MixedRun & { stream?: number }>(context);
            return counted(run.stream === undefined ? requests : duplex(requests, run, run.stream), context);
          },
        }),
    });
    await server.listen(path);
  },
  connect({ path, ...options }: ConnectOptions) {
    transport = createIsthmusTransport({ ...options, address: path });
    return createClient(StreamService, transport)
      .echo({})
      .then(() => undefined);
  },
  disconnect: () => transport.close(),
  forget,
  received: () => ({ received, samples }),
  async carryLoans(run: LoanRun): Promise<Carried> {
    forget();
    const client = createClient(StreamService, transport);
    const headers = { "x-run": JSON.stringify(run) };
    let arenaBytesMax = 0;
    const watching = setInterval(
      () => (arenaBytesMax = Math.max(arenaBytesMax, transport.stats().connection?.arenaInUseBytes ?? 0)),
      5,
    );
    const start = monotonicMs();
    if (run.direction === "down") await takeLoaned(client.count({}, { headers }), run);
    else await client.sum(sampled(loaned(run, transport), run), { headers });
    const milliseconds = monotonicMs() - start;
    clearInterval(watching);
    return { received, milliseconds, samples, arenaBytesMax };
  },
  async carryMixed(run: MixedRun): Promise<Carried> {
    forget();
    const client = createClient(StreamService, transport);
    const start = monotonicMs();
    await Promise.all(
      Array.from({ length: run.streams }, (_, stream) => {
        const headers = { "x-run": JSON.stringify({ ...run, stream }) };
        return checkAll(client.chat(mixedItems(run, UP, stream), { headers }), run, DOWN, stream);
      }),
    );
    return { received, milliseconds: monotonicMs() - start, samples, arenaBytesMax: 0 };
  },
  async carryCrowd(run: CrowdRun): Promise<CrowdCarried> {
    const client = createClient(StreamService, transport);
    await collectGarbage();
    let residentMiBMax = 0;
    const watching = setInterval(() => (residentMiBMax = Math.max(residentMiBMax, sampleMemory().residentMiB)), 50);
    const request = { count: BigInt(run.messages), dataBytes: run.dataBytes };
    const start = monotonicMs();
    let messages = 0;
    await Promise.all(
      Array.from({ length: run.streams }, async () => {
        let expected = 0;
        for await (const { number } of client.count(request)) {
          if (Number(number) !== expected++) throw new Error(`message ${number} instead of ${expected - 1}`);
          messages++;
        }
        if (expected !== run.messages) throw new Error(`${expected} of ${run.messages} messages`);
      }),
    );
    const milliseconds = monotonicMs() - start;
    clearInterval(watching);
    return { messages, milliseconds, residentMiBMax };
  },
  /** A stream of which only the first message is taken. */
  async openSlow({ messages, dataBytes }: Omit<CrowdRun, "streams">) {
    slow = createClient(StreamService, transport)
      .count({ count: BigInt(messages), dataBytes, failMessage: "slow" })
      [Symbol.asyncIterator]();
    await slow.next();
  },
  /** Takes the rest of it; returns how many came in order. */
  async finishSlow(): Promise<number> {
    let taken = 1;
    for (let next = await slow.next(); next.done !== true; next = await slow.next()) {
      if (Number(next.value.number) !== taken++)
        throw new Error(`message ${next.value.number} instead of ${taken - 1}`);
    }
    return taken;
  },
  /** What the server's writer of such a stream has handed over. */
  slowSent: () => slowSent,
  connection: () => transport.stats().connection,
  /**
   * Streams in both directions, small and large, loaned and not, until they fail. Answers once each has had an answer.
   */
  async startStreams({ streams, seed }: { streams: number; seed: number }) {
    await new Promise<void>((resolve) => {
      load = keepStreaming(streams, seed, resolve);
    });
  },
  finishStreams: () => load,
  deathState(): DeathState {
    const { connections, pendingCalls, violations } = server.stats();
    return { connections, pendingCalls, violations, running, started, unaborted };
  },
});

async function* sampled<T>(messages: AsyncIterable<T>, run: LoanRun): AsyncGenerator<T> {
  let number = 0;
  for await (const message of messages) {
    if (number++ % Math.ceil(run.messages / SAMPLES) === 0 && run.stamped) samples.push(sampleMemory());
    yield message;
  }
}

async function* crowd(count: number, dataBytes: number, isSlow: boolean): AsyncGenerator<ItemInit> {
  const data = new Uint8Array(dataBytes);
  for (let number = 0; number < count; number++) {
    if (isSlow) slowSent = number;
    yield await Promise.resolve({ number: BigInt(number), data });
  }
}

/** Reads and checks what comes, and sends its own meanwhile. */
async function* duplex(requests: AsyncIterable<Item>, run: MixedRun, stream: number): AsyncGenerator<ItemInit> {
  const reading = checkAll(requests, run, UP, stream);
  reading.catch(() => {});
  yield* mixedItems(run, DOWN, stream);
  await reading;
}

async function keepStreaming(streams: number, seed: number, onStarted: () => void): Promise<EndedStreams> {
  const client = createClient(StreamService, transport);
  const failures: Failure[] = [];
  let notOnce = 0;
  let requestsOpen = 0;
  let answered = 0;
  let waiting = streams;
  await Promise.all(
    Array.from({ length: streams }, async (_, stream) => {
      let ends = 0;
      async function* requests(): AsyncGenerator<ItemInit> {
        requestsOpen++;
        try {
          for (let number = 0; ; number++) {
            const size = [20, 3000, 50_000, 300_000][hash32(seed, number, stream) & 3];
            const data = number % 2 === 0 ? await loan(transport, size) : new Uint8Array(size);
            yield { number: BigInt(number), data };
            if (number % 8 === 7) await sleep(1);
          }
        } finally {
          requestsOpen--;
        }
      }
      const replies = client.chat(requests())[Symbol.asyncIterator]();
      try {
        let count = 0;
        for (let next = await replies.next(); next.done !== true; next = await replies.next()) {
          answered++;
          if (count++ === 3 && --waiting === 0) onStarted();
        }
        ends++;
      } catch (error) {
        ends++;
        failures.push(failureOf(error));
      }
      const afterwards = await replies.next();
      if (ends !== 1 || afterwards.done !== true) notOnce++;
    }),
  );
  // Whoever waits for a loan learns of the end in a turn of its own.
  for (let i = 0; i < 100 && requestsOpen > 0; i++) await sleep(10);
  return { notOnce, failures, requestsOpen, answered };
}
