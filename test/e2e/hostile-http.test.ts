/** Requests that no client of Connect sends, to a server on HTTP: each has its answer, and the process goes on. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect as connectHttp2 } from "node:http2";
import { connect } from "node:net";
import { test } from "node:test";
import { Code, createClient, createContextKey } from "@connectrpc/connect";
import type { IsthmusServerOptions } from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { StreamService } from "../proto/streams_pb.js";
import type { Owner } from "../support/temp.js";
import { failure, within } from "../support/waiting.js";

const PATH = "/isthmus.test.StreamService/Echo";

async function serve(owner: Owner, options: Partial<IsthmusServerOptions> = {}) {
  const server = createIsthmusServer({
    routes: (router) => router.service(StreamService, { echo: (item) => item }),
    ...options,
  });
  owner.after(() => server.close({ timeoutMs: 0 }));
  const { address } = await server.listen("http://127.0.0.1:0");
  const transport = createIsthmusTransport({ address });
  owner.after(() => transport.close());
  return { server, port: Number(new URL(address).port), address, client: createClient(StreamService, transport) };
}

/** Says this on a connection of HTTP/1.1, and returns the first line of the answer. */
async function say(port: number, text: string): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  let answer = "";
  socket.setEncoding("latin1").on("data", (chunk: string) => (answer += chunk));
  socket.end(text);
  await within(60_000, "the answer", once(socket, "close"));
  return answer.split("\r\n")[0];
}

test("a request whose host is none is refused, and the server goes on", async (t) => {
  const { port, client, server } = await serve(t);
  const rest = "Connection: close\r\nContent-Type: application/proto\r\nContent-Length: 0\r\n\r\n";
  for (const host of ["a b", "%", "", "x:999999", "["]) {
    assert.match(
      await say(port, `POST ${PATH} HTTP/1.1\r\nHost: ${host}\r\n${rest}`),
      /^HTTP\/1.1 400 /,
      JSON.stringify(host),
    );
  }
  assert.match(await say(port, `POST ${PATH} HTTP/1.0\r\n${rest}`), /^HTTP\/1.1 400 /, "no host");
  assert.equal((await client.echo({ text: "served" })).text, "served");
  assert.equal(server.stats().pendingCalls, 0);
});

test("a request of HTTP/2 whose authority is none is refused, and its connection goes on", async (t) => {
  const { address, client } = await serve(t);
  const session = connectHttp2(address);
  t.after(() => session.destroy());
  for (const authority of ["%", "a:99999999"]) {
    const request = session.request({
      ":method": "POST",
      ":path": PATH,
      ":authority": authority,
      "content-type": "application/proto",
    });
    request.end(Buffer.alloc(100_000));
    const [headers] = (await within(60_000, "the answer", once(request, "response"))) as [{ ":status": number }];
    assert.equal(headers[":status"], 400, authority);
    request.destroy();
  }
  assert.equal((await client.echo({ text: "served" })).text, "served");
});

test("context values that cannot be had fail who asks for them, and nothing else", async (t) => {
  const { client } = await serve(t, {
    contextValues() {
      throw new Error("a lookup failed");
    },
    routes: (router) =>
      router.service(StreamService, {
        echo: (item) => item,
        async sum(_, { values }) {
          await Promise.resolve();
          return { items: values.get(createContextKey(1n)) };
        },
      }),
  });
  assert.equal((await client.echo({ text: "served" })).text, "served");
  await failure(client.sum((async function* () {})()), Code.Internal, /internal error/);
  assert.equal((await client.echo({ text: "served" })).text, "served");
});
