/**
 * `worker_threads`: the server is a thread of the client's process, and `postMessage` copies each payload by structured
 * clone. Nothing is transferred or shared.
 */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import type { Payload } from "../proto/bench_pb.js";
import type { Peer } from "./peer.js";

export const worker: Peer = {
  name: "worker",
  servesInClient: true,

  startServer() {
    return Promise.reject(new Error("the client starts the thread"));
  },

  async connect() {
    const thread = new Worker(new URL("worker-thread.js", import.meta.url));
    const waiting = new Map<bigint, { resolve: (reply: Payload) => void; reject: (error: Error) => void }>();
    const end = (error: Error): void => {
      for (const pending of waiting.values()) pending.reject(error);
      waiting.clear();
    };
    thread.on("error", end).on("exit", () => end(new Error("the thread has ended")));
    await once(thread, "message");
    thread.on("message", (reply: Payload) => {
      const pending = waiting.get(reply.id);
      if (pending === undefined) throw new Error(`a reply to call ${reply.id}, which nobody made`);
      waiting.delete(reply.id);
      pending.resolve(reply);
    });
    return {
      call: (request) =>
        new Promise((resolve, reject) => {
          waiting.set(request.id, { resolve, reject });
          thread.postMessage(request);
        }),
      close: async () => {
        await thread.terminate();
      },
    };
  },
};
