/**
 * Whose bytes are whose: what was given to a call or yielded arrives as it was then, over every carrier, although its
 * memory is used again as soon as the rule allows (docs/payloads.md, "Memory that you use again").
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setImmediate as turn, setTimeout as sleep } from "node:timers/promises";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import { createClient } from "@connectrpc/connect";
import type { IsthmusTransport, MessageCodec } from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { loadAddon } from "../../src/os/addon.js";
import type { ItemSchema } from "../proto/streams_pb.js";
import { StreamService } from "../proto/streams_pb.js";
import type { BytesSeen } from "../support/bytes-service.js";
import { byteOf, bytesRoutes, isIntact } from "../support/bytes-service.js";
import type { Child } from "../support/processes.js";
import { startChild } from "../support/processes.js";
import type { CarrierName } from "../support/scenes.js";
import { CARRIERS } from "../support/scenes.js";
import type { BytesServerData } from "../support/servers/bytes-server.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";

/** Around the sizes at which values, messages and fragments begin to travel in other ways. */
const SIZES = [
  1,
  4095,
  4096,
  16_370,
  16_379,
  16_380,
  16_384,
  32_760,
  32_768,
  40_000,
  65_536,
  200_000,
  (1 << 20) + 3,
  (4 << 20) + 20_000,
];

interface Scene {
  readonly server: Child;
  readonly transport: IsthmusTransport;
  readonly client: Client<typeof StreamService>;
}

async function start(owner: Owner, carrier: CarrierName, data: Omit<BytesServerData, "address"> = {}): Promise<Scene> {
  const address =
    { "TCP socket": "tcp:127.0.0.1:0", "HTTP/2": "http://127.0.0.1:0" }[carrier as string] ?? tempSocket(owner);
  const server = await startChild(owner, "servers/bytes-server.js", { address, ...data } satisfies BytesServerData);
  const chosen =
    carrier === "shared memory"
      ? ({ carrier: "shm" } as const)
      : carrier === "Unix socket"
        ? ({ carrier: "socket" } as const)
        : {};
  const transport = createIsthmusTransport({ address: await server.ask<string>("address"), ...chosen });
  owner.after(() => transport.close());
  return { server, transport, client: createClient(StreamService, transport) };
}

/** As many as fill windows and sockets several times, and no more than that. */
function messagesOf(byteLength: number): number {
  return Math.min(60, Math.max(4, Math.ceil((6 << 20) / byteLength)));
}

/** One buffer for all messages. */
// eslint-disable-next-line @typescript-eslint/require-await -- its next message is at hand at once
async function* refilled(
  byteLength: number,
  count: number,
  text = "",
): AsyncGenerator<MessageInitShape<typeof ItemSchema>> {
  const data = new Uint8Array(byteLength);
  try {
    for (let number = 0; number < count; number++) {
      data.fill(byteOf(number));
      yield { number: BigInt(number), text, data };
    }
  } finally {
    data.fill(0);
  }
}

function seenBy({ server }: Scene): Promise<BytesSeen> {
  return server.ask<BytesSeen>("seen");
}

/** The server reads nothing for a while. */
async function blocked({ server }: Scene, milliseconds: number): Promise<{ readonly over: Promise<unknown> }> {
  const over = server.ask("block", milliseconds);
  await sleep(20);
  return { over };
}

function missing(carrier: CarrierName): string | false {
  return carrier === "shared memory" ? (loadAddon().reason ?? false) : false;
}

for (const carrier of CARRIERS) {
  describe(`bytes over ${carrier}`, { skip: missing(carrier) }, () => {
    for (const reader of ["fast", "slow"] as const) {
      test(`a server's generator that refills one buffer, for a ${reader} reader`, async (context) => {
        const { client } = await start(context, carrier);
        for (const dataBytes of SIZES) {
          const count = messagesOf(dataBytes);
          let number = 0;
          for await (const item of client.count({ count: BigInt(count), dataBytes })) {
            assert.ok(
              item.data.length === dataBytes && Number(item.number) === number && isIntact(item),
              `${dataBytes} B, message ${number}`,
            );
            number++;
            if (reader === "slow") await turn();
          }
          assert.equal(number, count);
        }
      });

      test(`a client's generator that refills one buffer, for a ${reader} reader`, async (context) => {
        const { client } = await start(context, carrier);
        for (const byteLength of SIZES) {
          const count = messagesOf(byteLength);
          const { items, sum } = await client.sum(refilled(byteLength, count, reader === "slow" ? "slow" : ""));
          assert.deepEqual([items, sum], [BigInt(count), 0n], `${byteLength} B`);
        }
      });
    }

    test("generators of both directions that refill one buffer each, many streams at once", async (context) => {
      const scene = await start(context, carrier);
      const chat = async (byteLength: number) => {
        let number = 0;
        for await (const item of scene.client.chat(refilled(byteLength, 12))) {
          assert.ok(Number(item.number) === number && isIntact(item), `${byteLength} B, message ${number}`);
          number++;
        }
        assert.equal(number, 12);
      };
      await Promise.all(SIZES.map(chat));
      assert.equal((await seenBy(scene)).damaged, 0);
    });

    for (const leases of ["collected", "copied"] as const) {
      test(`a generator that uses the memory of a message that came for all that it yields (leases: ${leases})`, async (context) => {
        const { client } = await start(context, carrier, { leases });
        for (const byteLength of [40_000, 300_000]) {
          let number = 0;
          const kept: Uint8Array[] = [];
          for await (const item of client.chat(refilled(byteLength, 12), { headers: { "x-memory": "request" } })) {
            assert.ok(Number(item.number) === number && isIntact(item), `${byteLength} B, message ${number}`);
            kept.push(item.data);
            number++;
          }
          kept.forEach((data, i) =>
            assert.ok(isIntact({ number: BigInt(i), data }), `${byteLength} B, message ${i}, after the end`),
          );
        }
      });
    }

    test("a client's generator that refills one buffer while the server reads nothing", async (context) => {
      const scene = await start(context, carrier);
      await scene.client.echo({});
      for (const byteLength of SIZES) {
        const pause = await blocked(scene, 60);
        const { items, sum } = await scene.client.sum(refilled(byteLength, 8));
        assert.deepEqual([items, sum], [8n, 0n], `${byteLength} B`);
        await pause.over;
      }
    });

    test("a handler that makes all its answers in one buffer, for clients that read nothing for a while", async (context) => {
      const { client } = await start(context, carrier);
      await client.echo({});
      for (const byteLength of SIZES) {
        const data = new Uint8Array(byteLength);
        const calls = Array.from({ length: byteLength > 1 << 20 ? 4 : 12 }, (_, i) =>
          client.echo({ number: BigInt(i), text: "refill", data: data.slice().fill(byteOf(i)) }),
        );
        await turn();
        const end = performance.now() + 30;
        while (performance.now() < end);
        (await Promise.all(calls)).forEach((reply, i) =>
          assert.ok(reply.data.length === byteLength && isIntact(reply), `${byteLength} B, answer ${i}`),
        );
      }
    });

    test("small answers from one buffer that find no room", async (context) => {
      const { client } = await start(context, carrier);
      await client.echo({});
      const calls = Array.from({ length: 200 }, (_, i) =>
        client.echo({ number: BigInt(i), text: "refill", data: new Uint8Array(6000).fill(byteOf(i)) }),
      );
      await turn();
      const end = performance.now() + 50;
      while (performance.now() < end);
      (await Promise.all(calls)).forEach((reply, i) => assert.ok(isIntact(reply), `answer ${i}`));
    });

    for (const how of ["aborted", "too late"] as const) {
      test(`a request of a call that is ${how} is its caller's again, wherever it is by then`, async (context) => {
        const scene = await start(context, carrier);
        for (const byteLength of SIZES) {
          await scene.client.echo({ text: "nothing" });
          await seenBy(scene);
          const pause = await blocked(scene, 150);
          const controller = new AbortController();
          const options = how === "aborted" ? { signal: controller.signal } : { timeoutMs: 40 };
          const given: Uint8Array[] = [];
          const calls = Array.from({ length: byteLength > 1 << 20 ? 2 : 6 }, async (_, i) => {
            const data = new Uint8Array(byteLength).fill(byteOf(i));
            given.push(data);
            await scene.client.echo({ number: BigInt(i), text: "nothing", data }, options).catch(() => undefined);
            data.fill(0);
          });
          if (how === "aborted") setTimeout(() => controller.abort(), 30);
          await Promise.all(calls);
          // Given away altogether: nobody may look at it any more.
          for (const data of given) structuredClone(data, { transfer: [data.buffer as ArrayBuffer] });
          await pause.over;
          await scene.client.echo({ text: "nothing" });
          assert.equal((await seenBy(scene)).damaged, 0, `${byteLength} B`);
        }
        assert.equal(scene.transport.stats().connections, 1);
      });

      test(`a message of a stream that is ${how} is its user's again when the iterable is ended`, async (context) => {
        const scene = await start(context, carrier);
        for (const byteLength of SIZES.filter((size) => size > 10_000)) {
          await scene.client.echo({ text: "nothing" });
          await seenBy(scene);
          const pause = await blocked(scene, 150);
          const controller = new AbortController();
          const call = scene.client.sum(
            refilled(byteLength, 100),
            how === "aborted" ? { signal: controller.signal } : { timeoutMs: 40 },
          );
          if (how === "aborted") setTimeout(() => controller.abort(), 30);
          await assert.rejects(call);
          await pause.over;
          await scene.client.echo({ text: "nothing" });
          assert.equal((await seenBy(scene)).damaged, 0, `${byteLength} B`);
        }
      });
    }

    test("a message that was under way when the server had enough", async (context) => {
      const scene = await start(context, carrier);
      // eslint-disable-next-line @typescript-eslint/require-await -- its next message is at hand at once
      async function* requests() {
        const data = new Uint8Array(300_000);
        try {
          for (let number = 0; number < 40; number++)
            yield { number: BigInt(number), text: number === 3 ? "enough" : "", data: data.fill(byteOf(number)) };
        } finally {
          data.fill(0);
        }
      }
      for (let i = 0; i < 10; i++) await scene.client.sum(requests());
      assert.equal((await seenBy(scene)).damaged, 0);
    });

    test("the only request of a stream is its user's again when the next message is asked for", async (context) => {
      // In place of a request for a stream, as an interceptor may make it.
      // eslint-disable-next-line @typescript-eslint/require-await -- its next message is at hand at once
      async function* made(dataBytes: number) {
        const message = { count: 3n, dataBytes, failMessage: "x".repeat(dataBytes) };
        yield message;
        message.count = 0n;
      }
      const { transport } = await start(context, carrier);
      for (const dataBytes of [100, 30_000]) {
        const { message } = await transport.stream(
          StreamService.method.count,
          undefined,
          undefined,
          undefined,
          made(dataBytes),
        );
        const replies = [];
        for await (const reply of message) replies.push(reply.data.length);
        assert.deepEqual(replies, [dataBytes, dataBytes, dataBytes]);
      }
    });
  });
}

describe("bytes of a codec that uses its memory again", { skip: loadAddon().reason ?? false }, () => {
  /** One for all messages of a process: number and data, in memory that the next message overwrites. */
  function scratchCodec(): () => MessageCodec {
    const scratch = new Uint8Array(8 << 20);
    const write = ({ number = 0n, data = new Uint8Array(0) }: MessageInitShape<typeof ItemSchema>) => {
      scratch[0] = Number(number);
      scratch.set(data, 1);
      return scratch.subarray(0, 1 + data.length);
    };
    const codec: MessageCodec = {
      encodeInto(message, target, offset, limit) {
        const bytes = write(message as MessageInitShape<typeof ItemSchema>);
        if (bytes.length > limit - offset) return -1 - bytes.length;
        target.set(bytes, offset);
        return bytes.length;
      },
      encode(message) {
        const inline = write(message as MessageInitShape<typeof ItemSchema>);
        return { inline, spans: [], byteLength: inline.length };
      },
      decode: (input, offset, byteLength) => ({
        number: BigInt(input[offset]),
        data: Uint8Array.prototype.slice.call(input, offset + 1, offset + byteLength),
      }),
    };
    return () => codec;
  }

  for (const carrier of ["shm", "socket"] as const) {
    test(`calls and streams over ${carrier}`, async (context) => {
      const server = createIsthmusServer({ routes: bytesRoutes, codec: scratchCodec() });
      const address = (await server.listen(tempSocket(context))).address;
      const transport = createIsthmusTransport({ address, carrier, codec: scratchCodec() });
      context.after(async () => {
        await transport.close();
        await server.close({ timeoutMs: 0 });
      });
      const client = createClient(StreamService, transport);
      for (const byteLength of SIZES) {
        const data = (i: number) => new Uint8Array(byteLength).fill(byteOf(i));
        const replies = await Promise.all(
          Array.from({ length: 6 }, (_, i) => client.echo({ number: BigInt(i), data: data(i) })),
        );
        replies.forEach((reply, i) =>
          assert.ok(
            Number(reply.number) === i && reply.data.length === byteLength && isIntact(reply),
            `${byteLength} B, answer ${i}`,
          ),
        );
        const chat = async () => {
          let number = 0;
          for await (const item of client.chat(refilled(byteLength, 6)))
            assert.ok(Number(item.number) === number++ && isIntact(item), `${byteLength} B, message ${item.number}`);
          assert.equal(number, 6);
        };
        await Promise.all([chat(), chat(), chat()]);
      }
    });
  }
});
