/**
 * Clients that break the rules of HTTP/2, or go without a word: their connections are released, their handlers aborted,
 * and `close` waits for none of them.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import type { Socket } from "node:net";
import { describe, test } from "node:test";
import { createClient } from "@connectrpc/connect";
import type { IsthmusServerOptions } from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { StreamService } from "../proto/streams_pb.js";
import {
  call,
  callHeaders,
  FLAG,
  frame,
  literal,
  preface,
  rawConnection,
  repeated,
  setting,
  TYPE,
  uint32,
} from "../support/http2-frames.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";
import { waitUntil, within } from "../support/waiting.js";

const CHAT = "/isthmus.test.StreamService/Chat";
const COUNT = "/isthmus.test.StreamService/Count";
const PROMPT_MS = 5000;

async function serve(owner: Owner, options: Partial<IsthmusServerOptions> = {}) {
  const handlers = { begun: 0, aborted: 0 };
  const note = (signal: AbortSignal) => {
    handlers.begun++;
    signal.addEventListener("abort", () => handlers.aborted++);
  };
  const server = createIsthmusServer({
    routes: (router) =>
      router.service(StreamService, {
        echo: (item) => item,
        async *chat(items, { signal }) {
          note(signal);
          for await (const item of items) yield item;
        },
        async *count(_, { signal }) {
          note(signal);
          for (;;) yield await Promise.resolve({ data: new Uint8Array(100_000) });
        },
      }),
    ...options,
  });
  owner.after(() => server.close({ timeoutMs: 0 }));
  const { address } = await server.listen("http://127.0.0.1:0");
  const isReleased = () => {
    const { connections, pendingCalls } = server.stats();
    return (
      (connections === 0 && pendingCalls === 0 && handlers.aborted === handlers.begun) ||
      `${connections} connections, ${pendingCalls} calls, ${handlers.begun - handlers.aborted} handlers`
    );
  };
  return { server, address, port: Number(new URL(address).port), handlers, isReleased };
}

/** A connection with one open call. */
async function openCall(owner: Owner, { port, handlers }: Awaited<ReturnType<typeof serve>>): Promise<Socket> {
  const socket = await rawConnection(owner, port);
  socket.resume();
  socket.write(Buffer.concat([preface(), call(1, CHAT)]));
  const before = handlers.begun;
  await waitUntil("the call to be there", () => handlers.begun > before);
  return socket;
}

const VIOLATIONS: Record<string, Buffer> = {
  "a PING of a wrong size": frame(TYPE.ping, 0, 0, Buffer.alloc(7)),
  "a PING on a stream": frame(TYPE.ping, 0, 1, Buffer.alloc(8)),
  "SETTINGS of a wrong size": frame(TYPE.settings, 0, 0, Buffer.alloc(5)),
  "SETTINGS with a window that is none": frame(TYPE.settings, 0, 0, setting(4, 0xffff_ffff)),
  "an answer to SETTINGS that says more": frame(TYPE.settings, FLAG.ack, 0, setting(4, 1)),
  "too many settings in one frame": frame(
    TYPE.settings,
    0,
    0,
    repeated(40, () => setting(4, 100)),
  ),
  "a flood of SETTINGS": repeated(20_000, () => frame(TYPE.settings, 0, 0, setting(4, 100))),
  "a WINDOW_UPDATE of a wrong size": frame(TYPE.windowUpdate, 0, 0, Buffer.alloc(3)),
  "a window that overflows": repeated(2, () => frame(TYPE.windowUpdate, 0, 0, uint32(0x7fff_ffff))),
  "headers that HPACK cannot read": frame(TYPE.headers, FLAG.endHeaders, 3, Buffer.alloc(50, 0xff)),
  "headers on no stream": frame(TYPE.headers, FLAG.endHeaders, 0, callHeaders(CHAT)),
  "data on no stream": frame(TYPE.data, 0, 0, Buffer.alloc(8)),
  "data on a stream that was not opened": frame(TYPE.data, 0, 9, Buffer.alloc(8)),
  "data of a size that was not agreed": frame(TYPE.data, 0, 1, Buffer.alloc(20_000)),
  "padding that is longer than its frame": frame(TYPE.data, FLAG.padded, 1, Buffer.from([200, 1, 2])),
  "a CONTINUATION of nothing": frame(TYPE.continuation, FLAG.endHeaders, 1, Buffer.alloc(5)),
  "another frame amid headers": Buffer.concat([
    frame(TYPE.headers, 0, 3, callHeaders(CHAT)),
    frame(TYPE.ping, 0, 0, Buffer.alloc(8)),
  ]),
  "a flood of CONTINUATION": Buffer.concat([
    frame(TYPE.headers, 0, 3, callHeaders(CHAT)),
    repeated(20_000, () => frame(TYPE.continuation, 0, 3, literal("a", "b"))),
  ]),
  "a RST_STREAM of a wrong size": frame(TYPE.reset, 0, 1, Buffer.alloc(3)),
  "a RST_STREAM of a stream that was not opened": frame(TYPE.reset, 0, 9, uint32(8)),
  "a promise from a client": frame(TYPE.pushPromise, FLAG.endHeaders, 1, Buffer.concat([uint32(2), callHeaders(CHAT)])),
  "a PRIORITY of a wrong size": frame(TYPE.priority, 0, 1, uint32(1)),
  "a GOAWAY that tells an error": frame(TYPE.goAway, 0, 0, uint32(0, 2)),
  "a GOAWAY of a wrong size": frame(TYPE.goAway, 0, 0, Buffer.alloc(3)),
  "a frame of 16 MB": Buffer.concat([Buffer.from([0xff, 0xff, 0xff, 0x55, 0, 0, 0, 0, 0]), Buffer.alloc(70_000)]),
  "HTTP/1.1 in the middle": Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
};

describe("a connection of HTTP/2 is released, and what it had open is aborted, after", { concurrency: true }, () => {
  for (const [what, bytes] of Object.entries(VIOLATIONS)) {
    test(`${what}, also if the client stays`, async (t) => {
      const served = await serve(t);
      const [staying, halfClosed, leaving] = [
        await openCall(t, served),
        await openCall(t, served),
        await openCall(t, served),
      ];
      for (const socket of [staying, halfClosed, leaving]) socket.write(bytes);
      halfClosed.end();
      setTimeout(() => leaving.destroy(), 50);
      await waitUntil("all to be released", served.isReleased);
      await within(PROMPT_MS, "close", served.server.close({ timeoutMs: 60_000 }));
    });
  }

  test("the end of a client that does not read a stream without end", async (t) => {
    for (const windowBytes of [0, 0x7fff_ffff]) {
      for (const go of ["destroy", "resetAndDestroy"] as const) {
        const served = await serve(t);
        const socket = await rawConnection(t, served.port);
        // With all windows open it is TCP that makes the server wait.
        const windows =
          windowBytes === 0 ? Buffer.alloc(0) : frame(TYPE.windowUpdate, 0, 0, uint32(windowBytes - 65_535));
        const request = Buffer.concat([call(1, COUNT), frame(TYPE.data, 1, 1, Buffer.alloc(5))]);
        socket.write(Buffer.concat([preface(setting(4, windowBytes)), windows, request]));
        await waitUntil("the call to be there", () => served.handlers.begun === 1);
        await new Promise((resolve) => setTimeout(resolve, 100));
        socket[go]();
        await waitUntil("it to be released", served.isReleased);
      }
    }
  });

  test("a violation that the client does not stay to be told of, amid an answer that it does not read", async (t) => {
    const served = await serve(t);
    const socket = await rawConnection(t, served.port);
    socket.write(Buffer.concat([preface(), call(1, COUNT), frame(TYPE.data, 1, 1, Buffer.alloc(5))]));
    await waitUntil("the call to be there", () => served.handlers.begun === 1);
    socket.write(frame(TYPE.ping, 0, 0, Buffer.alloc(7)));
    await waitUntil("it to be released", served.isReleased);
  });

  test("a preface that nothing follows", async (t) => {
    const served = await serve(t, { handshakeTimeoutMs: 300 });
    const socket = await rawConnection(t, served.port);
    socket.resume();
    socket.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    await waitUntil("it to be there", () => served.server.stats().connections === 1);
    await waitUntil("it to be released", served.isReleased);
  });
});

test("a violation in the same packet as the answer to a PING is found too", async (t) => {
  const served = await serve(t);
  const socket = await openCall(t, served);
  const ping = await within(PROMPT_MS, "a PING of the server", nextPing(socket));
  socket.write(Buffer.concat([frame(TYPE.ping, FLAG.ack, 0, ping), frame(TYPE.ping, 0, 0, Buffer.alloc(7))]));
  await waitUntil("it to be released", served.isReleased);
});

test("a client that is quiet, or answers no PING, keeps its connection and its calls", async (t) => {
  const served = await serve(t);
  const [quiet, blocked] = [await openCall(t, served), await rawConnection(t, served.port)];
  const windows = frame(TYPE.windowUpdate, 0, 0, uint32(0x7fff_ffff - 65_535));
  blocked.write(
    Buffer.concat([preface(setting(4, 0x7fff_ffff)), windows, call(1, COUNT), frame(TYPE.data, 1, 1, Buffer.alloc(5))]),
  );
  await within(PROMPT_MS, "a PING of the server", nextPing(quiet));
  await new Promise((resolve) => setTimeout(resolve, 3000));
  const { carriers, pendingCalls } = served.server.stats();
  assert.deepEqual([carriers.http, pendingCalls, served.handlers.aborted], [2, 2, 0]);
  // Still served, and not asked once more while nothing comes from it.
  let pings = 0;
  void nextPing(quiet).then(() => pings++);
  await new Promise((resolve) => setTimeout(resolve, 1500));
  assert.equal(pings, 0);
  quiet.write(frame(TYPE.ping, 0, 0, Buffer.alloc(8, 1)));
  assert.deepEqual(await within(PROMPT_MS, "the answer", nextPing(quiet, FLAG.ack)), Buffer.alloc(8, 1));
});

test("close ends connections without calls whose clients do not answer, and says goodbye first", async (t) => {
  const served = await serve(t);
  const socket = await rawConnection(t, served.port);
  const said: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => said.push(chunk));
  socket.write(preface());
  await waitUntil("the settings", () => said.length > 0);
  await within(PROMPT_MS, "close", served.server.close({ timeoutMs: 60_000 }));
  assert.equal(served.server.stats().connections, 0);
  assert.ok(Buffer.concat(said).includes(frame(TYPE.goAway, 0, 0, uint32(0, 0))), "GOAWAY");
});

test("streams that are opened and reset in a row are over, and the next client is served", async (t) => {
  const served = await serve(t);
  const socket = await openCall(t, served);
  socket.write(
    repeated(500, (index) =>
      Buffer.concat([call(3 + 2 * index, CHAT), frame(TYPE.reset, 0, 3 + 2 * index, uint32(8))]),
    ),
  );
  await waitUntil(
    "the streams to be over",
    () =>
      served.handlers.begun > 400 &&
      served.handlers.begun - served.handlers.aborted === 1 &&
      served.server.stats().pendingCalls === 1,
  );
  const transport = createIsthmusTransport({ address: served.address });
  t.after(() => transport.close());
  assert.equal((await createClient(StreamService, transport).echo({ text: "served" })).text, "served");
});

test("CONNECT over HTTP/2 is refused, and its connection goes on", async (t) => {
  const served = await serve(t);
  const socket = await openCall(t, served);
  socket.write(
    frame(
      TYPE.headers,
      FLAG.endHeaders,
      3,
      Buffer.concat([literal(":method", "CONNECT"), literal(":authority", "x:1")]),
    ),
  );
  await waitUntil("only the first call to be left", () => served.server.stats().pendingCalls === 1);
  socket.destroy();
  await waitUntil("it to be released", served.isReleased);
});

test("connections of HTTP take no place of local clients, and have a limit of their own", async (t) => {
  const served = await serve(t, { maxConnections: 1, maxHttpConnections: 2 });
  const path = tempSocket(t);
  await served.server.listen(path);
  await openCall(t, served);
  await openCall(t, served);
  const third = await rawConnection(t, served.port);
  await within(PROMPT_MS, "the end of the third", once(third.resume(), "end"));
  const local = createIsthmusTransport({ address: path });
  t.after(() => local.close());
  assert.equal((await createClient(StreamService, local).echo({ text: "local" })).text, "local");
  const { connections, carriers, refused } = served.server.stats();
  assert.deepEqual([connections, carriers.http, carriers.shm + carriers.socket, refused], [3, 2, 1, 1]);
});

/** The payload of the next PING that comes. */
function nextPing(socket: Socket, flags = 0): Promise<Buffer> {
  return new Promise((resolve) => {
    let seen = Buffer.alloc(0);
    const onData = (chunk: Buffer) => {
      seen = Buffer.concat([seen, chunk]);
      for (
        let length;
        seen.length >= 9 && seen.length >= (length = 9 + seen.readUIntBE(0, 3));
        seen = seen.subarray(length)
      ) {
        if (seen[3] !== TYPE.ping || seen[4] !== flags) continue;
        socket.off("data", onData);
        resolve(Buffer.from(seen.subarray(9, 17)));
        return;
      }
    };
    socket.on("data", onData);
  });
}
