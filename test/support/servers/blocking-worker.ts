/** A worker thread that makes blocking calls to the test services, as its workerData says. */
import { parentPort, workerData } from "node:worker_threads";
import { createBlockingClient } from "../../../src/index.js";
import { TestService } from "../../proto/test_pb.js";

export interface BlockingTask {
  path: string;
  calls: number;
  /** Make one more call, which is not answered. */
  hang: boolean;
}

const { path, calls, hang } = workerData as BlockingTask;
const client = createBlockingClient(TestService, { address: path });
for (let i = 0; i < calls; i++) {
  const data = new Uint8Array((i % 50) * 1000).fill(i);
  const reply = client.echo({ number: BigInt(i), data });
  if (reply.number !== BigInt(i) || Buffer.compare(reply.data, data) !== 0) throw new Error(`wrong reply to call ${i}`);
}
parentPort!.postMessage("called");
if (hang) client.wait({ milliseconds: 60_000 });
