/** zeromq over `ipc://`: a Dealer calls a Router, and many calls may be in flight. */
import type * as ZeroMq from "zeromq";
import type { Payload } from "../proto/bench_pb.js";
import { PeerUnavailable, type Peer } from "./peer.js";

/** No limit on queued messages, so that `send` never waits: zeromq allows one waiting `send` per socket. */
const socketOptions = { sendHighWaterMark: 0, receiveHighWaterMark: 0, linger: 0 };

export const zeromq: Peer = {
  name: "zeromq",
  servesInClient: false,

  async startServer(path, answer) {
    const { Router } = await load();
    const router = new Router(socketOptions);
    await router.bind(`ipc://${path}`);
    const serving = (async () => {
      for await (const [identity, id, data] of router) {
        const answered = answer({ $typeName: "isthmus.bench.Payload", id: id.readBigUInt64LE(0), data });
        const reply = answered instanceof Promise ? await answered : answered;
        await router.send([identity, idFrame(reply.id), reply.data]);
      }
    })();
    return {
      close: async () => {
        router.close();
        await serving.catch(() => undefined);
      },
    };
  },

  async connect(path) {
    const { Dealer } = await load();
    const dealer = new Dealer(socketOptions);
    dealer.connect(`ipc://${path}`);
    // One send at a time, or the library throws: each waits for the one before.
    let sent = Promise.resolve();
    const waiting = new Map<bigint, { resolve: (reply: Payload) => void; reject: (error: unknown) => void }>();
    const receiving = (async () => {
      for await (const [idBytes, data] of dealer) {
        const id = idBytes.readBigUInt64LE(0);
        const pending = waiting.get(id);
        if (pending === undefined) throw new Error(`a reply to call ${id}, which nobody made`);
        waiting.delete(id);
        pending.resolve({ $typeName: "isthmus.bench.Payload", id, data });
      }
      throw new Error("the connection is closed");
    })();
    const ended = receiving.catch((error: unknown) => {
      for (const pending of waiting.values()) pending.reject(error);
      waiting.clear();
    });
    return {
      call: (request) =>
        new Promise((resolve, reject) => {
          waiting.set(request.id, { resolve, reject });
          sent = sent.then(() => dealer.send([idFrame(request.id), request.data as Buffer])).catch(reject);
        }),
      close: async () => {
        dealer.close();
        await ended;
      },
    };
  },
};

async function load(): Promise<typeof ZeroMq> {
  try {
    return await import("zeromq");
  } catch (error) {
    throw new PeerUnavailable(`the module "zeromq" does not load: ${(error as Error).message}`);
  }
}

function idFrame(id: bigint): Buffer {
  const frame = Buffer.allocUnsafe(8);
  frame.writeBigUInt64LE(id);
  return frame;
}
