/**
 * A server that is replaced while it is called. It notes each call that it runs in a file, before it answers; what is
 * recorded there survives its death.
 */
import { openSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { createIsthmusServer } from "../../src/index.js";
import { StreamService } from "../proto/streams_pb.js";
import { TestService } from "../proto/test_pb.js";
import { obey } from "./peer.js";

export interface RollingSettings {
  readonly path: string;
  readonly log: string;
  readonly takeover: boolean;
}

let log = -1;

const server = createIsthmusServer({
  routes({ service }) {
    service(TestService, {
      async echo({ number, data }) {
        writeSync(log, BigUint64Array.of(number));
        if (number % 50n === 0n) await sleep(Number(number % 7n));
        return { number, data };
      },
    });
    service(StreamService, {
      async *count({ count }) {
        for (let number = 0n; number < count; number++) {
          await sleep(2);
          yield { number };
        }
      },
    });
  },
});

obey({
  async listen({ path, log: file, takeover }: RollingSettings) {
    log = openSync(file, "a");
    await server.listen(path, { takeover });
  },
  close: () => server.close(),
  stats: () => server.stats(),
});
