/** A worker thread that makes blocking calls to the test services, as its workerData says. */
import { parentPort, workerData } from "node:worker_threads";
import { createBlockingClient } from "../../../src/index.js";
import { TestService } from "../../proto/test_pb.js";

/** What a worker that was told to stop has seen. */
export interface BlockingLoop {
  calls: number;
  failures: string[];
}

export interface BlockingTask {
  path: string;
  calls: number;
  /** Make one more call, which is not answered. */
  hang: boolean;
  /** Call on and on until the first word is 1, and tell of it as {@link BlockingLoop}. */
  until?: SharedArrayBuffer;
}

const { path, calls, hang, until } = workerData as BlockingTask;
const client = createBlockingClient(TestService, { address: path });
for (let i = 0; i < calls; i++) {
  const data = new Uint8Array((i % 50) * 1000).fill(i);
  const reply = client.echo({ number: BigInt(i), data });
  if (reply.number !== BigInt(i) || Buffer.compare(reply.data, data) !== 0) throw new Error(`wrong reply to call ${i}`);
}
parentPort!.postMessage("called");
if (hang) client.wait({ milliseconds: 60_000 });
if (until !== undefined) {
  const stop = new Int32Array(until);
  const loop: BlockingLoop = { calls: 0, failures: [] };
  while (Atomics.load(stop, 0) === 0) {
    const number = loop.calls++;
    try {
      if (number % 2 === 0) client.wait({ milliseconds: 0 });
      else if (
        client.echo({ number: BigInt(number), data: new Uint8Array(number % 20 === 1 ? 3 << 20 : 100) }).number !==
        BigInt(number)
      )
        throw new Error("wrong reply");
    } catch (error) {
      loop.failures.push(String(error));
    }
  }
  parentPort!.postMessage(loop);
}
