/**
 * Whatever a user's code throws, answers or hands in, its call is settled, once, and nothing else notices: no other
 * call, not the connection, not the process. Every value of a table, in every place, for every kind of method.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Client, ContextValues } from "@connectrpc/connect";
import { Code, ConnectError, createClient, createContextValues } from "@connectrpc/connect";
import type { IsthmusServer, IsthmusServerOptions, IsthmusTransport } from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { StreamService } from "../proto/streams_pb.js";
import { onlyWithAddon } from "../support/carriers.js";
import { LYING_ITERABLES, ODD_ERRORS, ODD_SIGNALS, ODD_VALUES } from "../support/odd-values.js";
import type { Owner } from "../support/temp.js";
import { suiteOwner, tempSocket } from "../support/temp.js";
import { waitUntil } from "../support/waiting.js";

type Kind = "echo" | "count" | "sum" | "chat";
const KINDS: readonly Kind[] = ["echo", "count", "sum", "chat"];
const CARRIERS = { shm: onlyWithAddon, socket: false } as const;
type Carrier = keyof typeof CARRIERS;
/** An answer to whoever would wait for ever. */
const SETTLE_MS_MAX = 30_000;

/** What the handlers do next. */
type Act = (kind: Kind, handOver: (answer: unknown) => unknown) => unknown;

interface Scene {
  readonly server: IsthmusServer;
  readonly transport: IsthmusTransport;
  readonly client: Client<typeof StreamService>;
  act: Act;
}

async function open(owner: Owner, carrier: Carrier, options: Partial<IsthmusServerOptions> = {}): Promise<Scene> {
  const handle = (kind: Kind) => () => scene.act(kind, (answer) => answer) as never;
  const server = createIsthmusServer({
    ...options,
    routes(router) {
      router.service(StreamService, {
        echo: handle("echo"),
        count: handle("count"),
        sum: handle("sum"),
        chat: handle("chat"),
      });
    },
  });
  const path = tempSocket(owner);
  await server.listen(path);
  owner.after(() => server.close({ timeoutMs: 0 }));
  const transport = createIsthmusTransport({ address: path, carrier });
  owner.after(() => transport.close());
  const scene: Scene = { server, transport, client: createClient(StreamService, transport), act: () => ({}) };
  return scene;
}

async function* items(): AsyncGenerator<{ number: bigint }> {
  yield { number: 1n };
  await Promise.resolve();
}

/** Makes a call and says how it ended. */
async function outcomeOf(scene: Scene, kind: Kind, options: object = {}, input?: unknown): Promise<unknown> {
  const { client } = scene;
  const read = async (messages: AsyncIterable<unknown>) => {
    let count = 0;
    for await (const message of messages) count += message === undefined ? 0 : 1;
    return count;
  };
  const calls = {
    echo: () => client.echo(input ?? {}, options),
    count: () => read(client.count(input ?? {}, options)),
    sum: () => client.sum((input ?? items()) as AsyncIterable<object>, options),
    chat: () => read(client.chat((input ?? items()) as AsyncIterable<object>, options)),
  };
  let settled = 0;
  // A call that throws at once has told its caller, too.
  const call = (async () => calls[kind]() as Promise<unknown>)();
  const late = new Promise<string>((resolve) => setTimeout(resolve, SETTLE_MS_MAX, "it does not settle").unref());
  const outcome = await Promise.race([
    call.then(
      (answer) => (settled++, answer),
      (error: unknown) => (settled++, error),
    ),
    late,
  ]);
  assert.equal(settled, 1, String(outcome));
  return outcome;
}

/** Nobody else has noticed: an open call is still open, the connection is the same, and all slots are free. */
async function unharmed(scene: Scene, bystander: { isOpen: boolean }): Promise<void> {
  assert.ok(bystander.isOpen, "another call was ended");
  await waitUntil("the server to have finished", () => scene.server.stats().pendingCalls === 1);
  assert.equal(scene.transport.stats().connections, 1);
  assert.equal(scene.transport.stats().pendingCalls, 1);
}

async function startBystander(scene: Scene): Promise<{ isOpen: boolean; end(): Promise<void> }> {
  const controller = new AbortController();
  scene.act = () =>
    (async function* () {
      await new Promise(() => {});
      yield {};
    })();
  const bystander = { isOpen: true, end: () => Promise.resolve() };
  const call = (async () => {
    try {
      for await (const message of scene.client.chat(forEver(), { signal: controller.signal })) void message;
    } catch {
      // Only its own signal ends it.
    }
    bystander.isOpen = false;
  })();
  bystander.end = () => (controller.abort(), call);
  await waitUntil("the other call to be under way", () => scene.server.stats().pendingCalls === 1);
  return bystander;
}

async function* forEver(): AsyncGenerator<object> {
  yield {};
  await new Promise(() => {});
}

function failing(kind: Kind, thrown: () => unknown, after: number): unknown {
  if (kind === "echo" || kind === "sum") return after === 0 ? fail(thrown) : Promise.resolve().then(() => fail(thrown));
  return (async function* () {
    for (let i = 0; i < after; i++) yield {};
    await Promise.resolve();
    fail(thrown);
  })();
}

function fail(thrown: () => unknown): never {
  throw thrown();
}

for (const [carrier, skip] of Object.entries(CARRIERS) as [Carrier, string | false][]) {
  describe(`over ${carrier}`, { skip }, () => {
    const owner = suiteOwner();
    for (const kind of KINDS) {
      test(`${kind}: whatever a handler throws, the call fails with an error that says so`, async () => {
        const scene = await open(owner, carrier);
        const bystander = await startBystander(scene);
        for (const [name, make] of Object.entries(ODD_VALUES)) {
          for (const after of [0, 1]) {
            scene.act = () => failing(kind, make, after);
            const error = await outcomeOf(scene, kind);
            assert.ok(error instanceof ConnectError, `${name}: ${String(error)}`);
            assert.equal(error.message, "[internal] internal error", name);
          }
        }
        await unharmed(scene, bystander);
        await bystander.end();
      });

      test(`${kind}: of a ConnectError with odd fields, code and text arrive`, async () => {
        const scene = await open(owner, carrier);
        const bystander = await startBystander(scene);
        for (const [name, make] of Object.entries(ODD_ERRORS)) {
          for (const after of [0, 1]) {
            scene.act = () => failing(kind, make, after);
            const error = await outcomeOf(scene, kind);
            assert.ok(error instanceof ConnectError, `${name}: ${String(error)}`);
            // Connect tells its errors by these fields, if they are not its own.
            if (!name.startsWith("code ")) assert.equal(error.code, Code.NotFound, `${name}: ${error.message}`);
            if (!/^(rawMessage|code) /.test(name)) assert.match(error.rawMessage, /^no\b/, name);
          }
        }
        await unharmed(scene, bystander);
        await bystander.end();
      });

      test(`${kind}: whatever a handler answers, the call ends`, async () => {
        const scene = await open(owner, carrier);
        const bystander = await startBystander(scene);
        for (const [name, make] of Object.entries(ODD_VALUES)) {
          scene.act = () => (kind === "echo" || kind === "sum" ? make() : yieldingOnce(make));
          await outcomeOf(scene, kind);
          assert.ok(bystander.isOpen, name);
          scene.act = () =>
            kind === "echo" || kind === "sum"
              ? Promise.resolve({
                  get number() {
                    return fail(make);
                  },
                  get sum() {
                    return fail(make);
                  },
                })
              : yieldingOnce(() => ({
                  get number() {
                    return fail(make);
                  },
                }));
          const error = await outcomeOf(scene, kind);
          assert.ok(error instanceof Error, `${name}: ${String(error)}`);
          assert.ok(bystander.isOpen, name);
        }
        await unharmed(scene, bystander);
        await bystander.end();
      });

      test(`${kind}: a signal of any make is listened to, or refused`, async () => {
        const scene = await open(owner, carrier);
        const bystander = await startBystander(scene);
        scene.act = () => (kind === "echo" || kind === "sum" ? {} : yieldingOnce(() => ({})));
        for (const [name, make] of Object.entries(ODD_SIGNALS)) {
          await outcomeOf(scene, kind, { signal: make() });
          assert.ok(bystander.isOpen, name);
        }
        await unharmed(scene, bystander);
        await bystander.end();
      });
    }

    for (const kind of ["count", "chat"] as const) {
      test(`${kind}: whatever a handler gives as its messages, the call ends`, async () => {
        const scene = await open(owner, carrier);
        const bystander = await startBystander(scene);
        for (const [name, make] of Object.entries(LYING_ITERABLES)) {
          scene.act = () => make({ number: 1n });
          await outcomeOf(scene, kind);
          assert.ok(bystander.isOpen, name);
        }
        await unharmed(scene, bystander);
        await bystander.end();
      });
    }

    for (const kind of ["sum", "chat"] as const) {
      test(`${kind}: whatever a client gives as its messages, the call ends`, async () => {
        const scene = await open(owner, carrier);
        const bystander = await startBystander(scene);
        scene.act = () => (kind === "sum" ? {} : yieldingOnce(() => ({})));
        for (const [name, make] of Object.entries(LYING_ITERABLES)) {
          if (name === "nothing") continue;
          await outcomeOf(scene, kind, {}, make({ number: 1n }));
          assert.ok(bystander.isOpen, name);
        }
        await unharmed(scene, bystander);
        await bystander.end();
      });
    }

    for (const kind of ["echo", "count"] as const) {
      test(`${kind}: whatever a client gives as its message, headers or context values, the call ends`, async () => {
        const scene = await open(owner, carrier);
        const bystander = await startBystander(scene);
        scene.act = () => (kind === "echo" ? {} : yieldingOnce(() => ({})));
        for (const [name, make] of Object.entries(ODD_VALUES)) {
          await outcomeOf(scene, kind, {}, make());
          await outcomeOf(
            scene,
            kind,
            {},
            {
              get number() {
                return fail(make);
              },
              get count() {
                return fail(make);
              },
            },
          );
          await outcomeOf(scene, kind, { headers: make() });
          await outcomeOf(scene, kind, { contextValues: make() });
          assert.ok(bystander.isOpen, name);
        }
        await unharmed(scene, bystander);
        await bystander.end();
      });
    }

    test("a promise of a handler's that calls back twice, or also throws, is taken once", async () => {
      const scene = await open(owner, carrier);
      const thens: Record<string, (resolve: (value: unknown) => void, reject: (error: unknown) => void) => void> = {
        "answers twice": (resolve) => (resolve({ number: 1n }), resolve({ number: 2n })),
        "answers and fails": (resolve, reject) => (resolve({ number: 1n }), reject(new Error("too late"))),
        "answers and throws": (resolve) => (resolve({ number: 1n }), fail(() => new Error("too late"))),
      };
      for (const [name, then] of Object.entries(thens)) {
        for (const thenable of [() => ({ then }), () => Object.assign(Promise.resolve(), { then })]) {
          const before = scene.transport.stats().connection?.framesReceived ?? 0;
          scene.act = thenable;
          assert.equal(((await outcomeOf(scene, "echo")) as { number: bigint }).number, 1n, name);
          scene.act = () => ({});
          await outcomeOf(scene, "echo");
          assert.equal(scene.transport.stats().connection!.framesReceived - before, 2, name);
        }
      }
    });

    test("whatever interceptors answer, and whatever a server's contextValues give, the call ends", async () => {
      let make: () => unknown = () => undefined;
      let place = "";
      const scene = await open(owner, carrier, {
        interceptors: [
          (next) => async (request) => {
            if (place === "response") return make() as never;
            const response = await next(request);
            if (place === "header") return { ...response, header: make() as Headers };
            if (place === "trailer") return { ...response, trailer: make() as Headers };
            if (place === "message") return { ...response, message: make() } as never;
            if (place === "values") void request.contextValues;
            return response;
          },
        ],
        contextValues: () => (place === "values" ? (make() as ContextValues) : createContextValues()),
      });
      const bystander = await startBystander(scene);
      for (place of ["response", "header", "trailer", "message", "values"]) {
        for (const [name, value] of Object.entries(ODD_VALUES)) {
          make = value;
          for (const kind of KINDS) {
            scene.act = () => (kind === "echo" || kind === "sum" ? {} : yieldingOnce(() => ({})));
            await outcomeOf(scene, kind);
            assert.ok(bystander.isOpen, `${place}, ${name}, ${kind}`);
          }
        }
      }
      await unharmed(scene, bystander);
      await bystander.end();
    });
  });
}

// eslint-disable-next-line @typescript-eslint/require-await
async function* yieldingOnce(make: () => unknown): AsyncGenerator {
  yield make();
}
