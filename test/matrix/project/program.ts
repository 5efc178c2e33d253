// What a program does with the package: a call, a stream, a loan, worker threads. Returns what it saw, in one line.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Code, ConnectError } from "@connectrpc/connect";
import { createClient, createIsthmusServer, createIsthmusTransport, loan } from "isthmus";
import type { IsthmusServer, IsthmusTransport } from "isthmus";
import { routes } from "./routes.js";
import { StreamService } from "./streams_pb.js";

/** @param routesFile the compiled routes.ts, for worker threads */
export async function run(routesFile: string): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "isthmus-matrix-"));
  try {
    const own = await serve(join(folder, "own.sock"), () => createIsthmusServer({ routes }), callAll);
    const withWorkers = () => createIsthmusServer({ workers: { routes: routesFile, count: 1 } });
    const worker = await serve(join(folder, "worker.sock"), withWorkers, callEcho);
    return `${own}, ${worker}`;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function serve(
  path: string,
  createServer: () => IsthmusServer,
  call: (transport: IsthmusTransport) => Promise<string>,
): Promise<string> {
  const transport = createIsthmusTransport({ address: path });
  let server: IsthmusServer | undefined;
  try {
    server = createServer();
    await server.listen(path);
    return await call(transport);
  } catch (error) {
    // Without the addon there are no worker threads, and the error says why.
    if (error instanceof ConnectError && error.code === Code.FailedPrecondition)
      return `no worker: ${error.rawMessage}`;
    throw error;
  } finally {
    await transport.close();
    await server?.close();
  }
}

async function callAll(transport: IsthmusTransport): Promise<string> {
  const client = createClient(StreamService, transport);
  const { text } = await client.echo({ text: "echo" });
  const numbers: bigint[] = [];
  for await (const { number } of client.count({ count: 3n })) numbers.push(number);
  const payload = await loan(transport, 1 << 20);
  payload.fill(7);
  const reply = await client.echo({ text: "loan", data: payload });
  const isRight = reply.data.length === 1 << 20 && reply.data.every((byte) => byte === 7);
  const isTaken = payload.length === 0;
  return `${transport.carrier}: ${text}, stream ${numbers.join("")}, ${reply.text}, ${isRight && isTaken ? "right" : "WRONG"}`;
}

async function callEcho(transport: IsthmusTransport): Promise<string> {
  const { text, data } = await createClient(StreamService, transport).echo({
    text: "worker",
    data: new Uint8Array(1 << 20).fill(9),
  });
  return `${text.replace(/thread [1-9]\d*/, "thread of its own")}, ${data.every((byte) => byte === 9) ? "right" : "WRONG"}`;
}
