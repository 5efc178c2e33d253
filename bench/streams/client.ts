/** The client's process of the streams' part: `client.js PEER PATH`. */
import type http2 from "node:http2";
import net from "node:net";
import type { Transport } from "@connectrpc/connect";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { createIsthmusTransport } from "../../src/index.js";
import { runChild, send } from "../child.js";
import { percentile } from "../measure.js";
import { PayloadMismatch, PayloadPattern } from "../payload.js";
import { FeedService, Source, type Payload } from "../proto/bench_pb.js";
import { preparedCount, type Feed, type FeedResult } from "./task.js";

const windowBytes = 16 << 20;
const copyBytes = 1 << 20;
const copyRounds = 200;

runChild(([peer, path]) => {
  const transport =
    peer === "connect"
      ? connectOver(path)
      : createIsthmusTransport({
          address: path,
          carrier: peer === "isthmus-socket" ? "socket" : "shm",
          leases: "scoped",
        });
  const client = createClient(FeedService, transport);

  async function take(feed: Feed): Promise<FeedResult> {
    const check = checkerOf(feed);
    let number = 0;
    let from = 0;
    const { messages, bytes, source } = feed;
    for await (const message of client.feed({ messages, bytes, source })) {
      if (number === 0) from = performance.now();
      check(message, number++);
    }
    if (number !== feed.messages)
      throw new PayloadMismatch(`payload mismatch: ${number} messages came instead of ${feed.messages}`);
    return { elapsedMs: performance.now() - from };
  }

  return Promise.resolve(async (message) => {
    if (message.type === "stop") process.exit(0);
    if (message.type === "copy") send({ type: "copy", gigabytesPerSecond: copySpeed() });
    if (message.type === "feed") send({ type: "feed", result: await take(message.feed) });
  });
});

/** Compares what came with what was sent; of loans only the ends are written. */
function checkerOf({ bytes, source, compareEvery }: Feed): (message: Payload, number: number) => void {
  const pattern = new PayloadPattern(bytes);
  return ({ id, data }, number) => {
    if (id !== BigInt(number)) throw new PayloadMismatch(`payload mismatch: message ${id} came instead of ${number}`);
    if (source !== Source.LOANED) {
      const written = source === Source.PREPARED ? number % preparedCount : number;
      return number % compareEvery === 0
        ? pattern.check(data, written, "reply")
        : pattern.checkEnds(data, written, "reply");
    }
    if (data.length !== bytes || data[0] !== (number & 0xff) || data[bytes - 1] !== ((number + 1) & 0xff)) {
      throw new PayloadMismatch(`payload mismatch: message ${number} is not what was sent`);
    }
  };
}

/** By the median. */
function copySpeed(): number {
  const sources = Array.from({ length: preparedCount }, (_, i) => new Uint8Array(copyBytes).fill(i + 1));
  const target = new Uint8Array(copyBytes).fill(1);
  const nanos = new Float64Array(copyRounds);
  for (let round = 0; round < copyRounds; round++) {
    const from = process.hrtime.bigint();
    target.set(sources[round % preparedCount]);
    nanos[round] = Number(process.hrtime.bigint() - from);
  }
  return copyBytes / percentile(nanos.sort(), 0.5);
}

/** As the `connect` peer does: compression off, windows raised. */
function connectOver(path: string): Transport {
  const sessionManager = new Http2SessionManager("http://localhost", {}, {
    createConnection: () => net.connect(path),
    settings: { initialWindowSize: windowBytes },
  } satisfies http2.ClientSessionOptions);
  return createGrpcTransport({ baseUrl: "http://localhost", sessionManager, acceptCompression: [] });
}
