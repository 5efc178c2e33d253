/**
 * A handler that calls on and lets the error through: its caller gets code, text and details, but no metadata of a
 * server that it does not know.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Client } from "@connectrpc/connect";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import type { IsthmusServerOptions } from "../../src/index.js";
import { createIsthmusServer, createIsthmusTransport } from "../../src/index.js";
import { ItemSchema, StreamService } from "../proto/streams_pb.js";
import { CARRIER_PLACES } from "../support/carrier-places.js";
import { all, items } from "../support/streams.js";
import type { Owner } from "../support/temp.js";
import { failure } from "../support/waiting.js";

type Streams = Client<typeof StreamService>;

const CARRIERS = CARRIER_PLACES;
/** Errors of Connect's own transports say since version 2.3 that they came from a server. */
const CONNECT_SAYS = "isWireError" in new ConnectError("");

async function serve(owner: Owner, carrier: string, routes: IsthmusServerOptions["routes"]): Promise<Streams> {
  const { address, client } = CARRIERS[carrier];
  const server = createIsthmusServer({ routes });
  owner.after(() => server.close({ timeoutMs: 0 }));
  const transport = createIsthmusTransport({ address: (await server.listen(address(owner))).address, ...client });
  owner.after(() => transport.close());
  return createClient(StreamService, transport);
}

const CALLS: Record<string, (client: Streams) => Promise<unknown>> = {
  unary: (client) => client.echo({}),
  "server streaming": (client) => all(client.count({})),
  "client streaming": (client) => client.sum(items(1)),
  bidirectional: (client) => all(client.chat(items(1))),
};

const upstreamRoutes: IsthmusServerOptions["routes"] = (router) => {
  const fail = (
    _: unknown,
    { responseHeader, responseTrailer }: { responseHeader: Headers; responseTrailer: Headers },
  ): never => {
    responseHeader.set("x-upstream-header", "internal.example:9000");
    responseTrailer.set("x-upstream-trailer", "internal.example:9000");
    throw new ConnectError("not there", Code.NotFound, { "x-upstream": "secret", "set-cookie": "session=1" }, [
      { desc: ItemSchema, value: { text: "which" } },
    ]);
  };
  router.service(StreamService, {
    echo: fail,
    // eslint-disable-next-line require-yield
    async *count(request, context) {
      await Promise.resolve();
      fail(request, context);
    },
    sum: (_, context) => fail(_, context),
    // eslint-disable-next-line require-yield
    async *chat(requests, context) {
      await Promise.resolve();
      fail(requests, context);
    },
  });
};

/** Relays to `upstream`, and adds trailers of its own. */
function relaying(upstream: Streams): IsthmusServerOptions["routes"] {
  return (router) => {
    router.service(StreamService, {
      echo(request, { responseTrailer }) {
        responseTrailer.set("x-relay", "own");
        return upstream.echo(request);
      },
      async *count(request, { responseTrailer }) {
        responseTrailer.set("x-relay", "own");
        yield* upstream.count(request);
      },
      sum(requests, { responseTrailer }) {
        responseTrailer.set("x-relay", "own");
        return upstream.sum(requests);
      },
      async *chat(requests, { responseTrailer }) {
        responseTrailer.set("x-relay", "own");
        yield* upstream.chat(requests);
      },
    });
  };
}

for (const [first, { skip = false }] of Object.entries(CARRIERS)) {
  describe(`errors that came over ${first}`, { skip }, () => {
    for (const [second, other] of Object.entries(CARRIERS)) {
      // Connect's own servers and transports do it since version 2.3.
      const isOld = !CONNECT_SAYS && (first === "HTTP/2 with gRPC" || second === "HTTP/2 with gRPC");
      test(`are relayed over ${second} without the metadata of the server that made them`, {
        skip: other.skip || (isOld && "this version of Connect relays metadata"),
      }, async (context) => {
        const upstream = await serve(context, first, upstreamRoutes);
        const client = await serve(context, second, relaying(upstream));
        for (const [kind, call] of Object.entries(CALLS)) {
          const direct = await failure(call(upstream), Code.NotFound, /not there/);
          assert.equal(direct.metadata.get("x-upstream"), "secret", kind);
          const relayed = await failure(call(client), Code.NotFound, /not there/);
          assert.deepEqual(
            relayed.findDetails(ItemSchema).map(({ text }) => text),
            ["which"],
            kind,
          );
          const names = [...relayed.metadata.keys()];
          assert.deepEqual(
            names.filter((name) => name.includes("upstream") || name === "set-cookie"),
            [],
            kind,
          );
          assert.equal(relayed.metadata.get("x-relay"), "own", kind);
        }
      });
    }
  });
}

for (const [carrier, { skip = false }] of Object.entries(CARRIERS).filter(([name]) => name !== "HTTP/2 with gRPC")) {
  test(`an error of a handler's own has all its metadata over ${carrier}, but names of the protocols`, {
    skip,
  }, async (context) => {
    const metadata = {
      "x-own": "1",
      "x-own-bin": "AAE",
      "content-type": "text/html",
      "content-length": "5",
      date: "today",
      "grpc-status": "0",
      "user-agent": "me",
    };
    const upstream = await serve(context, carrier, upstreamRoutes);
    const client = await serve(context, carrier, (router) =>
      router.service(StreamService, {
        async echo({ text }) {
          if (text === "") throw new ConnectError("own", Code.Aborted, metadata);
          try {
            return await upstream.echo({});
          } catch (error) {
            const { rawMessage, code, metadata: received } = ConnectError.from(error);
            throw new ConnectError(`relayed on purpose: ${rawMessage}`, code, received);
          }
        },
      }),
    );
    const error = await failure(client.echo({}), Code.Aborted, /own/);
    assert.deepEqual(Object.fromEntries(error.metadata), { "x-own": "1", "x-own-bin": "AAE" });
    const onPurpose = await failure(client.echo({ text: "relay" }), Code.NotFound, /on purpose/);
    assert.equal(onPurpose.metadata.get("x-upstream"), "secret");
  });
}
