/** `createClient` of Isthmus: calls end as through Connect's client, over every kind of transport. */
import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { getEventListeners } from "node:events";
import { before, describe, mock, test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import type { DescService } from "@bufbuild/protobuf";
import type { CallOptions, Client, Transport } from "@connectrpc/connect";
import {
  Code,
  ConnectError,
  createClient as createConnectClient,
  createContextValues,
  createRouterTransport,
} from "@connectrpc/connect";
import type { IsthmusTransport, IsthmusTransportOptions } from "../../src/index.js";
import { createClient, createIsthmusServer, createIsthmusTransport, waitForReady } from "../../src/index.js";
import { StreamService } from "../proto/streams_pb.js";
import { EchoReplySchema, EchoRequestSchema, TestService } from "../proto/test_pb.js";
import { onlyWithAddon } from "../support/carriers.js";
import { ODD_VALUES } from "../support/odd-values.js";
import { serveSilently } from "../support/other-servers.js";
import type { Owner } from "../support/temp.js";
import { suiteOwner, tempSocket } from "../support/temp.js";
import type { TestServerProcess } from "../support/test-server.js";
import { serveInChild } from "../support/test-server.js";
import { testRoutes } from "../support/test-service.js";
import { FAIL_FAST, failure, waitUntil } from "../support/waiting.js";

type TestClient = Client<typeof TestService>;

function transportTo(owner: Owner, path: string, options: Partial<IsthmusTransportOptions> = {}): IsthmusTransport {
  const transport = createIsthmusTransport({ ...options, address: path });
  owner.after(() => transport.close());
  return transport;
}

/** How many unary calls of a local transport made a response object, as those of Connect's client do. */
function countResponses(transport: IsthmusTransport): () => number {
  const prototype = Object.getPrototypeOf(transport) as { call: (request: { wantsMessage: boolean }) => unknown };
  const { call } = prototype;
  let count = 0;
  Object.defineProperty(transport, "call", {
    value(request: { wantsMessage: boolean }) {
      if (!request.wantsMessage) count++;
      return call.call(this, request);
    },
  });
  return () => count;
}

async function* items(...numbers: number[]) {
  for (const number of numbers) yield await Promise.resolve({ number: BigInt(number) });
}

async function all<T>(messages: AsyncIterable<T>): Promise<T[]> {
  const read: T[] = [];
  for await (const message of messages) read.push(message);
  return read;
}

/** What is visible of a call's end. Texts lose what differs between any two calls. */
async function endOf(call: () => unknown): Promise<unknown> {
  try {
    return { message: await call() };
  } catch (error) {
    if (!(error instanceof ConnectError)) return { thrown: String(error), name: (error as Error).constructor.name };
    const { code, message, rawMessage, details } = error;
    const metadata = [...error.metadata].filter(([name]) => name.startsWith("x-"));
    const cause = error.cause instanceof Error ? `${error.cause.name}: ${error.cause.message}` : typeof error.cause;
    return { code: Code[code], message, rawMessage, details, metadata, cause };
  }
}

interface Situation {
  readonly call: (client: TestClient) => unknown;
  /** That the situation is what its name says. */
  readonly ends: RegExp;
}

const unreadable = (name: string) =>
  Object.defineProperty({}, name, {
    get() {
      throw new RangeError(`${name} cannot be read`);
    },
  }) as CallOptions;

const SITUATIONS: Readonly<Record<string, Situation>> = {
  "an answer": { call: (client) => client.echo({ text: "a", number: 7n, data: Uint8Array.of(1) }), ends: /"a"/ },
  "a message that is made already": {
    call: (client) => client.echo(create(EchoRequestSchema, { text: "made" })),
    ends: /made/,
  },
  "an empty answer": { call: (client) => client.echo({}), ends: /EchoReply/ },
  "an answer of many fragments": {
    call: async (client) => (await client.echo({ data: new Uint8Array(1_000_000).fill(7) })).data.length,
    ends: /1000000/,
  },
  "options without any option": { call: (client) => client.echo({ text: "a" }, {}), ends: /"a"/ },
  "options that are null": {
    call: (client) => client.echo({ text: "a" }, null as unknown as CallOptions),
    ends: /"a"/,
  },
  "options that are undefined each": {
    call: (client) =>
      client.echo({ text: "a" }, {
        signal: undefined,
        timeoutMs: undefined,
        headers: undefined,
        contextValues: undefined,
        onHeader: undefined,
        onTrailer: null,
      } as unknown as CallOptions),
    ends: /"a"/,
  },
  "headers that nobody reads": {
    call: (client) => client.echo({ text: "a" }, { headers: { "x-a": "b" } }),
    ends: /"a"/,
  },
  "an error with metadata and details": {
    call: (client) =>
      client.fail(
        { code: Code.NotFound, message: "gone", details: ["d"] },
        { headers: [["x-sent", "along"]], timeoutMs: 60_000 },
      ),
    ends: /NotFound.*x-detail-bin.*x-sent/,
  },
  "a plain error of the handler": { call: (client) => client.fail({ plain: true }), ends: /Internal.*internal error/ },
  "a method without a handler": { call: (client) => client.unfinished({}), ends: /Unimplemented/ },
  "a deadline": {
    call: (client) => client.wait({ milliseconds: 60_000 }, { timeoutMs: 20 }),
    ends: /DeadlineExceeded/,
  },
  "a deadline that is lifted": { call: (client) => client.echo({ text: "a" }, { timeoutMs: 0 }), ends: /"a"/ },
  "a timeout that is no number": {
    call: (client) => client.echo({}, { timeoutMs: "10" as unknown as number }),
    ends: /InvalidArgument.*timeoutMs/,
  },
  "a signal that has aborted": {
    call: (client) => client.echo({}, { signal: AbortSignal.abort() }),
    ends: /Canceled/,
  },
  "a signal that aborts": {
    call(client) {
      const controller = new AbortController();
      const call = client.wait({ milliseconds: 60_000 }, { signal: controller.signal });
      controller.abort();
      return call;
    },
    ends: /Canceled/,
  },
  "a signal that aborts with a ConnectError": {
    call(client) {
      const controller = new AbortController();
      const call = client.wait({ milliseconds: 60_000 }, { signal: controller.signal });
      setImmediate(() => controller.abort(new ConnectError("no longer", Code.Aborted, { "x-own": "yes" })));
      return call;
    },
    ends: /Aborted.*no longer.*x-own/,
  },
  "a signal that is not an AbortSignal": {
    call: (client) => client.echo({}, { signal: {} as AbortSignal }),
    ends: /InvalidArgument.*AbortSignal/,
  },
  "headers that cannot be": {
    call: (client) => client.echo({}, { headers: { "no name": "b" } }),
    ends: /Internal/,
  },
  "headers that are too large": {
    call: (client) => client.echo({}, { headers: { "x-a": "a".repeat(100_000) } }),
    ends: /ResourceExhausted/,
  },
  "a field of the wrong type": {
    call: (client) => client.echo({ number: "seven" } as unknown as object),
    ends: /Internal.*serialize/,
  },
  "a detached payload": {
    call(client) {
      const data = Uint8Array.of(1);
      structuredClone(data.buffer, { transfer: [data.buffer] });
      return client.echo({ data });
    },
    ends: /data/,
  },
  "a context value": {
    call: (client) => client.echo({ text: "a" }, { contextValues: createContextValues().set(waitForReady, true) }),
    ends: /"a"/,
  },
  ...Object.fromEntries(
    ["signal", "timeoutMs", "headers", "contextValues", "onHeader", "onTrailer"].map((name) => [
      `${name} that cannot be read`,
      { call: (client: TestClient) => client.echo({}, unreadable(name)), ends: /RangeError/ },
    ]),
  ),
  "onHeader that throws": {
    call: (client) =>
      client.echo(
        {},
        {
          onHeader() {
            throw new RangeError("onHeader");
          },
        },
      ),
    ends: /RangeError/,
  },
  ...Object.fromEntries(
    Object.entries(ODD_VALUES).map(([name, make]) => [
      `${name} as the message`,
      { call: (client: TestClient) => client.echo(make() as object), ends: /./ },
    ]),
  ),
};

for (const carrier of ["shm", "socket"] as const) {
  describe(`createClient over ${carrier}`, { skip: carrier === "shm" && onlyWithAddon }, () => {
    const owner = suiteOwner();
    let server: TestServerProcess;
    let transport: IsthmusTransport;
    let client: TestClient;
    before(async () => {
      server = await serveInChild(owner);
      transport = transportTo(owner, server.path, { carrier });
      client = createClient(TestService, transport);
    });

    for (const [name, { call, ends }] of Object.entries(SITUATIONS)) {
      test(`a call ends as through Connect's client: ${name}`, async () => {
        const connects = await endOf(() => call(createConnectClient(TestService, transport)));
        const visible = JSON.stringify(connects, (_, value: unknown) =>
          typeof value === "bigint" ? String(value) : value instanceof Uint8Array ? [...value] : value,
        );
        assert.match(visible, ends);
        assert.deepEqual(await endOf(() => call(client)), connects);
      });
    }

    test("calls that want no headers take the short way, others do not", async () => {
      const own = transportTo(owner, server.path, { carrier });
      const client = createClient(TestService, own);
      const count = countResponses(own);
      await client.echo({});
      await client.echo({}, { timeoutMs: 1000, headers: { "x-a": "b" }, signal: new AbortController().signal });
      assert.equal(count(), 0);
      await client.echo({}, { onHeader: () => {} });
      await client.echo({}, { onTrailer: () => {} });
      assert.equal(count(), 2);
    });

    test("headers reach the handler, and come back to onHeader and onTrailer", async () => {
      const seen: (string | null)[] = [];
      const reply = await client.echo(
        { text: "a" },
        {
          headers: { "x-a": "b" },
          onHeader: (headers) => seen.push(headers.get("x-a")),
          onTrailer: (trailers) => seen.push(trailers.get("x-trailer-a")),
        },
      );
      assert.deepEqual([reply.text, seen], ["a", ["b", "b"]]);
    });

    test("the timeout reaches the handler", async () => {
      await client.wait({ milliseconds: 3 }, { timeoutMs: 54_321 });
      const seen = (await server.observations()).find(({ milliseconds }) => milliseconds === 3);
      assert.ok(seen!.timeoutMs! > 0 && seen!.timeoutMs! <= 54_321);
    });

    test("the default timeout holds, and a call lifts it", async () => {
      const own = createClient(TestService, transportTo(owner, server.path, { carrier, defaultTimeoutMs: 50 }));
      await failure(own.wait({ milliseconds: 60_000 }), Code.DeadlineExceeded, /timed out/);
      assert.equal((await own.wait({ milliseconds: 100 }, { timeoutMs: 0 })).text, "waited");
    });

    test("an abort reaches the handler, and a call leaves no listener on its signal", async () => {
      const controller = new AbortController();
      const { signal } = controller;
      for (let i = 0; i < 20; i++) await client.echo({}, { signal });
      assert.equal(getEventListeners(signal, "abort").length, 0);
      const call = client.wait({ milliseconds: 50_001 }, { signal });
      const seen = async () => (await server.observations()).find(({ milliseconds }) => milliseconds === 50_001);
      await waitUntil("the handler to run", async () => (await seen()) !== undefined);
      controller.abort();
      await failure(call, Code.Canceled, /abort/i);
      await waitUntil("the handler's signal to abort", async () => (await seen())!.aborted);
    });

    test("the methods are the object's own properties and need no receiver", async () => {
      const connects = createConnectClient(TestService, transport);
      assert.deepEqual(Object.keys(client), Object.keys(connects));
      assert.equal(Object.getPrototypeOf(client), Object.getPrototypeOf(connects));
      assert.deepEqual(
        Object.values(Object.getOwnPropertyDescriptors(client)).map(({ value, ...flags }) => [typeof value, flags]),
        Object.values(Object.getOwnPropertyDescriptors(connects)).map(({ value, ...flags }) => [typeof value, flags]),
      );
      const { echo, count } = client;
      assert.equal((await echo({ text: "a" })).text, "a");
      assert.equal((await all(count({ number: 3n }))).length, 3);
    });

    test("a thousand calls at once get each its own answer", async () => {
      const replies = await Promise.all(Array.from({ length: 1000 }, (_, i) => client.echo({ number: BigInt(i) })));
      assert.ok(replies.every(({ number }, i) => number === BigInt(i)));
    });

    test("calls that wait for a slot start in turn, time out and are canceled as others", async () => {
      const small = await serveInChild(owner, { maxStreams: 2 });
      const own = createClient(TestService, transportTo(owner, small.path, { carrier }));
      const controller = new AbortController();
      await own.echo({});
      const waits = [own.wait({ milliseconds: 200 }), own.wait({ milliseconds: 200 })];
      const late = failure(own.echo({}, { timeoutMs: 10 }), Code.DeadlineExceeded, /waited for other calls/);
      const canceled = failure(own.echo({}, { signal: controller.signal }), Code.Canceled, /abort/i);
      const queued = Array.from({ length: 100 }, (_, i) => own.echo({ number: BigInt(i) }));
      controller.abort();
      await Promise.all([late, canceled, ...waits]);
      assert.ok((await Promise.all(queued)).every(({ number }, i) => number === BigInt(i)));
    });

    test("calls that wait for a slot when the server closes move to the next one", async () => {
      const old = await serveInChild(owner, { maxStreams: 1 });
      const own = createClient(TestService, transportTo(owner, old.path, { carrier }));
      await own.echo({});
      const held = own.wait({ milliseconds: 300 });
      const queued = Array.from({ length: 20 }, (_, i) => own.echo({ number: BigInt(i) }));
      await waitUntil("the call to be there", async () => (await old.observations()).length === 1);
      const closing = old.close(10_000);
      const next = createIsthmusServer({ routes: testRoutes });
      owner.after(() => next.close({ timeoutMs: 0 }));
      await waitUntil("the path to be free", () =>
        next.listen(old.path, { takeover: true }).then(
          () => true,
          () => false,
        ),
      );
      assert.equal((await held).text, "waited");
      assert.ok((await Promise.all(queued)).every(({ number }, i) => number === BigInt(i)));
      await closing;
    });

    test("calls in flight and calls after them fail when the server is killed", async () => {
      const mortal = await serveInChild(owner);
      const own = createClient(TestService, transportTo(owner, mortal.path, { carrier }));
      const call = failure(own.wait({ milliseconds: 60_000 }), Code.Unavailable, /connection lost/);
      await waitUntil("the call to be there", async () => (await mortal.observations()).length === 1);
      await mortal.child.kill("SIGKILL");
      await call;
      await failure(own.echo({}, FAIL_FAST), Code.Unavailable, /./);
    });

    test("an awaiting caller keeps its async context", async () => {
      const storage = new AsyncLocalStorage<number>();
      await client.echo({});
      await Promise.all(
        Array.from({ length: 20 }, (_, i) =>
          storage.run(i, async () => {
            await client.echo({});
            assert.equal(storage.getStore(), i);
            await client.echo({}).then(() => assert.equal(storage.getStore(), i));
            await client.fail({ code: Code.NotFound }).catch(() => assert.equal(storage.getStore(), i));
          }),
        ),
      );
    });

    test("streams of every kind work", async () => {
      const streams = createClient(StreamService, transport);
      const headers: (string | null)[] = [];
      const options: CallOptions = {
        headers: { "x-a": "b" },
        onHeader: (header) => headers.push(header.get("x-a")),
        onTrailer: (trailer) => headers.push(trailer.get("x-trailer-a")),
      };
      assert.equal((await all(streams.count({ count: 5n }, options))).length, 5);
      assert.equal((await streams.sum(items(1, 2, 3), options)).sum, 6n);
      const chat = await all(streams.chat(items(1, 2, 3), options));
      assert.deepEqual(
        chat.map(({ number }) => number),
        [1n, 2n, 3n],
      );
      assert.deepEqual(
        headers,
        Array.from({ length: 6 }, () => "b"),
      );
      const failing = streams.count({ count: 1n, failCode: Code.DataLoss, failMessage: "lost" });
      await failure(all(failing), Code.DataLoss, /lost/);
    });
  });
}

describe("createClient before there is a connection", () => {
  const owner = suiteOwner();

  test("fails with the attempt, as Connect's does", async () => {
    const path = tempSocket(owner);
    const [ours, connects] = [createClient, createConnectClient].map((make) =>
      endOf(() => make(TestService, transportTo(owner, path)).echo({})),
    );
    const end = (await ours) as { code: string };
    assert.deepEqual(end, await connects);
    assert.equal(end.code, "Unavailable");
  });

  test("a call that waits for the server starts when it is there", async () => {
    const path = tempSocket(owner);
    const client = createClient(TestService, transportTo(owner, path));
    const contextValues = createContextValues().set(waitForReady, true);
    const call = client.echo({ text: "waited" }, { contextValues });
    await nextTurn();
    await serveInChild(owner, {}, { address: path });
    assert.equal((await call).text, "waited");
  });

  test("a call that waits can be canceled, and times out", async () => {
    const { path } = await serveSilently(owner);
    const client = createClient(TestService, transportTo(owner, path));
    const controller = new AbortController();
    const call = failure(client.echo({}, { signal: controller.signal }), Code.Canceled, /abort/i);
    await nextTurn();
    controller.abort();
    await call;
    await failure(client.echo({}, { timeoutMs: 20 }), Code.DeadlineExceeded, /timed out/);
  });

  test("a call over a closed transport fails", async () => {
    const transport = transportTo(owner, tempSocket(owner));
    await transport.close();
    await failure(createClient(TestService, transport).echo({}), Code.Unavailable, /closed/);
  });
});

describe("createClient over transports that it leaves to Connect's client", () => {
  const owner = suiteOwner();
  let server: TestServerProcess;
  before(async () => {
    server = await serveInChild(owner);
  });

  const check = async (transport: Transport) => {
    const client = createClient(TestService, transport);
    assert.equal((await client.echo({ text: "a" })).text, "a");
    assert.equal((await all(client.count({ number: 2n }))).length, 2);
    await failure(client.fail({ code: Code.NotFound, message: "gone" }), Code.NotFound, /gone/);
  };

  test("Connect's own", () => check(createRouterTransport(testRoutes)));

  test("a list of addresses", () =>
    check(createIsthmusTransport({ address: [tempSocket(owner), server.path] }) satisfies IsthmusTransport));

  test("HTTP", async () => {
    const http = createIsthmusServer({ routes: testRoutes });
    owner.after(() => http.close({ timeoutMs: 0 }));
    await check(transportTo(owner, (await http.listen("http://127.0.0.1:0")).address));
  });

  test("interceptors see every call", async () => {
    let count = 0;
    await check(
      transportTo(owner, server.path, {
        interceptors: [
          (next) => (request) => {
            count++;
            return next(request);
          },
        ],
      }),
    );
    assert.equal(count, 3);
  });

  test("wrappers of a transport see every call, whether they are objects, proxies or mocks", async () => {
    const local = transportTo(owner, server.path);
    let count = 0;
    const unary: Transport["unary"] = (...input) => {
      count++;
      return local.unary(...input);
    };
    await check({ unary, stream: local.stream.bind(local) });
    await check(Object.assign(Object.create(local) as Transport, { unary }));
    await check(
      new Proxy(local, { get: (target, name) => (name === "unary" ? unary : (Reflect.get(target, name) as unknown)) }),
    );
    assert.equal(count, 6);
    const own = transportTo(owner, server.path);
    const client = createClient(TestService, own);
    await client.echo({});
    const mocked = mock.method(own, "unary");
    await client.echo({});
    assert.equal(mocked.mock.callCount(), 1);
  });
});

test("a message of a user's codec is looked at where the caller's code runs", async (t) => {
  const server = await serveInChild(t);
  const storage = new AsyncLocalStorage<string>();
  const stores: (string | undefined)[] = [];
  const reply = {
    get then() {
      stores.push(storage.getStore());
      storage.enterWith("of the message");
      return undefined;
    },
  };
  const transport = transportTo(t, server.path, {
    codec: () => ({
      encodeInto: () => 0,
      encode: () => assert.fail("an empty message fits"),
      decode: () => reply,
    }),
  });
  const client = createClient(TestService, transport);
  await storage.run("of the caller", async () => assert.equal(await client.echo({}), reply));
  assert.ok(stores.length > 0 && stores.every((store) => store?.startsWith("of")), String(stores));
  assert.equal(storage.getStore(), undefined);
});

test("a reply is the message that its schema makes", async (t) => {
  const server = await serveInChild(t);
  const client = createClient(TestService, transportTo(t, server.path));
  assert.deepEqual(await client.echo({ text: "a" }), create(EchoReplySchema, { text: "a" }));
});

describe("arguments of createClient that are wrong", () => {
  const transport = createRouterTransport(testRoutes);
  const WRONG: readonly [name: string, service: unknown, transport: unknown, message: RegExp][] = [
    [
      "swapped",
      transport,
      TestService,
      /^createClient: the arguments are swapped; write createClient\(service, transport\)$/,
    ],
    [
      "no transport",
      TestService,
      undefined,
      /second argument must be a transport, but is undefined; write .*createIsthmusTransport/,
    ],
    ["an address for a transport", TestService, "/run/echo.sock", /must be a transport, but is a string; write/],
    [
      "options for a transport",
      TestService,
      { address: "/run/echo.sock" },
      /must be a transport, but is another object/,
    ],
    ["two services", TestService, StreamService, /must be a transport, but is a service/],
    ["nothing at all", undefined, undefined, /first argument must be a service, but is undefined; write .*_pb/],
    ["no service", null, transport, /must be a service, but is null/],
    ["a name for a service", "TestService", transport, /must be a service, but is a string/],
    [
      "a message for a service",
      EchoRequestSchema,
      transport,
      /must be a service, but is a descriptor of kind "message"/,
    ],
    ["a method for a service", TestService.method.echo, transport, /but is a descriptor of kind "rpc"/],
    ["a function for a service", () => TestService, transport, /must be a service, but is a function/],
    ["two transports", transport, transport, /must be a service, but is another object/],
  ];
  for (const [name, service, given, message] of WRONG) {
    test(name, () => {
      assert.throws(() => createClient(service as DescService, given as Transport), { name: "TypeError", message });
    });
  }

  test("a transport that has unary calls only is one", async () => {
    const client = createClient(TestService, { unary: transport.unary.bind(transport) } as unknown as Transport);
    assert.equal((await client.echo({ text: "hi" })).text, "hi");
  });
});
