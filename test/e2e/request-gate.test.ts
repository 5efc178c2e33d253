/**
 * `requestGate` of a route or a server: who may call, decided by a call's headers before anything of its messages is
 * looked at.
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { DescMessage } from "@bufbuild/protobuf";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Client, Interceptor } from "@connectrpc/connect";
import { Code, ConnectError, createClient, createContextKey } from "@connectrpc/connect";
import type { ServiceDefinition, ServiceError } from "@grpc/grpc-js";
import { credentials, makeGenericClientConstructor, Metadata, status } from "@grpc/grpc-js";
import { createProtobufCodec } from "../../src/codec/codec.js";
import { addGrpcService, createIsthmusChannel } from "../../src/grpc-js/index.js";
import type { IsthmusRouter, IsthmusServerOptions, RequestGate } from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { StreamService } from "../proto/streams_pb.js";
import type { CarrierPlace } from "../support/carrier-places.js";
import { CARRIER_PLACES } from "../support/carrier-places.js";
import { onlyWithAddon } from "../support/carriers.js";
import { patternBytes } from "../support/checksum.js";
import { all, items, numbersOf, upTo } from "../support/streams.js";
import type { Owner } from "../support/temp.js";
import { tempFolder, tempSocket } from "../support/temp.js";
import { failure, waitUntil } from "../support/waiting.js";

type Streams = Client<typeof StreamService>;

const CARRIERS: Readonly<Record<string, CarrierPlace>> = {
  ...CARRIER_PLACES,
  "HTTP/2 with gRPC-Web": { address: () => "http://127.0.0.1:0", client: { protocol: "grpc-web" } },
  "HTTP/2 with Connect": { address: () => "http://127.0.0.1:0", client: { protocol: "connect" } },
};
const isOwn = (carrier: string) => !carrier.startsWith("HTTP");

const user = createContextKey("nobody");

/** What happened on a server, in order. */
interface Notes {
  readonly order: string[];
  decoded: number;
}

const recorded =
  (notes: Notes): Interceptor =>
  (next) =>
  (request) => {
    notes.order.push(`interceptor for ${request.contextValues.get(user)}`);
    return next(request);
  };

/** Routes whose handlers answer with what they were sent. */
function routesOf(notes: Notes, requestGate?: RequestGate) {
  return (router: IsthmusRouter) =>
    router.service(
      StreamService,
      {
        echo(request, { values }) {
          notes.order.push(`handler for ${values.get(user)}`);
          return request;
        },
        async *count({ count }) {
          await Promise.resolve();
          notes.order.push("handler");
          for (let number = 0n; number < count; number++) yield { number };
        },
        async sum(requests) {
          notes.order.push("handler");
          const sums = { items: 0n, sum: 0n, dataBytes: 0n };
          for await (const { number, data } of requests) {
            if (Buffer.compare(data, patternBytes(data.length, Number(number))) !== 0) continue;
            sums.items++;
            sums.sum += number;
            sums.dataBytes += BigInt(data.length);
          }
          return sums;
        },
        async *chat(requests) {
          notes.order.push("handler");
          for await (const request of requests) yield request;
        },
      },
      requestGate === undefined ? {} : { requestGate },
    );
}

interface Served {
  readonly client: Streams;
  readonly notes: Notes;
}

async function serve(
  owner: Owner,
  carrier: string,
  requestGate: RequestGate | undefined,
  options: Partial<IsthmusServerOptions> = {},
): Promise<Served> {
  const notes: Notes = { order: [], decoded: 0 };
  const protobuf = createProtobufCodec();
  const codec = (schema: DescMessage) => {
    const inner = protobuf(schema);
    return {
      ...inner,
      decode: (...args: Parameters<typeof inner.decode>) => {
        notes.decoded++;
        return inner.decode(...args);
      },
    };
  };
  const { address, client } = CARRIERS[carrier];
  const server = createIsthmusServer({
    interceptors: [recorded(notes)],
    codec,
    routes: routesOf(notes, requestGate),
    ...options,
  });
  owner.after(() => server.close({ timeoutMs: 0 }));
  const at = await server.listen(address(owner));
  const transport = createIsthmusTransport({ address: at.address, ...client });
  owner.after(() => transport.close());
  return { client: createClient(StreamService, transport), notes };
}

const KINDS: Record<string, (client: Streams, headers?: Record<string, string>) => Promise<unknown>> = {
  unary: (client, headers = {}) => client.echo({ number: 1n }, { headers }),
  "server streaming": (client, headers = {}) => all(client.count({ count: 2n }, { headers })),
  "client streaming": (client, headers = {}) => client.sum(items(3), { headers }),
  bidirectional: (client, headers = {}) => all(client.chat(items(3), { headers })),
};

const refused = () => new ConnectError("who are you?", Code.Unauthenticated, { "x-realm": "home" });

for (const [carrier, { skip = false }] of Object.entries(CARRIERS)) {
  describe(`a gate over ${carrier}`, { skip }, () => {
    test("refuses calls of every kind, at once or later, before interceptors and handlers", async (context) => {
      const gates: Record<string, RequestGate> = {
        throws: () => {
          throw refused();
        },
        rejects: async () => {
          await sleep(5);
          throw refused();
        },
      };
      for (const [how, gate] of Object.entries(gates)) {
        const { client, notes } = await serve(context, carrier, gate);
        for (const [kind, call] of Object.entries(KINDS)) {
          const error = await failure(call(client), Code.Unauthenticated, /who are you\?/);
          assert.equal(error.metadata.get("x-realm"), "home", `${how}, ${kind}`);
        }
        assert.deepEqual(notes.order, [], how);
        if (isOwn(carrier)) assert.equal(notes.decoded, 0, how);
      }
    });

    test("lets in whom it knows: it is asked once, first, with the call's headers, and what it sets is there", async (context) => {
      for (const isLate of [false, true]) {
        const asked: string[] = [];
        const gate: RequestGate = (handler) => {
          asked.push(
            `${handler.requestHeader.get("authorization")} for ${handler.method.name} of ${handler.service.typeName} at ${new URL(handler.url).pathname}`,
          );
          handler.values.set(user, "ada");
          handler.responseHeader.set("x-gate", "open");
          handler.responseTrailer.set("x-gate-trailer", "shut");
          notes.order.push("gate");
          return isLate ? sleep(5) : undefined;
        };
        const { client, notes } = await serve(context, carrier, gate);
        for (const [kind, call] of Object.entries(KINDS)) {
          await call(client, { authorization: "ada's" });
          const method = {
            unary: "Echo",
            "server streaming": "Count",
            "client streaming": "Sum",
            bidirectional: "Chat",
          }[kind];
          assert.deepEqual(asked.splice(0), [
            `ada's for ${method} of isthmus.test.StreamService at /isthmus.test.StreamService/${method}`,
          ]);
          assert.deepEqual(
            notes.order.splice(0),
            ["gate", "interceptor for ada", kind === "unary" ? "handler for ada" : "handler"],
            kind,
          );
        }
        let header: Headers | undefined;
        let trailer: Headers | undefined;
        const seen = {
          onHeader: (headers: Headers) => (header = headers),
          onTrailer: (headers: Headers) => (trailer = headers),
        };
        await client.echo({}, seen);
        assert.deepEqual([header!.get("x-gate"), trailer!.get("x-gate-trailer")], ["open", "shut"]);
        await all(client.chat(items(1), seen));
        assert.deepEqual([header!.get("x-gate"), trailer!.get("x-gate-trailer")], ["open", "shut"]);
      }
    });

    test("an error that is none of Connect's, or no error at all, is an internal one", async (context) => {
      for (const thrown of [new Error("a secret"), undefined, "text"]) {
        const gate: RequestGate = async () => {
          await Promise.resolve();
          throw thrown as Error;
        };
        const { client, notes } = await serve(context, carrier, gate);
        // Connect itself takes undefined for no error.
        const calls = isOwn(carrier) || thrown !== undefined ? Object.values(KINDS) : [KINDS["unary"]];
        for (const call of calls) {
          const error = await call(client).then(
            () => assert.fail("it was let in"),
            (reason: unknown) => ConnectError.from(reason),
          );
          assert.doesNotMatch(error.message, /secret/);
        }
        assert.deepEqual(notes.order, []);
      }
    });

    test("of the server holds for all services but those with one of their own", async (context) => {
      const shut: RequestGate = () => {
        throw refused();
      };
      const notes: Notes = { order: [], decoded: 0 };
      const { client } = await serve(context, carrier, undefined, { requestGate: shut, routes: routesOf(notes) });
      for (const call of Object.values(KINDS)) await failure(call(client), Code.Unauthenticated, /who are you/);
      assert.deepEqual(notes.order, []);
      const own = await serve(context, carrier, () => undefined, { requestGate: shut });
      for (const call of Object.values(KINDS)) await call(own.client);
    });

    test("messages that come while it is being asked are there when it lets the call in, whole and in order", async (context) => {
      const { client } = await serve(context, carrier, () => sleep(20));
      const sizes = isOwn(carrier) ? [0, 10, 5000, 40_000, 700_000, 3_000_000] : [10, 400_000];
      for (const size of sizes) {
        const { data } = await client.echo({ number: 7n, data: patternBytes(size, 7) });
        assert.ok(Buffer.compare(data, patternBytes(size, 7)) === 0, `${size} bytes`);
        const reply = await client.sum(
          items(20, (i) => ({ number: BigInt(i), data: patternBytes(i % 5 === 0 ? size : i, i) })),
        );
        assert.equal(reply.items, 20n, `${size} bytes`);
      }
      assert.deepEqual(numbersOf(await all(client.chat(items(300)))), upTo(300));
      assert.deepEqual(numbersOf(await all(client.count({ count: 3n }))), upTo(3));
      await Promise.all(
        upTo(100).map(async (i) => assert.equal((await client.echo({ number: BigInt(i) })).number, BigInt(i))),
      );
    });

    test("a deadline or an abort ends a call whose gate does not answer, and the handler is never called", async (context) => {
      const asked: { readonly signal: AbortSignal; readonly open: () => void }[] = [];
      const { client, notes } = await serve(
        context,
        carrier,
        ({ signal }) => new Promise((open) => void asked.push({ signal, open })),
      );
      const over = async () => {
        await waitUntil("the gate to be told that the call is over", () => asked.every(({ signal }) => signal.aborted));
        for (const { open } of asked.splice(0)) open();
        await sleep(10);
      };
      const withTimeout: ((timeoutMs: number) => Promise<unknown>)[] = [
        (timeoutMs) => client.echo({ data: new Uint8Array(300_000) }, { timeoutMs }),
        (timeoutMs) => all(client.count({}, { timeoutMs })),
        (timeoutMs) => client.sum(items(3), { timeoutMs }),
        (timeoutMs) => all(client.chat(items(3), { timeoutMs })),
      ];
      for (const call of withTimeout) {
        // A busy client may not get so far as to send the call.
        for (let timeoutMs = 100; asked.length === 0; timeoutMs *= 2) {
          await failure(call(timeoutMs), Code.DeadlineExceeded, /./);
          await sleep(20);
        }
        await over();
      }
      const controller = new AbortController();
      const aborted = client.sum(items(3), { signal: controller.signal });
      await waitUntil("the gate to be asked", () => asked.length === 1);
      controller.abort();
      await failure(aborted, Code.Canceled, /./);
      await over();
      if (isOwn(carrier)) assert.deepEqual(notes.order, []);
    });
  });
}

for (const [carrier, { skip = false }] of Object.entries(CARRIERS).filter(([name]) => isOwn(name))) {
  describe(`a gate over ${carrier}, of what the client sends`, { skip }, () => {
    test("nothing is decoded before it answers, and nothing at all if it refuses", async (context) => {
      let answer: ((isIn: boolean) => void) | undefined;
      const gate = () =>
        new Promise<void>((resolve, reject) => (answer = (isIn) => (isIn ? resolve() : reject(refused()))));
      const { client, notes } = await serve(context, carrier, gate);
      const calls = [
        () => client.echo({ data: new Uint8Array(10) }),
        () => client.echo({ data: new Uint8Array(2_000_000) }),
        () => all(client.count({ count: 1n })),
        () => client.sum(items(5, () => ({ data: new Uint8Array(200_000) }))),
        () => all(client.chat(items(5))),
      ];
      for (const isIn of [false, true]) {
        for (const call of calls) {
          notes.decoded = 0;
          answer = undefined;
          const reply = call();
          reply.catch(() => undefined);
          await waitUntil("the gate to be asked", () => answer !== undefined);
          await sleep(30);
          assert.equal(notes.decoded, 0);
          answer!(isIn);
          if (isIn) await reply;
          else await failure(reply, Code.Unauthenticated, /who are you/);
          assert.equal(notes.decoded > 0, isIn);
        }
      }
    });

    test("it comes before limits, which hold for whom it lets in", async (context) => {
      const limits = { readMaxBytes: 1000, maxTimeoutMs: 5000 };
      const shut = await serve(context, carrier, () => Promise.reject(refused()), limits);
      const open = await serve(context, carrier, () => sleep(5), limits);
      const atOnce = await serve(context, carrier, () => undefined, limits);
      const large = { data: new Uint8Array(400_000) };
      const tooLarge = (client: Streams) => [
        client.echo(large),
        client.echo({ data: new Uint8Array(1500) }),
        client.sum(items(3, () => large)),
        all(client.chat(items(2, () => large))),
      ];
      const tooLong = (client: Streams) => [
        client.echo({}, { timeoutMs: 6000 }),
        client.sum(items(3), { timeoutMs: 6000 }),
        all(client.count({}, { timeoutMs: 6000 })),
        all(client.chat(items(1), { timeoutMs: 6000 })),
      ];
      await Promise.all(
        [...tooLarge(shut.client), ...tooLong(shut.client)].map((call) =>
          failure(call, Code.Unauthenticated, /who are you/),
        ),
      );
      for (const { client } of [open, atOnce]) {
        await Promise.all(
          tooLarge(client).map((call) =>
            failure(call, Code.ResourceExhausted, /larger than configured readMaxBytes 1000/),
          ),
        );
        await Promise.all(tooLong(client).map((call) => failure(call, Code.InvalidArgument, /must be <= 5000/)));
        assert.equal((await client.echo({ number: 5n })).number, 5n);
        assert.deepEqual(numbersOf(await all(client.chat(items(5)))), upTo(5));
      }
    });

    test("a stream that waits for it is held back by its window", async (context) => {
      let open: (() => void) | undefined;
      const { client } = await serve(context, carrier, () => new Promise<void>((resolve) => (open = resolve)));
      const requests = items(2000, (i) => ({ number: BigInt(i), data: patternBytes(10_000, i) }));
      const sum = client.sum(requests);
      await waitUntil("the sender to stop", async () => {
        const before = requests.produced;
        await sleep(50);
        return open !== undefined && before > 0 && requests.produced === before;
      });
      assert.ok(requests.produced < 500, `${requests.produced} messages were taken`);
      open!();
      assert.equal((await sum).items, 2000n);
    });

    test("what a refused call goes on sending disturbs no other call", async (context) => {
      const gate: RequestGate = async ({ requestHeader }) => {
        await sleep(2);
        if (!requestHeader.has("authorization")) throw refused();
      };
      const { client } = await serve(context, carrier, gate);
      const headers = { authorization: "yes" };
      await Promise.all(
        upTo(60).map(async (i) => {
          if (i % 2 === 0) {
            const calls = [
              client.echo({ data: new Uint8Array(1_000_000) }),
              client.sum(items(50, () => ({ data: new Uint8Array(50_000) }))),
            ];
            await Promise.all(calls.map((call) => failure(call, Code.Unauthenticated, /who are you/)));
            return;
          }
          const reply = await client.echo({ number: BigInt(i), data: patternBytes(100_000, i) }, { headers });
          assert.ok(Buffer.compare(reply.data, patternBytes(100_000, i)) === 0);
          assert.equal((await client.sum(items(20), { headers })).items, 20n);
        }),
      );
    });
  });
}

test("a gate that is no function is refused when the server is made, or listens", async () => {
  for (const requestGate of [true, null, "yes", {}] as unknown as RequestGate[]) {
    const notes: Notes = { order: [], decoded: 0 };
    assert.throws(
      () => createIsthmusServer({ routes: routesOf(notes, requestGate) }),
      /option requestGate: expected a function/,
    );
    assert.throws(
      () => createIsthmusServer({ routes: routesOf(notes), requestGate }),
      /option requestGate: expected a function/,
    );
  }
  await Promise.resolve();
});

const definition = Object.fromEntries(
  StreamService.methods.map((method) => {
    const coder = (schema: DescMessage) =>
      [
        (value: object) =>
          Buffer.from(
            toBinary(schema, {
              $typeName: schema.typeName,
              number: 0n,
              text: "",
              data: new Uint8Array(0),
              values: [],
              ...value,
            } as never),
          ),
        (bytes: Buffer) => fromBinary(schema, bytes),
      ] as const;
    const [requestSerialize, requestDeserialize] = coder(method.input);
    const [responseSerialize, responseDeserialize] = coder(method.output);
    const requestStream = method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming";
    const responseStream = method.methodKind === "server_streaming" || method.methodKind === "bidi_streaming";
    return [
      method.localName,
      {
        path: `/${StreamService.typeName}/${method.name}`,
        requestStream,
        responseStream,
        requestSerialize,
        requestDeserialize,
        responseSerialize,
        responseDeserialize,
      },
    ];
  }),
) as ServiceDefinition;

test("clients of grpc-js are asked, and so are all clients of services that were written for grpc-js", async (context) => {
  const notes: Notes = { order: [], decoded: 0 };
  const gate: RequestGate = ({ requestHeader }) => {
    if (requestHeader.get("authorization") !== "yes") throw refused();
  };
  let handled = 0;
  const implementation = {
    echo: (call: { request: object }, callback: (error: null, value: object) => void) => (
      handled++, callback(null, call.request)
    ),
  } as never;
  const grpcOnly = { echo: definition["echo"] } as ServiceDefinition;
  for (const routes of [
    routesOf(notes, gate),
    (router: IsthmusRouter) => addGrpcService(router, grpcOnly, implementation),
  ]) {
    const path = tempSocket(context);
    const server = createIsthmusServer({ routes, requestGate: gate });
    context.after(() => server.close({ timeoutMs: 0 }));
    await server.listen(path);
    const Client = makeGenericClientConstructor(definition, "StreamService");
    const channel = createIsthmusChannel({ address: path });
    context.after(() => channel.close());
    const client = new Client("", credentials.createInsecure(), { channelOverride: channel as never });
    const call = (metadata: Metadata) =>
      new Promise<{ number: bigint }>((resolve, reject) => {
        const echo = client["echo"] as (
          value: object,
          metadata: Metadata,
          callback: (error: ServiceError | null, value: { number: bigint }) => void,
        ) => void;
        echo.call(client, { number: 4n }, metadata, (error, value) =>
          error === null ? resolve(value) : reject(error),
        );
      });
    const error: ServiceError = await call(new Metadata()).then(
      () => assert.fail("it was let in"),
      (reason: unknown) => reason as ServiceError,
    );
    assert.deepEqual(
      [error.code, error.details, error.metadata.get("x-realm")],
      [status.UNAUTHENTICATED, "who are you?", ["home"]],
    );
    assert.deepEqual([notes.order.length, handled], [0, 0]);
    const metadata = new Metadata();
    metadata.set("authorization", "yes");
    assert.equal((await call(metadata)).number, 4n);
    assert.deepEqual([notes.order.splice(0).length > 0, handled], [handled === 0, handled]);
    const connect = createClient(StreamService, createIsthmusTransport({ address: path }));
    await failure(connect.echo({}), Code.Unauthenticated, /who are you/);
  }
});

test("workers ask the gates of their routes module, and one that is given to the server itself is refused", {
  skip: onlyWithAddon,
}, async (context) => {
  const folder = tempFolder(context);
  const from = (path: string) => JSON.stringify(new URL(path, import.meta.url).href);
  const module = `
    import { Code, ConnectError } from ${JSON.stringify(import.meta.resolve("@connectrpc/connect"))};
    import { StreamService } from ${from("../proto/streams_pb.js")};
    const requestGate = ({ requestHeader }) => { if (!requestHeader.has("authorization")) throw new ConnectError("who are you?", Code.Unauthenticated); };
    const handlers = { echo: (request) => request, async *chat(requests) { yield* requests; } };
    const isOwn = WHERE === "route";
    export default (router) => router.service(StreamService, handlers, isOwn ? { requestGate } : {});
    export const options = isOwn ? {} : { requestGate };
  `;
  for (const where of ["route", "options"]) {
    const routes = join(folder, `${where}.mjs`);
    writeFileSync(routes, module.replace("WHERE", JSON.stringify(where)));
    const path = tempSocket(context);
    const server = createIsthmusServer({ workers: { routes, count: 1 } });
    context.after(() => server.close({ timeoutMs: 0 }));
    await server.listen(path);
    const transport = createIsthmusTransport({ address: path });
    context.after(() => transport.close());
    const client = createClient(StreamService, transport);
    await failure(client.echo({}), Code.Unauthenticated, /who are you/);
    await failure(all(client.chat(items(2))), Code.Unauthenticated, /who are you/);
    assert.equal((await client.echo({ number: 3n }, { headers: { authorization: "yes" } })).number, 3n);
  }
  const options = { workers: { routes: fileURLToPath(import.meta.url) }, requestGate: () => undefined };
  assert.throws(() => createIsthmusServer(options), /requestGate cannot be sent to worker threads/);
});
