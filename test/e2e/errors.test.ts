/** What a caller learns of a call that fails. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { before, describe, test } from "node:test";
import { Worker } from "node:worker_threads";
import type { MessageShape } from "@bufbuild/protobuf";
import { create, toBinary } from "@bufbuild/protobuf";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import type { IsthmusServerOptions } from "../../src/index.js";
import { createProtobufCodec } from "../../src/codec/codec.js";
import { createIsthmusServer } from "../../src/index.js";
import { KindsService } from "../proto/kinds_pb.js";
import { RequiredService } from "../proto/required_pb.js";
import type { EchoRequest } from "../proto/test_pb.js";
import { EchoReplySchema, EchoRequestSchema, TestService } from "../proto/test_pb.js";
import { onlyWithAddon } from "../support/carriers.js";
import type { Owner } from "../support/temp.js";
import { suiteOwner, tempSocket } from "../support/temp.js";
import type { TestClient, TestServer } from "../support/test-server.js";
import { connectTo, PLACES, startServer } from "../support/test-server.js";
import { failure, within } from "../support/waiting.js";

for (const place of PLACES) {
  describe(`errors, ${place}`, () => {
    const owner = suiteOwner();
    let server: TestServer;
    let here: TestClient;
    before(async () => {
      server = await startServer(owner, place, { readMaxBytes: 1_000_000, writeMaxBytes: 500_000 });
      here = connectTo(owner, server);
    });

    test("every code arrives as it is", async () => {
      for (let code = Code.Canceled; code <= Code.Unauthenticated; code++) {
        await failure(here.client.fail({ code, message: `code ${code}` }), code, new RegExp(`code ${code}$`));
      }
    });

    test("the message arrives, whatever its characters", async () => {
      for (const message of ["", "Übergröße 🌉\n\u0000", "100% [not_found]"]) {
        const error = await failure(here.client.fail({ code: Code.NotFound, message }), Code.NotFound, /(?:)/);
        assert.equal(error.rawMessage, message);
      }
    });

    test("details arrive and can be found by type", async () => {
      const error = await failure(
        here.client.fail({ code: Code.Internal, message: "m", details: ["one", "two"] }),
        Code.Internal,
        /m/,
      );
      assert.deepEqual(
        error.findDetails(EchoReplySchema).map(({ text }) => text),
        ["one", "two"],
      );
      assert.deepEqual(error.findDetails(EchoRequestSchema), []);
    });

    test("details stay as they came while other messages come", async () => {
      const error = await failure(
        here.client.fail({ code: Code.Internal, message: "m", details: ["one", "two"] }),
        Code.Internal,
        /m/,
      );
      for (let i = 0; i < 10; i++) await here.client.echo({ text: "x".repeat(1000) });
      assert.deepEqual(
        error.findDetails(EchoReplySchema).map(({ text }) => text),
        ["one", "two"],
      );
    });

    test("messages and details of any length arrive", async () => {
      for (const length of [16_300, 16_384, 20_000, 300_000]) {
        const error = await failure(
          here.client.fail({ code: Code.DataLoss, message: "m".repeat(length) }),
          Code.DataLoss,
          /m/,
        );
        assert.equal(error.rawMessage.length, length);
        const detailed = await failure(
          here.client.fail({ code: Code.DataLoss, details: ["d".repeat(length), "last"] }),
          Code.DataLoss,
          /data_loss/,
        );
        assert.deepEqual(
          detailed.findDetails(EchoReplySchema).map(({ text }) => text.length),
          [length, 4],
        );
      }
    });

    test("an error that is no ConnectError becomes Internal and tells nothing of its text", async () => {
      const error = await failure(
        here.client.fail({ plain: true, message: "the password is 123" }),
        Code.Internal,
        /internal error/,
      );
      assert.equal(error.rawMessage, "internal error");
    });

    test("a method that the service does not implement is Unimplemented, by its name", async () => {
      await failure(
        here.client.unfinished({}),
        Code.Unimplemented,
        /isthmus\.test\.TestService\.Unfinished is not implemented/,
      );
    });

    test("a request larger than the server's readMaxBytes is refused, and one just as large is not", async () => {
      await failure(
        here.client.wait({}).then(() => here.client.checksum({ data: new Uint8Array(1_000_000) })),
        Code.ResourceExhausted,
        /message size 10000\d\d is larger than configured readMaxBytes 1000000/,
      );
      await failure(
        here.client.checksum({ data: new Uint8Array(999_996) }),
        Code.ResourceExhausted,
        /writeMaxBytes 500000/,
      );
    });

    test("an answer larger than the server's writeMaxBytes is not sent", async () => {
      await failure(
        here.client.echo({ data: new Uint8Array(500_000) }),
        Code.ResourceExhausted,
        /message size 50000\d is larger than configured writeMaxBytes 500000/,
      );
    });

    test("the client's own limits hold before anything is sent and before anything is read", async (context) => {
      const { client } = connectTo(context, server, { readMaxBytes: 1000, writeMaxBytes: 2000 });
      await failure(
        client.echo({ data: new Uint8Array(2000) }),
        Code.ResourceExhausted,
        /message size 2003 is larger than configured writeMaxBytes 2000/,
      );
      await failure(
        client.echo({ data: new Uint8Array(1500) }),
        Code.ResourceExhausted,
        /message size 1503 is larger than configured readMaxBytes 1000/,
      );
      assert.equal((await client.echo({ data: new Uint8Array(997) })).data.length, 997);
    });

    test("large answers over readMaxBytes are refused at their first fragment", async (context) => {
      const { client } = connectTo(context, server, { readMaxBytes: 100_000 });
      for (let i = 0; i < 5; i++)
        await failure(client.echo({ data: new Uint8Array(400_000) }), Code.ResourceExhausted, /readMaxBytes 100000/);
      assert.equal((await client.echo({ text: "on" })).text, "on");
    });

    test("an error's text is not subject to readMaxBytes", async (context) => {
      const { client } = connectTo(context, server, { readMaxBytes: 10 });
      await failure(
        client.fail({ code: Code.NotFound, message: "longer than ten bytes" }),
        Code.NotFound,
        /longer than ten bytes/,
      );
    });

    test("a request without a required field rejects, and no other call notices", async () => {
      const client = createClient(RequiredService, here.transport);
      const [wrong, right] = await Promise.allSettled([client.echo({}), client.echo({ name: "there" })]);
      assert.equal(wrong.status, "rejected");
      assert.match(String(wrong.reason), /\[internal\] serialize binary: .*required/);
      assert.equal((right as PromiseFulfilledResult<{ name: string }>).value.name, "there");
    });

    test("an answer without a required field is the server's error", async () => {
      const client = createClient(RequiredService, here.transport);
      await failure(client.forget({ name: "n" }), Code.Internal, /serialize binary: .*required/);
    });

    test("fields of the wrong type reject the call that has them", async () => {
      await failure(here.client.wait({ milliseconds: 1.5 }), Code.Internal, /serialize binary: .*uint32/);
      assert.equal((await here.client.echo({ text: "on" })).text, "on");
    });

    test("bytes that are no message fail that call only", async (context) => {
      const garbage = Uint8Array.of(0x0a, 0xff, 0xff, 0xff, 0x0f, 1);
      const { client } = connectTo(context, server, {
        codec: (schema) => ({
          ...createProtobufCodec()(schema),
          encodeInto(message, target, offset) {
            const bytes =
              (message as EchoRequest).text === "garbage"
                ? garbage
                : toBinary(schema, create(schema, message as never));
            target.set(bytes, offset);
            return bytes.length;
          },
        }),
      });
      const [wrong, right] = await Promise.allSettled([
        client.echo({ text: "garbage" }),
        client.echo({ text: "fine" }),
      ]);
      assert.equal(right.status, "fulfilled");
      assert.match(String((wrong as PromiseRejectedResult).reason), /\[internal\] parse binary/);
    });

    test("an answer that is no message fails that call only", async (context) => {
      const { client } = connectTo(context, server, {
        codec: (schema) => ({
          ...createProtobufCodec()(schema),
          decode() {
            throw new Error("cannot read this");
          },
        }),
      });
      await failure(client.echo({}), Code.Internal, /parse binary: cannot read this/);
      await failure(
        client.fail({ code: Code.NotFound, message: "errors can be read" }),
        Code.NotFound,
        /errors can be read/,
      );
    });
  });
}

type Echo = (request: EchoRequest, context: HandlerContext) => unknown;

async function serveEcho(owner: Owner, echo: Echo, options: Partial<IsthmusServerOptions> = {}): Promise<TestClient> {
  const path = tempSocket(owner);
  const implementation = { echo } as Partial<ServiceImpl<typeof TestService>>;
  const server = createIsthmusServer({ ...options, routes: (router) => router.service(TestService, implementation) });
  await server.listen(path);
  owner.after(() => server.close({ timeoutMs: 0 }));
  return connectTo(owner, { path });
}

test("a service that is not registered is Unimplemented, by its path", async (context) => {
  const { transport } = await serveEcho(context, () => ({}));
  await failure(
    createClient(KindsService, transport).echo({}),
    Code.Unimplemented,
    /\/isthmus\.test\.KindsService\/Echo is not served here/,
  );
});

test("whatever a handler throws, and however, the call fails and the server lives", async (context) => {
  const unprintable = {
    toString: () => {
      throw new Error("no text");
    },
  };
  const thrown: Record<string, unknown> = {
    undefined: undefined,
    null: null,
    string: "s",
    number: 0,
    error: new Error("e"),
    unprintable,
    abort: new DOMException("a", "AbortError"),
  };
  const { client } = await serveEcho(context, ({ text }) => {
    const [how, what] = text.split(" ");
    if (how === "sync") throw thrown[what];
    if (how === "async")
      return Promise.resolve().then(() => {
        throw thrown[what];
      });
    return { then: (_: unknown, reject: (reason: unknown) => void) => reject(thrown[what]) };
  });
  for (const how of ["sync", "async", "thenable"]) {
    for (const what of Object.keys(thrown))
      await failure(client.echo({ text: `${how} ${what}` }), Code.Internal, /^\[internal\] internal error$/);
  }
});

test("a handler may return its message in any kind of promise, or not in one", async (context) => {
  const { client } = await serveEcho(context, ({ text }) => {
    const reply = { text };
    if (text === "plain") return reply;
    if (text === "message") return create(EchoReplySchema, reply);
    if (text === "promise") return Promise.resolve(reply);
    return {
      then: (resolve: (value: MessageShape<typeof EchoReplySchema>) => void) =>
        setTimeout(() => resolve(create(EchoReplySchema, reply)), 1),
    };
  });
  for (const text of ["plain", "message", "promise", "thenable"])
    assert.equal((await client.echo({ text })).text, text);
});

test("errors with a code that is none, or with details that cannot be encoded, still arrive as errors", async (context) => {
  const errors: Record<string, ConnectError> = {
    zero: new ConnectError("zero", 0 as Code),
    negative: new ConnectError("negative", -1 as Code),
    large: new ConnectError("large", 65536 as Code),
    fraction: new ConnectError("fraction", 1.5 as Code),
    details: new ConnectError("details", Code.Unknown, undefined, [
      { desc: EchoReplySchema, value: { number: "not a number" } },
      { desc: EchoReplySchema, value: { text: "good" } },
    ]),
  };
  const { client } = await serveEcho(context, async ({ text }) => {
    await Promise.resolve();
    throw errors[text];
  });
  for (const text of Object.keys(errors)) await failure(client.echo({ text }), Code.Unknown, new RegExp(text));
  const error = await failure(client.echo({ text: "details" }), Code.Unknown, /details/);
  assert.deepEqual(
    error.findDetails(EchoReplySchema).map(({ text }) => text),
    ["good"],
  );
});

test("an answer that cannot be encoded is the server's error and harms no other call", async (context) => {
  const { client } = await serveEcho(context, ({ text }) =>
    text === "wrong" ? Promise.resolve({ number: "x" }) : { text },
  );
  const calls = [client.echo({ text: "before" }), client.echo({ text: "wrong" }), client.echo({ text: "after" })];
  const statuses = (await within(60_000, "all calls", Promise.allSettled(calls))).map(({ status }) => status);
  assert.deepEqual(statuses, ["fulfilled", "rejected", "fulfilled"]);
});

test("a server sends no more than the message limit of protobuf and refuses limits that make no sense", () => {
  for (const readMaxBytes of [0, -1, NaN]) {
    assert.throws(
      () => createIsthmusServer({ readMaxBytes, routes: () => {} }),
      /option readMaxBytes: expected a number of bytes, at least 1, not /,
    );
  }
  assert.doesNotThrow(() => createIsthmusServer({ readMaxBytes: 2 ** 32 - 1, routes: () => {} }));
  for (const maxStreams of [0, -1, NaN]) {
    assert.throws(
      () => createIsthmusServer({ maxStreams, routes: () => {} }),
      /option maxStreams: expected a number, at least 1, not /,
    );
  }
});

test("options of a service and of a method override the server's", async (context) => {
  const path = tempSocket(context);
  const order: string[] = [];
  const note = (name: string) => (next: (request: never) => Promise<never>) => (request: never) => {
    order.push(name);
    return next(request);
  };
  const server = createIsthmusServer({
    readMaxBytes: 1000,
    maxTimeoutMs: 600_000,
    interceptors: [note("server") as never],
    routes: (router) => {
      router.service(
        TestService,
        { echo: ({ text }) => ({ text }), wait: () => ({}), whoami: () => ({}) },
        { readMaxBytes: 100, maxTimeoutMs: 50, interceptors: [note("service") as never] },
      );
      router.rpc(TestService.method.checksum, ({ data }) => ({ checksum: data.length }), { readMaxBytes: 5000 });
      router.rpc(TestService.method.wait, () => ({ text: "by rpc" }), { writeMaxBytes: 5, interceptors: [] });
      router.service(
        RequiredService,
        { echo: (request) => ({ ...request, $unknown: [{ no: 99, wireType: 0, data: Uint8Array.of(1) }] }) },
        { binaryOptions: { writeUnknownFields: false } },
      );
    },
  });
  await server.listen(path);
  context.after(() => server.close());
  const { client, transport } = connectTo(context, { path });

  assert.equal((await client.echo({ text: "x" })).text, "x");
  await failure(client.echo({ text: "x".repeat(200) }), Code.ResourceExhausted, /readMaxBytes 100/);
  await failure(client.echo({}, { timeoutMs: 51 }), Code.InvalidArgument, /must be <= 50/);
  assert.deepEqual(order.splice(0), ["service"]);

  assert.equal((await client.checksum({ data: new Uint8Array(4000) }, { timeoutMs: 500_000 })).checksum, 4000);
  await failure(client.checksum({ data: new Uint8Array(6000) }), Code.ResourceExhausted, /readMaxBytes 5000/);
  await failure(client.checksum({}, { timeoutMs: 600_001 }), Code.InvalidArgument, /must be <= 600000/);
  assert.deepEqual(order.splice(0), ["server"]);

  await failure(client.wait({}), Code.ResourceExhausted, /writeMaxBytes 5/);
  assert.deepEqual(order.splice(0), []);

  const reply = await createClient(RequiredService, transport).echo({ name: "n" });
  assert.equal(reply.$unknown, undefined);
});

/** SUBTLE: whoever asks for the global itself, or for its descriptor, loads it. */
const makesFirst = `
  import { parentPort, workerData } from "node:worker_threads";
  const isthmus = await import(workerData.isthmus);
  const { TestService } = await import(workerData.services);
  const made = {
    transport: () => isthmus.createIsthmusTransport({ address: workerData.path }),
    server: () => isthmus.createIsthmusServer({ routes: () => undefined }),
    "blocking client": () => isthmus.createBlockingClient(TestService, { address: workerData.path }),
  }[workerData.what]();
  parentPort.postMessage({ made: typeof made, hasHeaders: process.moduleLoadList.some((name) => name.includes("undici")) });
`;

for (const what of ["transport", "server", "blocking client"]) {
  test(`what errors need is loaded when a ${what} is made, and not when the first call fails`, {
    skip: what === "blocking client" && onlyWithAddon,
  }, async (context) => {
    const workerData = {
      what,
      path: tempSocket(context),
      isthmus: new URL("../../src/index.js", import.meta.url).href,
      services: new URL("../proto/test_pb.js", import.meta.url).href,
    };
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(makesFirst)}`), { workerData });
    context.after(() => worker.terminate());
    const [found] = (await within(60_000, "the worker", once(worker, "message"))) as [unknown];
    assert.deepEqual(found, { made: "object", hasHeaders: true });
  });
}
