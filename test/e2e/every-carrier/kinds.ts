/** The four kinds of calls: numbers and sizes of messages, half-close, both directions at once. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { DescService } from "@bufbuild/protobuf";
import { Code, createClient } from "@connectrpc/connect";
import { StreamService } from "../../proto/streams_pb.js";
import { TestService } from "../../proto/test_pb.js";
import { pattern, patternFault } from "../../support/own-routes.js";
import type { Scene } from "../../support/scenes.js";
import { connectStreams, scripted } from "../../support/scenes.js";
import { all, items, numbersOf, outcomeOf, PushedRequests, upTo } from "../../support/streams.js";
import { failure } from "../../support/waiting.js";

const COUNTS = [0, 1, 2, 1000];
const BIG_BYTES = 20 << 20;
/** Around the limits at which messages travel in another way. */
const SIZES = [
  0,
  1,
  4095,
  4096,
  4097,
  16_300,
  16_384,
  16_385,
  32_767,
  32_768,
  65_536,
  131_072,
  131_073,
  1 << 20,
  300_000,
  7,
];

export function kinds(scene: Scene): void {
  test("a unary call is answered", async (context) => {
    const { client } = await scene.connect(context);
    const { number, text, values } = await client.echo({ number: 7n, text: "sieben", values: [1, 2.5] });
    assert.deepEqual({ number, text, values }, { number: 7n, text: "sieben", values: [1, 2.5] });
  });

  test("400 unary calls at once, small and large, get their own answers", async (context) => {
    const { client } = await scene.connect(context);
    const size = (i: number) => (i % 50 === 0 ? 100_000 : i);
    const replies = await Promise.all(
      upTo(400).map((i) => client.echo({ number: BigInt(i), data: new Uint8Array(size(i)).fill(i) })),
    );
    replies.forEach(({ number, data }, i) =>
      assert.ok(
        Number(number) === i && data.length === size(i) && data.every((byte) => byte === (i & 0xff)),
        `call ${i}`,
      ),
    );
  });

  test(`a server sends ${COUNTS.join(", ")} messages`, async (context) => {
    const { client } = await scene.connect(context);
    for (const count of COUNTS)
      assert.deepEqual(numbersOf(await all(client.count({ count: BigInt(count) }))), upTo(count));
  });

  test(`a client sends ${COUNTS.join(", ")} messages`, async (context) => {
    const { client } = await scene.connect(context);
    for (const count of COUNTS) {
      const reply = await client.sum(items(count));
      assert.deepEqual([reply.items, reply.sum], [BigInt(count), BigInt((count * (count - 1)) / 2)]);
    }
  });

  test(`both send ${COUNTS.join(", ")} messages`, async (context) => {
    const { client } = await scene.connect(context);
    for (const count of COUNTS) assert.deepEqual(numbersOf(await all(client.chat(items(count)))), upTo(count));
  });

  test("messages of no bytes are messages", async (context) => {
    const { client } = await scene.connect(context);
    assert.equal((await all(client.chat(items(100, () => ({}))))).length, 100);
    assert.equal((await client.sum(items(100, () => ({})))).items, 100n);
  });

  test("messages of all sizes, small between large, arrive whole and in order in both directions", async (context) => {
    const { client } = await scene.connect(context);
    const call = scene.newCall();
    const replies = await all(
      client.chat(
        items(SIZES.length * 3, (i) => ({ number: BigInt(i), data: pattern(i, SIZES[i % SIZES.length]) })),
        scripted({ checks: true }, call),
      ),
    );
    assert.deepEqual(numbersOf(replies), upTo(SIZES.length * 3));
    for (const [i, { data }] of replies.entries()) {
      assert.equal(data.length, SIZES[i % SIZES.length], `message ${i}`);
      assert.equal(patternFault(data, i), -1, `message ${i}`);
    }
    assert.equal((await (await scene.server()).seen(call)).damaged, 0);
  });

  test("messages of 20 MiB go in each direction of each kind", async (context) => {
    const { client } = await scene.connect(context);
    const data = pattern(0, BIG_BYTES);
    const whole = (bytes: Uint8Array) => bytes.length === BIG_BYTES && Buffer.compare(bytes, data) === 0;
    assert.ok(whole((await client.echo({ data })).data), "unary");
    const [counted] = await all(client.count({ count: 1n, dataBytes: BIG_BYTES }));
    assert.ok(whole(counted.data), "server streaming");
    const call = scene.newCall();
    const summed = await client.sum(
      items(1, () => ({ data })),
      scripted({ checks: true }, call),
    );
    assert.equal(summed.dataBytes, BigInt(BIG_BYTES));
    assert.equal((await (await scene.server()).seen(call)).damaged, 0, "client streaming");
    const chatted = await all(client.chat(items(1, () => ({ data }))));
    assert.ok(chatted.length === 1 && chatted.every((reply) => whole(reply.data)), "bidirectional");
  });

  test("after the client's last message the server goes on sending", async (context) => {
    const { client } = await scene.connect(context);
    const call = scene.newCall();
    const replies = await all(client.chat(items(2), scripted({ sendsAfterwards: 3 }, call)));
    assert.deepEqual(numbersOf(replies), [0, 1, 1000, 1001, 1002]);
    const seen = await (await scene.server()).seen(call);
    assert.ok(seen.inputEnded);
  });

  test("each message may wait for the answer to the one before", async (context) => {
    const { client } = await scene.connect(context);
    const requests = new PushedRequests();
    const replies = client.chat(requests)[Symbol.asyncIterator]();
    for (let i = 0; i < 200; i++) {
      requests.push({ number: BigInt(i) });
      const next = await replies.next();
      assert.ok(next.done !== true);
      assert.equal(next.value.number, BigInt(i));
    }
    requests.end();
    assert.equal((await replies.next()).done, true);
  });

  test("the server may send before it has read anything, while the requests stay open", async (context) => {
    const { client } = await scene.connect(context);
    const requests = new PushedRequests();
    const replies = client.chat(requests, scripted({ sends: 5 }))[Symbol.asyncIterator]();
    for (let i = 0; i < 5; i++) assert.equal(Number(((await replies.next()).value as { number: bigint }).number), i);
    requests.end();
    assert.equal((await replies.next()).done, true);
  });

  test("both directions carry 10,000 messages at once", async (context) => {
    const { client } = await scene.connect(context);
    const call = scene.newCall();
    const requests = items(10_000);
    const replies = await all(client.chat(requests, scripted({ sends: 10_000 }, call)));
    assert.deepEqual(numbersOf(replies), upTo(10_000));
    const seen = await (await scene.server()).seen(call);
    assert.deepEqual([seen.items, seen.inputEnded, requests.closed], [10_000, true, true]);
  });

  test("a method or a service that the server does not have is Unimplemented for every kind", async (context) => {
    const { transport, client } = await scene.connect(context);
    await failure(createClient(TestService, transport).echo({}), Code.Unimplemented, /./);
    await failure(all(createClient(TestService, transport).count({})), Code.Unimplemented, /./);
    const elsewhere = createClient(moved(StreamService), transport);
    await failure(elsewhere.echo({}), Code.Unimplemented, /./);
    await failure(all(elsewhere.count({ count: 3n })), Code.Unimplemented, /./);
    const requests = items(100);
    await failure(elsewhere.sum(requests), Code.Unimplemented, /./);
    await failure(all(elsewhere.chat(items(100))), Code.Unimplemented, /./);
    assert.equal((await client.echo({ number: 1n })).number, 1n);
  });

  test("a method that takes one message fails with Unimplemented when it gets none, or two", async (context) => {
    const { transport } = await scene.connect(context);
    for (const count of [0, 2]) {
      const call = scene.newCall();
      const { headers } = scripted({}, call);
      const response = transport.stream(
        StreamService.method.count,
        undefined,
        undefined,
        headers,
        items(count) as AsyncIterable<object>,
      );
      await failure(
        response.then(({ message }) => all(message)),
        Code.Unimplemented,
        count === 0 ? /missing/ : /extra|more than one/,
      );
      assert.equal((await (await scene.server()).seen(call)).calls, 0, "the handler is not called");
    }
  });

  test("calls of all kinds follow each other over one connection", async (context) => {
    const { client, transport } = await scene.connect(context);
    for (let i = 0; i < 20; i++) {
      const [echoed, counted, summed, chatted] = await Promise.all([
        client.echo({ number: BigInt(i) }),
        outcomeOf(client.count({ count: 5n })),
        client.sum(items(5)),
        outcomeOf(client.chat(items(5))),
      ]);
      assert.deepEqual(
        [echoed.number, counted.messages.length, summed.items, chatted.messages.length],
        [BigInt(i), 5, 5n, 5],
      );
    }
    assert.deepEqual([transport.stats().connections, transport.stats().pendingCalls], [1, 0]);
  });

  test("a server that was told to go on an address that nobody has is Unavailable for every kind", async (context) => {
    const server = await scene.serve(context, {}, "one process");
    const { client } = connectStreams(context, server);
    await server.close(0);
    await failure(client.echo({}), Code.Unavailable, /./);
    await failure(all(client.count({ count: 1n })), Code.Unavailable, /./);
    const requests = items(5);
    await failure(client.sum(requests), Code.Unavailable, /./);
    await failure(all(client.chat(items(5))), Code.Unavailable, /./);
  });
}

/** The same methods under a name that nobody serves. */
function moved<S extends DescService>(service: S): S {
  const copy = Object.create(service, { typeName: { value: "isthmus.test.Nowhere" } }) as S;
  const methods = service.methods.map(
    (method) => Object.create(method, { parent: { value: copy } }) as (typeof service.methods)[number],
  );
  const byName = Object.fromEntries(methods.map((method) => [method.localName, method]));
  return Object.defineProperties(copy, { methods: { value: methods }, method: { value: byName } });
}
