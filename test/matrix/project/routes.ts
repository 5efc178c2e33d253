// The service, in the main thread and in worker threads.
import { threadId } from "node:worker_threads";
import type { ConnectRouter } from "@connectrpc/connect";
import { loan } from "isthmus";
import { StreamService } from "./streams_pb.js";

export function routes(router: ConnectRouter): void {
  router.service(StreamService, {
    // Says which thread answers, and returns the data in a loan.
    async echo({ text, data }, context) {
      const reply = data.length === 0 ? data : await loan(context, data.length);
      reply.set(data);
      return { text: `${text}, thread ${threadId}`, data: reply };
    },
    async *count({ count }) {
      for (let number = 0n; number < count; number++) yield { number };
    },
  });
}
