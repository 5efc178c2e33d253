/** Interceptors of both ends see every message of a stream, and context values are there. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Interceptor } from "@connectrpc/connect";
import { Code, ConnectError, createContextKey, createContextValues } from "@connectrpc/connect";
import type { Scene } from "../../support/scenes.js";
import { connectStreams, scripted } from "../../support/scenes.js";
import { noted, numberOf } from "../../support/stream-service.js";
import { all, items, numbersOf, upTo } from "../../support/streams.js";
import { failure } from "../../support/waiting.js";

const clientValue = createContextKey("nothing");

export function interceptors(scene: Scene): void {
  test("a client's interceptors see each message of each direction, and may change it", async (context) => {
    const seen = { requests: [] as number[], answers: [] as number[], kinds: [] as string[], values: [] as string[], headers: [] as (string | null)[] };
    const watch: Interceptor = (next) => async (request) => {
      seen.kinds.push(`${request.method.name} ${request.stream}`);
      seen.values.push(request.contextValues.get(clientValue));
      assert.ok(!request.signal.aborted);
      request.header.set("x-added", "by the client's interceptor");
      if (!request.stream) {
        seen.requests.push(numberOf(request.message));
        return next(request);
      }
      const response = await next({ ...request, message: noted(request.message, seen.requests) });
      assert.ok(response.stream);
      seen.headers.push(response.header.get("x-answer"));
      return { ...response, message: noted(response.message, seen.answers) };
    };
    const change: Interceptor = (next) => async (request) => {
      if (!request.stream) return next(request);
      const response = await next({ ...request, message: plusTen(request.message) });
      return response.stream ? { ...response, message: plusTen(response.message) } : response;
    };
    const { client, server } = await scene.connect(context, { interceptors: [watch, change] });
    const call = scene.newCall();
    const options = { ...scripted({ headers: { "x-answer": "yes" } }, call), contextValues: createContextValues().set(clientValue, "of the call") };
    assert.deepEqual(numbersOf(await all(client.chat(items(4), options))), upTo(4).map((n) => n + 20));
    assert.deepEqual(seen, { requests: upTo(4), answers: upTo(4).map((n) => n + 20), kinds: ["Chat true"], values: ["of the call"], headers: ["yes"] });
    assert.equal((await server.seen(call)).requestHeaders["x-added"], "by the client's interceptor");
    assert.equal((await client.sum(items(4))).sum, BigInt(0 + 1 + 2 + 3 + 40));
    assert.deepEqual(numbersOf(await all(client.count({ count: 2n }))), [10, 11]);
    assert.deepEqual(seen.kinds, ["Chat true", "Sum true", "Count true"]);
  });

  test("a server's interceptors see each message of each direction", async (context) => {
    const server = await scene.serve(context, { recorded: true });
    const { client } = connectStreams(context, server);
    const chat = scene.newCall();
    let header: string | null = null;
    assert.deepEqual(numbersOf(await all(client.chat(items(5), { ...scripted({}, chat), onHeader: (headers) => (header = headers.get("x-intercepted")) }))), upTo(5));
    const seen = await server.seen(chat);
    assert.deepEqual(seen.intercepted, { requests: upTo(5), answers: upTo(5), stream: [true] });
    assert.equal(seen.requestHeaders["x-intercepted"], "by the server");
    assert.equal(header, "by the server");
    const count = scene.newCall();
    await all(client.count({ count: 3n }, scripted({}, count)));
    assert.deepEqual((await server.seen(count)).intercepted, { requests: [-1], answers: [0, 1, 2], stream: [true] });
    const sum = scene.newCall();
    await client.sum(items(3), scripted({}, sum));
    assert.deepEqual((await server.seen(sum)).intercepted, { requests: upTo(3), answers: [-1], stream: [true] });
    const echo = scene.newCall();
    await client.echo({ number: 9n }, scripted({}, echo));
    assert.deepEqual((await server.seen(echo)).intercepted, { requests: [9], answers: [9], stream: [false] });
  });

  test("a client's interceptor that throws fails the call before it is made", async (context) => {
    const refuse: Interceptor = () => () => Promise.reject(new ConnectError("not today", Code.FailedPrecondition));
    const { client, server } = await scene.connect(context, { interceptors: [refuse] });
    const call = scene.newCall();
    await failure(all(client.count({ count: 3n }, scripted({}, call))), Code.FailedPrecondition, /not today/);
    await failure(client.sum(items(3), scripted({}, call)), Code.FailedPrecondition, /not today/);
    assert.equal((await server.seen(call)).calls, 0);
  });

  test("a message that a client's interceptor throws at ends the call on both sides", async (context) => {
    const choosy: Interceptor = (next) => async (request) => {
      const response = await next(request);
      if (!response.stream) return response;
      return { ...response, message: upToTwo(response.message) };
    };
    const { client } = await scene.connect(context, { interceptors: [choosy] });
    const taken: number[] = [];
    const run = (async () => {
      for await (const { number } of client.count({ count: 10n })) taken.push(Number(number));
    })();
    await failure(run, Code.OutOfRange, /two is too much/);
    assert.deepEqual(taken, [0, 1]);
    assert.equal((await client.echo({ number: 1n })).number, 1n);
  });

  test("handlers have the server's context values", async (context) => {
    const { client, server } = await scene.connect(context);
    const call = scene.newCall();
    await all(client.chat(items(1), scripted({}, call)));
    assert.equal((await server.seen(call)).value, "of the server");
    await client.sum(items(1), scripted({}, call));
    assert.equal((await server.seen(call)).value, "of the server");
  });
}

async function* plusTen<T extends object>(messages: AsyncIterable<T>): AsyncGenerator<T> {
  for await (const message of messages) {
    if ("number" in message) message.number = (message.number as bigint) + 10n;
    yield message;
  }
}

async function* upToTwo<T extends object>(messages: AsyncIterable<T>): AsyncGenerator<T> {
  for await (const message of messages) {
    if (numberOf(message) === 2) throw new ConnectError("two is too much", Code.OutOfRange);
    yield message;
  }
}
