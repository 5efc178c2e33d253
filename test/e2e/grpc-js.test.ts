/**
 * Clients and services of grpc-js, unchanged, over an Isthmus connection: each body also runs over grpc-js's own
 * HTTP/2, which says what is right.
 */
import assert from "node:assert/strict";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { once } from "node:events";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { DescMessage } from "@bufbuild/protobuf";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import type {
  CallCredentials,
  Client,
  ClientDuplexStream,
  ClientReadableStream,
  ClientUnaryCall,
  ClientWritableStream,
  handleBidiStreamingCall,
  handleClientStreamingCall,
  handleServerStreamingCall,
  handleUnaryCall,
  ServiceDefinition,
  ServiceError,
} from "@grpc/grpc-js";
import {
  Channel,
  connectivityState,
  credentials,
  makeGenericClientConstructor,
  Metadata,
  Server,
  ServerCredentials,
  status,
} from "@grpc/grpc-js";
import { addGrpcService, createIsthmusChannel } from "../../src/grpc-js/index.js";
import type { TransportStateEvent } from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { decodeStatus, encodeStatus } from "../../src/wire/status.js";
import type { CountRequest, Item, SumReply } from "../proto/streams_pb.js";
import { ItemSchema, StreamService } from "../proto/streams_pb.js";
import { patternBytes } from "../support/checksum.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";
import { waitUntil } from "../support/waiting.js";

type Callback<T> = (error: ServiceError | null, reply?: T) => void;
type Values<T> = Partial<Omit<T, "$typeName" | "$unknown">>;

/** What generated code declares. */
interface StreamClient extends Client {
  echo(request: Values<Item>, callback: Callback<Item>): ClientUnaryCall;
  echo(request: Values<Item>, metadata: Metadata, callback: Callback<Item>): ClientUnaryCall;
  echo(
    request: Values<Item>,
    metadata: Metadata,
    options: { deadline: number; credentials?: CallCredentials },
    callback: Callback<Item>,
  ): ClientUnaryCall;
  none(request: Values<Item>, callback: Callback<Item>): ClientUnaryCall;
  count(request: Values<CountRequest>, metadata?: Metadata, options?: { deadline: number }): ClientReadableStream<Item>;
  sum(callback: Callback<SumReply>): ClientWritableStream<Values<Item>>;
  chat(metadata?: Metadata): ClientDuplexStream<Values<Item>, Item>;
}

function coderOf<D extends DescMessage>(schema: D) {
  return {
    serialize: (value: object) => Buffer.from(toBinary(schema, create(schema, value as never))),
    deserialize: (bytes: Buffer) => fromBinary(schema, bytes),
  };
}

const definition = Object.fromEntries(
  StreamService.methods.map((method) => {
    const [input, output] = [coderOf(method.input), coderOf(method.output)];
    return [
      method.localName,
      {
        path: `/${StreamService.typeName}/${method.name}`,
        requestStream: method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming",
        responseStream: method.methodKind === "server_streaming" || method.methodKind === "bidi_streaming",
        requestSerialize: input.serialize,
        requestDeserialize: input.deserialize,
        responseSerialize: output.serialize,
        responseDeserialize: output.deserialize,
      },
    ];
  }),
) as ServiceDefinition;
/** That the service lacks. */
const withNone: ServiceDefinition = {
  ...definition,
  none: { ...definition.echo, path: `/${StreamService.typeName}/None` },
};

const GenericClient = makeGenericClientConstructor(withNone, "StreamService");

/** What handlers saw of clients that went away. */
const canceled: string[] = [];

const echo: handleUnaryCall<Item, Values<Item>> = (call, callback) => {
  const { text } = call.request;
  if (text === "fail") {
    const metadata = new Metadata();
    metadata.set("x-why", "because");
    return callback({ code: status.FAILED_PRECONDITION, details: "asked to fail", metadata });
  }
  if (text === "late") {
    const [header, metadata] = [new Metadata(), new Metadata()];
    header.set("x-when", "before");
    metadata.set("x-why", "because");
    call.sendMetadata(header);
    return callback({ code: status.ABORTED, metadata });
  }
  if (text === "throw") throw new Error("a secret");
  if (text === "wait") {
    call.on("cancelled", () => canceled.push("echo"));
    return;
  }
  const header = new Metadata();
  header.set("x-echo", call.metadata.get("x-name")[0] ?? "nobody");
  header.set("x-echo-bin", Buffer.from([0, 1, 254, 255]));
  call.sendMetadata(header);
  const trailer = new Metadata();
  trailer.set("x-path", call.getPath());
  callback(null, call.request, trailer);
};

const count: handleServerStreamingCall<CountRequest, Values<Item>> = (call) => {
  const { count, dataBytes, failCode, failMessage } = call.request;
  call.on("cancelled", () => canceled.push("count"));
  let number = 0n;
  const more = () => {
    while (number < count) {
      const item = { number, data: patternBytes(dataBytes, Number(number)) };
      number++;
      if (!call.write(item)) return void call.once("drain", more);
    }
    if (failCode !== 0) call.emit("error", { code: failCode, details: failMessage });
    else call.end();
  };
  more();
};

const sum: handleClientStreamingCall<Item, Values<SumReply>> = (call, callback) => {
  let [items, total, dataBytes] = [0n, 0n, 0n];
  call.on("data", ({ number, data }: Item) => {
    items++;
    total += number;
    dataBytes += BigInt(data.length);
  });
  call.on("end", () => callback(null, { items, sum: total, dataBytes }));
};

const chat: handleBidiStreamingCall<Item, Values<Item>> = (call) => {
  call.on("cancelled", () => canceled.push("chat"));
  call.on("data", (item: Item) => call.write(item));
  call.on("end", () => {
    const trailer = new Metadata();
    trailer.set("x-bye", "now");
    call.end(trailer);
  });
};

const implementation = { echo, count, sum, chat };

async function startGrpc(owner: Owner): Promise<StreamClient> {
  const path = tempSocket(owner);
  const server = new Server({ "grpc.max_receive_message_length": -1 });
  server.addService(withNone, implementation);
  await new Promise<void>((resolve, reject) =>
    server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (error) =>
      error === null ? resolve() : reject(error),
    ),
  );
  owner.after(() => server.forceShutdown());
  const client = new GenericClient(`unix:${path}`, credentials.createInsecure(), {
    "grpc.max_receive_message_length": -1,
  }) as unknown as StreamClient;
  owner.after(() => client.close());
  return client;
}

async function serveIsthmus(owner: Owner): Promise<string> {
  const path = tempSocket(owner);
  const server = createIsthmusServer({ routes: (router) => addGrpcService(router, withNone, implementation) });
  await server.listen(path);
  owner.after(() => server.close({ timeoutMs: 0 }));
  return path;
}

function clientOf(owner: Owner, path: string): StreamClient {
  const client = new GenericClient("", credentials.createInsecure(), {
    channelOverride: createIsthmusChannel({ address: path }),
  }) as unknown as StreamClient;
  owner.after(() => client.close());
  return client;
}

function ask<T>(start: (callback: Callback<T>) => unknown): Promise<T> {
  return new Promise((resolve, reject) => start((error, reply) => (error === null ? resolve(reply!) : reject(error))));
}

async function failureOf(call: Promise<unknown>): Promise<ServiceError> {
  return call.then(
    () => assert.fail("it did not fail"),
    (error: unknown) => error as ServiceError,
  );
}

const ways: Record<string, (owner: Owner) => Promise<StreamClient>> = {
  "grpc-js's own HTTP/2": startGrpc,
  Isthmus: async (owner) => clientOf(owner, await serveIsthmus(owner)),
};

for (const [way, start] of Object.entries(ways)) {
  describe(`a grpc-js client and service over ${way}`, () => {
    test("unary: values, headers, trailers", async (context) => {
      const client = await start(context);
      const metadata = new Metadata();
      metadata.set("x-name", "somebody");
      let header: Metadata | undefined;
      let trailer: Metadata | undefined;
      const reply = await ask<Item>((callback) => {
        const call = client.echo({ number: 7n, text: "hi", data: patternBytes(100_000, 1) }, metadata, callback);
        call.on("metadata", (seen: Metadata) => (header = seen));
        call.on("status", (seen: { metadata: Metadata }) => (trailer = seen.metadata));
      });
      assert.equal(reply.number, 7n);
      assert.equal(reply.text, "hi");
      assert.deepEqual(Buffer.from(reply.data), Buffer.from(patternBytes(100_000, 1)));
      await waitUntil("the status", () => trailer !== undefined);
      assert.deepEqual(header!.get("x-echo"), ["somebody"]);
      assert.deepEqual(header!.get("x-echo-bin"), [Buffer.from([0, 1, 254, 255])]);
      assert.deepEqual(trailer!.get("x-path"), ["/isthmus.test.StreamService/Echo"]);
    });

    test("unary: errors with code, details and metadata; what a handler throws stays its own", async (context) => {
      const client = await start(context);
      const failure = await failureOf(ask((callback) => client.echo({ text: "fail" }, callback)));
      assert.equal(failure.code, status.FAILED_PRECONDITION);
      assert.equal(failure.details, "asked to fail");
      assert.deepEqual(failure.metadata.get("x-why"), ["because"]);
      const thrown = await failureOf(ask((callback) => client.echo({ text: "throw" }, callback)));
      assert.equal(thrown.code, status.UNKNOWN);
      // Older versions of grpc-js tell it.
      if (way === "Isthmus") assert.doesNotMatch(thrown.details, /secret/);
    });

    test("unary: headers that were sent before an error are headers, and the error's metadata are the trailer", async (context) => {
      const client = await start(context);
      let header: Metadata | undefined;
      const failure = await failureOf(
        ask((callback) => client.echo({ text: "late" }, callback).on("metadata", (seen: Metadata) => (header = seen))),
      );
      assert.equal(failure.code, status.ABORTED);
      assert.deepEqual([header?.get("x-when"), header?.get("x-why")], [["before"], []]);
      assert.deepEqual([failure.metadata.get("x-when"), failure.metadata.get("x-why")], [[], ["because"]]);
    });

    test("a method without a handler, and paths that are none of a method's, are unimplemented", async (context) => {
      const client = await start(context);
      assert.equal((await failureOf(ask((callback) => client.none({}, callback)))).code, status.UNIMPLEMENTED);
      const bytes = (value: Buffer) => value;
      for (const path of ["/isthmus.test.StreamService/", "/isthmus.test.StreamService", "/", "/a/b/c/"]) {
        assert.equal(
          (await failureOf(ask((callback) => client.makeUnaryRequest(path, bytes, bytes, Buffer.alloc(0), callback))))
            .code,
          status.UNIMPLEMENTED,
          path,
        );
      }
    });

    test("unary: deadlines and cancellation reach the handler", async (context) => {
      const client = await start(context);
      canceled.length = 0;
      // On a busy machine a short time may be over before the handler is called.
      for (let timeoutMs = 100; canceled.length === 0 && timeoutMs < 60_000; timeoutMs *= 2) {
        const late = await failureOf(
          ask((callback) =>
            client.echo({ text: "wait" }, new Metadata(), { deadline: Date.now() + timeoutMs }, callback),
          ),
        );
        assert.equal(late.code, status.DEADLINE_EXCEEDED);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      const past = await failureOf(
        ask((callback) => client.echo({ text: "wait" }, new Metadata(), { deadline: Date.now() - 1000 }, callback)),
      );
      assert.equal(past.code, status.DEADLINE_EXCEEDED);
      const never = credentials.createFromMetadataGenerator(() => {});
      const stuck = await failureOf(
        ask((callback) =>
          client.echo({}, new Metadata(), { deadline: Date.now() + 100, credentials: never }, callback),
        ),
      );
      assert.equal(stuck.code, status.DEADLINE_EXCEEDED);
      await waitUntil("the handler to hear of the deadline", () => canceled.length >= 1);
      const before = canceled.length;
      const stopped = await failureOf(
        ask((callback) => {
          const call = client.echo({ text: "wait" }, callback);
          setTimeout(() => call.cancel(), 50);
        }),
      );
      assert.equal(stopped.code, status.CANCELLED);
      await waitUntil("the handler to hear of the end", () => canceled.length > before);
    });

    test("server streaming: all items in order, slow readers included, and errors after them", async (context) => {
      const client = await start(context);
      let next = 0n;
      for await (const item of client.count({ count: 500n, dataBytes: 10_000 })) {
        const { number, data } = item as Item;
        assert.equal(number, next);
        assert.deepEqual(Buffer.from(data), Buffer.from(patternBytes(10_000, Number(next))));
        if (next++ % 100n === 0n) await new Promise((resolve) => setTimeout(resolve, 10));
      }
      assert.equal(next, 500n);
      const items: bigint[] = [];
      const failing = client.count({ count: 3n, failCode: status.ABORTED, failMessage: "enough" });
      failing.on("data", ({ number }: Item) => items.push(number));
      const [error] = (await once(failing, "error")) as [ServiceError];
      assert.equal(error.code, status.ABORTED);
      assert.equal(error.details, "enough");
      assert.deepEqual(items, [0n, 1n, 2n]);
    });

    test("server streaming: a client that cancels", async (context) => {
      const client = await start(context);
      canceled.length = 0;
      const call = client.count({ count: 1_000_000_000n });
      call.once("data", () => call.cancel());
      const [error] = (await once(call, "error")) as [ServiceError];
      assert.equal(error.code, status.CANCELLED);
      await waitUntil("the handler to hear of it", () => canceled.includes("count"));
    });

    test("client streaming: none, one and many items", async (context) => {
      const client = await start(context);
      for (const items of [0, 1, 1000]) {
        const reply = await ask<SumReply>((callback) => {
          const call = client.sum(callback);
          for (let number = 0; number < items; number++)
            call.write({ number: BigInt(number), data: new Uint8Array(10) });
          call.end();
        });
        assert.equal(reply.items, BigInt(items));
        assert.equal(reply.sum, BigInt((items * (items - 1)) / 2));
        assert.equal(reply.dataBytes, BigInt(items * 10));
      }
    });

    test("both streaming: ping-pong, half-close, trailers", async (context) => {
      const client = await start(context);
      const call = client.chat();
      let trailer: Metadata | undefined;
      call.on("status", (seen: { metadata: Metadata }) => (trailer = seen.metadata));
      for (let number = 0n; number < 100n; number++) {
        call.write({ number });
        const [item] = (await once(call, "data")) as [Item];
        assert.equal(item.number, number);
      }
      const ended = once(call, "end");
      call.end();
      await ended;
      await waitUntil("the status", () => trailer !== undefined);
      assert.deepEqual(trailer!.get("x-bye"), ["now"]);
    });
  });
}

describe("grpc-js and Connect over Isthmus", () => {
  test("a Connect client calls a service of grpc-js", async (context) => {
    const path = await serveIsthmus(context);
    const transport = createIsthmusTransport({ address: path });
    context.after(() => transport.close());
    const client = createClient(StreamService, transport);
    assert.equal((await client.echo({ number: 3n, data: new Uint8Array(200_000) })).data.length, 200_000);
    await assert.rejects(
      client.echo({ text: "fail" }),
      (error: ConnectError) => error.code === Code.FailedPrecondition && error.rawMessage === "asked to fail",
    );
    const numbers: bigint[] = [];
    for await (const { number } of client.count({ count: 5n })) numbers.push(number);
    assert.deepEqual(numbers, [0n, 1n, 2n, 3n, 4n]);
  });

  test("a grpc-js client calls Connect's routes, unknown methods included", async (context) => {
    const path = tempSocket(context);
    const server = createIsthmusServer({
      routes: (router) =>
        router.service(StreamService, {
          echo: (request) => request,
          async *count({ count }) {
            for (let number = 0n; number < count; number++) yield await Promise.resolve({ number });
          },
        }),
    });
    await server.listen(path);
    context.after(() => server.close({ timeoutMs: 0 }));
    const client = clientOf(context, path);
    assert.equal((await ask<Item>((callback) => client.echo({ number: 9n }, callback))).number, 9n);
    let items = 0;
    for await (const item of client.count({ count: 20n })) assert.equal((item as Item).number, BigInt(items++));
    assert.equal(items, 20);
    assert.equal((await failureOf(ask((callback) => client.sum(callback).end()))).code, status.UNIMPLEMENTED);
  });

  test("waitForReady, and a server that is not there", async (context) => {
    const client = clientOf(context, await serveIsthmus(context));
    await new Promise<void>((resolve, reject) =>
      client.waitForReady(Date.now() + 60_000, (error) => (error === undefined ? resolve() : reject(error))),
    );
    const lost = clientOf(context, tempSocket(context));
    const failure = await failureOf(ask((callback) => lost.echo({}, callback)));
    assert.equal(failure.code, status.UNAVAILABLE);
    assert.match(failure.details, /connect to .*no such/i);
  });

  test("connectivity states are those of gRPC, and a server that comes later is waited for with pauses", async (context) => {
    const path = tempSocket(context);
    const channel = createIsthmusChannel({ address: path, reconnect: { initialDelayMs: 20 } });
    context.after(() => channel.close());
    const seen: (connectivityState | undefined)[] = [];
    let attempts = 0;
    const onState = (message: unknown) => {
      const { transport, state } = message as TransportStateEvent;
      if (transport !== channel.transport) return;
      if (state === "connecting") attempts++;
      seen.push(channel.getConnectivityState(false));
    };
    subscribe("isthmus:transport:state", onState);
    context.after(() => unsubscribe("isthmus:transport:state", onState));
    const { IDLE, CONNECTING, TRANSIENT_FAILURE, READY, SHUTDOWN } = connectivityState;

    assert.equal(channel.getConnectivityState(false), IDLE);
    assert.equal(channel.getConnectivityState(true), CONNECTING);
    const client = new GenericClient("", credentials.createInsecure(), {
      channelOverride: channel,
    }) as unknown as StreamClient;
    const ready = new Promise<void>((resolve, reject) =>
      client.waitForReady(Date.now() + 60_000, (error) => (error === undefined ? resolve() : reject(error))),
    );
    await waitUntil(
      "attempts to fail",
      () => channel.getConnectivityState(false) === TRANSIENT_FAILURE && attempts > 0,
    );
    await sleep(100);
    assert.ok(attempts <= 3, "asking for the state does not make attempts without pauses");
    const server = createIsthmusServer({ routes: (router) => addGrpcService(router, definition, implementation) });
    await server.listen(path);
    await ready;
    assert.equal(channel.getConnectivityState(false), READY);
    await server.close();
    assert.equal(channel.getConnectivityState(false), IDLE);
    channel.close();
    assert.equal(channel.getConnectivityState(true), SHUTDOWN);
    assert.deepEqual([seen[0], seen.at(-1)], [CONNECTING, SHUTDOWN]);
    assert.ok(seen.includes(TRANSIENT_FAILURE));
  });

  test("watchConnectivityState calls back when the state has changed, and when its deadline has passed", async (context) => {
    const channel = createIsthmusChannel({ address: await serveIsthmus(context) });
    context.after(() => channel.close());
    const { IDLE, READY } = connectivityState;
    const watched = (current: connectivityState, deadline: number) =>
      new Promise<Error | undefined>((resolve) => channel.watchConnectivityState(current, deadline, resolve));
    assert.equal(await watched(READY, Date.now() + 60_000), undefined, "it is not ready");
    assert.equal(await watched(IDLE, Date.now() + 60_000), undefined, "watching connects");
    await channel.transport.connect();
    assert.match((await watched(READY, Date.now() + 50))!.message, /Deadline passed/);
  });

  test("a call whose metadata say so waits for its server", async (context) => {
    const path = tempSocket(context);
    const client = clientOf(context, path);
    const waiting = ask<Item>((callback) =>
      client.echo({ number: 3n }, new Metadata({ waitForReady: true }), callback),
    );
    assert.equal((await failureOf(ask((callback) => client.echo({}, callback)))).code, status.UNAVAILABLE);
    const server = createIsthmusServer({ routes: (router) => addGrpcService(router, definition, implementation) });
    await server.listen(path);
    context.after(() => server.close({ timeoutMs: 0 }));
    assert.equal((await waiting).number, 3n);
  });

  test("a router of another's is refused", () => {
    const router = { handlers: [], service: () => router, rpc: () => router } as unknown as Parameters<
      typeof addGrpcService
    >[0];
    assert.throws(() => addGrpcService(router, definition, implementation), /not an Isthmus server's/);
  });

  test("error details go from Connect's routes to grpc-js's clients", async (context) => {
    const path = tempSocket(context);
    const fail = () => {
      throw new ConnectError("gone", Code.NotFound, { "x-a": "b" }, [{ desc: ItemSchema, value: { text: "why" } }]);
    };
    const server = createIsthmusServer({
      routes: (router) =>
        router.service(StreamService, {
          echo: fail,
          async *count() {
            yield await Promise.resolve({ number: 1n });
            fail();
          },
        }),
    });
    await server.listen(path);
    context.after(() => server.close({ timeoutMs: 0 }));
    const client = clientOf(context, path);
    const failing = client.count({ count: 1n });
    failing.resume();
    const ofStream = (await once(failing, "error"))[0] as ServiceError;
    for (const error of [await failureOf(ask((callback) => client.echo({}, callback))), ofStream]) {
      assert.deepEqual([error.code, error.details, error.metadata.get("x-a")], [status.NOT_FOUND, "gone", ["b"]]);
      const [bytes] = error.metadata.get("grpc-status-details-bin") as Buffer[];
      const { code, message, details } = decodeStatus(bytes);
      assert.deepEqual([code, message, details[0].type], [status.NOT_FOUND, "gone", ItemSchema.typeName]);
      assert.equal(fromBinary(ItemSchema, details[0].value).text, "why");
    }
  });

  test("error details go from grpc-js's handlers to Connect's clients, and to grpc-js's as they are", async (context) => {
    const bytes = encodeStatus({
      code: status.ABORTED,
      message: "rich",
      details: [{ type: ItemSchema.typeName, value: toBinary(ItemSchema, create(ItemSchema, { text: "why" })) }],
    });
    const metadata = new Metadata();
    metadata.set("grpc-status-details-bin", Buffer.from(bytes));
    const failure = { code: status.ABORTED, details: "enough", metadata };
    const path = tempSocket(context);
    const failing = {
      ...implementation,
      echo: ((_, callback) => callback(failure)) as typeof echo,
      count: ((call) => call.emit("error", failure)) as typeof count,
    };
    const server = createIsthmusServer({ routes: (router) => addGrpcService(router, definition, failing) });
    await server.listen(path);
    context.after(() => server.close({ timeoutMs: 0 }));
    const transport = createIsthmusTransport({ address: path });
    context.after(() => transport.close());
    const connect = createClient(StreamService, transport);
    const isRich = (error: ConnectError) =>
      error.code === Code.Aborted && error.rawMessage === "enough" && error.findDetails(ItemSchema)[0]?.text === "why";
    await assert.rejects(connect.echo({}), isRich);
    await assert.rejects(connect.count({})[Symbol.asyncIterator]().next(), isRich);
    const client = clientOf(context, path);
    const error = await failureOf(ask((callback) => client.echo({}, callback)));
    assert.deepEqual(error.metadata.get("grpc-status-details-bin"), [Buffer.from(bytes)]);
  });

  test("metadata that grpc-js cannot hold are left out", async (context) => {
    const path = tempSocket(context);
    const server = createIsthmusServer({
      routes: (router) =>
        router.service(StreamService, {
          echo: (request, { responseHeader, responseTrailer }) => {
            for (const headers of [responseHeader, responseTrailer])
              [
                ["x-good", "a"],
                ["x-latin", "\u00e9"],
                ["x!name", "a"],
              ].forEach(([name, value]) => headers.set(name, value));
            if (request.text === "fail") throw new ConnectError("odd", Code.Aborted, { "x-latin": "\u00e9" });
            return request;
          },
        }),
    });
    await server.listen(path);
    context.after(() => server.close({ timeoutMs: 0 }));
    const client = clientOf(context, path);
    const seen: Metadata[] = [];
    await ask<Item>((callback) => {
      const call = client.echo({}, callback);
      call.on("metadata", (header: Metadata) => seen.push(header));
      call.on("status", ({ metadata }: { metadata: Metadata }) => seen.push(metadata));
    });
    await waitUntil("the status", () => seen.length === 2);
    for (const metadata of seen) assert.deepEqual(metadata.getMap(), { "x-good": "a" });
    assert.equal((await failureOf(ask((callback) => client.echo({ text: "fail" }, callback)))).code, status.ABORTED);
  });

  test("a deadline is by the program's clock when the call starts, and by the time that passes from then on", async (context) => {
    const path = await serveIsthmus(context);
    const client = clientOf(context, path);
    context.mock.timers.enable({ apis: ["Date"], now: 1_000_000 });
    const channel = client.getChannel();
    await new Promise<void>((resolve, reject) =>
      client.waitForReady(Date.now() + 8000, (error) => (error === undefined ? resolve() : reject(error))),
    );
    assert.equal(
      (
        await ask<Item>((callback) =>
          client.echo({ number: 1n }, new Metadata(), { deadline: Date.now() + 8000 }, callback),
        )
      ).number,
      1n,
    );
    const waiting = failureOf(
      ask((callback) => client.echo({ text: "wait" }, new Metadata(), { deadline: Date.now() + 100 }, callback)),
    );
    context.mock.timers.setTime(1_000_000 - 60_000);
    assert.equal((await waiting).code, status.DEADLINE_EXCEEDED);
    assert.match(
      String(
        await new Promise((resolve) =>
          channel.watchConnectivityState(connectivityState.READY, Date.now() + 50, resolve),
        ),
      ),
      /Deadline passed/,
    );
  });

  test("a deadline that passes while nobody reads is told", async (context) => {
    const client = clientOf(context, await serveIsthmus(context));
    await ask((callback) => client.echo({}, callback));
    const call = client.count({ count: 1_000_000n, dataBytes: 1000 }, new Metadata(), { deadline: Date.now() + 1000 });
    await once(call, "metadata");
    const [error] = (await once(call, "error")) as [ServiceError];
    assert.equal(error.code, status.DEADLINE_EXCEEDED);
  });

  test("a channel passes for grpc-js's own, has its target and peers, and is over when it is closed", async (context) => {
    const path = await serveIsthmus(context);
    const channel: Channel = createIsthmusChannel({ address: path });
    assert.ok(channel instanceof Channel);
    const client = new GenericClient("", credentials.createInsecure(), {
      channelOverride: channel,
    }) as unknown as StreamClient;
    assert.equal(client.getChannel(), channel);
    assert.equal(channel.getTarget(), `unix:${path}`);
    const call = client.echo({}, () => undefined);
    assert.equal(call.getPeer(), path);
    await once(call, "status");
    client.close();
    assert.throws(() => client.echo({}, () => undefined), /Channel has been shut down/);
    assert.throws(
      () => channel.watchConnectivityState(connectivityState.SHUTDOWN, Infinity, () => undefined),
      /Channel has been shut down/,
    );
  });

  test("a handler learns the address of a client over TCP", async (context) => {
    const peers: string[] = [];
    const telling: typeof echo = (call, callback) => (peers.push(call.getPeer()), callback(null, call.request));
    const server = createIsthmusServer({
      routes: (router) => addGrpcService(router, definition, { ...implementation, echo: telling }),
    });
    const { address } = await server.listen("tcp:127.0.0.1:0");
    const path = tempSocket(context);
    await server.listen(path);
    context.after(() => server.close({ timeoutMs: 0 }));
    for (const to of [address, path]) await ask((callback) => clientOf(context, to).echo({}, callback));
    assert.match(peers[0], /^127\.0\.0\.1:\d+$/);
    assert.equal(peers[1], "unknown");
  });

  test("credentials that cannot be had fail their call, with the codes that grpc-js lets them have", async (context) => {
    const client = clientOf(context, await serveIsthmus(context));
    const codeFor = async (failure: object) => {
      const failing = credentials.createFromMetadataGenerator((_, callback) =>
        callback(Object.assign(new Error("none"), failure)),
      );
      const { code, details } = await failureOf(
        ask((callback) =>
          client.echo({}, new Metadata(), { deadline: Date.now() + 8000, credentials: failing }, callback),
        ),
      );
      assert.match(details, /Getting metadata from plugin failed with error: none/);
      return code;
    };
    assert.equal(await codeFor({}), status.UNKNOWN);
    assert.equal(await codeFor({ code: status.UNAUTHENTICATED }), status.UNAUTHENTICATED);
    assert.equal(await codeFor({ code: status.NOT_FOUND }), status.INTERNAL);
  });
});
