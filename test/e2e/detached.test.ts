/**
 * Memory that its user takes away (a transfer, a resize) while a socket still has to send it: that ends the call it
 * belongs to, at both ends, and nothing else. Zeros or other bytes never arrive as a message.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import type { Client } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { ServiceError } from "@grpc/grpc-js";
import { credentials, makeGenericClientConstructor } from "@grpc/grpc-js";
import { createIsthmusChannel } from "../../src/grpc-js/index.js";
import type { IsthmusServer, IsthmusTransport } from "../../src/index.js";
import { createClient, createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { KindsService } from "../proto/kinds_pb.js";
import { StreamService } from "../proto/streams_pb.js";
import { byteOf, isIntact } from "../support/bytes-service.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";
import { failure, waitUntil, within } from "../support/waiting.js";

const SIZES = [40_000, 200_000, 300_000, 1_300_000, 9_000_000];
/** More than a socket, and what waits for it, takes at once. */
const MUCH = 9_000_000;

type Take = (bytes: Uint8Array) => void;
const WAYS: Record<string, Take | undefined> = {
  structuredClone: (bytes) => void structuredClone(bytes.buffer, { transfer: [bytes.buffer as ArrayBuffer] }),
  postMessage(bytes) {
    const { port1 } = new MessageChannel();
    port1.postMessage(bytes, [bytes.buffer as ArrayBuffer]);
    port1.close();
  },
  transfer:
    "transfer" in ArrayBuffer.prototype
      ? (bytes) => void (bytes.buffer as unknown as { transfer(): ArrayBuffer }).transfer()
      : undefined,
};
const take: Take = (bytes) => structuredClone(bytes.buffer, { transfer: [bytes.buffer as ArrayBuffer] });

/** When the memory is taken away after a call was made. */
const MOMENTS: Record<string, (() => Promise<unknown>) | undefined> = {
  "at once": undefined,
  "when some of it has left": async () => {
    for (let i = 0; i < 4; i++) await Promise.resolve();
  },
  "a turn later": () => turn(),
};

interface Scene {
  readonly server: IsthmusServer;
  readonly address: string;
  readonly transport: IsthmusTransport;
  readonly client: Client<typeof StreamService>;
  /** Handlers that have begun and not ended. */
  running: number;
  damaged: number;
  /** What reading the requests of a stream threw. */
  readonly failures: unknown[];
  /** Called with what a handler of `count` is about to send. */
  onYield: (data: Uint8Array) => void;
}

const item = (number: number, byteLength: number) => ({
  number: BigInt(number),
  data: new Uint8Array(byteLength).fill(byteOf(number)),
});

async function open(owner: Owner, where: "unix" | "tcp", carrier: "auto" | "socket" = "socket"): Promise<Scene> {
  const tracked = async <T>(run: () => Promise<T>): Promise<T> => {
    scene.running++;
    try {
      return await run();
    } finally {
      scene.running--;
    }
  };
  const server = createIsthmusServer({
    routes(router) {
      router.service(KindsService, { echo: (request) => request });
      router.service(StreamService, {
        echo: (request) => {
          if (!isIntact(request)) scene.damaged++;
          return { number: request.number, data: request.data };
        },
        async *count({ count, dataBytes }) {
          scene.running++;
          try {
            for (let i = 0; i < Number(count); i++) {
              const message = await Promise.resolve(item(i, dataBytes));
              scene.onYield(message.data);
              yield message;
            }
          } finally {
            scene.running--;
          }
        },
        sum: (requests) =>
          tracked(async () => {
            let items = 0n;
            try {
              for await (const request of requests) {
                items++;
                if (!isIntact(request)) scene.damaged++;
              }
            } catch (error) {
              scene.failures.push(error);
              throw error;
            }
            return { items };
          }),
        async *chat(requests) {
          scene.running++;
          try {
            for await (const request of requests) {
              if (!isIntact(request)) scene.damaged++;
              yield { number: request.number };
            }
          } catch (error) {
            scene.failures.push(error);
            throw error;
          } finally {
            scene.running--;
          }
        },
      });
    },
  });
  const { address } = await server.listen(where === "tcp" ? "tcp:127.0.0.1:0" : `unix:${tempSocket(owner)}`);
  owner.after(() => server.close({ timeoutMs: 0 }));
  const transport = createIsthmusTransport({ address, carrier });
  owner.after(() => transport.close());
  const client = createClient(StreamService, transport);
  await client.echo({});
  const scene: Scene = {
    server,
    address,
    transport,
    client,
    running: 0,
    damaged: 0,
    failures: [],
    onYield: () => undefined,
  };
  return scene;
}

/** Whatever happened, it happened to calls: the connection is the same, nothing came damaged, and no call is left. */
async function assertUnharmed(scene: Scene): Promise<void> {
  const { server, transport, client } = scene;
  const echoed = await client.echo(item(5, 300_000));
  assert.ok(isIntact(echoed) && echoed.data.length === 300_000);
  await waitUntil("all calls to end", () => {
    const { pendingCalls } = server.stats();
    return (pendingCalls === 0 && scene.running === 0) || JSON.stringify({ pendingCalls, running: scene.running });
  });
  assert.equal(scene.damaged, 0, "a message arrived that was not sent");
  assert.deepEqual([transport.stats().connections, server.stats().violations], [1, 0]);
  assert.equal(transport.stats().pendingCalls, 0);
  await waitUntil("everything to leave", () => transport.stats().connection?.unsentBytes === 0);
}

/** Calls of others, before and after. */
function others({ client }: Scene): Promise<unknown> {
  const call = async (number: number) => {
    const reply = await client.echo(item(number, [10, 5_000, 50_000, 500_000][number % 4]));
    assert.ok(isIntact(reply) && reply.data.length > 0);
  };
  return Promise.all([0, 1, 2, 3].map(call));
}

/** The end of a call whose memory was taken away: it was in time to be sent whole, or fails. */
async function endOf(call: Promise<unknown>, mustFail: boolean): Promise<void> {
  if (mustFail) return void (await failure(call, Code.Internal, /lost their memory.*send a copy/));
  await within(60_000, "the call", call).catch((error: unknown) => {
    assert.ok(error instanceof ConnectError, String(error));
    assert.match(error.message, /lost their memory/);
  });
}

for (const [where, carrier] of [
  ["unix", "socket"],
  ["tcp", "socket"],
  ["unix", "auto"],
] as const) {
  describe(`memory that is taken away while it is sent, over ${carrier === "auto" ? "what there is" : where}`, () => {
    const isSocket = carrier === "socket";
    const sizes = isSocket ? SIZES : [SIZES[0], MUCH];

    for (const [moment, wait] of Object.entries(MOMENTS)) {
      // A smaller message has left by then, or is with the socket.
      const fails = (byteLength: number) => isSocket && (moment === "at once" || byteLength >= MUCH);

      test(`a unary request, ${moment}`, async (context) => {
        const scene = await open(context, where, carrier);
        for (const byteLength of sizes) {
          const before = others(scene);
          const lost = item(1, byteLength);
          const call = scene.client.echo(lost).then((reply) => assert.ok(isIntact(reply)));
          const behind = others(scene);
          if (wait !== undefined) await wait();
          take(lost.data);
          await endOf(call, fails(byteLength));
          await Promise.all([before, behind]);
        }
        await assertUnharmed(scene);
      });

      test(`a message of a client's stream, ${moment}`, async (context) => {
        const scene = await open(context, where, carrier);
        for (const kind of ["sum", "chat"] as const) {
          for (const byteLength of sizes) {
            const lost = item(2, byteLength);
            const taken: Promise<void>[] = [];
            const messages = async function* () {
              yield item(1, byteLength);
              // Once it is being sent.
              taken.push(
                turn()
                  .then(wait)
                  .then(() => take(lost.data)),
              );
              yield lost;
              yield await Promise.resolve(item(3, 100));
            };
            const before = others(scene);
            const call =
              kind === "sum"
                ? scene.client.sum(messages())
                : (async () => {
                    for await (const { number } of scene.client.chat(messages())) assert.ok(number > 0n);
                  })();
            const behind = others(scene);
            await endOf(call, isSocket && byteLength >= MUCH);
            await Promise.all([before, behind, ...taken]);
          }
        }
        await assertUnharmed(scene);
        if (isSocket) assert.ok(scene.failures.length > 0, "handlers learn that their stream was canceled");
      });

      test(`a message of a server's stream, ${moment}`, async (context) => {
        const scene = await open(context, where, carrier);
        for (const byteLength of sizes) {
          let yields = 0;
          const taken: Promise<void>[] = [];
          scene.onYield = (data) => {
            if (++yields === 2)
              taken.push(
                turn()
                  .then(wait)
                  .then(() => take(data)),
              );
          };
          const before = others(scene);
          let received = 0;
          const call = (async () => {
            for await (const message of scene.client.count({ count: 4n, dataBytes: byteLength })) {
              assert.ok(isIntact(message), "a damaged message");
              assert.equal(Number(message.number), received++);
            }
          })();
          const behind = others(scene);
          await endOf(call, isSocket && byteLength >= MUCH);
          await Promise.all([before, behind, ...taken]);
        }
        await assertUnharmed(scene);
      });
    }

    test("one of several values of a message", async (context) => {
      const scene = await open(context, where, carrier);
      const kinds = createClient(KindsService, scene.transport);
      for (const lengths of [
        [20_000, 20_000, 20_000],
        [500_000, 20_000, 400_000],
        [3_000_000, 3_000_000, 3_000_000],
      ]) {
        for (let lost = 0; lost < lengths.length; lost++) {
          const blobs = lengths.map((byteLength, i) => new Uint8Array(byteLength).fill(i + 1));
          const call = kinds.echo({ blobs });
          take(blobs[lost]);
          await endOf(call, isSocket);
        }
        for (let lost = 0; lost < lengths.length; lost++) {
          const blobs = lengths.map((byteLength, i) => new Uint8Array(byteLength).fill(i + 1));
          const call = kinds
            .echo({ blobs })
            .then((reply) => reply.blobs.forEach((blob, i) => assert.ok(blob.every((byte) => byte === i + 1))));
          for (let i = 0; i < 4; i++) await Promise.resolve();
          take(blobs[lost]);
          await endOf(call, false);
        }
      }
      await assertUnharmed(scene);
    });

    test("many calls in flight, some of which lose their memory", async (context) => {
      const scene = await open(context, where, carrier);
      let failed = 0;
      const calls = Array.from({ length: 500 }, async (_, i) => {
        const request = item(i, 20_000 + (i % 7) * 10_000);
        const call = scene.client.echo(request);
        if (i % 5 === 0) take(request.data);
        try {
          assert.ok(isIntact(await call));
        } catch (error) {
          assert.equal(i % 5, 0, String(error));
          failed++;
        }
      });
      await Promise.all(calls);
      if (isSocket) assert.ok(failed > 0);
      await assertUnharmed(scene);
    });

    test("every way to take memory away", async (context) => {
      const scene = await open(context, where, carrier);
      for (const way of Object.values(WAYS)) {
        const request = item(1, MUCH);
        const call = scene.client.echo(request);
        way?.(request.data);
        await endOf(call, isSocket && way !== undefined);
      }
      await assertUnharmed(scene);
    });

    test("an answer has left, or was copied, when its handler can take the memory away", async (context) => {
      const scene = await open(context, where, carrier);
      for (const byteLength of sizes) {
        const server = createIsthmusServer({
          routes: (router) =>
            router.service(StreamService, {
              async echo() {
                await turn();
                const answer = item(1, byteLength);
                // Right after the answer is handed over.
                void Promise.resolve().then(() =>
                  queueMicrotask(() => queueMicrotask(() => setImmediate(take, answer.data))),
                );
                return answer;
              },
            }),
        });
        const { address } = await server.listen(where === "tcp" ? "tcp:127.0.0.1:0" : `unix:${tempSocket(context)}`);
        const transport = createIsthmusTransport({ address, carrier });
        const client = createClient(StreamService, transport);
        const replies = await Promise.all(Array.from({ length: 4 }, () => client.echo({})));
        for (const reply of replies) assert.ok(isIntact(reply) && reply.data.length === byteLength);
        await transport.close();
        await server.close();
      }
      await assertUnharmed(scene);
    });

    test("at the same time as a cancellation, a deadline, and the end of the stream's reader", async (context) => {
      const scene = await open(context, where, carrier);
      for (const byteLength of sizes) {
        for (const wait of Object.values(MOMENTS)) {
          const controller = new AbortController();
          const canceled = item(1, byteLength);
          const late = item(2, byteLength);
          const left = item(3, byteLength);
          const calls: Promise<unknown>[] = [
            scene.client.echo(canceled, { signal: controller.signal }),
            scene.client.echo(late, { timeoutMs: 1 }),
            (async () => {
              const messages = async function* () {
                yield left;
                await turn();
                yield item(4, byteLength);
              };
              for await (const { number } of scene.client.chat(messages())) if (number > 0n) break;
            })(),
          ];
          const ends = calls.map((call) => within(60_000, "the call", call).catch((error: unknown) => error));
          if (wait !== undefined) await wait();
          for (const { data } of [canceled, late, left]) take(data);
          controller.abort();
          for (const end of ends) {
            const error = await end;
            if (error instanceof Error)
              assert.ok(error instanceof ConnectError && error.code !== Code.Unavailable, error);
          }
        }
      }
      await assertUnharmed(scene);
    });

    test("at the same time as close(), which waits for the other calls and for nothing else", async (context) => {
      for (const wait of Object.values(MOMENTS)) {
        const scene = await open(context, where, carrier);
        const lost = [item(1, MUCH), item(2, 40_000)];
        const calls = lost.map((request) => scene.client.echo(request));
        const sent = (async function* () {
          yield await Promise.resolve(item(3, 300_000));
          const last = item(4, MUCH);
          setImmediate(take, last.data);
          yield last;
        })();
        const sum = scene.client.sum(sent);
        const behind = others(scene);
        await turn();
        const closing = scene.server.close({ timeoutMs: 600_000 });
        const ends = [...calls, sum].map((call) => endOf(call, false));
        if (wait !== undefined) await wait();
        for (const { data } of lost) take(data);
        await Promise.all(ends);
        await behind;
        await within(60_000, "close()", closing);
        assert.deepEqual([scene.damaged, scene.running, scene.server.stats().violations], [0, 0, 0]);
      }
    });
  });
}

test("through grpc-js, what a serializer gave was copied when it can be taken away", async (context) => {
  const scene = await open(context, "unix");
  let takes = false;
  const serialize = (byteLength: number) => {
    // A message with `data`, field 3.
    const bytes = new Uint8Array(byteLength);
    bytes.set([0x1a, ...varint(byteLength - 1 - varint(byteLength - 6).length)]);
    // When a part of it has left, if it is long.
    if (takes) setImmediate(take, bytes);
    takes = false;
    return bytes as Buffer;
  };
  const echo = {
    path: `/${StreamService.typeName}/Echo`,
    requestStream: false,
    responseStream: false,
    requestSerialize: serialize,
    requestDeserialize: (bytes: Buffer) => bytes.length,
    responseSerialize: serialize,
    responseDeserialize: (bytes: Buffer) => bytes.length,
  };
  const GenericClient = makeGenericClientConstructor({ echo }, "StreamService");
  const client = new GenericClient("", credentials.createInsecure(), {
    channelOverride: createIsthmusChannel({ address: scene.address, carrier: "socket" }),
  }) as unknown as GrpcClient;
  context.after(() => client.close());
  const call = (byteLength: number) =>
    new Promise<number>((resolve, reject) =>
      client.echo(byteLength, (error, reply) => (error === null ? resolve(reply) : reject(error))),
    );
  await call(1000);
  for (const byteLength of SIZES) {
    takes = true;
    const lost = call(byteLength);
    const behind = [call(70_000), call(500_000)];
    assert.ok((await Promise.all([lost, ...behind])).every((length) => length > 30_000));
  }
});

interface GrpcClient {
  echo(byteLength: number, callback: (error: ServiceError | null, reply: number) => void): void;
  close(): void;
}

function varint(value: number): number[] {
  return value < 128 ? [value] : [(value & 127) | 128, ...varint(value >>> 7)];
}
