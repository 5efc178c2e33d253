/** A process with streams that go on until it is killed. Its data: {@link StreamClientData}. */
import { setTimeout as sleep } from "node:timers/promises";
import { answerParent, childData } from "../processes.js";
import type { CarrierName } from "../scenes.js";
import { connectStreams, scripted } from "../scenes.js";
import { items, outcomeOf, STREAM_PAUSE_MS } from "../streams.js";

export interface StreamClientData {
  readonly carrier: CarrierName;
  readonly address: string;
  /** Calls are recorded as `${prefix}0` and so on. */
  readonly prefix: string;
  readonly streams: number;
}

const { prefix, streams, ...server } = childData<StreamClientData>();
const { client } = connectStreams({ after: () => {} }, server);
const started: Promise<void>[] = [];

for (let i = 0; i < streams; i++) {
  const requests = items(1_000_000, async (n) => {
    await sleep(STREAM_PAUSE_MS);
    return { number: BigInt(n), data: new Uint8Array((i * 997) % 30_000) };
  });
  const options = scripted({ hangs: true }, `${prefix}${i}`);
  let start: (() => void) | undefined;
  started.push(new Promise((resolve) => (start = resolve)));
  if (i % 2 === 0) {
    const replies = client.chat(requests, options);
    void outcomeOf(
      (async function* () {
        for await (const reply of replies) {
          start?.();
          yield reply;
        }
      })(),
    );
  } else {
    void outcomeOf(
      (async function* () {
        for await (const reply of client.count({ count: 1_000_000n, pauseMs: STREAM_PAUSE_MS }, options)) {
          start?.();
          yield reply;
        }
      })(),
    );
  }
}

answerParent({ started: () => Promise.all(started).then(() => undefined) });
