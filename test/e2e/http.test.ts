import assert from "node:assert/strict";
import { once } from "node:events";
import { truncateSync, writeFileSync } from "node:fs";
import type { IncomingMessage } from "node:http";
import { Agent, createServer as createHttp1Server, request as requestHttp1 } from "node:http";
import { createServer as createHttp2Server } from "node:http2";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, test } from "node:test";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Client, ConnectRouter } from "@connectrpc/connect";
import { Code, createClient, createContextKey, createContextValues } from "@connectrpc/connect";
import {
  connectNodeAdapter,
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import type { ServiceError } from "@grpc/grpc-js";
import { Client as GrpcClient, credentials, status } from "@grpc/grpc-js";
import type {
  IsthmusServer,
  IsthmusServerOptions,
  IsthmusTransport,
  IsthmusTransportOptions,
} from "../../src/index.js";
import {
  createIsthmusServer,
  createIsthmusTransport,
  loan,
  mapFile,
  peerCredentials,
  region,
} from "../../src/index.js";
import { typedList } from "../../src/codec/index.js";
import { KindsService } from "../proto/kinds_pb.js";
import { StreamService } from "../proto/streams_pb.js";
import type { EchoReply } from "../proto/test_pb.js";
import { EchoReplySchema, EchoRequestSchema, TestService } from "../proto/test_pb.js";
import { onlyWithAddon } from "../support/carriers.js";
import { freeAddress, makeCertificate, onFreePort, servePlainConnect } from "../support/http.js";
import { pattern, patternFault } from "../support/own-routes.js";
import type { Owner } from "../support/temp.js";
import { suiteOwner, tempFolder, tempSocket } from "../support/temp.js";
import { serveInChild } from "../support/test-server.js";
import { testRoutes } from "../support/test-service.js";
import { failure, waitUntil, within } from "../support/waiting.js";

const PROTOCOLS = ["grpc", "grpc-web", "connect"] as const;

function allRoutes(router: ConnectRouter): void {
  testRoutes(router);
  router.service(StreamService, {
    echo: (request) => request,
    async *count({ count }) {
      for (let i = 0n; i < count; i++) yield await Promise.resolve({ number: i });
    },
    async sum(items) {
      let [count, bytes] = [0n, 0n];
      for await (const { data } of items) {
        count++;
        bytes += BigInt(data.length);
      }
      return { items: count, dataBytes: bytes };
    },
    async *chat(items) {
      for await (const item of items) yield item;
    },
  });
}

interface Served {
  readonly server: IsthmusServer;
  readonly address: string;
}

async function serve(owner: Owner, options: Partial<IsthmusServerOptions> = {}): Promise<Served> {
  const server = createIsthmusServer({ routes: allRoutes, ...options });
  owner.after(() => server.close({ timeoutMs: 0 }));
  const { address } = await server.listen("http://127.0.0.1:0");
  return { server, address };
}

function connectTo(
  owner: Owner,
  address: string,
  options: Partial<IsthmusTransportOptions> = {},
): { transport: IsthmusTransport; client: Client<typeof TestService> } {
  const transport = createIsthmusTransport({ ...options, address });
  owner.after(() => transport.close());
  return { transport, client: createClient(TestService, transport) };
}

function itself(client: Client<typeof TestService>): void {
  test("a call brings its answer, with headers and trailers", async () => {
    const found: Record<string, Headers> = {};
    const reply = await client.echo(
      { text: "héllo", number: 2n ** 63n - 1n, data: pattern(1, 300_000) },
      {
        headers: { "x-one": "1", "x-two-bin": "AAEC" },
        onHeader: (header) => void (found.header = header),
        onTrailer: (trailer) => void (found.trailer = trailer),
      },
    );
    assert.equal(reply.text, "héllo");
    assert.equal(reply.number, 2n ** 63n - 1n);
    assert.equal(reply.data.length, 300_000);
    assert.equal(patternFault(reply.data, 1), -1);
    assert.equal(found.header.get("x-one"), "1");
    assert.equal(found.trailer.get("x-trailer-two-bin"), "AAEC");
  });

  test("an error keeps code, text, details and metadata", async () => {
    const error = await failure(
      client.fail({ code: Code.OutOfRange, message: "too far: ü", details: ["a", "b"] }),
      Code.OutOfRange,
      /too far: ü/,
    );
    assert.deepEqual(
      error.findDetails(EchoReplySchema).map(({ text }) => text),
      ["a", "b"],
    );
    assert.equal(error.metadata.get("x-failed"), "yes");
    assert.equal(error.metadata.get("x-detail-bin"), "AAEC");
    await failure(client.fail({ plain: true, message: "secret" }), Code.Internal, /^\[internal\] internal error$/);
    await failure(client.unfinished({}), Code.Unimplemented, /not implemented/);
  });

  test("a deadline and an abort end a call", async () => {
    await failure(client.wait({ milliseconds: 600_000 }, { timeoutMs: 60 }), Code.DeadlineExceeded, /timed out/);
    const abort = new AbortController();
    const waiting = client.wait({ milliseconds: 60_000 }, { signal: abort.signal });
    abort.abort();
    await failure(waiting, Code.Canceled, /abort/);
    assert.equal((await client.echo({ text: "next" })).text, "next");
  });

  test("many calls at once are answered each with its own", async () => {
    const replies = await Promise.all(Array.from({ length: 500 }, (_, i) => client.echo({ number: BigInt(i) })));
    assert.deepEqual(
      replies.map(({ number }) => Number(number)),
      Array.from({ length: 500 }, (_, i) => i),
    );
  });
}

for (const protocol of PROTOCOLS) {
  describe(`our client, speaking ${protocol} to our server`, async () => {
    const owner = suiteOwner();
    const { address } = await serve(owner);
    itself(connectTo(owner, address, { protocol }).client);
  });

  describe(`our client, speaking ${protocol} to Connect's server`, async () => {
    const owner = suiteOwner();
    itself(connectTo(owner, await servePlainConnect(owner, testRoutes), { protocol }).client);
  });

  test(`streams of all kinds run over ${protocol}`, async (t) => {
    const { server, address } = await serve(t);
    const { transport } = connectTo(t, address, { protocol });
    const client = createClient(StreamService, transport);
    const counted: bigint[] = [];
    for await (const { number } of client.count({ count: 100n })) counted.push(number);
    assert.deepEqual(
      counted,
      Array.from({ length: 100 }, (_, i) => BigInt(i)),
    );
    const items = async function* () {
      for (let i = 0; i < 10; i++) yield await Promise.resolve({ number: BigInt(i), data: pattern(i, 1000) });
    };
    const { items: count, dataBytes } = await client.sum(items());
    assert.deepEqual([count, dataBytes], [10n, 10_000n]);
    const back: bigint[] = [];
    for await (const { number } of client.chat(items())) back.push(number);
    assert.equal(back.length, 10);
    assert.equal(transport.stats().pendingCalls, 0);
    const abort = new AbortController();
    await failure(
      (async () => {
        for await (const { number } of client.count({ count: 1_000_000n }, { signal: abort.signal }))
          if (number === 3n) abort.abort();
      })(),
      Code.Canceled,
      /abort/,
    );
    await waitUntil(
      "the call to be over at both ends",
      () => transport.stats().pendingCalls === 0 && server.stats().pendingCalls === 0,
    );
  });
}

describe("a process of another make that calls our server", async () => {
  const owner = suiteOwner();
  const { address } = await serve(owner);
  // Node's client may use a connection again at the moment at which Node's server ends it for having been idle.
  const nodeOptions = { agent: new Agent({ keepAlive: false }) };
  for (const [name, transport] of [
    ["Connect's gRPC transport", createGrpcTransport({ baseUrl: address })],
    [
      "Connect's gRPC-Web transport over HTTP/1.1",
      createGrpcWebTransport({ baseUrl: address, httpVersion: "1.1", nodeOptions }),
    ],
    [
      "Connect's own transport over HTTP/1.1",
      createConnectTransport({ baseUrl: address, httpVersion: "1.1", nodeOptions }),
    ],
    [
      "Connect's own transport, with JSON",
      createConnectTransport({ baseUrl: address, httpVersion: "2", useBinaryFormat: false }),
    ],
  ] as const) {
    describe(name, () => itself(createClient(TestService, transport)));
  }

  test("grpc-js", async () => {
    const client = new GrpcClient(address.slice("http://".length), credentials.createInsecure());
    owner.after(() => client.close());
    const call = (path: string, data: Uint8Array) =>
      new Promise<EchoReply>((resolve, reject) => {
        client.makeUnaryRequest(
          `/${TestService.typeName}/${path}`,
          (message: Uint8Array) => Buffer.from(message),
          (bytes: Buffer) => fromBinary(EchoReplySchema, bytes),
          data,
          (error, reply) => (error === null ? resolve(reply!) : reject(error)),
        );
      });
    const request = {
      $typeName: EchoRequestSchema.typeName,
      text: "from grpc-js",
      number: 7n,
      data: pattern(2, 100_000),
    } as const;
    const reply = await call("Echo", toBinary(EchoRequestSchema, request));
    assert.equal(reply.text, "from grpc-js");
    assert.equal(patternFault(reply.data, 2), -1);
    await assert.rejects(
      call("Unfinished", new Uint8Array(0)),
      (error: ServiceError) => error.code === status.UNIMPLEMENTED,
    );
  });

  test("curl's way: JSON by fetch", async () => {
    const response = await fetch(`${address}/${TestService.typeName}/Echo`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: '{"text":"x"}',
    });
    assert.deepEqual([response.status, await response.json()], [200, { text: "x" }]);
    assert.equal((await fetch(`${address}/nothing`)).status, 404);
  });
});

describe("a service that nobody registered is Unimplemented, by its name,", async () => {
  const owner = suiteOwner();
  const { address } = await serve(owner, { routes: () => undefined });
  const text = /\/isthmus\.test\.KindsService\/Echo is not served here/;
  for (const [name, transport] of [
    ["over gRPC", createGrpcTransport({ baseUrl: address })],
    ["over gRPC-Web", createGrpcWebTransport({ baseUrl: address, httpVersion: "2" })],
    ["over gRPC-Web and HTTP/1.1", createGrpcWebTransport({ baseUrl: address, httpVersion: "1.1" })],
    ["over Connect", createConnectTransport({ baseUrl: address, httpVersion: "2" })],
    [
      "over Connect and HTTP/1.1, with JSON",
      createConnectTransport({ baseUrl: address, httpVersion: "1.1", useBinaryFormat: false }),
    ],
    ["for our own client", createIsthmusTransport({ address })],
  ] as const) {
    test(name, async () => {
      const client = createClient(KindsService, transport);
      await failure(client.echo({}), Code.Unimplemented, text);
      await failure(client.echo({ blobs: [new Uint8Array(1_000_000)] }), Code.Unimplemented, text);
    });
  }

  test("for grpc-js, in trailers of a response of status 200", async (t) => {
    const client = new GrpcClient(address.slice("http://".length), credentials.createInsecure());
    t.after(() => client.close());
    const error = await new Promise<ServiceError | null>((resolve) => {
      client.makeUnaryRequest(
        "/no.Service/Ünknown%",
        () => Buffer.alloc(0),
        () => undefined,
        undefined,
        (failed) => resolve(failed),
      );
    });
    assert.equal(error?.code, status.UNIMPLEMENTED);
    assert.match(error.details, /^\/no\.Service\/.* is not served here; check the service and method name, /);
  });

  test("over gRPC and HTTP/1.1, in trailers too", async () => {
    const request = requestHttp1(`${address}/no.Service/Method`, {
      method: "POST",
      headers: { "content-type": "application/grpc+proto", te: "trailers" },
    });
    request.end(Buffer.alloc(5));
    const [response] = (await once(request, "response")) as [IncomingMessage];
    await once(response.resume(), "end");
    assert.deepEqual(
      [response.statusCode, response.headers["content-type"], response.trailers["grpc-status"]],
      [200, "application/grpc+proto", "12"],
    );
    assert.match(response.trailers["grpc-message"]!, /^\/no\.Service\/Method is not served here/);
  });

  test("for Connect with status 404, and for anything else without a body", async () => {
    const connect = await fetch(`${address}/no.Service/Method`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: "{}",
    });
    assert.deepEqual([connect.status, ((await connect.json()) as { code: string }).code], [404, "unimplemented"]);
    const get = await fetch(`${address}/no.Service/Method?connect=v1&encoding=json&message=%7B%7D`);
    assert.deepEqual([get.status, ((await get.json()) as { code: string }).code], [404, "unimplemented"]);
    const page = await fetch(`${address}/index.html`);
    assert.deepEqual([page.status, await page.text()], [404, ""]);
  });

  test("for gRPC-Web as text too", async () => {
    const response = await fetch(`${address}/no.Service/Method`, {
      method: "POST",
      headers: { "content-type": "application/grpc-web-text" },
      body: "AAAAAAA=",
    });
    const frame = Buffer.from(await response.text(), "base64");
    assert.deepEqual(
      [response.status, response.headers.get("content-type"), frame[0], frame.readUInt32BE(1)],
      [200, "application/grpc-web-text", 0x80, frame.length - 5],
    );
    assert.match(
      frame.subarray(5).toString(),
      /^grpc-status: 12\r\ngrpc-message: \/no\.Service\/Method is not served here.*\r\n$/,
    );
  });
});

describe("payloads over HTTP", async () => {
  const owner = suiteOwner();
  const { address } = await serve(owner);
  const { transport, client } = connectTo(owner, address);

  test("a loan is taken once, whatever transport it is of", async () => {
    const local = createIsthmusServer({ routes: testRoutes });
    const path = tempSocket(owner);
    await local.listen(path);
    owner.after(() => local.close({ timeoutMs: 0 }));
    const near = connectTo(owner, path);
    for (const lender of [transport, near.transport]) {
      const bytes = await loan(lender, 100_000);
      bytes.set(pattern(3, bytes.length));
      const reply = await client.echo({ data: bytes.subarray(10) });
      assert.deepEqual(reply.data, pattern(3, 100_000).subarray(10));
      assert.equal(bytes.length, 0);
      await failure(
        client.echo({ data: bytes }),
        Code.Internal,
        /field isthmus\.test\.EchoRequest\.data .*its memory is gone: it was sent with the call .*Echo/,
      );
    }
    assert.equal(near.transport.stats().connection!.loans, 0);
  });

  test("loans are found in lists, maps, oneofs, nested messages and typed lists", async () => {
    const kinds = createClient(KindsService, transport);
    const bytes = await loan(transport, 64);
    bytes.set(pattern(4, 64));
    const expected = pattern(4, 64);
    const doubles = await loan(transport, 80);
    new Float64Array(doubles.buffer).set([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    const request = {
      blobs: [bytes, bytes.subarray(3, 5)],
      boolMap: { true: bytes.subarray(0, 9) },
      children: [{ blobs: [new Uint8Array([1])] }, { blobs: [bytes.subarray(60)] }],
      choice: { case: "choiceMessage" as const, value: { blobs: [bytes] } },
      doubles: typedList(new Float64Array(doubles.buffer)),
    };
    const reply = await kinds.echo(request);
    assert.deepEqual(reply.blobs, [expected, expected.subarray(3, 5)]);
    assert.deepEqual(reply.boolMap.true, expected.subarray(0, 9));
    assert.deepEqual(reply.children[1].blobs[0], expected.subarray(60));
    assert.ok(reply.choice.case === "choiceMessage");
    assert.deepEqual(reply.choice.value.blobs, [expected]);
    assert.deepEqual(reply.doubles, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert.deepEqual([bytes.length, doubles.length], [0, 0]);
  });

  test("a file is sent as it is then, and one that has become shorter is DataLoss and no SIGBUS", {
    skip: onlyWithAddon,
  }, async () => {
    const path = join(tempFolder(owner), "file");
    writeFileSync(path, pattern(5, 3_000_000));
    const bytes = await mapFile(path);
    assert.equal(patternFault((await client.echo({ data: bytes })).data, 5), -1);
    const part = pattern(6, 3_000_000);
    writeFileSync(path, part, { flag: "r+" });
    assert.deepEqual((await client.echo({ data: bytes.subarray(1000, 2000) })).data, part.subarray(1000, 2000));
    truncateSync(path, 5);
    await failure(client.echo({ data: bytes }), Code.DataLoss, /has become shorter/);
  });

  test("a region is copied, and can be sent again", async () => {
    const bytes = await region(50_000);
    bytes.set(pattern(7, bytes.length));
    for (let i = 0; i < 2; i++) assert.equal(patternFault((await client.echo({ data: bytes })).data, 7), -1);
    assert.equal(bytes.length, 50_000);
  });

  test("handlers answer with loans and files, behind interceptors of their own too", async (t) => {
    const path = join(tempFolder(t), "file");
    writeFileSync(path, pattern(8, 1_000_000));
    const lent: Uint8Array[] = [];
    const served = await serve(t, {
      routes({ rpc }) {
        rpc(TestService.method.echo, async (_, context) => {
          const bytes = await loan(context, 1000);
          bytes.set(pattern(9, 1000));
          lent.push(bytes);
          return { data: bytes };
        });
        rpc(TestService.method.checksum, async () => ({ data: await mapFile(path) }), {
          interceptors: [(next) => (request) => next(request)],
        });
        rpc(TestService.method.count, async function* () {
          for (let i = 0; i < 3; i++) yield { data: await mapFile(path) };
          truncateSync(path, 100);
          yield { data: (await mapFile(path)).subarray(50) };
        });
      },
    });
    const { client: caller } = connectTo(t, served.address);
    assert.equal(patternFault((await caller.echo({})).data, 9), -1);
    assert.equal(lent[0].length, 0);
    assert.equal(patternFault((await caller.checksum({})).data, 8), -1);
    const lengths: number[] = [];
    for await (const { data } of caller.count({})) lengths.push(data.length);
    assert.deepEqual(lengths, [1_000_000, 1_000_000, 1_000_000, 50]);
  });
});

describe("a server on HTTP", () => {
  test("shows handlers the same facts, without credentials", async (t) => {
    const key = createContextKey("nothing");
    const seen: unknown[] = [];
    const { address } = await serve(t, {
      contextValues: (peer) => createContextValues().set(key, `peer: ${typeof peer}`),
      maxTimeoutMs: 500_000,
      interceptors: [
        (next) => (request) => {
          seen.push(request.method.name, request.stream);
          return next(request);
        },
      ],
      routes({ rpc }) {
        rpc(TestService.method.echo, (_, context) => {
          seen.push(
            context.values.get(key),
            context.values.get(peerCredentials),
            context.requestHeader.get("x-a"),
            context.protocolName,
            context.method.name,
          );
          assert.ok(context.timeoutMs()! > 0 && context.timeoutMs()! <= 400_000);
          return {};
        });
      },
    });
    const { client } = connectTo(t, address);
    await client.echo({}, { headers: { "x-a": "1" }, timeoutMs: 400_000 });
    assert.deepEqual(seen, ["Echo", false, "peer: undefined", undefined, "1", "grpc", "Echo"]);
    await failure(client.echo({}, { timeoutMs: 600_000 }), Code.InvalidArgument, /500000/);
  });

  test("keeps limits of messages", async (t) => {
    const { address } = await serve(t, { readMaxBytes: 1000 });
    await failure(connectTo(t, address).client.echo({ data: new Uint8Array(2000) }), Code.ResourceExhausted, /1000/);
    await failure(
      connectTo(t, address, { writeMaxBytes: 100 }).client.echo({ data: new Uint8Array(200) }),
      Code.ResourceExhausted,
      /100/,
    );
    await failure(
      connectTo(t, address, { readMaxBytes: 100 }).client.echo({ data: new Uint8Array(200) }),
      Code.ResourceExhausted,
      /100/,
    );
  });

  test("turns away more connections than it may have, and counts them", async (t) => {
    const { server, address } = await serve(t, { maxHttpConnections: 1 });
    await connectTo(t, address).client.echo({});
    await failure(connectTo(t, address).client.echo({}), Code.Unavailable, /127\.0\.0\.1/);
    assert.deepEqual([server.stats().carriers.http, server.stats().refused], [1, 1]);
  });

  test("serves below a path, when the address has one", async (t) => {
    const server = createIsthmusServer({ routes: testRoutes });
    t.after(() => server.close({ timeoutMs: 0 }));
    const { address } = await server.listen("http://127.0.0.1:0/api/v1/");
    assert.match(address, /^http:\/\/127\.0\.0\.1:\d+\/api\/v1$/);
    assert.equal((await connectTo(t, address).client.echo({ text: "below" })).text, "below");
    await failure(
      connectTo(t, new URL(address).origin).client.echo({}),
      Code.Unimplemented,
      /\/isthmus\.test\.TestService\/Echo is not served here/,
    );
  });

  test("lets open calls finish when it closes, and cuts off what takes too long", async (t) => {
    for (const protocol of PROTOCOLS) {
      const { server, address } = await serve(t);
      const { client } = connectTo(t, address, { protocol });
      await client.echo({});
      const short = client.wait({ milliseconds: 1500 });
      const long = failure(client.wait({ milliseconds: 600_000 }), Code.Unavailable, /lost/);
      const overHttp1 = createClient(
        TestService,
        createConnectTransport({ baseUrl: address, httpVersion: "1.1" }),
      ).wait({ milliseconds: 1500 });
      await waitUntil("the calls to be there", () => server.stats().pendingCalls === 3 || server.stats().pendingCalls);
      const closed = server.close({ timeoutMs: 4000 });
      assert.equal((await short).text, "waited");
      assert.equal((await overHttp1).text, "waited");
      await long;
      await closed;
      assert.deepEqual([server.stats().connections, server.stats().pendingCalls], [0, 0]);
      await failure(client.echo({}), Code.Unavailable, /nobody listens there/);
    }
  });

  test("closes at once when connections are idle, or say nothing", async (t) => {
    const { server, address } = await serve(t);
    await connectTo(t, address).client.echo({});
    await fetch(address);
    const { connect } = await import("node:net");
    const silent = connect(Number(new URL(address).port), "127.0.0.1");
    t.after(() => silent.destroy());
    silent.on("error", () => {});
    await waitUntil("three connections", () => server.stats().carriers.http === 3);
    await within(60_000, "close()", server.close({ timeoutMs: 600_000 }));
    assert.equal(server.stats().connections, 0);
  });

  test("carries several large messages at once, both ways, in calls of every kind", async (t) => {
    const { address } = await serve(t);
    const { transport } = connectTo(t, address);
    const client = createClient(StreamService, transport);
    const data = new Uint8Array(6 << 20);
    async function* twice() {
      for (let i = 0; i < 2; i++) yield await Promise.resolve({ data });
    }
    const chat = async () => {
      let count = 0;
      for await (const item of client.chat(twice())) count += item.data.length;
      return count;
    };
    assert.deepEqual(await Promise.all([chat(), chat(), chat()]), [12 << 20, 12 << 20, 12 << 20]);
    const echoed = await Promise.all([1, 2, 3].map(() => client.echo({ data })));
    assert.deepEqual(
      echoed.map((item) => item.data.length),
      [6 << 20, 6 << 20, 6 << 20],
    );
    const sums = await Promise.all([1, 2, 3].map(() => client.sum(twice())));
    assert.deepEqual(
      sums.map(({ dataBytes }) => dataBytes),
      [12n << 20n, 12n << 20n, 12n << 20n],
    );
  });

  test("says what is in the way of listening", async (t) => {
    const { server, address } = await serve(t);
    await failure(server.listen(address), Code.AlreadyExists, /EADDRINUSE/);
    await failure(server.listen("http://127.0.0.1:99999"), Code.InvalidArgument, /for example http/);
    await failure(server.listen("http://127.0.0.1:0?x=1"), Code.InvalidArgument, /only a path/);
    await failure(server.listen("https://127.0.0.1:0"), Code.InvalidArgument, /key and a certificate/);
    await failure(
      server.listen("https://127.0.0.1:0", { tls: { key: "no key", cert: "none" } }),
      Code.InvalidArgument,
      /tls/,
    );
    await failure(server.listen("http://127.0.0.1:0", { tls: {} }), Code.InvalidArgument, /https/);
    await failure(
      createIsthmusServer({ routes: testRoutes, allow: () => true }).listen("http://127.0.0.1:0"),
      Code.FailedPrecondition,
      /allow/,
    );
    await server.close();
    await failure(server.listen("http://127.0.0.1:0"), Code.FailedPrecondition, /closed/);
  });

  test("runs beside Connect's own server, with the same routes", async (t) => {
    const existing = await onFreePort(t, createHttp2Server(connectNodeAdapter({ routes: testRoutes })));
    const server = createIsthmusServer({ routes: testRoutes });
    t.after(() => server.close({ timeoutMs: 0 }));
    const path = tempSocket(t);
    await server.listen(path);
    for (const transport of [
      createGrpcTransport({ baseUrl: existing }),
      createIsthmusTransport({ address: path }),
      createIsthmusTransport({ address: existing }),
    ]) {
      assert.equal((await createClient(TestService, transport).echo({ text: "same" })).text, "same");
    }
  });
});

describe("TLS", () => {
  test("a client that trusts the certificate is served over HTTP/2 and HTTP/1.1, another is told why not", async (t) => {
    const certificate = makeCertificate(t);
    if (certificate === undefined) return t.skip("there is no openssl here to make a certificate with");
    const { key, cert } = certificate;
    const server = createIsthmusServer({ routes: testRoutes });
    t.after(() => server.close({ timeoutMs: 0 }));
    const { address } = await server.listen("https://localhost:0", { tls: { key, cert } });
    assert.match(address, /^https:\/\/localhost:\d+$/);
    assert.equal(
      (await connectTo(t, address, { nodeOptions: { ca: cert } }).client.echo({ text: "secret" })).text,
      "secret",
    );
    const overHttp1 = createConnectTransport({ baseUrl: address, httpVersion: "1.1", nodeOptions: { ca: cert } });
    assert.equal((await createClient(TestService, overHttp1).echo({ text: "one" })).text, "one");
    await failure(connectTo(t, address).client.echo({}), Code.Unavailable, /certificate is not accepted .*`ca`/);
    await failure(connectTo(t, address.replace("https", "http")).client.echo({}), Code.Unavailable, /127|localhost/);
    await server.close({ timeoutMs: 1000 });
    assert.equal(server.stats().connections, 0);
  });
});

describe("a client on HTTP", () => {
  test("names the address when there is no connection to be had", async (t) => {
    await failure(
      connectTo(t, await freeAddress()).client.echo({}),
      Code.Unavailable,
      /connect to http:\/\/127\.0\.0\.1:\d+: nobody listens there/,
    );
    await failure(
      connectTo(t, "http://no-such-host.invalid:8080").client.echo({}),
      Code.Unavailable,
      /connect to http:\/\/no-such-host\.invalid:8080: (no such host|the host's name cannot be resolved now)/,
    );
    const { address } = await serve(t);
    await failure(
      connectTo(t, address.replace("http", "https")).client.echo({}),
      Code.Unavailable,
      /does not speak TLS/,
    );
    const http1 = await onFreePort(
      t,
      createHttp1Server((_, response) => response.end("hello")),
    );
    await failure(connectTo(t, http1).client.echo({}), Code.Unavailable, /HTTP\/2/);
    const gone = await onFreePort(
      t,
      createServer((socket) => socket.destroy()),
    );
    await failure(connectTo(t, gone).client.echo({}), Code.Unavailable, /127\.0\.0\.1/);
  });

  test("refuses options that cannot be", () => {
    const make = (options: Partial<IsthmusTransportOptions>) => () =>
      createIsthmusTransport({ address: "http://localhost:1", ...options });
    assert.throws(make({ carrier: "shm" }), /cannot be had over HTTP/);
    assert.throws(make({ protocol: "soap" as never }), /option protocol: expected .* not "soap"/);
    assert.throws(make({ address: "http://localhost:1?a" }), /only a path/);
  });

  test("a server that is killed fails what is in flight as Unavailable, and the next call connects anew", async (t) => {
    const address = await freeAddress();
    const first = await serveInChild(t, {}, { address });
    const { transport, client } = connectTo(t, address);
    assert.deepEqual([transport.state, transport.carrier], ["idle", undefined]);
    await client.echo({});
    assert.deepEqual([transport.state, transport.carrier], ["ready", "http"]);
    const waiting = failure(client.wait({ milliseconds: 60_000 }), Code.Unavailable, /lost/);
    await waitUntil("the call to be there", async () => (await first.stats()).pendingCalls === 1);
    await first.child.kill("SIGKILL");
    await waiting;
    await failure(client.echo({}), Code.Unavailable, /nobody listens there/);
    await serveInChild(t, {}, { address });
    assert.equal((await client.echo({ text: "again" })).text, "again");
    assert.equal(transport.stats().connections, 2);
  });

  test("ends open and later calls when it is closed", async (t) => {
    const { server, address } = await serve(t);
    const { transport, client } = connectTo(t, address);
    const waiting = client.wait({ milliseconds: 60_000 });
    await waitUntil("the call to be there", () => server.stats().pendingCalls === 1);
    assert.equal(transport.stats().pendingCalls, 1);
    await transport.close();
    await failure(waiting, Code.Unavailable, /the transport was closed/);
    await failure(client.echo({}), Code.Unavailable, /the transport is closed/);
    assert.equal(transport.state, "closed");
    await waitUntil("the connection to be gone", () => server.stats().connections === 0);
  });

  test("requests that are no iterable fail their call, and nothing else", async (t) => {
    const { address } = await serve(t);
    const { transport } = connectTo(t, address);
    const client = createClient(StreamService, transport);
    for (const wrong of [undefined, null, [{}], {}])
      await failure(client.sum(wrong as never), Code.Internal, /iterator/i);
    assert.equal((await client.sum((async function* () {})())).items, 0n);
    assert.equal(transport.stats().pendingCalls, 0);
  });

  test("takes a deadline that no timer can count for none", async (t) => {
    const { address } = await serve(t);
    for (const timeoutMs of [2 ** 40, Infinity, 0])
      assert.equal((await connectTo(t, address).client.echo({ text: "late" }, { timeoutMs })).text, "late");
    await failure(
      connectTo(t, address, { defaultTimeoutMs: 50 }).client.wait({ milliseconds: 600_000 }),
      Code.DeadlineExceeded,
      /timed out/,
    );
  });

  test("runs the user's interceptors once, the first outermost, with context values", async (t) => {
    const { address } = await serve(t);
    const key = createContextKey("");
    const seen: string[] = [];
    const { client } = connectTo(t, address, {
      interceptors: ["a", "b"].map((name) => (next) => async (request) => {
        seen.push(`${name} ${request.contextValues.get(key)}`);
        request.header.set(`x-${name}`, name);
        return next(request);
      }),
    });
    let header: Headers | undefined;
    await client.echo(
      {},
      { contextValues: createContextValues().set(key, "v"), onHeader: (found) => (header = found) },
    );
    assert.deepEqual(seen, ["a v", "b v"]);
    assert.equal(header!.get("x-b"), "b");
  });
});
