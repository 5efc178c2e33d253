/** Routes for servers with worker threads: a call can ask which thread it is served by, or end it. */
import { threadId } from "node:worker_threads";
import type { ConnectRouter } from "@connectrpc/connect";
import { TestService } from "../../proto/test_pb.js";
import { crc32 } from "../checksum.js";

const hoard: unknown[] = [];
const ENDS: Record<string, () => void> = {
  throw: () => {
    throw new Error("thrown where nobody catches");
  },
  exit: () => process.exit(3),
  memory: () => {
    for (;;) hoard.push(Array.from({ length: 10_000 }, (_, i) => ({ i })));
  },
};

export const routes = (router: ConnectRouter): void => {
  router.service(TestService, {
    echo({ text, data }) {
      if (Object.hasOwn(ENDS, text)) {
        setTimeout(ENDS[text]);
        return new Promise(() => undefined);
      }
      return { text, number: BigInt(threadId), data };
    },
    checksum: ({ sequence, data }) => ({ sequence, checksum: crc32(data), data }),
  });
};
