/**
 * Streams whose users hold less than all of them: who waits for a message gets it, and what nobody can read any more
 * ends, wherever it runs.
 */
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Interceptor } from "@connectrpc/connect";
import { createClient } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { collectSoon } from "../../src/memory/v8/gc.js";
import type { Item } from "../proto/streams_pb.js";
import { StreamService } from "../proto/streams_pb.js";
import { CARRIER } from "../support/carriers.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";
import { waitUntil, within } from "../support/waiting.js";

/** Connect's HTTP client keeps its process alive until then, also when the stream is over. */
const TIMEOUT_MS = 10_000;
const passOn: Interceptor = (next) => (request) => next(request);

async function serve(owner: Owner, carrier: string, interceptors: Interceptor[]) {
  const state = { ended: 0, mayGoOn: false };
  const server = createIsthmusServer({
    routes: (router) =>
      router.service(StreamService, {
        async *count(_, { signal }) {
          try {
            yield { number: 1n };
            while (!state.mayGoOn && !signal.aborted) await sleep(5);
            yield { number: 2n };
            while (!signal.aborted) yield await sleep(5, {});
          } finally {
            state.ended++;
          }
        },
      }),
  });
  owner.after(() => server.close({ timeoutMs: 0 }));
  const { address } = await server.listen(carrier === "http" ? "http://127.0.0.1:0" : tempSocket(owner));
  const transport = createIsthmusTransport({ address, interceptors, ...(carrier === "socket" ? { carrier } : {}) });
  owner.after(() => transport.close());
  const start = async (signal?: AbortSignal) => {
    const requests = (async function* () {
      yield await Promise.resolve({});
    })();
    return (await transport.stream(StreamService.method.count, signal, TIMEOUT_MS, undefined, requests)).message;
  };
  return { state, server, transport, client: createClient(StreamService, transport), start };
}

function numberOf({ value }: IteratorResult<unknown>): bigint {
  return (value as Item).number;
}

/** Collects garbage for a while. */
async function collect(): Promise<void> {
  for (let round = 0; round < 20; round++) {
    collectSoon();
    await sleep(5);
  }
}

for (const carrier of new Set([CARRIER, "socket", "http"])) {
  for (const interceptors of [[], [passOn]]) {
    describe(`over ${carrier}, ${interceptors.length === 0 ? "without" : "with"} interceptors`, () => {
      test("who waits for a message gets it, holding nothing but the promise", async (t) => {
        const { state, start } = await serve(t, carrier, interceptors);
        const second = (async () => {
          const iterator = (await start())[Symbol.asyncIterator]();
          assert.equal(numberOf(await iterator.next()), 1n);
          return iterator.next();
        })();
        await collect();
        state.mayGoOn = true;
        assert.equal(numberOf(await within(60_000, "the message", second)), 2n);
      });

      test("a stream that is left by `break`, or never read, ends at both ends and lets go of its signal", async (t) => {
        const { state, server, transport, client, start } = await serve(t, carrier, interceptors);
        const { signal } = new AbortController();
        const listeners = () => getEventListeners(signal, "abort").length;
        await (async () => {
          for await (const { number } of client.count({}, { signal, timeoutMs: TIMEOUT_MS })) if (number === 1n) break;
          await start(signal);
        })();
        await waitUntil("both streams to end", async () => {
          await collect();
          return (
            (transport.stats().pendingCalls === 0 &&
              server.stats().pendingCalls === 0 &&
              state.ended === 2 &&
              listeners() === 0) ||
            JSON.stringify([transport.stats().pendingCalls, server.stats().pendingCalls, state.ended, listeners()])
          );
        });
      });
    });
  }
}
