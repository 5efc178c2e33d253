/** Flow control of streams: what waits is bounded, slow consumers hold back nobody else, and nothing locks up. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { loan, retain } from "../../src/index.js";
import { MESSAGE_COST_BYTES } from "../../src/wire/frame.js";
import type { Item } from "../proto/streams_pb.js";
import { StreamService } from "../proto/streams_pb.js";
import { CARRIER, onlyWithAddon } from "../support/carriers.js";
import { allEnded, collect, items, serveStreams } from "../support/own-streams.js";
import { waitUntil } from "../support/waiting.js";

const WINDOW = 64 << 10;
const DATA_BYTES = 1000;
/** What a message of that much data costs, at least. */
const COST = DATA_BYTES + MESSAGE_COST_BYTES;

/** Waits until `value` stands still. */
async function settled(value: () => number): Promise<number> {
  let last = -1;
  for (let same = 0; same < 5; await sleep(10)) {
    same = value() === last ? same + 1 : 0;
    last = value();
  }
  return last;
}

describe("credit", () => {
  test("a consumer that does not pull stops the handler at the client's window, and pulling goes on", async (context) => {
    let made = 0;
    const own = await serveStreams(
      context,
      {
        async *count() {
          for (; made < 10_000; made++)
            yield await Promise.resolve({ number: BigInt(made), data: new Uint8Array(DATA_BYTES) });
        },
      },
      { client: { streamWindowBytes: WINDOW } },
    );
    const answers = own.client.count({})[Symbol.asyncIterator]();
    await answers.next();
    const first = await settled(() => made);
    assert.ok(first >= WINDOW / 2 / COST && first <= (WINDOW * 1.5) / COST + 2, `${first} messages`);
    assert.equal((await own.client.echo({ text: "others" })).text, "others");
    let pulled = 1;
    for (let result = await answers.next(); result.done !== true; result = await answers.next())
      assert.equal(result.value.number, BigInt(pulled++));
    assert.equal(pulled, 10_000);
    await allEnded(own);
  });

  test("a handler that does not pull stops the request's generator at the server's window", async (context) => {
    let made = 0;
    let pull!: () => void;
    const gate = new Promise<void>((resolve) => (pull = resolve));
    const own = await serveStreams(
      context,
      {
        async sum(requests) {
          await gate;
          let count = 0n;
          for await (const { data } of requests) count += BigInt(data.length > 0);
          return { items: count };
        },
      },
      { server: { streamWindowBytes: WINDOW } },
    );
    async function* counted() {
      for await (const item of items(5000, DATA_BYTES)) {
        made++;
        yield item;
      }
    }
    const call = own.client.sum(counted());
    const first = await settled(() => made);
    assert.ok(first >= WINDOW / COST - 2 && first <= WINDOW / COST + 2, `${first} messages`);
    pull();
    assert.equal((await call).items, 5000n);
  });

  test("messages larger than the window pass, one at a time", async (context) => {
    const own = await serveStreams(
      context,
      {
        async *chat(requests) {
          for await (const request of requests) yield request;
        },
      },
      { server: { streamWindowBytes: 1024 }, client: { streamWindowBytes: 1024 } },
    );
    for (const bytes of [0, 900, 5000, 400_000]) {
      const back = await collect(own.client.chat(items(10, bytes)));
      assert.deepEqual(
        back.map(({ number, data }) => [number, data.length]),
        Array.from({ length: 10 }, (_, i) => [BigInt(i), bytes]),
      );
    }
    await allEnded(own);
  });

  test("two sides that only send wait for each other's reading, and then go on", async (context) => {
    const memory = { ringBytes: 65_536, arenaBytes: 1 << 20 };
    let made = 0;
    const own = await serveStreams(
      context,
      {
        async *chat(requests) {
          for (let i = 0; i < 200; i++, made++) yield { data: new Uint8Array(60_000) };
          for await (const request of requests) yield request;
        },
      },
      { server: { memory }, client: { memory } },
    );
    let sent = 0;
    async function* sending() {
      for await (const item of items(200, 60_000)) {
        sent++;
        yield item;
      }
    }
    const answers = own.client.chat(sending())[Symbol.asyncIterator]();
    await answers.next();
    await settled(() => made + sent);
    assert.ok(made < 200 && sent < 200, `${made} and ${sent}`);
    let received = 1;
    while ((await answers.next()).done !== true) received++;
    assert.equal(received, 400);
    await allEnded(own);
  });

  test("many streams through a small ring and arena all arrive, whole and in order", async (context) => {
    const memory = { ringBytes: 65_536, arenaBytes: 1 << 20 };
    const own = await serveStreams(
      context,
      {
        async *chat(requests) {
          for await (const request of requests) yield request;
        },
      },
      { server: { memory, streamWindowBytes: 1 << 18 }, client: { memory, streamWindowBytes: 1 << 18 } },
    );
    const sizes = [10, 5000, 15_000, 40_000, 200_000];
    await Promise.all(
      Array.from({ length: 60 }, async (_, i) => {
        const count = i % 5 === 4 ? 6 : 40;
        const back = await collect(own.client.chat(items(count, sizes[i % 5])));
        assert.deepEqual(
          back.map(({ number, data }) => [number, data.length, data.every((byte) => byte === Number(number))]),
          Array.from({ length: count }, (_, k) => [BigInt(k), sizes[i % 5], true]),
        );
      }),
    );
    await allEnded(own);
  });

  test("a slow consumer holds back its own stream only", async (context) => {
    const own = await serveStreams(
      context,
      {
        async *count({ count }) {
          for (let i = 0n; i < count; i++) yield await Promise.resolve({ data: new Uint8Array(DATA_BYTES) });
        },
      },
      { client: { streamWindowBytes: WINDOW } },
    );
    const slow = Array.from({ length: 200 }, () => own.client.count({ count: 500n })[Symbol.asyncIterator]());
    await Promise.all(slow.map((answers) => answers.next()));
    assert.equal((await collect(own.client.count({ count: 3000n }))).length, 3000);
    assert.equal(own.server.stats().openStreams, 200);
    for (const answers of slow) {
      let count = 1;
      while ((await answers.next()).done !== true) count++;
      assert.equal(count, 500);
    }
    await allEnded(own);
  });
});

describe("payloads in streams", { skip: onlyWithAddon }, () => {
  test("loaned messages go both ways without a copy, in bounded memory, with every lifetime", async (context) => {
    for (const leases of ["collected", "scoped", "copied", "strict"] as const) {
      const memory = { arenaBytes: 16 << 20 };
      const own = await serveStreams(
        context,
        {
          async *chat(requests) {
            for await (const { number, data } of requests) {
              assert.ok(
                data.every((byte) => byte === Number(number)),
                `${leases}: message ${number}`,
              );
              yield { number, data };
            }
          },
        },
        { server: { leases, memory, carrier: CARRIER }, client: { leases, memory } },
      );
      await own.client.echo({});
      async function* loaned() {
        for (let i = 0; i < 30; i++) {
          const data = await loan(own.transport, 2 << 20);
          data.fill(i);
          yield { number: BigInt(i), data };
        }
      }
      let next = 0;
      for await (const { number, data } of own.client.chat(loaned())) {
        assert.equal(number, BigInt(next));
        assert.ok(data.length === 2 << 20 && data[0] === next && data[data.length - 1] === next, leases);
        next++;
      }
      assert.equal(next, 30);
      await allEnded(own);
      await own.transport.close();
    }
  });

  test("in scoped, a message's bytes end when the next one is pulled, unless they are retained", async (context) => {
    const lengths: number[] = [];
    const own = await serveStreams(
      context,
      {
        async sum(requests) {
          let last: Item | undefined;
          for await (const item of requests) {
            if (last !== undefined) lengths.push(last.data.length);
            if (item.number === 1n) retain(item);
            last = item;
          }
          lengths.push(last!.data.length);
          return {};
        },
      },
      { server: { leases: "scoped" }, client: { leases: "scoped" } },
    );
    await own.client.sum(items(4, 100_000));
    assert.deepEqual(lengths, [0, 100_000, 0, 0]);
    await allEnded(own);
  });

  test("the only request of a stream is there until its last answer", async (context) => {
    const own = await serveStreams(
      context,
      {
        async *count() {
          yield await Promise.resolve({});
        },
        async *chat(requests) {
          for await (const { data } of requests) {
            for (let i = 0; i < 3; i++) yield await sleep(1, { number: BigInt(data.length) });
          }
        },
      },
      { server: { leases: "scoped" } },
    );
    assert.deepEqual(
      (await collect(own.client.chat(items(2, 100_000)))).map(({ number }) => number),
      Array<bigint>(6).fill(100_000n),
    );
  });

  test("what was not pulled of a stream that was left goes back", async (context) => {
    const own = await serveStreams(context, {
      async *count() {
        for (let i = 0; i < 50; i++) yield await Promise.resolve({ data: new Uint8Array(100_000) });
      },
    });
    const response = await own.transport.stream(
      StreamService.method.count,
      undefined,
      undefined,
      undefined,
      items(1) as AsyncIterable<never>,
    );
    const answers = response.message[Symbol.asyncIterator]();
    await sleep(50);
    await answers.return!();
    await allEnded(own);
    await waitUntil("no leases to be left", async () => {
      await own.client.echo({});
      const { leases } = own.transport.stats().connection!;
      return leases === 0 || `${leases} leases`;
    });
  });
});
