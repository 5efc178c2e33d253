/** The server's process of the streams' part: `server.js PEER PATH`. */
import type { ConnectRouter, HandlerContext } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import http2 from "node:http2";
import { createIsthmusServer, loan } from "../../src/index.js";
import { runChild } from "../child.js";
import { PayloadPattern } from "../payload.js";
import { FeedService, Source, type FeedRequest } from "../proto/bench_pb.js";
import { preparedCount } from "./task.js";

const windowBytes = 16 << 20;

async function* feed({ messages, bytes, source }: FeedRequest, context: HandlerContext) {
  const pattern = new PayloadPattern(bytes);
  if (source === Source.LOANED) {
    for (let number = 0; number < messages; number++) {
      const data = await loan(context, bytes);
      data[0] = number;
      data[bytes - 1] = number + 1;
      yield { id: BigInt(number), data };
    }
    return;
  }
  // One that is written anew must not be written while it may still be read: as many as there are prepared ones.
  const prepared = Array.from({ length: preparedCount }, () => new Uint8Array(bytes));
  prepared.forEach((data, number) => pattern.produce(data, number, "reply"));
  for (let number = 0; number < messages; number++) {
    let data = prepared[number % preparedCount];
    if (source !== Source.PREPARED) pattern.produce((data = new Uint8Array(bytes)), number, "reply");
    yield { id: BigInt(number), data };
  }
}

function routes(router: ConnectRouter): void {
  router.service(FeedService, { feed });
}

runChild(async ([peer, path]) => {
  const close =
    peer === "connect" ? await serveHttp(path) : await serve(path, peer === "isthmus-socket" ? "socket" : "shm");
  return async (message) => {
    if (message.type !== "stop") return;
    await close();
    process.exit(0);
  };
});

async function serve(path: string, carrier: "shm" | "socket"): Promise<() => Promise<void>> {
  const server = createIsthmusServer({ carrier, routes });
  await server.listen(path);
  return () => server.close();
}

async function serveHttp(path: string): Promise<() => Promise<void>> {
  const server = http2.createServer(
    { settings: { initialWindowSize: windowBytes } },
    connectNodeAdapter({ routes, acceptCompression: [], connect: false, grpcWeb: false }),
  );
  server.on("session", (session) => session.setLocalWindowSize(windowBytes));
  await new Promise<void>((resolve, reject) => server.on("error", reject).listen(path, resolve));
  return () => Promise.resolve();
}
