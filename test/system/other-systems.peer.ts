/** What a program does that was written for Linux. Prints, as JSON, what each part came to on this system. */
import { randomUUID } from "node:crypto";
import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { IsthmusServerOptions, ListenOptions } from "../../src/index.js";
import {
  createBlockingClient,
  createClient,
  createIsthmusServer,
  createIsthmusTransport,
  loan,
  region,
} from "../../src/index.js";
import { EchoService } from "../proto/echo_pb.js";

const routes: IsthmusServerOptions["routes"] = (router) =>
  router.service(EchoService, { echo: ({ text }) => ({ text: text.toUpperCase() }) });

async function serve(address: string, options?: Partial<IsthmusServerOptions>, at?: ListenOptions): Promise<string> {
  const server = createIsthmusServer({ routes, ...options });
  try {
    const listening = await server.listen(address, at);
    const transport = createIsthmusTransport({ address: listening.address });
    const { text } = await createClient(EchoService, transport).echo({ text: "echo" });
    const payload = await loan(transport, 3);
    const memory = await region(3);
    const outcome = `${transport.carrier}: ${text}, ${payload.length + memory.length}`;
    await transport.close();
    return outcome;
  } finally {
    await server.close();
  }
}

async function outcomeOf(act: () => unknown): Promise<string> {
  try {
    return String(await act());
  } catch (error) {
    return String(error);
  }
}

const path = join(tmpdir(), `isthmus-${randomUUID()}.sock`);
const module = new URL("./nowhere.js", import.meta.url);
const results = {
  path: await outcomeOf(() => serve(path)),
  tcp: await outcomeOf(() => serve("tcp:127.0.0.1:0")),
  shm: await outcomeOf(() => serve(path, { carrier: "shm" })),
  allow: await outcomeOf(() => serve(path, { allow: () => true })),
  mode: await outcomeOf(() => serve(path, undefined, { mode: 0o660 })),
  workers: await outcomeOf(() => createIsthmusServer({ workers: { routes: module } })),
  blocking: await outcomeOf(() => createBlockingClient(EchoService, { address: path }).echo({})),
  long: await outcomeOf(() => createIsthmusTransport({ address: `/${"x".repeat(105)}` })),
};
rmSync(path, { force: true });
console.log(JSON.stringify(results));
