/**
 * What users of grpc-js hand in, right or odd, over every carrier: results and failures of handlers, streams,
 * serialisers, deadlines. Whatever it is, it ends its own call, once, and nothing else: neither another call nor the
 * process.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import type {
  CallOptions,
  Client,
  MethodDefinition,
  ServiceDefinition,
  StatusObject,
  UntypedHandleCall,
  UntypedServiceImplementation,
} from "@grpc/grpc-js";
import { Client as GrpcClient, credentials, Metadata, status } from "@grpc/grpc-js";
import { addGrpcService, createIsthmusChannel } from "../../src/grpc-js/index.js";
import { createIsthmusServer } from "../../src/index.js";
import type { Owner } from "../support/temp.js";
import { suiteOwner, tempSocket } from "../support/temp.js";

const KINDS = ["unary", "clientStream", "serverStream", "bidi"] as const;
type Kind = (typeof KINDS)[number];
const isStreamOf = {
  requests: (kind: Kind) => kind === "clientStream" || kind === "bidi",
  answers: (kind: Kind) => kind === "serverStream" || kind === "bidi",
};
const pathOf = (kind: Kind) => `/given.Given/${kind}`;
const same = (bytes: unknown) => bytes as Buffer;

/** A handler's call, with all that any kind of it has. */
interface AnyCall {
  readonly metadata: Metadata;
  sendMetadata(metadata: unknown): void;
  emit(name: string, value?: unknown): boolean;
  on(name: string, listener: () => void): void;
  resume(): void;
  write(value: unknown): boolean;
  end(value?: unknown): void;
  destroy(error?: Error): void;
}
type Callback = (failure: unknown, value?: unknown, trailer?: unknown) => void;
type Way = (value: unknown, call: AnyCall, callback: Callback) => unknown;

/** A name that no header can have. Versions of grpc-js differ in whether its `Metadata` may. */
const withColon = { toHttp2Headers: () => ({ "x:y": "a" }) };
const garbledDetails = new Metadata();
garbledDetails.set("grpc-status-details-bin", Buffer.from([0xff, 0xff, 0xff]));
const revoked = Proxy.revocable({}, {});
revoked.revoke();
const thrower = (name: string) => Object.defineProperty({}, name, { get: () => assert.fail("a getter that throws") });

const values: Record<string, unknown> = {
  undefined: undefined,
  null: null,
  zero: 0,
  "empty text": "",
  text: "text",
  "a number": 7,
  NaN,
  "a symbol": Symbol("odd"),
  "a function": () => undefined,
  "an object": {},
  bytes: new Uint8Array([1, 2, 3]),
  "an error": new Error("plain"),
  "an error of Node's": Object.assign(new Error("no such file"), { code: "ENOENT" }),
  "a code": { code: status.NOT_FOUND },
  "a code that is text": { code: "5" },
  "a code that is NaN": { code: NaN },
  "a code that is a fraction": { code: 4.5 },
  "the code of success": { code: 0, details: "fine" },
  "a code that is too large": { code: 99, details: "large" },
  "a code below zero": { code: -1, details: "small" },
  "details that are a number": { code: 5, details: 7 },
  "details that are an object": { code: 5, details: {} },
  "a message that is an object": { message: Object.create(null) as object },
  "metadata that are an object": { code: 5, metadata: {} },
  "metadata that are text": { code: 5, metadata: "text" },
  "metadata that throw": { code: 5, metadata: { toHttp2Headers: () => assert.fail("they throw") } },
  "metadata with a colon": { code: 5, metadata: withColon },
  "metadata with garbled details": { code: 5, metadata: garbledDetails },
  "a ConnectError": new ConnectError("gone", Code.NotFound, { "x-a": "b" }),
  "a ConnectError with an odd code": new ConnectError("odd", 77 as Code),
  "a frozen error": Object.freeze(Object.assign(new Error("cold"), { code: 5 })),
  "a getter that throws": thrower("code"),
  "a revoked proxy": revoked.proxy,
  "a promise": Promise.resolve(1),
  metadata: new Metadata(),
};

const everyKind: Record<string, Way> = {
  "throws it": (value) => {
    throw value;
  },
  "rejects with it": (value) =>
    Promise.resolve().then(() => {
      throw value;
    }),
  'emits "error" with it': (value, call) => call.emit("error", value),
  'emits "error" with it, twice': (value, call) => call.emit("error", value) && call.emit("error", value),
  'emits "error" with it later': (value, call) => void setImmediate(() => call.emit("error", value)),
  "ends with it": (value, call) => call.end(value),
  "sends it as metadata and fails": (value, call) => {
    call.sendMetadata(value);
    call.emit("error", { code: status.ABORTED, details: "after headers" });
  },
};
const byCallback: Record<string, Way> = {
  "calls back with it": (value, _, callback) => callback(value),
  "calls back with it later": (value, _, callback) => void setImmediate(() => callback(value)),
  "calls back twice": (value, _, callback) => (callback(value), callback(null, Buffer.from("x")), callback(value)),
  "answers it": (value, _, callback) => callback(null, value),
  "answers with it as the trailer": (value, _, callback) => callback(null, Buffer.from("x"), value),
  "fails with it as the trailer": (value, _, callback) => callback({ code: status.ABORTED }, null, value),
  "calls back and throws it": (value, _, callback) => {
    callback(null, Buffer.from("x"));
    throw value;
  },
  "calls back and destroys": (value, call, callback) => (callback(value), call.destroy()),
};
const byWriting: Record<string, Way> = {
  "writes it": (value, call) => (call.write(value), call.end()),
  "writes it between others": (value, call) => (
    call.write(Buffer.from("x")), call.write(value), call.write(Buffer.from("x")), call.end()
  ),
  "writes and fails with it": (value, call) => (call.write(Buffer.from("x")), call.emit("error", value)),
  "writes after the end": (value, call) => (call.write(Buffer.from("x")), call.end(), call.write(value)),
  "fails after the end": (value, call) => (call.end(), call.emit("error", value)),
  "destroys the call": (_, call) => call.destroy(),
  "destroys the call with an error": (_, call) => call.destroy(new Error("destroyed")),
};
const waysOf = (kind: Kind): Record<string, Way> => ({
  ...everyKind,
  ...(isStreamOf.answers(kind) ? byWriting : byCallback),
});

/** Does what the request's metadata say. Requests are read, so that nothing else is in the way. */
function handlerOf(kind: Kind): UntypedHandleCall {
  const handle = (call: AnyCall, callback: Callback) => {
    const [way] = call.metadata.get("x-way");
    const [value] = call.metadata.get("x-value");
    const answer = () =>
      isStreamOf.answers(kind) ? (call.write(Buffer.from("fine")), call.end()) : callback(null, Buffer.from("fine"));
    if (way === undefined && isStreamOf.requests(kind)) call.on("end", answer);
    if (isStreamOf.requests(kind)) call.resume();
    if (way === undefined) return isStreamOf.requests(kind) ? undefined : answer();
    return waysOf(kind)[String(way)](values[String(value)], call, callback);
  };
  return handle as unknown as UntypedHandleCall;
}

function definitionOf(overrides: Partial<MethodDefinition<unknown, unknown>> = {}): ServiceDefinition {
  const coders = {
    requestSerialize: same,
    requestDeserialize: same,
    responseSerialize: same,
    responseDeserialize: same,
  };
  return Object.fromEntries(
    KINDS.map((kind) => [
      kind,
      {
        path: pathOf(kind),
        requestStream: isStreamOf.requests(kind),
        responseStream: isStreamOf.answers(kind),
        ...coders,
        ...overrides,
      },
    ]),
  );
}

interface Given {
  readonly metadata?: Metadata;
  readonly options?: CallOptions;
  readonly serialize?: (value: unknown) => Buffer;
  readonly deserialize?: (bytes: Buffer) => unknown;
  readonly request?: unknown;
}

/** How often a call told its end, and what it was. */
interface Ending {
  readonly endings: number;
  readonly status: StatusObject;
  readonly headers: Metadata | undefined;
  readonly answers: readonly unknown[];
}

/** Makes a call of any kind, and waits until it has ended and a little longer. */
function ended(client: Client, kind: Kind, given: Given = {}): Promise<Ending> {
  const {
    metadata = new Metadata(),
    options = { deadline: Date.now() + 30_000 },
    serialize = same,
    deserialize = same,
    request = Buffer.from("request"),
  } = given;
  return new Promise((resolve) => {
    const answers: unknown[] = [];
    let endings = 0;
    let headers: Metadata | undefined;
    const onAnswer = (_: unknown, answer: unknown) => {
      endings++;
      if (answer !== undefined && answer !== null) answers.push(answer);
    };
    const call =
      kind === "unary"
        ? client.makeUnaryRequest(pathOf(kind), serialize, deserialize, request, metadata, options, onAnswer)
        : kind === "clientStream"
          ? client.makeClientStreamRequest(pathOf(kind), serialize, deserialize, metadata, options, onAnswer)
          : kind === "serverStream"
            ? client.makeServerStreamRequest(pathOf(kind), serialize, deserialize, request, metadata, options)
            : client.makeBidiStreamRequest(pathOf(kind), serialize, deserialize, metadata, options);
    call.on("metadata", (seen: Metadata) => (headers = seen));
    if (isStreamOf.answers(kind)) {
      call.on("data", (answer: unknown) => answers.push(answer));
      call.on("error", () => undefined);
    }
    call.on("status", (seen: StatusObject) => {
      if (isStreamOf.answers(kind)) endings++;
      // Unary calls are called back before, others may still be told.
      setImmediate(() => setImmediate(() => resolve({ endings, status: seen, headers, answers })));
    });
    if (isStreamOf.requests(kind)) {
      const writable = call as unknown as AnyCall;
      writable.write(request);
      writable.end();
    }
  });
}

async function serve(
  owner: Owner,
  carrier: "shm" | "socket",
  definition: ServiceDefinition,
  implementation: UntypedServiceImplementation,
  readMaxBytes?: number,
): Promise<Client> {
  const address = tempSocket(owner);
  const server = createIsthmusServer({
    routes: (router) => addGrpcService(router, definition, implementation),
    ...(readMaxBytes === undefined ? {} : { readMaxBytes }),
  });
  await server.listen(address);
  owner.after(() => server.close({ timeoutMs: 0 }));
  const client = new GrpcClient("", credentials.createInsecure(), {
    channelOverride: createIsthmusChannel({ address, carrier }),
  });
  owner.after(() => client.close());
  return client;
}

const implementation = Object.fromEntries(KINDS.map((kind) => [kind, handlerOf(kind)]));

for (const carrier of ["shm", "socket"] as const) {
  describe(`what users of grpc-js hand in, over ${carrier}`, () => {
    for (const kind of KINDS) {
      test(`${kind}: whatever a handler does with whatever value, its call ends once`, async (context) => {
        const client = await serve(context, carrier, definitionOf(), implementation);
        for (const way of Object.keys(waysOf(kind))) {
          const endings = await Promise.all(
            Object.keys(values).map(async (value) => {
              const metadata = new Metadata();
              metadata.set("x-way", way);
              metadata.set("x-value", value);
              return [value, await ended(client, kind, { metadata })] as const;
            }),
          );
          for (const [
            value,
            {
              endings: count,
              status: { code },
            },
          ] of endings) {
            assert.equal(count, 1, `${way}, ${value}: it ended ${count} times`);
            assert.notEqual(code, status.DEADLINE_EXCEEDED, `${way}, ${value}: nothing ended it`);
            assert.ok(code in status, `${way}, ${value}: code ${code}`);
          }
          assert.equal((await ended(client, kind)).status.code, status.OK, `after ${way}`);
        }
      });

      test(`${kind}: whatever a client's functions return or throw, its call ends once`, async (context) => {
        const client = await serve(context, carrier, definitionOf(), implementation);
        for (const [name, value] of Object.entries(values)) {
          const { endings, status: seen } = await ended(client, kind, { serialize: () => value as Buffer });
          assert.equal(endings, 1, `requestSerialize returns ${name}`);
          assert.equal(seen.code, name === "bytes" ? status.OK : status.INTERNAL, `requestSerialize returns ${name}`);
        }
        const cannot = () => assert.fail("cannot");
        for (const given of [{ serialize: cannot }, { deserialize: cannot }]) {
          const { endings, status: seen } = await ended(client, kind, given);
          assert.deepEqual([endings, seen.code], [1, status.INTERNAL]);
        }
        assert.equal((await ended(client, kind)).status.code, status.OK);
      });

      test(`${kind}: deadlines are Dates or numbers, of any size`, async (context) => {
        const client = await serve(context, carrier, definitionOf(), implementation);
        for (const deadline of [
          Infinity,
          Number.MAX_VALUE,
          new Date(8.64e15),
          Date.now() + 30_000,
          new Date(Date.now() + 30_000),
        ]) {
          assert.equal((await ended(client, kind, { options: { deadline } })).status.code, status.OK, String(deadline));
        }
        for (const deadline of [NaN, new Date(NaN), -Infinity, 0, Date.now() - 1, new Date(0)]) {
          const { endings, status: seen } = await ended(client, kind, { options: { deadline } });
          assert.deepEqual([endings, seen.code], [1, status.DEADLINE_EXCEEDED], String(deadline));
        }
        await assert.rejects(
          ended(client, kind, { options: { deadline: "soon" as unknown as number } }),
          /deadline must be a number or Date/,
        );
      });

      test(`${kind}: requests that cannot be parsed, or are too large, and answers that cannot be serialised fail their call`, async (context) => {
        const cannot = () => assert.fail("cannot");
        const unread = await serve(context, carrier, definitionOf({ requestDeserialize: cannot }), implementation);
        assert.equal((await ended(unread, kind)).status.code, status.INTERNAL);
        const unsent = await serve(context, carrier, definitionOf({ responseSerialize: cannot }), implementation);
        assert.equal((await ended(unsent, kind)).status.code, status.INTERNAL);
        let odd: unknown;
        const returning = await serve(
          context,
          carrier,
          definitionOf({ responseSerialize: () => odd as Buffer }),
          implementation,
        );
        for (const [name, value] of Object.entries(values)) {
          odd = value;
          assert.equal(
            (await ended(returning, kind)).status.code,
            name === "bytes" ? status.OK : status.INTERNAL,
            `responseSerialize returns ${name}`,
          );
        }
        const small = await serve(context, carrier, definitionOf(), implementation, 1000);
        assert.equal(
          (await ended(small, kind, { request: Buffer.alloc(1001) })).status.code,
          status.RESOURCE_EXHAUSTED,
        );
        for (const client of [unread, unsent, small]) assert.equal((await ended(client, kind)).endings, 1);
      });
    }
  });
}

describe("what handlers of grpc-js are told", () => {
  const owner = suiteOwner();

  test("a request that cannot be parsed cancels the call of a handler that reads it", async () => {
    const cannot = () => assert.fail("cannot");
    for (const kind of ["clientStream", "bidi"] as const) {
      const told: string[] = [];
      const handle = (call: AnyCall & { cancelled: boolean }) => {
        for (const name of ["error", "end", "cancelled", "close"]) call.on(name, () => told.push(name));
        call.resume();
      };
      const client = await serve(owner, "shm", definitionOf({ requestDeserialize: cannot }), {
        ...implementation,
        [kind]: handle,
      });
      assert.equal((await ended(client, kind)).status.code, status.INTERNAL);
      assert.deepEqual(told, ["cancelled", "close"]);
    }
  });

  test("what a handler hands to its callback, or gets back with that of a write, is its own again", async () => {
    const sent = Buffer.alloc(100_000, 1);
    const reuse = {
      ...implementation,
      unary: ((_: unknown, callback: Callback) => {
        callback(null, sent);
        sent.fill(2);
      }) as unknown as UntypedHandleCall,
      serverStream: ((call: { write(value: unknown, callback: () => void): void; end(): void }) => {
        const bytes = Buffer.alloc(100_000);
        const next = (number: number) =>
          number === 20 ? call.end() : call.write(bytes.fill(number), () => next(number + 1));
        next(0);
      }) as unknown as UntypedHandleCall,
    };
    for (const carrier of ["shm", "socket"] as const) {
      sent.fill(1);
      const client = await serve(owner, carrier, definitionOf(), reuse);
      const [answer] = (await ended(client, "unary")).answers as Buffer[];
      assert.ok(
        answer.every((byte) => byte === 1),
        "a callback's value",
      );
      const { answers } = await ended(client, "serverStream");
      assert.equal(answers.length, 20);
      (answers as Buffer[]).forEach((bytes, number) =>
        assert.ok(
          bytes.every((byte) => byte === number),
          `message ${number}`,
        ),
      );
    }
  });

  test("handlers may read requests with `for await`, and answer afterwards", async () => {
    const reading = {
      ...implementation,
      clientStream: (async (call: AsyncIterable<Buffer>, callback: Callback) => {
        let count = 0;
        for await (const request of call) count += request.length;
        await new Promise((resolve) => setImmediate(resolve));
        callback(null, Buffer.from(String(count)));
      }) as unknown as UntypedHandleCall,
      bidi: (async (call: AsyncIterable<Buffer> & AnyCall) => {
        for await (const request of call) call.write(request);
        call.write(Buffer.from("bye"));
        call.end();
      }) as unknown as UntypedHandleCall,
    };
    const client = await serve(owner, "shm", definitionOf(), reading);
    assert.deepEqual((await ended(client, "clientStream")).answers.map(String), ["7"]);
    assert.deepEqual((await ended(client, "bidi")).answers.map(String), ["request", "bye"]);
  });
});
