/** Server and client whose processor time and system calls are counted. */
import { setTimeout as sleep } from "node:timers/promises";
import { createClient } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import type { IsthmusTransport } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import { collectGarbage } from "./observe.js";
import { obey } from "./peer.js";

let transport: IsthmusTransport;
let handled = 0;

obey({
  async listen(path: string) {
    const server = createIsthmusServer({
      routes: ({ service }) =>
        service(TestService, {
          echo(request) {
            handled++;
            return { number: request.number, data: request.data };
          },
        }),
    });
    await server.listen(path);
  },
  async connect(path: string) {
    transport = createIsthmusTransport({ address: path });
    await createClient(TestService, transport).echo({});
  },
  async call({ milliseconds, inFlight, byteLength }: { milliseconds: number; inFlight: number; byteLength: number }) {
    const client = createClient(TestService, transport);
    const data = new Uint8Array(byteLength);
    const end = performance.now() + milliseconds;
    let calls = 0;
    const worker = async () => {
      while (performance.now() < end) {
        await client.echo({ number: BigInt(calls++), data });
      }
    };
    await Promise.all(Array.from({ length: inFlight }, worker));
    return calls;
  },
  handled: () => handled,
  stats: () => transport.stats(),
  /** Processor time of this process, all its threads, while it has nothing to do. */
  async idle(milliseconds: number) {
    await collectGarbage();
    await sleep(500);
    const before = process.cpuUsage();
    await sleep(milliseconds);
    const { user, system } = process.cpuUsage(before);
    return (user + system) / 1000;
  },
});
