/**
 * A server or a client of all kinds of methods, for any runtime: `serve ADDRESS` until SIGTERM, `call ADDRESS`, or
 * `edges ADDRESS`, a server and its clients in one process. It uses what the package exports and no more of Node than
 * the runtimes have.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { ConnectRouter } from "@connectrpc/connect";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import {
  createBlockingClient,
  createIsthmusServer,
  createIsthmusTransport,
  loan,
  mapFile,
  region,
  release,
} from "../../src/index.js";
import { StreamService } from "../proto/streams_pb.js";

const [task, address, ...command] = process.argv.slice(2);
const BYTES = [0, 100, 16_384, 16_385, 70_000, 3_000_001];

function check(what: string, holds: boolean): void {
  if (!holds) throw new Error(`not so: ${what}`);
  console.log(`so: ${what}`);
}

async function checkFailure(what: string, code: Code, text: RegExp, act: () => unknown): Promise<void> {
  let error: ConnectError | undefined;
  try {
    await act();
  } catch (thrown) {
    error = ConnectError.from(thrown);
  }
  check(`${what}: ${String(error?.message)}`, error?.code === code && text.test(error.message));
}

const PATTERN = new Uint8Array(BYTES.at(-1)! + 256).map((_, at) => (at * 31 + (at >> 8)) & 255);
const pattern = (byteLength: number, seed = 0) => PATTERN.slice(seed & 255, (seed & 255) + byteLength);
const isPattern = (data: Uint8Array, byteLength: number, seed = 0) =>
  Buffer.compare(data, PATTERN.subarray(seed & 255, (seed & 255) + byteLength)) === 0;

let aborted = 0;

function routes(router: ConnectRouter): void {
  router.service(StreamService, {
    echo: (item) => item,
    async *count({ count, dataBytes, pauseMs }, { signal }) {
      if (pauseMs > 0) signal.addEventListener("abort", () => aborted++);
      for (let number = 0n; number < count; number++) {
        yield { number, data: pattern(dataBytes, Number(number)) };
        if (pauseMs > 0) await sleep(pauseMs);
      }
    },
    async sum(items) {
      const total = { items: 0n, sum: 0n, dataBytes: 0n };
      for await (const { number, data } of items) {
        total.items++;
        total.sum += number;
        total.dataBytes += BigInt(isPattern(data, data.length, Number(number)) ? data.length : 0);
      }
      return total;
    },
    async *chat(items) {
      for await (const item of items) yield item;
    },
  });
}

async function* items(count: number, byteLength: number): AsyncGenerator<{ number: bigint; data: Uint8Array }> {
  for (let i = 0; i < count; i++) yield await Promise.resolve({ number: BigInt(i), data: pattern(byteLength, i) });
}

async function call(): Promise<void> {
  const transport = createIsthmusTransport({ address });
  const client = createClient(StreamService, transport);
  for (const byteLength of BYTES)
    check(
      `${byteLength} bytes come back`,
      isPattern((await client.echo({ data: pattern(byteLength) })).data, byteLength),
    );
  // Over HTTP/2, more than a hundred wait for each other for seconds in these runtimes.
  const atOnce = address.startsWith("http:") ? 50 : 500;
  const many = await Promise.all(
    Array.from({ length: atOnce }, (_, i) => client.echo({ number: BigInt(i), data: pattern(i % 300, i) })),
  );
  check(
    "many calls at once get their own answers",
    many.every(({ number, data }, i) => number === BigInt(i) && isPattern(data, i % 300, i)),
  );
  for (const [count, dataBytes] of [
    [300, 100],
    [10, 500_000],
  ]) {
    let next = 0;
    for await (const { number, data } of client.count({ count: BigInt(count), dataBytes })) {
      if (number !== BigInt(next) || !isPattern(data, dataBytes, next)) throw new Error(`item ${next} is another`);
      next++;
    }
    check(`a server stream of ${count} items of ${dataBytes} bytes`, next === count);
    const { items: received, dataBytes: bytes } = await client.sum(items(count, dataBytes));
    check(
      `a client stream of ${count} items of ${dataBytes} bytes`,
      received === BigInt(count) && bytes === BigInt(count * dataBytes),
    );
    next = 0;
    for await (const { data } of client.chat(items(count, dataBytes))) if (isPattern(data, dataBytes, next)) next++;
    check(`a bidirectional stream of ${count} items of ${dataBytes} bytes`, next === count);
  }
  const stop = new AbortController();
  await checkFailure("a stream that is given up", Code.Canceled, /enough/, async () => {
    const endless = client.count({ count: 1_000_000n, pauseMs: 1 }, { signal: stop.signal })[Symbol.asyncIterator]();
    while ((await endless.next()).done !== true) stop.abort(new ConnectError("enough", Code.Canceled));
  });
  await checkFailure("a stream past its deadline", Code.DeadlineExceeded, /timed out/, async () => {
    const endless = client.count({ count: 1_000_000n, pauseMs: 1 }, { timeoutMs: 200 })[Symbol.asyncIterator]();
    while ((await endless.next()).done !== true);
  });
  console.log(`${transport.carrier}: ${transport.carrierReason}`);
  // Not closed: a transport without calls keeps no process alive.
}

async function serve(): Promise<void> {
  const server = createIsthmusServer({ routes });
  const at = await server.listen(address, address.startsWith("/") ? { takeover: true } : {});
  const end = async () => {
    // The client has ended; that may not have been noticed yet.
    for (let looks = 0; server.stats().connections > 0 && looks < 100; looks++) await sleep(50);
    console.log(`aborted: ${aborted}, connections: ${server.stats().connections}`);
    await server.close();
  };
  process.once("SIGTERM", () => void end());
  console.log(`listening at ${at.address}`);
}

/** @param command runs this module in another process */
async function edges(): Promise<void> {
  await checkFailure("a path where nothing is", Code.Unavailable, /no such path/, () =>
    createIsthmusTransport({ address: `${address}.none` }).connect(),
  );
  const refused = /cannot run the native addon/;
  await checkFailure("a transport that insists on shared memory", Code.FailedPrecondition, refused, () =>
    createIsthmusTransport({ address, carrier: "shm" }),
  );
  await checkFailure("a server that insists on shared memory", Code.FailedPrecondition, refused, () =>
    createIsthmusServer({ routes, carrier: "shm" }),
  );
  await checkFailure("a blocking client", Code.FailedPrecondition, refused, () =>
    createBlockingClient(StreamService, { address }),
  );
  await checkFailure("worker threads", Code.FailedPrecondition, refused, () =>
    createIsthmusServer({ workers: { routes: "/routes.js" } }),
  );

  const server = createIsthmusServer({ routes, maxConnections: 1 });
  await server.listen(address);
  const transport = createIsthmusTransport({ address });
  const client = createClient(StreamService, transport);
  await client.echo({});
  await checkFailure("a second server", Code.AlreadyExists, /a live server has it/, () =>
    createIsthmusServer({ routes }).listen(address),
  );
  await checkFailure("one connection too many", Code.ResourceExhausted, /1 connections, its limit/, () =>
    createIsthmusTransport({ address }).connect(),
  );

  const file = `${address}.file`;
  writeFileSync(file, pattern(300_000));
  const payloads = [await loan(transport, 300_000), await region(300_000), await mapFile(file)];
  for (const payload of payloads.slice(0, 2)) payload.set(pattern(300_000));
  for (const [i, payload] of payloads.entries()) {
    const { data } = await client.echo({ data: payload });
    check(`a ${["loan", "region", "file"][i]} arrives`, isPattern(data, 300_000));
    release(data);
  }

  const late = client.count({ count: 20n, dataBytes: 10, pauseMs: 20 })[Symbol.asyncIterator]();
  await late.next();
  const closing = server.close();
  let received = 1;
  while ((await late.next()).done !== true) received++;
  await closing;
  check(`a server that closes lets a stream finish (${received} items)`, received === 20);
  check("its path is gone", !existsSync(address));

  const [program, ...parameters] = command;
  const other = spawn(program, [...parameters, process.argv[1], "serve", address], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const ended = once(other, "exit");
  await new Promise((resolve) => other.stdout.once("data", resolve));
  await client.echo({});
  const open = client.count({ count: 1_000_000n, pauseMs: 10 })[Symbol.asyncIterator]();
  await open.next();
  other.kill("SIGKILL");
  await checkFailure("a stream whose server is killed", Code.Unavailable, /connection lost/, async () => {
    while ((await open.next()).done !== true);
  });
  // The kernel closes a dead process's sockets one by one: its path may be served a little longer than its connection.
  await ended;
  const next = createIsthmusServer({ routes });
  await next.listen(address);
  check("the next server is connected to", (await client.echo({ text: "again" })).text === "again");
  const successor = createIsthmusServer({ routes });
  await successor.listen(address, { takeover: true });
  await next.close();
  check(
    "its successor, too",
    (await client.echo({ text: "once more" })).text === "once more" && successor.stats().connections === 1,
  );
  await transport.close();
  await successor.close();
}

await { serve, call, edges }[task as "serve" | "call" | "edges"]();
if (task !== "serve") console.log("done");
