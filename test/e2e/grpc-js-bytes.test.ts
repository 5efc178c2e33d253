/**
 * Serialisers that use one buffer for all messages, and handlers that change an answer once they have given it: what
 * was given is what arrives.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { DescMessage } from "@bufbuild/protobuf";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type {
  Client,
  ClientDuplexStream,
  ClientReadableStream,
  ClientWritableStream,
  handleBidiStreamingCall,
  handleClientStreamingCall,
  handleServerStreamingCall,
  handleUnaryCall,
  ServiceDefinition,
  ServiceError,
} from "@grpc/grpc-js";
import { credentials, makeGenericClientConstructor } from "@grpc/grpc-js";
import { addGrpcService, createIsthmusChannel } from "../../src/grpc-js/index.js";
import { createIsthmusServer } from "../../src/index.js";
import { loadAddon } from "../../src/os/addon.js";
import type { CountRequest, Item, SumReply } from "../proto/streams_pb.js";
import { StreamService } from "../proto/streams_pb.js";
import { byteOf, isIntact } from "../support/bytes-service.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";

type Values<T> = Partial<Omit<T, "$typeName" | "$unknown">>;
type Callback<T> = (error: ServiceError | null, reply?: T) => void;

interface StreamClient extends Client {
  echo(request: Values<Item>, callback: Callback<Item>): unknown;
  count(request: Values<CountRequest>): ClientReadableStream<Item>;
  sum(callback: Callback<SumReply>): ClientWritableStream<Values<Item>>;
  chat(): ClientDuplexStream<Values<Item>, Item>;
}

const SIZES = [100, 4096, 16_380, 70_000, 300_000, 1 << 20];
/** Of every serialiser in this process. */
const scratch = Buffer.alloc(2 << 20);

function coderOf<D extends DescMessage>(schema: D) {
  return {
    serialize: (value: object) => {
      const bytes = toBinary(schema, create(schema, value as never));
      scratch.set(bytes);
      return scratch.subarray(0, bytes.length);
    },
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

function filled(number: number, byteLength: number) {
  return { number: BigInt(number), data: new Uint8Array(byteLength).fill(byteOf(number)) };
}

const echo: handleUnaryCall<Item, Values<Item>> = ({ request }, callback) => {
  const answer = filled(Number(request.number), request.data.length);
  callback(null, isIntact(request) ? answer : { text: "damaged" });
  answer.data.fill(0);
};

const count: handleServerStreamingCall<CountRequest, Values<Item>> = (call) => {
  const { count, dataBytes } = call.request;
  const data = new Uint8Array(dataBytes);
  const next = (number: number): void => {
    if (number === Number(count)) return void call.end();
    call.write({ number: BigInt(number), data: data.fill(byteOf(number)) }, () => next(number + 1));
  };
  next(0);
};

const sum: handleClientStreamingCall<Item, Values<SumReply>> = (call, callback) => {
  let [items, damaged] = [0n, 0n];
  call.on("data", (item: Item) => {
    items++;
    if (!isIntact(item)) damaged++;
  });
  call.on("end", () => callback(null, { items, sum: damaged }));
};

const chat: handleBidiStreamingCall<Item, Values<Item>> = (call) => {
  call.on("data", (item: Item) => call.write(isIntact(item) ? item : { text: "damaged" }));
  call.on("end", () => call.end());
};

async function start(owner: Owner, carrier: "shm" | "socket"): Promise<StreamClient> {
  const address = tempSocket(owner);
  const server = createIsthmusServer({
    routes: (router) => addGrpcService(router, definition, { echo, count, sum, chat }),
  });
  await server.listen(address);
  owner.after(() => server.close({ timeoutMs: 0 }));
  const GenericClient = makeGenericClientConstructor(definition, "StreamService");
  const client = new GenericClient("", credentials.createInsecure(), {
    channelOverride: createIsthmusChannel({ address, carrier }),
  }) as unknown as StreamClient;
  owner.after(() => client.close());
  return client;
}

function ask<T>(call: (callback: Callback<T>) => unknown): Promise<T> {
  return new Promise((resolve, reject) => call((error, reply) => (error === null ? resolve(reply!) : reject(error))));
}

for (const carrier of ["shm", "socket"] as const) {
  describe(`grpc-js's serialisers that use one buffer, over ${carrier}`, {
    skip: carrier === "shm" ? (loadAddon().reason ?? false) : false,
  }, () => {
    test("unary calls in one tick, before and after there is a connection, and answers that change once they were given", async (context) => {
      const client = await start(context, carrier);
      for (const byteLength of SIZES) {
        const replies = await Promise.all(
          Array.from({ length: 8 }, (_, i) => ask<Item>((callback) => client.echo(filled(i, byteLength), callback))),
        );
        replies.forEach((reply, i) =>
          assert.ok(
            reply.text === "" && Number(reply.number) === i && reply.data.length === byteLength && isIntact(reply),
            `${byteLength} B, call ${i}`,
          ),
        );
      }
    });

    test("streams in every direction, many at once", async (context) => {
      const client = await start(context, carrier);
      const counted = async (dataBytes: number) => {
        let number = 0;
        for await (const item of client.count({ count: 8n, dataBytes }) as AsyncIterable<Item>)
          assert.ok(Number(item.number) === number++ && isIntact(item), `${dataBytes} B, message ${item.number}`);
        assert.equal(number, 8);
      };
      const summed = async (byteLength: number) => {
        const data = new Uint8Array(byteLength);
        const reply = await ask<SumReply>((callback) => {
          const call = client.sum(callback);
          const next = (number: number): void => {
            if (number === 8) return void call.end();
            call.write({ number: BigInt(number), data: data.fill(byteOf(number)) }, () => next(number + 1));
          };
          next(0);
        });
        assert.deepEqual([reply.items, reply.sum], [8n, 0n], `${byteLength} B`);
      };
      const chatted = async (byteLength: number) => {
        const call = client.chat();
        for (let i = 0; i < 8; i++) call.write(filled(i, byteLength));
        call.end();
        let number = 0;
        for await (const item of call as AsyncIterable<Item>)
          assert.ok(
            item.text === "" && Number(item.number) === number++ && isIntact(item),
            `${byteLength} B, message ${item.number}`,
          );
        assert.equal(number, 8);
      };
      await Promise.all(SIZES.flatMap((byteLength) => [counted(byteLength), summed(byteLength), chatted(byteLength)]));
    });
  });
}
