/** Producers that write a line every so often, each to a stream of its own: `lines-client.js PEER PATH`. */
import { setInterval as every } from "node:timers/promises";
import { Client, credentials } from "@grpc/grpc-js";
import { createClient, createIsthmusTransport } from "../../src/index.js";
import { runChild, send } from "../child.js";
import { PayloadMismatch, PayloadPattern } from "../payload.js";
import { gatherDefinition, grpcOptions, ready } from "../peers/grpc.js";
import { connectFrames } from "../peers/net.js";
import { LineService, type Payload } from "../proto/bench_pb.js";
import type { Load, Stretch } from "../protocol.js";
import { countOf, endOfLines, producerOf, writeLine } from "./lines.js";

/** Sends the lines of a producer, and resolves with how many came. */
type Gather = (lines: AsyncIterable<Payload>, producer: number) => Promise<number>;

runChild(async ([peer, path]) => {
  const gather = await connect(peer, path);
  return async (message) => {
    if (message.type === "stop") process.exit(0);
    if (message.type === "run") send({ type: "stretch", stretch: await run(gather, message.load) });
  };
});

async function run(gather: Gather, { byteLength, inFlight, pauseMs, durationMs }: Load): Promise<Stretch> {
  const pattern = new PayloadPattern(byteLength);
  const cpuFrom = process.cpuUsage();
  const from = performance.now();
  let calls = 0;
  const producers = Array.from({ length: inFlight }, async (_, producer) => {
    let written = 0;
    async function* lines(): AsyncGenerator<Payload> {
      for await (const begun of every(pauseMs, from)) {
        if (performance.now() - begun >= durationMs) return;
        yield writeLine(pattern, producer, written++);
      }
    }
    const came = await gather(lines(), producer);
    if (came !== written) throw new PayloadMismatch(`payload mismatch: ${came} of ${written} lines came`);
    calls += written;
  });
  await Promise.all(producers);
  const elapsedMs = performance.now() - from;
  const cpu = process.cpuUsage(cpuFrom);
  const none = new Float64Array(0);
  return { calls, elapsedMs, cpuMicros: cpu.user + cpu.system, heapBytes: null, callMs: none, payloadMs: none };
}

function connect(peer: string, path: string): Promise<Gather> {
  switch (peer) {
    case "net":
      return connectSocket(path);
    case "grpc-js":
      return connectGrpc(path);
    default: {
      const carrier = peer === "isthmus-socket" ? "socket" : "shm";
      const client = createClient(LineService, createIsthmusTransport({ address: `unix:${path}`, carrier }));
      return Promise.resolve(async (lines) => countOf(await client.gather(lines)));
    }
  }
}

async function connectGrpc(path: string): Promise<Gather> {
  const client = new Client(`unix:${path}`, credentials.createInsecure(), grpcOptions);
  await ready(client);
  const { path: method, requestSerialize, responseDeserialize } = gatherDefinition;
  return async (lines) => {
    const { promise, settle } = replyOf();
    const call = client.makeClientStreamRequest(method, requestSerialize, responseDeserialize, settle);
    for await (const line of lines) call.write(line);
    call.end();
    return countOf(await promise);
  };
}

function replyOf() {
  let settle!: (error: Error | null, reply?: Payload) => void;
  const promise = new Promise<Payload>((resolve, reject) => {
    settle = (error, reply) => (error ? reject(error) : resolve(reply!));
  });
  return { promise, settle };
}

/** All producers share a connection, and the lines of one turn leave together. */
async function connectSocket(path: string): Promise<Gather> {
  const waiting = new Map<number, (count: number) => void>();
  const connection = await connectFrames(path, {
    onFrame: (id, data) => {
      const reply: Payload = { $typeName: "isthmus.bench.Payload", id, data };
      waiting.get(producerOf(reply))!(countOf(reply));
    },
    onEnd: (error) => {
      throw error;
    },
  });
  const write = ({ id, data }: Payload): void => {
    connection.writer.send(id, data);
    connection.flushSoon();
  };
  return async (lines, producer) => {
    const came = new Promise<number>((resolve) => waiting.set(producer, resolve));
    for await (const line of lines) write(line);
    write(endOfLines(producer, 0));
    return came;
  };
}
