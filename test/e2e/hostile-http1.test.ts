/**
 * Clients of HTTP/1.1, and of TLS, that stop midway: their connections are released, their handlers aborted, and
 * `close` waits for none of them.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import type { Socket } from "node:net";
import { describe, test } from "node:test";
import { connect as connectTls } from "node:tls";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import type { IsthmusServerOptions } from "../../src/index.js";
import { createIsthmusServer } from "../../src/index.js";
import { StreamService } from "../proto/streams_pb.js";
import { makeCertificate } from "../support/http.js";
import { callHeaders, FLAG, frame, preface, rawConnection, TYPE } from "../support/http2-frames.js";
import type { Owner } from "../support/temp.js";
import { failure, waitUntil, within } from "../support/waiting.js";

const PROMPT_MS = 5000;
const POST = "POST /isthmus.test.StreamService";
const PROTO = "Host: x\r\nContent-Type: application/proto\r\n";

async function serve(owner: Owner, options: Partial<IsthmusServerOptions> = {}, tls?: { key: Buffer; cert: Buffer }) {
  const handlers = { begun: 0, aborted: 0 };
  const note = (signal: AbortSignal) => {
    handlers.begun++;
    signal.addEventListener("abort", () => handlers.aborted++);
  };
  const server = createIsthmusServer({
    routes: (router) =>
      router.service(StreamService, {
        async echo(item, { signal }) {
          if (item.number !== 0n) return item;
          note(signal);
          await once(signal, "abort");
          return item;
        },
        async *count(_, { signal }) {
          note(signal);
          for (;;) yield await Promise.resolve({ data: new Uint8Array(100_000) });
        },
        async sum(items, { signal }) {
          note(signal);
          let count = 0n;
          for await (const item of items) count += 1n + item.number;
          return { items: count };
        },
      }),
    ...options,
  });
  owner.after(() => server.close({ timeoutMs: 0 }));
  const { address } = await server.listen(
    tls === undefined ? "http://127.0.0.1:0" : "https://127.0.0.1:0",
    tls && { tls },
  );
  const isReleased = () => {
    const { connections, pendingCalls } = server.stats();
    return (
      (connections === 0 && pendingCalls === 0 && handlers.aborted === handlers.begun) ||
      `${connections} connections, ${pendingCalls} calls, ${handlers.begun - handlers.aborted} handlers`
    );
  };
  return { server, address, port: Number(new URL(address).port), handlers, isReleased };
}

/** All that comes until the other side ends. */
async function answer(socket: Socket): Promise<string> {
  let text = "";
  socket.setEncoding("latin1").on("data", (chunk: string) => (text += chunk));
  await within(PROMPT_MS, "the end of the answer", once(socket, "end"));
  return text;
}

describe("a client of HTTP/1.1 is released", { concurrency: true }, () => {
  test("when its headers do not end in time", async (t) => {
    const served = await serve(t, { http: { headersTimeoutMs: 200 } });
    const [silent, dripping] = [await rawConnection(t, served.port), await rawConnection(t, served.port)];
    for (const socket of [silent, dripping]) socket.write(`${POST}/Echo HTTP/1.1\r\n${PROTO}`);
    const drip = setInterval(() => dripping.write("X-Slow: 1\r\n"), 50);
    t.after(() => clearInterval(drip));
    assert.match(await answer(silent), /^HTTP\/1.1 408 /);
    await waitUntil("it to be released", served.isReleased);
  });

  test("when its request does not end in time, which aborts the handler", async (t) => {
    const served = await serve(t, { http: { requestTimeoutMs: 500 } });
    const socket = await rawConnection(t, served.port);
    socket.resume();
    socket.write(
      `${POST}/Sum HTTP/1.1\r\nHost: x\r\nContent-Type: application/connect+proto\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n\0\0\0\0\0\r\n`,
    );
    await waitUntil("the call to be there", () => served.handlers.begun === 1);
    await waitUntil("it to be released", served.isReleased);
  });

  test("over TLS too", async (t) => {
    const certificate = makeCertificate(t);
    if (certificate === undefined) return t.skip("there is no openssl here to make a certificate with");
    const served = await serve(t, { http: { headersTimeoutMs: 200, requestTimeoutMs: 200 } }, certificate);
    for (const alpn of [["http/1.1"], []]) {
      const socket = connectTls({ port: served.port, host: "127.0.0.1", ca: certificate.cert, ALPNProtocols: alpn });
      t.after(() => socket.destroy());
      await once(socket, "secureConnect");
      socket.write(`${POST}/Echo HTTP/1.1\r\n`);
      assert.match(await answer(socket), /^HTTP\/1.1 408 /);
      await waitUntil("it to be released", served.isReleased);
    }
  });

  test("when it goes amid the body, amid an answer that it does not read, or with further requests behind it", async (t) => {
    const served = await serve(t);
    const body = "Content-Length: 0\r\n\r\n";
    const envelope = "Content-Type: application/connect+proto\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0";
    for (const [handlers, text] of [
      [
        1,
        `${POST}/Sum HTTP/1.1\r\nHost: x\r\nContent-Type: application/connect+proto\r\nContent-Length: 100\r\n\r\n\0\0\0\0\x30abc`,
      ],
      [1, `${POST}/Count HTTP/1.1\r\nHost: x\r\n${envelope}`],
      [3, `${POST}/Echo HTTP/1.1\r\n${PROTO}${body}`.repeat(3)],
      [2, `${POST}/Echo HTTP/1.1\r\n${PROTO}${body}${POST}/Count HTTP/1.1\r\nHost: x\r\n${envelope}`],
    ] as const) {
      for (const go of ["destroy", "end", "resetAndDestroy"] as const) {
        const before = served.handlers.begun;
        const socket = await rawConnection(t, served.port);
        socket.write(text);
        await waitUntil(
          "the calls to be there",
          () => served.handlers.begun === before + handlers || served.handlers.begun - before,
        );
        socket[go]();
        if (go === "end") socket.resume();
        await waitUntil(`it to be released after ${go} and ${JSON.stringify(text)}`, served.isReleased);
      }
    }
  });

  test("when it asks for CONNECT, and an upgrade is not taken", async (t) => {
    const served = await serve(t);
    const socket = await rawConnection(t, served.port);
    socket.write("CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n");
    await within(PROMPT_MS, "the end", once(socket.resume(), "end"));
    const upgrading = await rawConnection(t, served.port);
    upgrading.write(
      `GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n`,
    );
    assert.match(await answer(upgrading), /^HTTP\/1.1 404 /);
    await waitUntil("both to be released", served.isReleased);
  });

  test("when it says nothing, or half of what it speaks", async (t) => {
    const served = await serve(t, { handshakeTimeoutMs: 200 });
    for (const text of ["", "PRI * HT"]) {
      const socket = await rawConnection(t, served.port);
      socket.write(text);
      await waitUntil("it to be there", () => served.server.stats().connections > 0);
      await within(PROMPT_MS, "the end", once(socket.resume(), "end"));
    }
    await waitUntil("both to be released", served.isReleased);
  });
});

test("close waits for no client that says nothing, is slow with its headers, or amid TLS's handshake", async (t) => {
  const plain = await serve(t, { handshakeTimeoutMs: 60_000 });
  for (const text of ["", "PRI * HT", `${POST}/Echo HTTP/1.1\r\n`]) (await rawConnection(t, plain.port)).write(text);
  await waitUntil("all to be there", () => plain.server.stats().connections === 3);
  await within(PROMPT_MS, "close", plain.server.close({ timeoutMs: 60_000 }));
  assert.equal(plain.isReleased(), true);
  const certificate = makeCertificate(t);
  if (certificate === undefined) return;
  const secure = await serve(t, { handshakeTimeoutMs: 60_000 }, certificate);
  (await rawConnection(t, secure.port)).write("\x16\x03\x01");
  await waitUntil("it to be there", () => secure.server.stats().connections === 1);
  await within(PROMPT_MS, "close", secure.server.close({ timeoutMs: 60_000 }));
  assert.equal(secure.isReleased(), true);
});

test("TLS: a handshake that never ends, and a violation of HTTP/2, end the connection", async (t) => {
  const certificate = makeCertificate(t);
  if (certificate === undefined) return t.skip("there is no openssl here to make a certificate with");
  const served = await serve(t, { handshakeTimeoutMs: 500 }, certificate);
  (await rawConnection(t, served.port)).write("\x16\x03\x01");
  await waitUntil("it to be there", () => served.server.stats().connections === 1);
  await waitUntil("it to be released", served.isReleased);
  const secure = async () => {
    const socket = connectTls({ port: served.port, host: "127.0.0.1", ca: certificate.cert, ALPNProtocols: ["h2"] });
    t.after(() => socket.destroy());
    socket.on("error", () => {});
    await once(socket, "secureConnect");
    return socket;
  };
  const [breaking, silent] = [await secure(), await secure()];
  breaking.resume();
  breaking.write(
    Buffer.concat([
      preface(),
      frame(TYPE.headers, FLAG.endHeaders, 1, callHeaders("/isthmus.test.StreamService/Count")),
      frame(TYPE.data, 1, 1, Buffer.alloc(5)),
    ]),
  );
  await waitUntil("the call to be there", () => served.handlers.begun === 1);
  breaking.write(frame(TYPE.ping, 0, 0, Buffer.alloc(7)));
  silent.resume();
  await waitUntil("both to be released", served.isReleased);
});

test("times can be turned off, and those that cannot be are refused", async (t) => {
  const served = await serve(t, { http: { headersTimeoutMs: 0, requestTimeoutMs: 0 } });
  const client = createClient(StreamService, createConnectTransport({ baseUrl: served.address, httpVersion: "1.1" }));
  assert.equal((await client.echo({ number: 1n })).number, 1n);
  const make = (http: object) => () => createIsthmusServer({ routes: () => undefined, http });
  for (const wrong of [-1, 1.5, NaN, "5s", 2 ** 40]) {
    assert.throws(make({ headersTimeoutMs: wrong }), /option http\.headersTimeoutMs: expected a whole number/);
    assert.throws(make({ requestTimeoutMs: wrong }), /option http\.requestTimeoutMs: expected a whole number/);
  }
  assert.throws(
    make({ headersTimeoutMs: 2000, requestTimeoutMs: 1000 }),
    /http\.headersTimeoutMs: 2000 is more than http\.requestTimeoutMs, 1000/,
  );
  assert.throws(
    () => createIsthmusServer({ routes: () => undefined, maxHttpConnections: 0 }),
    /option maxHttpConnections/,
  );
});

test("a response that cannot be sent is told to the client, and its connection goes on", async (t) => {
  const served = await serve(t, {
    routes: (router) =>
      router.service(StreamService, {
        echo(item, { responseHeader }) {
          if (item.text !== "served") responseHeader.set("trailer", "of a response that has none");
          return item;
        },
      }),
  });
  for (const makeTransport of [createConnectTransport, createGrpcWebTransport]) {
    const client = createClient(StreamService, makeTransport({ baseUrl: served.address, httpVersion: "1.1" }));
    await client.echo({ text: "not sent" }).catch(() => undefined);
    assert.equal((await client.echo({ text: "served" })).text, "served");
  }
  const client = createClient(StreamService, createConnectTransport({ baseUrl: served.address, httpVersion: "1.1" }));
  await failure(client.echo({ text: "not sent" }), Code.Internal, /the response cannot be sent/);
  await waitUntil("all calls to be over", () => served.server.stats().pendingCalls === 0);
});

/** Values that make whoever looks at them stumble. */
function oddValues(): Record<string, unknown> {
  const revoked = Proxy.revocable({}, {});
  revoked.revoke();
  const trap = (make: () => never) =>
    new Proxy(new ConnectError("trapped", Code.Aborted), { get: make, getPrototypeOf: make });
  const wrongParts = (parts: object) => Object.assign(new ConnectError("odd", Code.NotFound), parts);
  return {
    undefined: undefined,
    null: null,
    "a symbol": Symbol("thrown"),
    "a text": "thrown",
    "a revoked proxy": revoked.proxy,
    "a proxy whose traps throw": trap(() => {
      throw new Error("a trap");
    }),
    "an object without a prototype": Object.create(null) as object,
    "an error whose message throws": Object.defineProperty(new Error("x"), "message", {
      get() {
        throw new Error("a getter");
      },
    }),
    "an error with details of another make": wrongParts({
      details: [{ type: 1 }, null, "detail", { desc: {}, value: 5 }],
    }),
    "an error with details that are none": wrongParts({ details: null }),
    "an error with metadata that is none": wrongParts({ metadata: { "x-a": 1 } }),
    "an error without metadata": wrongParts({ metadata: undefined }),
    "an error with a code that is none": wrongParts({ code: "not found" }),
    "an error with a text that is none": wrongParts({ rawMessage: Symbol("text") }),
    "an error whose text is half a character": new ConnectError("half \ud83d", Code.NotFound),
    "an error with headers of another connection": new ConnectError("relayed", Code.NotFound, {
      connection: "close",
      "transfer-encoding": "chunked",
      "content-length": "3",
      "content-type": "text/html",
      "x-kept": "1",
    }),
    "a frozen error": Object.freeze(new ConnectError("frozen", Code.NotFound)),
  };
}

for (const [name, makeTransport] of Object.entries({
  gRPC: createGrpcTransport,
  "gRPC-Web": createGrpcWebTransport,
  Connect: createConnectTransport,
})) {
  test(`whatever a handler throws, yields or returns over ${name}, the call ends and the next one is served`, async (t) => {
    let odd: unknown;
    const served = await serve(t, {
      routes: (router) =>
        router.service(StreamService, {
          async echo(item, context) {
            await Promise.resolve();
            if (item.text === "relay") {
              for (const headers of [context.responseHeader, context.responseTrailer]) {
                for (const name of ["connection", "keep-alive", "te", "transfer-encoding", "upgrade", "x-kept"])
                  headers.set(name, "chunked");
              }
            }
            if (item.text === "return") return odd as never;
            if (item.text === "throw") throw odd;
            return item;
          },
          async *count({ count }) {
            yield await Promise.resolve({ number: 1n });
            if (count === 1n) yield odd as never;
            throw odd;
          },
        }),
    });
    const client = createClient(StreamService, makeTransport({ baseUrl: served.address, httpVersion: "2" }));
    const drained = async (count: bigint) => {
      for await (const item of client.count({ count })) assert.ok(item.number >= 0n);
    };
    for (const [what, value] of Object.entries(oddValues())) {
      odd = value;
      await t.test(what, async () => {
        await within(PROMPT_MS, "throwing", assert.rejects(client.echo({ text: "throw" })));
        await within(
          PROMPT_MS,
          "returning",
          client.echo({ text: "return" }).catch(() => undefined),
        );
        await within(PROMPT_MS, "throwing in a stream", assert.rejects(drained(0n)));
        await within(PROMPT_MS, "yielding", assert.rejects(drained(1n)));
        assert.equal((await client.echo({ text: "next" })).text, "next");
      });
    }
    odd = oddValues()["an error with headers of another connection"];
    assert.equal((await failure(client.echo({ text: "throw" }), Code.NotFound, /relayed/)).metadata.get("x-kept"), "1");
    odd = oddValues()["an error with details of another make"];
    await failure(client.echo({ text: "throw" }), Code.NotFound, /odd \(4 of its details could not be sent\)/);
    odd = oddValues()["an error whose text is half a character"];
    await failure(drained(0n), Code.NotFound, /half \ufffd/);
    // Headers that HTTP/2 does not allow.
    const kept: unknown[] = [];
    await client.echo(
      { text: "relay" },
      {
        onHeader: (header) => kept.push(header.get("x-kept")),
        onTrailer: (trailer) => kept.push(trailer.get("x-kept")),
      },
    );
    assert.deepEqual(kept, ["chunked", "chunked"]);
    await waitUntil("all calls to be over", () => served.server.stats().pendingCalls === 0);
  });
}
