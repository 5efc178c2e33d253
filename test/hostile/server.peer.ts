/**
 * The server that the attacks are made on, a process of its own. Handlers of `Unfinished` keep their requests, and
 * those of `Chat` read nothing, until `release`; both ignore their signals. All others answer at once.
 */
import { createIsthmusServer } from "../../src/index.js";
import { StreamService } from "../proto/streams_pb.js";
import { TestService } from "../proto/test_pb.js";
import { answerParent, childData } from "../support/processes.js";
import { ownDescriptors } from "../support/resources.js";
import { testRoutes } from "../support/test-service.js";
import type { Condition, HostileServerData } from "./server.js";

const { path, options, allowAll } = childData<HostileServerData>();
const handlers = { running: 0, peak: 0, started: 0 };
let release!: () => void;
let released = new Promise<void>((resolve) => (release = resolve));

async function linger(): Promise<void> {
  handlers.started++;
  handlers.peak = Math.max(handlers.peak, ++handlers.running);
  await released;
  handlers.running--;
}

const server = createIsthmusServer({
  ...options,
  ...(allowAll ? { allow: () => true } : {}),
  routes: (router) => {
    testRoutes(router);
    router.service(TestService, {
      echo: ({ text, number, data }) => ({ text, number, data }),
      async unfinished({ data }) {
        await linger();
        return { data };
      },
      checksum: ({ sequence }) => ({ data: new Uint8Array(Number(sequence)) }),
    });
    router.service(StreamService, {
      echo: (item) => item,
      async *chat(items) {
        await linger();
        yield* items;
      },
      async sum(items) {
        const sums = { items: 0n, sum: 0n, dataBytes: 0n };
        for await (const { data } of items) {
          sums.items++;
          sums.dataBytes += BigInt(data.length);
        }
        return sums;
      },
    });
  },
});
await server.listen(path);

/** The longest that the event loop stood since it was asked last. */
let stoodMs = 0;
let lastTurn = performance.now();
setInterval(() => {
  const now = performance.now();
  stoodMs = Math.max(stoodMs, now - lastTurn);
  lastTurn = now;
}, 1);

answerParent({
  condition(): Condition {
    const stood = stoodMs;
    stoodMs = 0;
    return { ...process.memoryUsage(), stats: server.stats(), handlers, stoodMs: stood };
  },
  resources: () => ownDescriptors(),
  release() {
    release();
    released = new Promise((resolve) => (release = resolve));
  },
});
