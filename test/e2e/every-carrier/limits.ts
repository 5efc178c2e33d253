/**
 * Largest messages, in each direction: what is larger fails its own call with ResourceExhausted, after what came before
 * it.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Scene } from "../../support/scenes.js";
import { connectStreams, scripted } from "../../support/scenes.js";
import { all, items, numbersOf, outcomeOf, upTo } from "../../support/streams.js";
import { failure, waitUntil } from "../../support/waiting.js";

const LIMIT = 100_000;
/** With the rest of the message just below and just above. */
const FITS = LIMIT - 64;
const TOO_LARGE = LIMIT + 1;

export function limits(scene: Scene): void {
  test("a timeout that is no number fails its call, and one of 0 or less lifts the default, as in Connect", async (context) => {
    const { client } = await scene.connect(context, { defaultTimeoutMs: 1 });
    for (const timeoutMs of [NaN, "5s" as never, {} as never]) {
      for (const interceptors of [undefined, [(next: unknown) => next as never]]) {
        const { client: other } = await scene.connect(context, interceptors === undefined ? {} : { interceptors });
        await failure(
          other.echo({}, { timeoutMs }),
          Code.InvalidArgument,
          /timeoutMs of a call: expected a number of milliseconds, not/,
        );
        await failure(other.sum(items(1), { timeoutMs }), Code.InvalidArgument, /timeoutMs of a call/);
        await failure(all(other.count({ count: 1n }, { timeoutMs })), Code.InvalidArgument, /timeoutMs of a call/);
        await failure(all(other.chat(items(1), { timeoutMs })), Code.InvalidArgument, /timeoutMs of a call/);
      }
    }
    await failure(all(client.count({ count: 3n, pauseMs: 50 })), Code.DeadlineExceeded, /./);
    for (const timeoutMs of [0, -1]) {
      await client.echo({}, { timeoutMs });
      assert.deepEqual(numbersOf(await all(client.count({ count: 3n, pauseMs: 50 }, { timeoutMs }))), upTo(3));
    }
  });

  test("a server takes no message above its readMaxBytes, of any kind", async (context) => {
    const server = await scene.serve(context, { readMaxBytes: LIMIT }, "one process");
    const { client } = connectStreams(context, server);
    const large = (at: number) =>
      items(at + 1, (i) => ({ number: BigInt(i), data: new Uint8Array(i === at ? TOO_LARGE : FITS) }));
    await failure(client.echo({ data: new Uint8Array(TOO_LARGE) }), Code.ResourceExhausted, /readMaxBytes/);
    const call = scene.newCall();
    await failure(client.sum(large(3), scripted({}, call)), Code.ResourceExhausted, /readMaxBytes/);
    await waitUntil("the handler to end", async () => (await server.seen(call)).finished === 1);
    assert.equal((await server.seen(call)).items, 3);
    const chatted = await outcomeOf(client.chat(large(3)));
    assert.equal(ConnectError.from(chatted.error).code, Code.ResourceExhausted);
    assert.ok(numbersOf(chatted.messages).every((number, i) => number === i));
    assert.equal((await client.sum(items(2, () => ({ data: new Uint8Array(FITS) })))).items, 2n);
    assert.equal((await client.echo({ data: new Uint8Array(FITS) })).data.length, FITS);
  });

  test("a server sends no message above its writeMaxBytes; what came before is delivered", async (context) => {
    const server = await scene.serve(context, { writeMaxBytes: LIMIT }, "one process");
    const { client } = connectStreams(context, server);
    const call = scene.newCall();
    await failure(client.echo({ data: new Uint8Array(TOO_LARGE) }), Code.ResourceExhausted, /writeMaxBytes/);
    const chatted = await outcomeOf(
      client.chat(
        items(5, (i) => ({ number: BigInt(i), data: new Uint8Array(i === 3 ? TOO_LARGE : FITS) })),
        scripted({}, call),
      ),
    );
    assert.deepEqual(numbersOf(chatted.messages), upTo(3));
    assert.equal(ConnectError.from(chatted.error).code, Code.ResourceExhausted);
    await waitUntil("the handler to end", async () => (await server.seen(call)).finished === 1);
    await failure(all(client.count({ count: 1n, dataBytes: TOO_LARGE })), Code.ResourceExhausted, /writeMaxBytes/);
  });

  test("a client sends no message above its writeMaxBytes, and the handler learns that the call is over", async (context) => {
    const { client, server } = await scene.connect(context, { writeMaxBytes: LIMIT });
    await failure(client.echo({ data: new Uint8Array(TOO_LARGE) }), Code.ResourceExhausted, /writeMaxBytes/);
    const call = scene.newCall();
    const requests = items(5, async (i) => {
      if (i === 3) await waitUntil("the handler to have seen three", async () => (await server.seen(call)).items === 3);
      return { data: new Uint8Array(i === 3 ? TOO_LARGE : FITS) };
    });
    await failure(client.sum(requests, scripted({}, call)), Code.ResourceExhausted, /writeMaxBytes/);
    await waitUntil("the handler to end", async () => (await server.seen(call)).finished === 1);
    const { items: count, inputEnded } = await server.seen(call);
    assert.equal(count, 3);
    if (scene.isOwn) assert.equal(inputEnded, false);
    await waitUntil("the requests to be closed", () => requests.closed);
  });

  test("a client takes no message above its readMaxBytes; what came before is delivered, and the handler ends", async (context) => {
    const { client, server } = await scene.connect(context, { readMaxBytes: LIMIT });
    await failure(client.echo({ data: new Uint8Array(TOO_LARGE) }), Code.ResourceExhausted, /readMaxBytes/);
    const call = scene.newCall();
    const requests = items(1_000_000, (i) => ({ number: BigInt(i), data: new Uint8Array(i === 3 ? TOO_LARGE : 10) }));
    const chatted = await outcomeOf(client.chat(requests, scripted({}, call)));
    assert.deepEqual(numbersOf(chatted.messages), upTo(3));
    assert.equal(ConnectError.from(chatted.error).code, Code.ResourceExhausted);
    await waitUntil("the handler to end", async () => (await server.seen(call)).finished === 1);
    assert.equal((await client.echo({ number: 3n })).number, 3n);
  });
}
