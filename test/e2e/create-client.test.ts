/** The package's `createClient` beside Connect's: the same calls, the same results, over every carrier. */
import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { before, describe, test } from "node:test";
import type { Client, Transport } from "@connectrpc/connect";
import {
  Code,
  ConnectError,
  createClient as createConnectClient,
  createContextKey,
  createContextValues,
} from "@connectrpc/connect";
import type { IsthmusTransport, IsthmusTransportOptions } from "../../src/index.js";
import { createClient, createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { createProtobufCodec } from "../../src/codec/codec.js";
import { StreamService } from "../proto/streams_pb.js";
import { EchoReplySchema, TestService } from "../proto/test_pb.js";
import { CARRIER } from "../support/carriers.js";
import { serveOwn } from "../support/own-routes.js";
import { suiteOwner, tempSocket } from "../support/temp.js";
import type { TestServer } from "../support/test-server.js";
import { startServer } from "../support/test-server.js";
import { FAIL_FAST, failure, waitUntil } from "../support/waiting.js";

const CARRIERS = CARRIER === "shm" ? (["shm", "socket"] as const) : (["socket"] as const);

type TestClient = Client<typeof TestService>;

/** What became of a call, in a form that can be compared. */
async function outcomeOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    return { message: await promise };
  } catch (error) {
    if (!(error instanceof ConnectError)) return { thrown: error };
    const { code, rawMessage, details, metadata } = error;
    return { code: Code[code], rawMessage, details, metadata: [...metadata], cause: error.cause !== undefined };
  }
}

const throwing = <T>(name: string): T =>
  Object.defineProperty({}, name, {
    get() {
      throw new Error(`${name} cannot be read`);
    },
  }) as T;

const calls: [what: string, call: (client: TestClient) => Promise<unknown>][] = [
  ["a call", (client) => client.echo({ text: "hi", number: 5n, data: Uint8Array.of(1, 2) })],
  ["an empty request", (client) => client.echo({})],
  ["200 kB each way", async (client) => (await client.echo({ data: new Uint8Array(200_000).fill(3) })).data.length],
  ["headers", (client) => client.echo({ text: "h" }, { headers: { "x-a": "1" } })],
  ["headers as a list", (client) => client.echo({ text: "h" }, { headers: [["x-a", "1"]] })],
  ["a header that is none", (client) => client.echo({}, { headers: { "x a": "1" } })],
  ["an error with metadata and details", (client) => client.fail({ code: 5, message: "no", details: ["d"] })],
  ["an error that is none of Connect's", (client) => client.fail({ message: "plain", plain: true })],
  ["a deadline that passes", (client) => client.wait({ milliseconds: 60_000 }, { timeoutMs: 30 })],
  ["a deadline that does not pass", (client) => client.echo({ text: "t" }, { timeoutMs: 60_000 })],
  ["a deadline of NaN", (client) => client.echo({ text: "t" }, { timeoutMs: NaN })],
  ["a deadline that is no number", (client) => client.echo({}, { timeoutMs: "5s" as unknown as number })],
  ["a signal that has aborted", (client) => client.echo({}, { signal: AbortSignal.abort(new Error("mine")) })],
  [
    "a signal that aborts later",
    (client) => client.wait({ milliseconds: 60_000 }, { signal: AbortSignal.timeout(20) }),
  ],
  ["a signal that is none", (client) => client.echo({}, { signal: {} as AbortSignal })],
  ["a value of the wrong type", (client) => client.echo({ text: 5 as unknown as string })],
  ["a request that is null", (client) => client.echo(null as never)],
  ["a request that throws", (client) => client.echo(throwing("text"))],
  ["options that throw", (client) => client.echo({ text: "o" }, throwing("signal"))],
  ["options of null", (client) => client.echo({ text: "o" }, null as never)],
  ["a method without a handler", (client) => client.unfinished({})],
];

for (const carrier of CARRIERS) {
  describe(`createClient, over ${carrier}`, () => {
    const owner = suiteOwner();
    let server: TestServer;
    let transport: IsthmusTransport;
    let ours: TestClient;
    let connects: TestClient;
    const connect = (options: Partial<IsthmusTransportOptions> = {}) => {
      const made = createIsthmusTransport({ carrier, ...options, address: server.path });
      owner.after(() => made.close());
      return made;
    };
    before(async () => {
      server = await startServer(owner, "two processes");
      transport = connect();
      ours = createClient(TestService, transport);
      connects = createConnectClient(TestService, transport);
      await ours.echo({});
      assert.equal(transport.carrier, carrier);
    });

    for (const [what, call] of calls) {
      test(`as with Connect's client: ${what}`, async () => {
        const [mine, theirs] = [await outcomeOf(call(ours)), await outcomeOf(call(connects))];
        assert.deepEqual(mine, theirs);
      });
    }

    test("a call is one promise, made in its turn, and is sent before the next line runs", async (context) => {
      const { transport: own } = await serveOwn(context, { echo: ({ text }) => ({ text }) }, { client: { carrier } });
      const client = createClient(TestService, own);
      await client.echo({});
      const request = { text: "first" };
      const promise = client.echo(request);
      assert.ok(promise instanceof Promise);
      request.text = "second";
      assert.equal((await promise).text, "first");
    });

    test("methods can be taken out of their client, listed and replaced", async () => {
      const { echo } = ours;
      assert.equal((await echo({ text: "alone" })).text, "alone");
      assert.deepEqual(Object.keys(ours), Object.keys(connects));
      const patched = createClient(TestService, transport);
      patched.echo = () => Promise.resolve({ text: "patched" } as never);
      assert.equal((await patched.echo({})).text, "patched");
    });

    test("onHeader and onTrailer are called, and headers arrive", async () => {
      const seen: (string | null)[] = [];
      await ours.echo(
        {},
        {
          headers: { "x-a": "1" },
          onHeader: (headers) => seen.push(headers.get("x-a")),
          onTrailer: (trailers) => seen.push(trailers.get("x-trailer-a")),
        },
      );
      assert.deepEqual(seen, ["1", "1"]);
    });

    test("the three kinds of streams", async () => {
      const streams = createClient(StreamService, transport);
      const numbers: bigint[] = [];
      for await (const { number } of streams.count({ count: 3n })) numbers.push(number);
      assert.deepEqual(numbers, [0n, 1n, 2n]);
      const items = async function* () {
        for (const number of [1n, 2n, 3n]) yield await Promise.resolve({ number });
      };
      assert.equal((await streams.sum(items())).sum, 6n);
      const back: bigint[] = [];
      for await (const { number } of streams.chat(items())) back.push(number);
      assert.deepEqual(back, [1n, 2n, 3n]);
      assert.equal((await streams.echo({ number: 7n })).number, 7n);
    });

    test("a thousand calls at once each get their own answer", async () => {
      const replies = await Promise.all(Array.from({ length: 1000 }, (_, i) => ours.echo({ number: BigInt(i) })));
      assert.deepEqual(
        replies.map(({ number }) => Number(number)),
        Array.from({ length: 1000 }, (_, i) => i),
      );
    });

    test("calls of both clients at once do not mix up what they resolve with", async () => {
      const mixed = await Promise.all(
        Array.from({ length: 400 }, async (_, i) => {
          const message = await (i % 2 === 0 ? ours : connects).echo({ number: BigInt(i) });
          return message.$typeName === EchoReplySchema.typeName && message.number === BigInt(i);
        }),
      );
      assert.ok(mixed.every(Boolean));
    });

    test("more calls than the server takes at once", async (context) => {
      const { transport: own } = await serveOwn(
        context,
        {
          echo: async ({ number }) => {
            await new Promise((resolve) => setImmediate(resolve));
            return { number };
          },
        },
        { server: { maxStreams: 4 }, client: { carrier } },
      );
      const client = createClient(TestService, own);
      const replies = await Promise.all(Array.from({ length: 100 }, (_, i) => client.echo({ number: BigInt(i) })));
      assert.ok(replies.every(({ number }, i) => number === BigInt(i)));
    });

    test("the caller's store of AsyncLocalStorage is there after the call", async () => {
      const store = new AsyncLocalStorage<number>();
      const seen = await Promise.all(
        Array.from({ length: 20 }, (_, i) =>
          store.run(i, async () => {
            await ours.echo({});
            return store.getStore();
          }),
        ),
      );
      assert.deepEqual(
        seen,
        Array.from({ length: 20 }, (_, i) => i),
      );
      store.disable();
    });

    test("interceptors are called, with the context values of the call", async () => {
      const key = createContextKey("nobody");
      const seen: string[] = [];
      const intercepted = connect({
        interceptors: [
          (next) => (request) => {
            seen.push(request.contextValues.get(key));
            return next(request);
          },
        ],
      });
      const client = createClient(TestService, intercepted);
      assert.equal(
        (await client.echo({ text: "i" }, { contextValues: createContextValues().set(key, "me") })).text,
        "i",
      );
      assert.deepEqual(seen, ["me"]);
    });

    test("a transport whose `unary` was wrapped is called through the wrapper", async () => {
      const wrapped = connect();
      const unary = wrapped.unary.bind(wrapped);
      let count = 0;
      wrapped.unary = ((...parameters: Parameters<Transport["unary"]>) => {
        count++;
        return unary(...parameters);
      }) as Transport["unary"];
      const client = createClient(TestService, wrapped);
      assert.equal((await client.echo({ text: "w" })).text, "w");
      const derived = createClient(TestService, Object.create(wrapped) as Transport);
      assert.equal((await derived.echo({ text: "d" })).text, "d");
      assert.equal(count, 2);
    });

    test("a codec of the user's own", async () => {
      const coded = connect({ codec: createProtobufCodec() });
      assert.equal((await createClient(TestService, coded).echo({ text: "c" })).text, "c");
    });

    test("what waits for a connection can be canceled, fails fast if it asks to, and is sent when a server comes", async (context) => {
      const path = tempSocket(context);
      const alone = createIsthmusTransport({ address: path, carrier, waitForReady: true });
      context.after(() => alone.close());
      const client = createClient(TestService, alone);
      const controller = new AbortController();
      const canceled = client.echo({}, { signal: controller.signal });
      const sent = client.echo({ text: "at last" });
      await failure(client.echo({}, FAIL_FAST), Code.Unavailable, /(?:)/);
      controller.abort(new Error("not any more"));
      await failure(canceled, Code.Canceled, /not any more/);
      const late = createIsthmusServer({
        routes: ({ service }) => service(TestService, { echo: ({ text }) => ({ text }) }),
      });
      context.after(() => late.close({ timeoutMs: 0 }));
      await late.listen(path);
      assert.equal((await sent).text, "at last");
    });

    test("calls end with Unavailable when the server ends, and later ones find the next server", async (context) => {
      const path = tempSocket(context);
      const serve = async () => {
        const made = createIsthmusServer({
          routes: ({ service }) =>
            service(TestService, { echo: ({ text }) => ({ text }), wait: () => new Promise(() => undefined) }),
        });
        await made.listen(path);
        context.after(() => made.close({ timeoutMs: 0 }));
        return made;
      };
      const first = await serve();
      const own = createIsthmusTransport({ address: path, carrier });
      context.after(() => own.close());
      const client = createClient(TestService, own);
      await client.echo({});
      const lost = failure(client.wait({ milliseconds: 60_000 }), Code.Unavailable, /(?:)/);
      await waitUntil("the call to arrive", () => first.stats().pendingCalls === 1);
      await first.close({ timeoutMs: 0 });
      await lost;
      await serve();
      assert.equal((await client.echo({ text: "again" })).text, "again");
    });
  });
}

test("over other transports it is Connect's client", async (context) => {
  const { path, server } = await serveOwn(context, { echo: ({ text }) => ({ text }) });
  const { address } = await server.listen("http://127.0.0.1:0");
  for (const [what, given] of [
    ["http", address],
    ["several addresses", [path, address]],
  ] as const) {
    const transport = createIsthmusTransport({ address: given });
    context.after(() => transport.close());
    assert.equal((await createClient(TestService, transport).echo({ text: what })).text, what);
  }
  const foreign: Transport = {
    unary: () => Promise.reject(new ConnectError("foreign", Code.Aborted)),
    stream: () => Promise.reject(new ConnectError("foreign", Code.Aborted)),
  };
  await failure(createClient(TestService, foreign).echo({}), Code.Aborted, /foreign/);
});
