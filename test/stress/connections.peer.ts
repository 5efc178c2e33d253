/** Server and clients of the proof with many connections. */
import { createClient } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import type { IsthmusServer, IsthmusTransport } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import { obey } from "./peer.js";
import { full } from "./settings.js";

/** The short form takes smaller arenas: with large ones most of its time would go into making connections. */
const memory = full ? {} : { arenaBytes: 8 << 20 };

let server: IsthmusServer;
let transports: IsthmusTransport[] = [];

obey({
  async listen(path: string) {
    server = createIsthmusServer({
      memory,
      routes: ({ service }) => service(TestService, { echo: ({ text, number, data }) => ({ text, number, data }) }),
    });
    await server.listen(path);
  },
  stats: () => server.stats(),
  /** Opens `clients` connections at once, calls on all of them at once, and keeps them open. */
  async callFromMany({ path, clients, calls }: { path: string; clients: number; calls: number }) {
    transports = Array.from({ length: clients }, () =>
      createIsthmusTransport({ address: path, memory, handshakeTimeoutMs: 120_000 }),
    );
    const start = performance.now();
    const right = await Promise.all(
      transports.map(async (transport, index) => {
        const client = createClient(TestService, transport);
        let count = 0;
        for (let number = 0; number < calls; number++) {
          const text = `${process.pid}/${index}/${number}`;
          const reply = await client.echo({
            text,
            number: BigInt(number),
            data: new Uint8Array(number % 3 === 0 ? 40_000 : 40).fill(index),
          });
          if (reply.text === text && reply.number === BigInt(number) && reply.data.every((byte) => byte === index))
            count++;
        }
        return count;
      }),
    );
    return { right: right.reduce((sum, count) => sum + count, 0), milliseconds: performance.now() - start };
  },
  async closeAll() {
    await Promise.all(transports.map((transport) => transport.close()));
    transports = [];
  },
  /** Connects, calls and closes, one after the other; every eighth time with a call still open. */
  async cycle({ path, cycles }: { path: string; cycles: number }) {
    let right = 0;
    for (let number = 0; number < cycles; number++) {
      const transport = createIsthmusTransport({ address: path, memory });
      const client = createClient(TestService, transport);
      const reply = await client.echo({ number: BigInt(number), data: new Uint8Array(number % 2 === 0 ? 10 : 30_000) });
      if (reply.number === BigInt(number)) right++;
      const open = number % 8 === 0 ? client.echo({ text: "open" }).catch(() => undefined) : undefined;
      await transport.close();
      await open;
    }
    return right;
  },
});
