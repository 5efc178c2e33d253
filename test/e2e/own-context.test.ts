/**
 * CONTEXT-2: what code of the user's does to its async context (`AsyncLocalStorage.enterWith`, as an authentication
 * interceptor may) is seen by no other request: over every carrier, for every kind of method, wherever that code runs.
 */
import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { describe, test } from "node:test";
import { Code, ConnectError, createClient, createContextValues } from "@connectrpc/connect";
import type { HandlerContext, Interceptor } from "@connectrpc/connect";
import type { IsthmusServerOptions, IsthmusTransportOptions } from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { createProtobufCodec } from "../../src/codec/codec.js";
import { StreamService } from "../proto/streams_pb.js";
import { onlyWithAddon } from "../support/carriers.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";

const storage = new AsyncLocalStorage<string>();

const WAYS: Record<
  string,
  {
    readonly address?: string;
    readonly skip?: string | false;
    readonly both?: Pick<IsthmusServerOptions, "polling">;
    readonly client?: Partial<IsthmusTransportOptions>;
  }
> = {
  "shared memory": { skip: onlyWithAddon, client: { carrier: "shm" } },
  "shared memory without polling": { skip: onlyWithAddon, both: { polling: false }, client: { carrier: "shm" } },
  "a Unix socket": { client: { carrier: "socket" } },
  TCP: { address: "tcp:127.0.0.1:0" },
  "HTTP/2": { address: "http://127.0.0.1:0" },
};

/** Which code of the user's calls `enterWith`. */
type Polluter =
  | "none"
  | "handler"
  | "first step of an async handler"
  | "interceptor"
  | "abort listener"
  | "end of a generator"
  | "getter"
  | "codec"
  | "contextValues";

interface Served {
  readonly address: string;
  /** The store that each request found first. */
  readonly found: unknown[];
}

/** A service whose every request notes the store that it finds, and lets `polluter` leave one behind. */
async function serve(owner: Owner, way: (typeof WAYS)[string], polluter: Polluter): Promise<Served> {
  const found: unknown[] = [];
  const begin = () => {
    found.push(storage.getStore());
    if (polluter === "handler") storage.enterWith("left behind");
  };
  const leave = (where: Polluter) => {
    if (polluter === where) storage.enterWith("left behind");
  };
  const watch = (context: HandlerContext) => {
    if (polluter === "abort listener") context.signal.addEventListener("abort", () => leave("abort listener"));
  };
  const item = (text: string) => ({
    get text() {
      leave("getter");
      return text;
    },
  });
  const interceptor: Interceptor = (next) => (request) => {
    found.push(storage.getStore());
    leave("interceptor");
    return next(request);
  };
  const inner = createProtobufCodec();
  const server = createIsthmusServer({
    ...way.both,
    ...(polluter === "interceptor" ? { interceptors: [interceptor] } : {}),
    ...(polluter === "codec"
      ? {
          codec: (schema) => {
            const codec = inner(schema);
            return {
              ...codec,
              decode: (...input) => {
                leave("codec");
                return codec.decode(...input);
              },
            };
          },
        }
      : {}),
    ...(polluter === "contextValues"
      ? {
          contextValues: () => {
            leave("contextValues");
            return createContextValues();
          },
        }
      : {}),
    routes: (router) =>
      router.service(StreamService, {
        echo(_, context) {
          if (polluter === "interceptor") return item("echo");
          begin();
          watch(context);
          void context.values;
          return polluter === "first step of an async handler"
            ? (async () => {
                storage.enterWith("left behind");
                await Promise.resolve();
                return item("echo");
              })()
            : item("echo");
        },
        // eslint-disable-next-line @typescript-eslint/require-await
        async *count({ count }, context) {
          if (polluter !== "interceptor") begin();
          watch(context);
          try {
            for (let i = 0n; i < count; i++) yield item(String(i));
          } finally {
            leave("end of a generator");
          }
        },
        async sum(items, context) {
          if (polluter !== "interceptor") begin();
          watch(context);
          let sum = 0n;
          for await (const { number } of items) sum += number;
          return { sum };
        },
        async *chat(items, context) {
          if (polluter !== "interceptor") begin();
          watch(context);
          try {
            for await (const { text } of items) yield item(text);
          } finally {
            leave("end of a generator");
          }
        },
      }),
  });
  const { address } = await server.listen(way.address ?? tempSocket(owner));
  owner.after(() => server.close({ timeoutMs: 0 }));
  return { address, found };
}

// eslint-disable-next-line @typescript-eslint/require-await
async function* three() {
  for (const number of [1n, 2n, 3n]) yield { number, text: String(number) };
}

/** Every kind of method, several at once, whole, left early and canceled. */
async function callEverything(
  { address }: Served,
  owner: Owner,
  options: Partial<IsthmusTransportOptions> = {},
): Promise<void> {
  const transport = createIsthmusTransport({ ...options, address });
  owner.after(() => transport.close());
  const client = createClient(StreamService, transport);
  const drain = async (messages: AsyncIterable<unknown>) => {
    for await (const message of messages) void message;
  };
  const one = () => [
    client.echo({}),
    client.sum(three()),
    drain(client.count({ count: 5n })),
    drain(client.chat(three())),
  ];
  await Promise.all([...one(), ...one()]);
  for (const call of one()) await call;
  for await (const message of client.count({ count: 1000n })) {
    void message;
    break;
  }
  const controller = new AbortController();
  const canceled = drain(client.chat(forEver(controller.signal), { signal: controller.signal }));
  setImmediate(() => controller.abort(new ConnectError("enough", Code.Canceled)));
  await assert.rejects(canceled);
  await Promise.all(one());
}

async function* forEver(signal: AbortSignal) {
  yield { text: "first" };
  await new Promise((resolve) => signal.addEventListener("abort", resolve));
}

describe("a store that one request leaves behind is found by no other", () => {
  const polluters: Polluter[] = [
    "none",
    "handler",
    "first step of an async handler",
    "interceptor",
    "abort listener",
    "end of a generator",
    "getter",
    "codec",
    "contextValues",
  ];
  for (const [name, way] of Object.entries(WAYS)) {
    for (const polluter of polluters) {
      // Over HTTP messages are Connect's to encode, and it knows no values of a connection.
      if (name === "HTTP/2" && ["codec", "contextValues"].includes(polluter)) continue;
      test(`over ${name}, left by: ${polluter}`, { skip: way.skip ?? false }, async (context) => {
        const served = await serve(context, way, polluter);
        await callEverything(served, context, { ...way.both, ...way.client });
        await callEverything(served, context, { ...way.both, ...way.client });
        assert.ok(served.found.length >= 30, `${served.found.length} requests`);
        assert.deepEqual(
          served.found.filter((store) => store !== undefined),
          [],
        );
      });
    }
  }

  test("nor one that a subscriber of a diagnostics channel leaves", async (context) => {
    const subscriber = () => storage.enterWith("left behind");
    for (const channel of ["isthmus:server:connection", "isthmus:transport:state"]) {
      subscribe(channel, subscriber);
      context.after(() => unsubscribe(channel, subscriber));
    }
    const served = await serve(context, {}, "none");
    await callEverything(served, context);
    await callEverything(served, context, { carrier: "socket" });
    assert.deepEqual(
      served.found.filter((store) => store !== undefined),
      [],
    );
  });
});
