/** Takes lines from streams, one stream for each producer: `lines-server.js PEER PATH`. */
import { Server, type ServerReadableStream, type sendUnaryData } from "@grpc/grpc-js";
import type { ConnectRouter } from "@connectrpc/connect";
import { createIsthmusServer } from "../../src/index.js";
import { fail, runChild, send } from "../child.js";
import { Recorder } from "../measure.js";
import { gatherDefinition, grpcOptions, listen } from "../peers/grpc.js";
import { serveFrames } from "../peers/net.js";
import { LineService, type Payload } from "../proto/bench_pb.js";
import { endOfLines, LineReader, producerOf } from "./lines.js";

const delays = new Recorder();

runChild(async ([peer, path]) => {
  await start(peer, path);
  return (message) => {
    if (message.type === "usage") {
      const { user, system } = process.cpuUsage();
      send({ type: "usage", cpuMicros: user + system });
    }
    if (message.type === "delays") {
      send({ type: "delays", lines: delays.count, delaysMs: delays.samples().callMs });
      delays.reset();
    }
    if (message.type === "stop") process.exit(0);
    return Promise.resolve();
  };
});

async function start(peer: string, path: string): Promise<void> {
  switch (peer) {
    case "net":
      await serveFrames(path, createTaker);
      return;
    case "grpc-js": {
      const server = new Server(grpcOptions);
      server.addService({ gather: gatherDefinition }, { gather: takeStream });
      return listen(server, path);
    }
    default: {
      const server = createIsthmusServer({
        carrier: peer === "isthmus-socket" ? "socket" : "shm",
        routes: (router: ConnectRouter) => router.service(LineService, { gather }),
      });
      await server.listen(`unix:${path}`);
    }
  }
}

async function gather(lines: AsyncIterable<Payload>): Promise<{ id: bigint }> {
  const reader = new LineReader(delays);
  try {
    for await (const line of lines) reader.take(line);
  } catch (error) {
    fail(error);
    throw error;
  }
  return { id: BigInt(reader.count) };
}

function takeStream(call: ServerReadableStream<Payload, Payload>, callback: sendUnaryData<Payload>): void {
  const reader = new LineReader(delays);
  call.on("data", (line: Payload) => reader.take(line));
  call.on("end", () => callback(null, endOfLines(0, reader.count)));
}

/** For a connection with frames: an empty frame ends a producer's lines, and is answered. */
function createTaker(): (frame: Payload) => Payload | null {
  const readers = new Map<number, LineReader>();
  return (frame) => {
    const producer = producerOf(frame);
    let reader = readers.get(producer);
    if (reader === undefined) readers.set(producer, (reader = new LineReader(delays)));
    if (frame.data.length > 0) {
      reader.take(frame);
      return null;
    }
    readers.delete(producer);
    return endOfLines(producer, reader.count);
  };
}
