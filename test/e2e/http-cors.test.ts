/** Calls from web pages of another origin, as browsers make them. */
import assert from "node:assert/strict";
import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import { request as requestHttp1 } from "node:http";
import type { IncomingHttpHeaders } from "node:http2";
import { connect as connectHttp2 } from "node:http2";
import { describe, test } from "node:test";
import type { IsthmusServerOptions } from "../../src/index.js";
import { createIsthmusServer } from "../../src/index.js";
import { StreamService } from "../proto/streams_pb.js";
import type { Owner } from "../support/temp.js";

const PATH = "/isthmus.test.StreamService/Echo";
const PAGE = "https://app.example";

type Ask = (
  method: string,
  path: string,
  headers: Record<string, string>,
  body?: string,
) => Promise<{ status: number; headers: IncomingHttpHeaders; body: string }>;

async function serve(owner: Owner, options: Pick<IsthmusServerOptions, "cors">): Promise<string> {
  const server = createIsthmusServer({
    ...options,
    routes: (router) =>
      router.service(StreamService, {
        echo(item, { responseHeader }) {
          if (item.text === "vary") responseHeader.set("vary", "Accept-Language");
          return item;
        },
      }),
  });
  owner.after(() => server.close({ timeoutMs: 0 }));
  return (await server.listen("http://127.0.0.1:0")).address;
}

const VERSIONS: Record<string, (owner: Owner, address: string) => Ask> = {
  "HTTP/1.1": (_, address) => async (method, path, headers, body) => {
    const sent = requestHttp1(address + path, { method, headers: { ...headers, connection: "close" } });
    sent.end(body);
    const [response] = (await once(sent, "response")) as [IncomingMessage];
    let text = "";
    for await (const chunk of response.setEncoding("utf8")) text += chunk as string;
    return { status: response.statusCode!, headers: response.headers, body: text };
  },
  "HTTP/2": (owner, address) => async (method, path, headers, body) => {
    const session = connectHttp2(address);
    owner.after(() => session.destroy());
    const stream = session.request({ ":method": method, ":path": path, ...headers });
    stream.end(body);
    const [found] = (await once(stream, "response")) as [IncomingHttpHeaders & { ":status": number }];
    let text = "";
    for await (const chunk of stream.setEncoding("utf8")) text += chunk as string;
    return { status: found[":status"], headers: found, body: text };
  },
};

const preflight = (origin: string) => ({
  origin: origin,
  "access-control-request-method": "POST",
  "access-control-request-headers": "content-type,connect-protocol-version,x-user-agent,authorization",
});
const json = (origin?: string) => ({ "content-type": "application/json", ...(origin === undefined ? {} : { origin }) });

for (const [version, make] of Object.entries(VERSIONS)) {
  describe(`CORS over ${version}`, () => {
    test("is off unless asked for", async (t) => {
      const ask = make(t, await serve(t, {}));
      const asked = await ask("OPTIONS", PATH, preflight(PAGE));
      assert.equal(asked.headers["access-control-allow-origin"], undefined);
      const called = await ask("POST", PATH, json(PAGE), "{}");
      assert.deepEqual(
        [called.status, called.headers["access-control-allow-origin"], called.headers.vary],
        [200, undefined, undefined],
      );
    });

    test("true lets all pages call, without credentials", async (t) => {
      const ask = make(t, await serve(t, { cors: true }));
      const asked = await ask("OPTIONS", PATH, preflight(PAGE));
      assert.deepEqual(
        [
          asked.status,
          asked.body,
          asked.headers["access-control-allow-origin"],
          asked.headers["access-control-allow-credentials"],
        ],
        [204, "", "*", undefined],
      );
      assert.equal(asked.headers["access-control-allow-methods"], "POST, GET");
      const allowed = String(asked.headers["access-control-allow-headers"]).toLowerCase().split(", ");
      for (const name of [
        "content-type",
        "connect-protocol-version",
        "connect-timeout-ms",
        "x-grpc-web",
        "x-user-agent",
        "grpc-timeout",
      ])
        assert.ok(allowed.includes(name), name);
      const called = await ask("POST", PATH, json(PAGE), '{"text":"x"}');
      assert.deepEqual(
        [called.status, called.body, called.headers["access-control-allow-origin"]],
        [200, '{"text":"x"}', "*"],
      );
      const exposed = String(called.headers["access-control-expose-headers"]).toLowerCase().split(", ");
      for (const name of ["grpc-status", "grpc-message", "grpc-status-details-bin"])
        assert.ok(exposed.includes(name), name);
    });

    test("a list lets its pages call, with credentials if that is allowed, and tells caches", async (t) => {
      const cors = {
        origins: [PAGE, "http://localhost:5173"],
        credentials: true,
        allowedHeaders: ["Authorization"],
        exposedHeaders: ["trailer-x-cost"],
        maxAgeSeconds: 60,
      };
      const ask = make(t, await serve(t, { cors }));
      for (const origin of cors.origins) {
        const asked = await ask("OPTIONS", PATH, preflight(origin));
        assert.deepEqual(
          [
            asked.status,
            asked.headers["access-control-allow-origin"],
            asked.headers["access-control-allow-credentials"],
            asked.headers["access-control-max-age"],
          ],
          [204, origin, "true", "60"],
        );
        assert.match(String(asked.headers["access-control-allow-headers"]), /, Authorization$/);
        const called = await ask("POST", PATH, json(origin), "{}");
        assert.deepEqual(
          [
            called.status,
            called.headers["access-control-allow-origin"],
            called.headers["access-control-allow-credentials"],
            called.headers.vary,
          ],
          [200, origin, "true", "Origin"],
        );
        assert.match(String(called.headers["access-control-expose-headers"]), /, trailer-x-cost$/);
      }
      for (const origin of ["https://evil.example", `${PAGE}.evil.example`, "null", "HTTPS://APP.EXAMPLE"]) {
        const asked = await ask("OPTIONS", PATH, preflight(origin));
        assert.deepEqual(
          [asked.status, asked.headers["access-control-allow-origin"], asked.headers.vary],
          [403, undefined, "Origin"],
        );
        const called = await ask("POST", PATH, json(origin), "{}");
        assert.deepEqual([called.headers["access-control-allow-origin"], called.headers.vary], [undefined, "Origin"]);
      }
      assert.equal((await ask("POST", PATH, json(), "{}")).headers.vary, "Origin");
      assert.equal((await ask("POST", PATH, json(PAGE), '{"text":"vary"}')).headers.vary, "Origin, Accept-Language");
    });

    test("pages can read errors too: of calls, of unserved paths, and of requests that are none", async (t) => {
      const ask = make(t, await serve(t, { cors: true }));
      for (const [path, headers, status] of [
        [PATH, { ...json(PAGE), "connect-timeout-ms": "x" }, 400],
        ["/no.Service/Method", json(PAGE), 404],
        [PATH, { origin: PAGE, "content-type": "text/plain" }, 415],
      ] as const) {
        const found = await ask("POST", path, headers, "{}");
        assert.deepEqual([found.status, found.headers["access-control-allow-origin"]], [status, "*"]);
      }
      const web = await ask(
        "POST",
        "/no.Service/Method",
        { origin: PAGE, "content-type": "application/grpc-web+proto" },
        "",
      );
      assert.deepEqual([web.status, web.headers["access-control-allow-origin"]], [200, "*"]);
      assert.match(web.body, /grpc-status: 12\r\n/);
      // Not a preflight request, but a method that nobody serves.
      assert.notEqual((await ask("OPTIONS", PATH, {})).status, 204);
    });
  });
}

test("options of CORS that cannot be are refused, with what was meant", () => {
  const make = (cors: unknown) => () => createIsthmusServer({ routes: () => undefined, cors: cors as true });
  for (const [cors, text] of [
    ["*", /option cors: expected true, false, or an object/],
    [{ origin: [PAGE] }, /option cors\.origin: there is no such option; did you mean cors\.origins\?/],
    [{ origins: PAGE }, /option cors\.origins: expected "\*" or a list of origins/],
    [
      { origins: [`${PAGE}/`] },
      /option cors\.origins: .*not "https:\/\/app\.example\/"; did you mean "https:\/\/app\.example"\?/,
    ],
    [
      { origins: ["app.example"] },
      /option cors\.origins: expected origins such as "https:\/\/app\.example", not "app\.example"/,
    ],
    [{ origins: ["*"] }, /option cors\.origins/],
    [{ credentials: true }, /option cors\.credentials: with all origins/],
    [{ credentials: "yes" }, /option cors\.credentials: expected (true or false|a boolean)/],
    [{ allowedHeaders: ["a b"] }, /option cors\.allowedHeaders: expected an array of names of headers/],
    [{ exposedHeaders: "x" }, /option cors\.exposedHeaders: expected an array of names of headers/],
    [{ maxAgeSeconds: -1 }, /option cors\.maxAgeSeconds/],
  ] as const) {
    assert.throws(make(cors), text);
  }
});
