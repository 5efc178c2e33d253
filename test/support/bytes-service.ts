/**
 * Handlers of StreamService that use their memory again as early as they may: each has one buffer, and fills it for
 * every message. A message is intact if all bytes of its data are `byteOf` its number.
 */
import { setImmediate as turn } from "node:timers/promises";
import type { ConnectRouter, HandlerContext } from "@connectrpc/connect";
import type { CountRequest, Item } from "../proto/streams_pb.js";
import { StreamService } from "../proto/streams_pb.js";

/** What handlers saw of requests: those whose bytes were not what their number says. */
export interface BytesSeen {
  requests: number;
  damaged: number;
  /** Streams that ended before their requests did. */
  broken: number;
}

const seen: BytesSeen = { requests: 0, damaged: 0, broken: 0 };

/** What handlers of this process saw since the last time. */
export function bytesSeen(): BytesSeen {
  const result = { ...seen };
  Object.assign(seen, { requests: 0, damaged: 0, broken: 0 });
  return result;
}

export function byteOf(number: number | bigint): number {
  return (Number(number) % 251) + 1;
}

export function isIntact({ number, data }: Pick<Item, "number" | "data">): boolean {
  return Buffer.compare(data, Buffer.alloc(data.length, byteOf(number))) === 0;
}

function look(item: Item): void {
  seen.requests++;
  if (!isIntact(item)) seen.damaged++;
}

/** Where all answers of `Echo` are made. */
let scratch = new Uint8Array(0);

function answer({ number, data }: Item) {
  if (scratch.length < data.length) scratch = new Uint8Array(data.length);
  return { number, data: scratch.subarray(0, data.length).fill(byteOf(number)) };
}

export function bytesRoutes(router: ConnectRouter): void {
  router.service(StreamService, {
    echo(request: Item) {
      look(request);
      const reply = answer(request);
      if (request.text === "nothing") return {};
      // As soon as this function has returned, somebody else may want the buffer.
      if (request.text === "refill") setImmediate(() => scratch.fill(0));
      return reply;
    },
    // eslint-disable-next-line @typescript-eslint/require-await -- its next message is at hand at once
    async *count({ count, dataBytes }: CountRequest) {
      const data = new Uint8Array(dataBytes);
      try {
        for (let number = 0; number < Number(count); number++) {
          data.fill(byteOf(number));
          yield { number: BigInt(number), text: "t".repeat(number % 20), data };
        }
      } finally {
        data.fill(0);
      }
    },
    async sum(requests: AsyncIterable<Item>) {
      let items = 0n;
      let damaged = 0n;
      try {
        for await (const request of requests) {
          look(request);
          items++;
          if (!isIntact(request)) damaged++;
          if (request.text === "enough") break;
          if (request.text === "slow") await turn();
        }
      } catch (error) {
        seen.broken++;
        throw error;
      }
      return { items, sum: damaged };
    },
    async *chat(requests: AsyncIterable<Item>, context: HandlerContext) {
      let data = new Uint8Array(0);
      for await (const request of requests) {
        look(request);
        // Leased memory is memory of the handler's, too.
        if (context.requestHeader.get("x-memory") === "request")
          data = data.length === request.data.length ? data : (request.data as Uint8Array<ArrayBuffer>);
        else if (data.length !== request.data.length) data = new Uint8Array(request.data.length);
        yield { number: request.number, data: data.fill(byteOf(request.number)) };
      }
      data.fill(0);
    },
  });
}
