/** Headers and trailers, both ways. */
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import { Code, decodeBinaryHeader, encodeBinaryHeader } from "@connectrpc/connect";
import { createIsthmusServer } from "../../src/index.js";
import { EchoReplySchema, TestService } from "../proto/test_pb.js";
import { patternBytes } from "../support/checksum.js";
import type { Owner } from "../support/temp.js";
import { suiteOwner, tempSocket } from "../support/temp.js";
import type { TestClient, TestServer } from "../support/test-server.js";
import { connectTo, PLACES, startServer } from "../support/test-server.js";
import { failure } from "../support/waiting.js";

interface Answered {
  text: string;
  header: Headers;
  trailer: Headers;
}

async function echoWith(
  { client }: TestClient,
  headers: Headers | Record<string, string>,
  data = new Uint8Array(0),
): Promise<Answered> {
  let header: Headers | undefined;
  let trailer: Headers | undefined;
  const { text } = await client.echo(
    { text: "t", data },
    { headers, onHeader: (value) => (header = value), onTrailer: (value) => (trailer = value) },
  );
  return { text, header: header!, trailer: trailer! };
}

for (const place of PLACES) {
  describe(`headers and trailers, ${place}`, () => {
    const owner = suiteOwner();
    let server: TestServer;
    let here: TestClient;
    before(async () => {
      server = await startServer(owner, place);
      here = connectTo(owner, server);
    });

    test("a header goes there and comes back as header and trailer", async () => {
      const { header, trailer } = await echoWith(here, { "X-One": "1", "x-two": "two words, and a comma" });
      assert.equal(header.get("x-one"), "1");
      assert.equal(header.get("x-two"), "two words, and a comma");
      assert.equal(trailer.get("x-trailer-one"), "1");
      assert.deepEqual([...trailer.keys()].sort(), ["x-trailer-one", "x-trailer-two"]);
      assert.deepEqual([...header.keys()].sort(), ["x-one", "x-two"]);
    });

    test("without headers both are empty, not missing", async () => {
      const { header, trailer } = await echoWith(here, {});
      assert.deepEqual([[...header], [...trailer]], [[], []]);
    });

    test("binary headers keep every byte", async () => {
      const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
      const { header, trailer } = await echoWith(here, { "x-bytes-bin": encodeBinaryHeader(bytes) });
      assert.deepEqual(decodeBinaryHeader(header.get("x-bytes-bin")!), bytes);
      assert.deepEqual(decodeBinaryHeader(trailer.get("x-trailer-bytes-bin")!), bytes);
    });

    test("a header that is set several times arrives as the list that Headers makes of it", async () => {
      const headers = new Headers();
      headers.append("x-many", "a");
      headers.append("x-many", "b");
      headers.append("x-many", "c, d");
      assert.equal((await echoWith(here, headers)).header.get("x-many"), "a, b, c, d");
    });

    test("all of latin1, and empty values, survive", async () => {
      const latin1 = Array.from({ length: 0x100 - 0xa1 }, (_, i) => String.fromCharCode(0xa1 + i)).join("");
      const { header } = await echoWith(here, { "x-latin1": latin1, "x-empty": "" });
      assert.equal(header.get("x-latin1"), latin1);
      assert.equal(header.get("x-empty"), "");
      assert.ok(header.has("x-empty"));
    });

    test("headers come with messages of every size", async () => {
      for (const byteLength of [0, 16_000, 16_380, 16_384, 16_400, 300_000]) {
        const { header, trailer } = await echoWith(here, { "x-size": String(byteLength) }, patternBytes(byteLength, 1));
        assert.equal(header.get("x-size"), String(byteLength));
        assert.equal(trailer.get("x-trailer-size"), String(byteLength));
      }
    });

    test("large headers pass up to the limit, with a message of any size", async () => {
      // The server sends them back twice, so half the limit is what fits.
      const value = "v".repeat(8000);
      for (const byteLength of [0, 16_384, 500_000]) {
        assert.equal(
          (await echoWith(here, { "x-large": value }, patternBytes(byteLength, 2))).header.get("x-large"),
          value,
        );
      }
    });

    test("request headers over the limit are refused with ResourceExhausted, which names the limit", async () => {
      await failure(
        here.client.echo({}, { headers: { "y-large": "v".repeat(16_400) } }),
        Code.ResourceExhausted,
        /headers of 164\d\d bytes.* limit of 16352/,
      );
      assert.equal((await here.client.echo({ text: "on" })).text, "on");
    });

    test("response headers over the limit fail the call with ResourceExhausted, which names the limit", async () => {
      await failure(
        here.client.echo({}, { headers: { "x-large": "v".repeat(9000) } }),
        Code.ResourceExhausted,
        /headers of \d+ bytes.* limit of 16352/,
      );
    });

    test("invalid headers reject the call and nothing else", async () => {
      await failure(here.client.echo({}, { headers: { "not a name": "x" } }), Code.Internal, /not a name/);
      await failure(here.client.echo({}, { headers: { "x-snowman": "☃" } }), Code.Internal, /ByteString|9731/);
      assert.equal((await here.client.echo({ text: "on" })).text, "on");
    });

    test("a failed call carries headers and trailers set before it failed, with the error's own, as metadata", async () => {
      const error = await failure(
        here.client.fail({ code: Code.Aborted, message: "m" }, { headers: { "x-one": "1" } }),
        Code.Aborted,
        /m/,
      );
      assert.equal(error.metadata.get("x-failed"), "yes");
      assert.equal(error.metadata.get("x-one"), "1");
      assert.equal(error.metadata.get("x-trailer-one"), "1");
      assert.deepEqual(decodeBinaryHeader(error.metadata.get("x-detail-bin")!), Uint8Array.of(0, 1, 2));
    });

    test("metadata that is too large to send does not hide the error", async () => {
      await failure(
        here.client.fail({ code: Code.Aborted, message: "the point" }, { headers: { "x-large": "v".repeat(9000) } }),
        Code.Aborted,
        /the point/,
      );
    });
  });
}

async function serveEcho(owner: Owner, echo: (context: HandlerContext) => void): Promise<TestClient> {
  const path = tempSocket(owner);
  const server = createIsthmusServer({
    routes: (router) =>
      router.service(TestService, {
        echo(_, context) {
          echo(context);
          return {};
        },
      }),
  });
  await server.listen(path);
  owner.after(() => server.close());
  return connectTo(owner, { path });
}

test("a handler that appends to a header sends all its values", async (context) => {
  const here = await serveEcho(context, ({ responseHeader, responseTrailer }) => {
    responseHeader.append("x-many", "a");
    responseHeader.append("x-many", "b");
    responseTrailer.append("x-many", "c");
  });
  const { header, trailer } = await echoWith(here, {});
  assert.equal(header.get("x-many"), "a, b");
  assert.equal(trailer.get("x-many"), "c");
});

test("several cookies stay several", async (context) => {
  const here = await serveEcho(context, ({ responseHeader }) => {
    responseHeader.append("set-cookie", "a=1");
    responseHeader.append("set-cookie", "b=2; Path=/, c");
  });
  assert.deepEqual((await echoWith(here, {})).header.getSetCookie(), ["a=1", "b=2; Path=/, c"]);
});

test("messages travel in binary headers", async (context) => {
  const here = await serveEcho(context, ({ responseTrailer }) => {
    responseTrailer.set(
      "reply-bin",
      encodeBinaryHeader(create(EchoReplySchema, { text: "in a trailer" }), EchoReplySchema),
    );
  });
  const { trailer } = await echoWith(here, {});
  assert.equal(decodeBinaryHeader(trailer.get("reply-bin")!, EchoReplySchema).text, "in a trailer");
});

test("handlers see the request's headers as they were sent, and only those", async (context) => {
  const seen: string[][] = [];
  const here = await serveEcho(context, ({ requestHeader }) => seen.push(...requestHeader));
  await here.client.echo({}, { headers: { authorization: "Bearer x", "X-Trace": "1" } });
  assert.deepEqual(seen, [
    ["authorization", "Bearer x"],
    ["x-trace", "1"],
  ]);
});
