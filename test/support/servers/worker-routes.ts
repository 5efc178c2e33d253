/** Routes for servers with worker threads: a call can ask which thread it is served by, or end it. */
import { setTimeout as sleep } from "node:timers/promises";
import { threadId, workerData } from "node:worker_threads";
import type { ConnectRouter } from "@connectrpc/connect";
import { collectSoon } from "../../../src/memory/v8/gc.js";
import { StreamService } from "../../proto/streams_pb.js";
import { TestService } from "../../proto/test_pb.js";
import { crc32, patternBytes } from "../checksum.js";

/** `workerData` of these routes, if there is any. */
export interface WorkerRoutesData {
  /** What `Echo` answers as its text. */
  readonly tag?: string;
  /** One number: how often `Echo` ran, in all workers that share it. */
  readonly runs?: Int32Array<SharedArrayBuffer>;
  /** Garbage is collected all the time, so that payloads that nobody holds are given back. */
  readonly collects?: boolean;
}

const { tag, runs, collects = false } = (workerData ?? {}) as WorkerRoutesData;
if (collects) setInterval(collectSoon, 200).unref();

const hoard: unknown[] = [];
const ENDS: Record<string, () => void> = {
  throw: () => {
    throw new Error("thrown where nobody catches");
  },
  exit: () => process.exit(3),
  memory: () => {
    for (;;) hoard.push(Array.from({ length: 10_000 }, (_, i) => ({ i })));
  },
  // From the moment that is told by `runs` it hears nothing more.
  late: () => {
    Atomics.store(runs!, 0, -1);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000);
    process.exit(3);
  },
  spin: () => {
    for (;;);
  },
};

export const routes = (router: ConnectRouter): void => {
  router.service(TestService, {
    echo({ text, data }) {
      if (Object.hasOwn(ENDS, text)) {
        setTimeout(ENDS[text]);
        return new Promise(() => undefined);
      }
      if (runs !== undefined) Atomics.add(runs, 0, 1);
      return { text: tag ?? text, number: BigInt(threadId), data };
    },
    checksum: ({ sequence, data }) => ({ sequence, checksum: crc32(data), data }),
    wait: ({ milliseconds }, { signal }) => sleep(milliseconds, { number: BigInt(threadId) }, { signal }),
  });
  router.service(StreamService, {
    async *count({ count, dataBytes, pauseMs }) {
      for (let i = 0; i < count; i++) {
        if (pauseMs > 0) await sleep(pauseMs);
        yield { number: BigInt(i), data: patternBytes(dataBytes, i) };
      }
    },
    async sum(items) {
      const sums = { items: 0n, sum: 0n, dataBytes: 0n };
      for await (const { number, data } of items) {
        // One that is damaged is not counted.
        if (Buffer.compare(data, patternBytes(data.length, Number(number))) !== 0) continue;
        sums.items++;
        sums.sum += number;
        sums.dataBytes += BigInt(data.length);
      }
      return sums;
    },
    async *chat(items) {
      for await (const item of items) yield item;
    },
  });
};
