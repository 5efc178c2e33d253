/** A worker thread that serves, calls or shakes hands, keeps some of it open, and ends as it is told. */
import { openSync } from "node:fs";
import { createServer } from "node:net";
import { parentPort, workerData } from "node:worker_threads";
import { createClient } from "@connectrpc/connect";
import type { IsthmusServer } from "../../src/index.js";
import { createBlockingClient, createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import { testRoutes } from "../support/test-service.js";
import type { ThreadTask, ThreadWord } from "./thread-descriptors.test.js";

/** Connections that are opened and closed: their numbers are free when this thread ends. */
const CLOSED = 6;
const data = new Uint8Array(100_000);
const { role, carrier, path } = workerData as ThreadTask;
const closing: (() => unknown)[] = [];

async function serve(): Promise<void> {
  const server: IsthmusServer = createIsthmusServer({ carrier, routes: testRoutes });
  await server.listen(path);
  closing.push(() => server.close({ timeoutMs: 0 }));
}

async function call(): Promise<void> {
  for (let i = 0; i <= CLOSED; i++) {
    const transport = createIsthmusTransport({ address: path, carrier });
    await createClient(TestService, transport).echo({ data });
    if (i < CLOSED) await transport.close();
    else closing.push(() => transport.close());
  }
}

function block(): void {
  for (let i = 0; i <= CLOSED; i++) {
    const client = createBlockingClient(TestService, { address: path });
    client.echo({ data });
    if (i < CLOSED) client.close();
    else closing.push(() => client.close());
  }
}

/** Clients whose server never answers, and a server whose client never greets. */
async function shakeHands(): Promise<void> {
  const silent = createServer();
  await new Promise<void>((resolve) => silent.listen(`${path}.silent`, resolve));
  const accepted = new Promise((resolve) => silent.once("connection", resolve));
  const transport = createIsthmusTransport({ address: `${path}.silent`, carrier });
  void transport.connect().catch(() => undefined);
  await accepted;
  await serve();
  closing.push(
    () => transport.close(),
    () => silent.close(),
  );
}

const ROLES: Record<ThreadTask["role"], () => void | Promise<void>> = {
  serve,
  call,
  block,
  "shake hands": shakeHands,
  "hold files": () => void Array.from({ length: 12 }, () => openSync("/dev/null", "r")),
};

parentPort!.on("message", (word: ThreadWord) => {
  if (word === "exit") process.exit(0);
  // What it has open goes with it; nothing keeps it.
  parentPort!.close();
  void Promise.all(closing.map((close) => close()));
});
await ROLES[role]();
parentPort!.postMessage("ready");
