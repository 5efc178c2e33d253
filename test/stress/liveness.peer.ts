/** Client and server whose event loops are watched while calls run back to back; also serves and asks plain HTTP. */
import { AsyncLocalStorage } from "node:async_hooks";
import { Agent, createServer, get } from "node:http";
import type { AddressInfo } from "node:net";
import { createClient } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import { percentile } from "./observe.js";
import { obey } from "./peer.js";

export interface Lateness {
  readonly ticks: number;
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

const INTERVAL_MS = 5;
let nextTickDelays: number[] = [];
let handled = 0;

obey({
  async listen(path: string) {
    const server = createIsthmusServer({
      routes: ({ service }) =>
        service(TestService, {
          echo(request) {
            if (handled++ % 16 === 0) {
              const asked = performance.now();
              process.nextTick(() => nextTickDelays.push(performance.now() - asked));
            }
            return { number: request.number, data: request.data };
          },
        }),
    });
    await server.listen(path);
  },
  async serveHttp() {
    const http = createServer((_, response) => response.end("alive"));
    await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
    return (http.address() as AddressInfo).port;
  },
  /** How late a 5 ms interval is for so long; and, in the server, how late `process.nextTick` in handlers is. */
  async watch(milliseconds: number): Promise<{ interval: Lateness; nextTick: Lateness; handled: number }> {
    nextTickDelays = [];
    const handledBefore = handled;
    const late: number[] = [];
    await new Promise<void>((resolve) => {
      const start = performance.now();
      let before = start;
      const timer = setInterval(() => {
        const now = performance.now();
        late.push(Math.max(0, now - before - INTERVAL_MS));
        before = now;
        if (now - start < milliseconds) return;
        clearInterval(timer);
        resolve();
      }, INTERVAL_MS);
    });
    return { interval: latenessOf(late), nextTick: latenessOf(nextTickDelays), handled: handled - handledBefore };
  },
  async call({ path, milliseconds, inFlight }: { path: string; milliseconds: number; inFlight: number }) {
    await using transport = createIsthmusTransport({ address: path });
    const client = createClient(TestService, transport);
    const end = performance.now() + milliseconds;
    let calls = 0;
    const sizes = [0, 100, 1000, 10_000, 50_000];
    const worker = async () => {
      while (performance.now() < end) {
        const number = BigInt(calls++);
        const reply = await client.echo({ number, data: new Uint8Array(sizes[calls % sizes.length]) });
        if (reply.number !== number) throw new Error("an answer that belongs to another call");
      }
    };
    await Promise.all(Array.from({ length: inFlight }, worker));
    return calls;
  },
  /** Asks every port over and over; each request must be answered. */
  async askHttp({ ports, milliseconds }: { ports: number[]; milliseconds: number }) {
    const agent = new Agent({ keepAlive: true });
    const took: number[] = [];
    const end = performance.now() + milliseconds;
    const ask = async (port: number) => {
      while (performance.now() < end) {
        const start = performance.now();
        await new Promise<void>((resolve, reject) => {
          get({ host: "127.0.0.1", port, agent, timeout: 60_000 }, (response) => {
            let text = "";
            response.on("data", (chunk: Buffer) => (text += chunk.toString()));
            response.on("end", () => (text === "alive" ? resolve() : reject(new Error(`HTTP answered "${text}"`))));
          })
            .on("timeout", () => reject(new Error("an HTTP request was not answered within a minute")))
            .on("error", reject);
        });
        took.push(performance.now() - start);
      }
    };
    await Promise.all(ports.map(ask));
    agent.destroy();
    return latenessOf(took);
  },
  /**
   * What the machine itself allows: the same interval in a process that only computes, 200 µs in each turn of its loop.
   */
  async compute(milliseconds: number) {
    for (const end = performance.now() + milliseconds; performance.now() < end; ) {
      for (const pause = performance.now() + 0.2; performance.now() < pause; );
      await new Promise((resolve) => setImmediate(resolve));
    }
  },
  /** Two services of one process that call each other; stores that were seen where they do not belong. */
  async asyncContexts({ paths, calls }: { paths: [string, string]; calls: number }) {
    const storage = new AsyncLocalStorage<string>();
    const leaks = new Set<string>();
    const expect = (where: string, wanted: string | undefined) => {
      const found = storage.getStore();
      if (found !== wanted) leaks.add(`${where}: ${found} instead of ${wanted}`);
    };
    const transports = paths.map((address) => createIsthmusTransport({ address }));
    const [front, back] = transports.map((transport) => createClient(TestService, transport));
    const frontServer = createIsthmusServer({
      routes: ({ service }) =>
        service(TestService, {
          echo(request, context) {
            expect("handler in front", undefined);
            context.signal.addEventListener("abort", () => expect("abort listener in front", undefined));
            return storage.run(`handler ${request.text}`, async () => {
              const reply = await back.echo(request);
              expect("handler in front, after its call", `handler ${request.text}`);
              return { text: reply.text };
            });
          },
        }),
    });
    const backServer = createIsthmusServer({
      routes: ({ service }) =>
        service(TestService, {
          async echo(request) {
            expect("handler at the back", undefined);
            await Promise.resolve();
            expect("handler at the back, later", undefined);
            return { text: request.text };
          },
        }),
    });
    await Promise.all([frontServer.listen(paths[0]), backServer.listen(paths[1])]);
    let next = 0;
    const worker = async (name: number) => {
      while (next < calls) {
        const text = `${name}/${next++}`;
        await storage.run(`client ${text}`, async () => {
          const reply = await front.echo({ text, data: new Uint8Array(next % 7 === 0 ? 30_000 : 10) });
          expect("client", `client ${text}`);
          if (reply.text !== text) leaks.add(`the answer to ${reply.text} went to ${text}`);
        });
        expect("client between calls", undefined);
        if (next % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
      }
    };
    await Promise.all(Array.from({ length: 16 }, (_, name) => worker(name)));
    await Promise.all([...transports.map((transport) => transport.close()), frontServer.close(), backServer.close()]);
    return [...leaks];
  },
});

function latenessOf(values: readonly number[]): Lateness {
  return {
    ticks: values.length,
    p50: percentile(values, 50),
    p99: percentile(values, 99),
    max: percentile(values, 100),
  };
}
