/** Flow control: a slow reader holds back its own writer and nobody else. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Scene, SceneServer } from "../../support/scenes.js";
import { scripted } from "../../support/scenes.js";
import { all, items, numbersOf, upTo } from "../../support/streams.js";
import { waitUntil, within } from "../../support/waiting.js";

const MESSAGES = 2000;
const MESSAGE_BYTES = 8192;
/**
 * What may be on its way to a reader that does not read: the window and what buffers hold, far less than all 16 MiB.
 */
const AHEAD_BYTES_MAX = 6 << 20;

/** Waits until a number that a test cannot foresee changes no more. */
async function settled(look: () => Promise<number> | number): Promise<number> {
  let before = await look();
  await waitUntil("the writer to be held back", async () => {
    await sleep(40);
    const now = await look();
    const still = now === before && now > 0;
    before = now;
    return still;
  });
  return before;
}

export function flow(scene: Scene): void {
  test("a client that does not read holds the server back; all arrives when it reads", async (context) => {
    const { client, server } = await scene.connect(context);
    const call = scene.newCall();
    const replies = client.count({ count: BigInt(MESSAGES), dataBytes: MESSAGE_BYTES }, scripted({}, call));
    const iterator = replies[Symbol.asyncIterator]();
    assert.equal((await iterator.next()).done, false);
    const ahead = (await settled(async () => (await server.seen(call)).sent)) * MESSAGE_BYTES;
    assert.ok(ahead < AHEAD_BYTES_MAX, `${ahead} bytes were sent to a client that does not read`);
    const numbers = [0];
    for (let next = await iterator.next(); next.done !== true; next = await iterator.next())
      numbers.push(Number(next.value.number));
    assert.deepEqual(numbers, upTo(MESSAGES));
    context.diagnostic(`${ahead} bytes ahead`);
  });

  test("a handler that does not read holds the client back; all arrives when it reads", async (context) => {
    const { client, server } = await scene.connect(context);
    const call = scene.newCall();
    const requests = items(MESSAGES, (i) => ({ number: BigInt(i), data: new Uint8Array(MESSAGE_BYTES) }));
    const sum = client.sum(requests, scripted({ readsWhenTold: true }, call));
    await waitUntil("the handler to be called", async () => (await server.seen(call)).calls === 1);
    await settled(() => requests.produced);
    assert.equal((await server.seen(call)).items, 0);
    const ahead = requests.produced * MESSAGE_BYTES;
    assert.ok(ahead < AHEAD_BYTES_MAX, `${ahead} bytes were sent to a handler that does not read`);
    await server.tellToRead(call);
    const reply = await sum;
    assert.deepEqual([reply.items, reply.sum], [BigInt(MESSAGES), BigInt((MESSAGES * (MESSAGES - 1)) / 2)]);
    context.diagnostic(`${ahead} bytes ahead`);
  });

  test("both sides may only send until both read", async (context) => {
    const { client, server } = await scene.connect(context);
    const call = scene.newCall();
    const requests = items(MESSAGES, (i) => ({ number: BigInt(i), data: new Uint8Array(MESSAGE_BYTES) }));
    const iterator = client
      .chat(requests, scripted({ sends: MESSAGES, dataBytes: MESSAGE_BYTES, readsWhenTold: true }, call))
      [Symbol.asyncIterator]();
    const first = iterator.next();
    await settled(async () => (await server.seen(call)).sent);
    assert.equal((await within(60_000, "a call meanwhile", client.echo({ number: 5n }))).number, 5n);
    await server.tellToRead(call);
    assert.equal((await first).done, false);
    let count = 1;
    for (let next = await iterator.next(); next.done !== true; next = await iterator.next())
      assert.equal(Number(next.value.number), count++);
    assert.equal(count, MESSAGES);
    assert.deepEqual([(await server.seen(call)).items, requests.produced], [MESSAGES, MESSAGES]);
  });

  test("20 streams that nobody reads hold back nobody else", async (context) => {
    const { client, server } = await scene.connect(context);
    const controller = new AbortController();
    const prefix = `${scene.newCall()}-`;
    const stuck = upTo(20).map((i) =>
      client
        .count(
          { count: 1_000_000n, dataBytes: 10_000 },
          { ...scripted({}, `${prefix}${i}`), signal: controller.signal },
        )
        [Symbol.asyncIterator](),
    );
    try {
      await Promise.all(stuck.map((iterator) => iterator.next()));
      await Promise.all(upTo(20).map((i) => settled(async () => (await server.seen(`${prefix}${i}`)).sent)));
      const others = await within(
        60_000,
        "the others",
        Promise.all([
          client.echo({ data: new Uint8Array(1 << 20) }),
          all(client.count({ count: 200n, dataBytes: 10_000 })),
          client.sum(items(2000)),
          all(client.chat(items(200))),
        ]),
      );
      assert.deepEqual(
        [others[0].data.length, others[1].length, others[2].items, others[3].length],
        [1 << 20, 200, 2000n, 200],
      );
    } finally {
      controller.abort();
    }
    await waitUntil("all handlers to end", async () => (await server.totals(prefix)).finished === 20);
  });

  test("200 streams of all kinds and unary calls go on between each other", async (context) => {
    const { client } = await scene.connect(context);
    let unary = 0;
    const size = (i: number) => [10, 500, 5000, 20_000][i % 4];
    const runs = upTo(200).map(async (i) => {
      const count = 8 + (i % 7);
      if (i % 3 === 0) {
        const replies = await all(client.count({ count: BigInt(count), dataBytes: size(i) }));
        assert.deepEqual(numbersOf(replies), upTo(count));
        assert.ok(replies.every(({ data }) => data.length === size(i)));
      } else if (i % 3 === 1) {
        const reply = await client.sum(items(count, (n) => ({ number: BigInt(n), data: new Uint8Array(size(i)) })));
        assert.deepEqual([reply.items, reply.dataBytes], [BigInt(count), BigInt(count * size(i))]);
      } else {
        const replies = client.chat(
          items(count, (n) => ({ number: BigInt(n), data: new Uint8Array(size(i)).fill(i) })),
        );
        let number = 0;
        for await (const reply of replies) {
          assert.deepEqual([Number(reply.number), reply.data.length, reply.data[0]], [number++, size(i), i]);
          assert.equal((await client.echo({ number: reply.number })).number, reply.number);
          unary++;
        }
        assert.equal(number, count);
      }
    });
    await Promise.all(runs);
    assert.ok(unary > 500);
  });

  test("a slow reader on each side gets everything", async (context) => {
    const { client, server } = await scene.connect(context);
    const call = scene.newCall();
    let number = 0;
    for await (const reply of client.chat(
      items(100, (i) => ({ number: BigInt(i), data: new Uint8Array(50_000) })),
      scripted({ readPauseMs: 1 }, call),
    )) {
      assert.equal(Number(reply.number), number++);
      if (number % 5 === 0) await sleep(2);
    }
    assert.equal(number, 100);
    assertEnded(await server.seen(call));
  });
}

function assertEnded({ inputEnded, items: count }: Awaited<ReturnType<SceneServer["seen"]>>): void {
  assert.deepEqual([inputEnded, count], [true, 100]);
}
