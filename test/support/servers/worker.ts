/** A worker thread that serves or calls the test services, as its workerData says. */
import { parentPort, workerData } from "node:worker_threads";
import { createClient } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport } from "../../../src/index.js";
import { TestService } from "../../proto/test_pb.js";
import { testRoutes } from "../test-service.js";

export interface WorkerTask {
  role: "serve" | "call" | "call and hang";
  path: string;
}

const { role, path } = workerData as WorkerTask;
if (role === "serve") {
  await createIsthmusServer({ routes: testRoutes }).listen(path);
  parentPort!.postMessage("listening");
} else {
  const client = createClient(TestService, createIsthmusTransport({ address: path }));
  for (let i = 0; i < 100; i++) {
    const reply = await client.echo({ number: BigInt(i), data: new Uint8Array(i * 1000) });
    if (reply.number !== BigInt(i) || reply.data.length !== i * 1000) throw new Error("wrong reply");
  }
  if (role === "call and hang") {
    const hung = [client.wait({ milliseconds: 60_000 }), client.echo({ data: new Uint8Array(80 << 20) })];
    parentPort!.postMessage("called");
    await Promise.all(hung);
  }
  parentPort!.postMessage("done");
}
