/**
 * Streams as a user sees them: all kinds, their ends, headers, limits and interceptors. Flow control is in
 * stream-credit.test.ts.
 */
import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { once } from "node:events";
import { describe, test } from "node:test";
import { setImmediate as turn, setTimeout as sleep } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import type { HandlerContext, Interceptor } from "@connectrpc/connect";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { collectSoon } from "../../src/memory/v8/gc.js";
import type { Item } from "../proto/streams_pb.js";
import { StreamService, SumReplySchema } from "../proto/streams_pb.js";
import { allEnded, collect, items, serveStreams } from "../support/own-streams.js";
import { suiteOwner } from "../support/temp.js";
import { PLACES, startServer } from "../support/test-server.js";
import { createIsthmusTransport } from "../../src/index.js";
import { failure, waitUntil } from "../support/waiting.js";

const NO_ITEM = Promise.resolve({});

for (const place of PLACES) {
  describe(`streams, ${place}`, () => {
    const owner = suiteOwner();
    const start = async () => {
      const server = await startServer(owner, place);
      const transport = createIsthmusTransport({ address: server.path });
      owner.after(() => transport.close());
      return { server, transport, client: createClient(StreamService, transport) };
    };
    const here = start();

    for (const count of [0, 1, 2, 20_000]) {
      test(`${count} messages arrive in order, in every kind of stream`, async () => {
        const { client, transport } = await here;
        const expected = Array.from({ length: count }, (_, i) => BigInt(i));
        assert.deepEqual(
          (await collect(client.count({ count: BigInt(count), dataBytes: 5 }))).map(({ number }) => number),
          expected,
        );
        const { sum, items: summed } = await client.sum(items(count));
        assert.deepEqual([summed, sum], [BigInt(count), expected.reduce((all, number) => all + number, 0n)]);
        assert.deepEqual(
          (await collect(client.chat(items(count)))).map(({ number }) => number),
          expected,
        );
        assert.equal(transport.stats().pendingCalls, 0);
      });
    }

    for (const dataBytes of [20_000, 300_000, 3_000_000]) {
      test(`messages of ${dataBytes} bytes go both ways`, async () => {
        const { client } = await here;
        const back = await collect(client.chat(items(8, dataBytes)));
        assert.deepEqual(
          back.map(({ number, data }) => [number, data.length, data.every((byte) => byte === Number(number))]),
          Array.from({ length: 8 }, (_, i) => [BigInt(i), dataBytes, true]),
        );
      });
    }

    test("answers come while the request's stream is open", async () => {
      const { client } = await here;
      let give!: (item: Pick<Item, "text">) => void;
      const next = () => new Promise<Pick<Item, "text">>((resolve) => (give = resolve));
      let asked = next();
      async function* talk() {
        for (;;) {
          const item = await asked;
          if (item.text === "") return;
          yield item;
        }
      }
      const answers = client.chat(talk())[Symbol.asyncIterator]();
      for (const text of ["a", "b", "c"]) {
        const answer = answers.next();
        const say = give;
        asked = next();
        const later = give;
        give = later;
        say({ text });
        assert.equal(((await answer).value as Item).text, text);
      }
      give({ text: "" });
      assert.equal((await answers.next()).done, true);
    });

    test("headers come before the first message, trailers after the last", async () => {
      const { client } = await here;
      for (const method of ["count", "chat", "sum"] as const) {
        const seen: string[] = [];
        const options = {
          headers: { "x-token": "42" },
          onHeader: (headers: Headers) => void seen.push(`header ${headers.get("x-token")}`),
          onTrailer: (headers: Headers) => void seen.push(`trailer ${headers.get("x-trailer-token")}`),
        };
        if (method === "sum") await client.sum(items(2), options);
        else
          for await (const { number } of method === "count"
            ? client.count({ count: 2n }, options)
            : client.chat(items(2), options))
            seen.push(String(number));
        assert.deepEqual(seen, method === "sum" ? ["header 42", "trailer 42"] : ["header 42", "0", "1", "trailer 42"]);
      }
    });

    test("an error after some messages comes after them, with its metadata", async () => {
      const { client } = await here;
      const seen: bigint[] = [];
      const run = (async () => {
        for await (const { number } of client.count(
          { count: 1000n, failCode: Code.NotFound, failMessage: "no more" },
          { headers: { "x-token": "7" } },
        ))
          seen.push(number);
      })();
      const error = await failure(run, Code.NotFound, /no more/);
      assert.equal(seen.length, 1000);
      assert.equal(error.metadata.get("x-failed"), "yes");
      assert.equal(error.metadata.get("x-token"), "7");
    });

    test("a deadline ends a stream at both ends", async () => {
      const { client, server, transport } = await here;
      const run = collect(client.count({ count: 1_000_000n, pauseMs: 10 }, { timeoutMs: 60 }));
      await failure(run, Code.DeadlineExceeded, /timed out/);
      assert.equal(transport.stats().pendingCalls, 0);
      await waitUntil("the server to have ended it", async () => (await server.stats()).openStreams === 0);
    });

    test("an aborted signal ends a stream at both ends", async () => {
      const { client, server, transport } = await here;
      const abort = new AbortController();
      const run = (async () => {
        for await (const { number } of client.count({ count: 1_000_000n, pauseMs: 1 }, { signal: abort.signal }))
          if (number === 5n) abort.abort();
      })();
      await failure(run, Code.Canceled, /aborted/);
      assert.equal(transport.stats().pendingCalls, 0);
      await waitUntil("the server to have ended it", async () => (await server.stats()).openStreams === 0);
    });
  });
}

describe("the end of a stream", () => {
  test("a handler's signal aborts, its generator ends and its requests throw when the client cancels", async (context) => {
    const seen: string[] = [];
    const own = await serveStreams(context, {
      async *chat(requests, { signal }: HandlerContext) {
        signal.addEventListener("abort", () => seen.push(`signal: ${(signal.reason as ConnectError).message}`));
        try {
          for await (const request of requests) yield request;
        } catch (error) {
          seen.push(`requests: ${Code[(error as ConnectError).code]}`);
          throw error;
        } finally {
          seen.push("finally");
        }
      },
    });
    const abort = new AbortController();
    async function* endless() {
      yield { text: "a" };
      await once(abort.signal, "abort");
    }
    const answers = own.client.chat(endless(), { signal: abort.signal })[Symbol.asyncIterator]();
    await answers.next();
    const pending = answers.next();
    abort.abort();
    await failure(pending, Code.Canceled, /aborted/);
    await waitUntil("the handler to end", () => seen.length === 3 || seen.join());
    assert.deepEqual(
      new Set(seen),
      new Set(["signal: [canceled] the client canceled the call", "requests: Canceled", "finally"]),
    );
    await allEnded(own);
  });

  test("a generator that waits at its yield runs its finally when the client leaves", async (context) => {
    let closed = 0;
    const own = await serveStreams(context, {
      async *count() {
        try {
          for (;;) yield await Promise.resolve({ data: new Uint8Array(10_000) });
        } finally {
          closed++;
        }
      },
    });
    const response = await own.transport.stream(
      StreamService.method.count,
      undefined,
      undefined,
      undefined,
      items(1) as AsyncIterable<never>,
    );
    for await (const item of response.message) if (item.data.length > 0) break;
    await waitUntil("the generator to be closed", () => closed === 1);
    await allEnded(own);
  });

  test("a stream that its user forgot is canceled once that is noticed", async (context) => {
    const own = await serveStreams(context, {
      async *count() {
        for (;;) yield await sleep(1, {});
      },
    });
    // Connect's client hides `return` from `break`.
    await (async () => {
      for await (const item of own.client.count({})) if (item.number === 0n) break;
    })();
    assert.equal(own.server.stats().openStreams, 1);
    await waitUntil("the forgotten stream to end", async () => {
      collectSoon();
      await turn();
      return own.server.stats().openStreams === 0;
    });
    await allEnded(own);
  });

  test("iterators of the user's whose results are none fail their call, and nothing else", async (context) => {
    const broken = { [Symbol.asyncIterator]: () => ({ next: () => Promise.resolve(undefined as never) }) };
    const own = await serveStreams(context, {
      count: () => broken,
      async *chat(requests) {
        yield* requests;
      },
    });
    await failure(collect(own.client.count({})), Code.Internal, /internal error/);
    await failure(collect(own.client.chat(broken)), Code.Internal, /not an object but undefined/);
    await allEnded(own);
  });

  test("who sends nothing sends an empty message, as everywhere in Connect", async (context) => {
    const nothing = () => Promise.resolve(undefined as never);
    const own = await serveStreams(context, {
      echo: nothing,
      sum: nothing,
      async *count() {
        yield await nothing();
        yield null as never;
      },
      async *chat(requests) {
        for await (const { number } of requests) yield { number: number + 1n };
      },
    });
    const { client } = own;
    const sent = (async function* () {
      yield await nothing();
      yield { number: 5n };
    })();
    assert.deepEqual(
      (await collect(client.chat(sent))).map(({ number }) => number),
      [1n, 6n],
    );
    assert.deepEqual(
      (await collect(client.count(undefined as never))).map(({ number }) => number),
      [0n, 0n],
    );
    assert.equal((await client.sum(items(0))).sum, 0n);
    assert.equal((await client.echo(undefined as never)).text, "");
    await allEnded(own);
  });

  test("a handler that has answered ends the request's stream, and its generator", async (context) => {
    let closed = false;
    const own = await serveStreams(context, {
      async sum(requests) {
        for await (const { number } of requests) if (number === 3n) break;
        return { items: 3n };
      },
    });
    async function* endless() {
      try {
        for (let number = 0n; ; number++) yield await sleep(1, { number });
      } finally {
        closed = true;
      }
    }
    assert.equal((await own.client.sum(endless())).items, 3n);
    await waitUntil("the request's generator to be closed", () => closed);
    await allEnded(own);
  });

  test("a request's generator that throws fails the call, and the server learns it", async (context) => {
    let code: string | undefined;
    const own = await serveStreams(context, {
      async sum(requests, { signal }) {
        signal.addEventListener("abort", () => (code = Code[(signal.reason as ConnectError).code]));
        for await (const item of requests) void item;
        return {};
      },
    });
    async function* broken(error: Error) {
      yield await Promise.resolve({});
      throw error;
    }
    await failure(own.client.sum(broken(new Error("no more of it"))), Code.Internal, /no more of it/);
    await waitUntil("the handler to be told", () => code === "Canceled" || code);
    await failure(own.client.sum(broken(new ConnectError("mine", Code.OutOfRange))), Code.OutOfRange, /mine/);
    await allEnded(own);
  });

  test("handlers that throw, or return what is no stream, fail the call", async (context) => {
    const own = await serveStreams(context, {
      count: () => {
        throw new ConnectError("at once", Code.AlreadyExists);
      },
      sum: () => Promise.reject(new Error("secret")),
      chat: () => undefined as never,
    });
    await failure(collect(own.client.count({})), Code.AlreadyExists, /at once/);
    await failure(own.client.sum(items(3)), Code.Internal, /internal error/);
    await failure(collect(own.client.chat(items(3))), Code.Internal, /internal error/);
    await allEnded(own);
    await failure(collect(own.client.chat(items(3))), Code.Internal, /internal error/);
  });

  test("messages that cannot be encoded, or are too large, fail the call at either end", async (context) => {
    const own = await serveStreams(
      context,
      {
        async *count({ dataBytes }) {
          if (dataBytes === 0) yield await Promise.resolve({ number: "seven" as unknown as bigint });
          yield { data: new Uint8Array(dataBytes) };
        },
        async *chat(requests) {
          for await (const request of requests) yield request;
        },
      },
      { server: { writeMaxBytes: 200_000, readMaxBytes: 100_000 }, client: { readMaxBytes: 150_000 } },
    );
    await failure(collect(own.client.count({ dataBytes: 0 })), Code.Internal, /number/);
    await failure(collect(own.client.count({ dataBytes: 250_000 })), Code.ResourceExhausted, /writeMaxBytes 200000/);
    await failure(collect(own.client.count({ dataBytes: 180_000 })), Code.ResourceExhausted, /readMaxBytes 150000/);
    await failure(collect(own.client.chat(items(3, 120_000))), Code.ResourceExhausted, /readMaxBytes 100000/);
    async function* wrong() {
      yield await Promise.resolve({ number: "seven" as unknown as bigint });
    }
    await failure(collect(own.client.chat(wrong())), Code.Internal, /number/);
    assert.equal((await collect(own.client.chat(items(3, 90_000)))).length, 3);
    await allEnded(own);
  });

  test("the loss of the connection fails streams with Unavailable, after what had arrived", async (context) => {
    const own = await serveStreams(context, {
      async *count(_, { signal }) {
        yield await Promise.resolve({});
        await once(signal, "abort");
      },
    });
    const seen: Item[] = [];
    const run = (async () => {
      for await (const item of own.client.count({})) {
        seen.push(item);
        void own.server.close({ timeoutMs: 0 });
      }
    })();
    await failure(run, Code.Unavailable, /connection lost/);
    assert.equal(seen.length, 1);
    assert.equal(own.transport.stats().pendingCalls, 0);
  });

  test("a server that closes lets open streams finish and takes no new ones", async (context) => {
    let go!: () => void;
    const gate = new Promise<void>((resolve) => (go = resolve));
    const own = await serveStreams(context, {
      async *count() {
        yield {};
        await gate;
        yield {};
      },
    });
    const answers = own.client.count({})[Symbol.asyncIterator]();
    await answers.next();
    const closed = own.server.close();
    await sleep(20);
    go();
    assert.equal((await answers.next()).done, false);
    assert.equal((await answers.next()).done, true);
    await closed;
  });
});

describe("streams and the rest", () => {
  const doubling: Interceptor = (next) => async (request) => {
    if (!request.stream) return next(request);
    async function* map(messages: AsyncIterable<{ number?: bigint }>) {
      for await (const message of messages) {
        if (message.number !== undefined) message.number *= 2n;
        yield message;
      }
    }
    request.header.set("x-intercepted", "yes");
    const response = await next({ ...request, message: map(request.message as AsyncIterable<Item>) as never });
    assert.ok(response.stream);
    return { ...response, message: map(response.message as AsyncIterable<Item>) as never };
  };

  test("interceptors of both ends see and map the messages of both directions", async (context) => {
    let seen: string | null = null;
    const own = await serveStreams(
      context,
      {
        async *chat(requests, { requestHeader, responseHeader, responseTrailer }) {
          seen = requestHeader.get("x-intercepted");
          responseHeader.set("x-late", "yes");
          for await (const { number } of requests) yield { number };
          responseTrailer.set("x-last", "yes");
        },
        async *count({ count }) {
          yield await Promise.resolve({ number: count });
        },
        async sum(requests) {
          let sum = 0n;
          for await (const { number } of requests) sum += number;
          return { sum };
        },
      },
      { server: { interceptors: [doubling] }, client: { interceptors: [doubling] } },
    );
    const headers: (string | null)[] = [];
    const options = {
      onHeader: (header: Headers) => void headers.push(header.get("x-late")),
      onTrailer: (trailer: Headers) => void headers.push(trailer.get("x-last")),
    };
    assert.deepEqual(
      (await collect(own.client.chat(items(3), options))).map(({ number }) => number),
      [0n, 16n, 32n],
    );
    assert.deepEqual(headers, ["yes", "yes"]);
    assert.equal(seen, "yes");
    assert.deepEqual(
      (await collect(own.client.count({ count: 3n }))).map(({ number }) => number),
      [12n],
    );
    assert.equal((await own.client.sum(items(3))).sum, 12n);
    await allEnded(own);
  });

  test("a client with interceptors can abort, run out of time and be refused", async (context) => {
    const own = await serveStreams(
      context,
      {
        async *count(_, { signal }) {
          yield await Promise.resolve({});
          await once(signal, "abort");
        },
      },
      { client: { interceptors: [doubling] } },
    );
    await failure(collect(own.client.count({}, { timeoutMs: 40 })), Code.DeadlineExceeded, /timed out/);
    const abort = new AbortController();
    const run = collect(own.client.count({}, { signal: abort.signal }));
    setTimeout(() => abort.abort(), 30);
    await failure(run, Code.Canceled, /aborted/);
    await failure(own.client.sum(items(1)), Code.Unimplemented, /Sum is not implemented/);
    await allEnded(own);
  });

  test("the request's generator runs in its user's async context, also after it had to wait", async (context) => {
    const own = await serveStreams(context, {
      async sum(requests) {
        for await (const item of requests) if (item.number % 20n === 0n) await sleep(1);
        return {};
      },
    });
    const storage = new AsyncLocalStorage<string>();
    const seen = new Set<string | undefined>();
    await storage.run("mine", async () => {
      async function* watched() {
        for await (const item of items(300, 20_000)) {
          seen.add(storage.getStore());
          yield item;
        }
      }
      await own.client.sum(watched());
    });
    assert.deepEqual([...seen], ["mine"]);
  });

  test("streams wait for a free slot like other calls", async (context) => {
    const own = await serveStreams(
      context,
      {
        async *chat(requests) {
          for await (const request of requests) yield request;
        },
      },
      { server: { maxStreams: 2 } },
    );
    const all = await Promise.all(Array.from({ length: 20 }, () => collect(own.client.chat(items(50)))));
    assert.ok(all.every((answers) => answers.length === 50));
    await allEnded(own);
  });

  test("an endless generator leaves timers and other calls their turns", async (context) => {
    const own = await serveStreams(context, {
      async *count() {
        for (;;) yield await NO_ITEM;
      },
    });
    const abort = new AbortController();
    let pulled = 0;
    const run = (async () => {
      for await (const item of own.client.count({}, { signal: abort.signal })) pulled += Number(item.number) + 1;
    })();
    await waitUntil("messages to flow", () => pulled > 1000);
    for (let i = 0; i < 5; i++) await own.client.echo({});
    await sleep(5);
    abort.abort();
    await failure(run, Code.Canceled, /aborted/);
    await allEnded(own);
  });

  test("options that make no sense are refused", () => {
    for (const streamWindowBytes of [0, 1023, 1.5, NaN, -1, 2 ** 31]) {
      assert.throws(
        () => createIsthmusTransport({ address: "/tmp/x", streamWindowBytes }),
        /streamWindowBytes: expected a whole number of bytes from 1024 to/,
      );
    }
  });
});

test("the only answer to a stream may be of any size", async (context) => {
  const long = new BinaryWriter().bytes(new Uint8Array(400_000)).finish();
  const own = await serveStreams(context, {
    async sum(received) {
      const reply = create(SumReplySchema, { items: BigInt((await collect(received)).length) });
      // The type has no long fields.
      reply.$unknown = [{ no: 100, wireType: WireType.LengthDelimited, data: long }];
      return reply;
    },
  });
  for (const count of [1, 3]) {
    const reply = await own.client.sum(items(count));
    assert.equal(reply.items, BigInt(count));
    assert.deepEqual(
      reply.$unknown?.map(({ no, data }) => [no, data.length]),
      [[100, long.length]],
    );
  }
  await allEnded(own);
});
