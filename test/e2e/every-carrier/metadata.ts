/** Headers before the first message, trailers after the last. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, ConnectError, decodeBinaryHeader, encodeBinaryHeader } from "@connectrpc/connect";
import type { Scene } from "../../support/scenes.js";
import { scripted } from "../../support/scenes.js";
import type { Script } from "../../support/stream-service.js";
import { all, items, outcomeOf } from "../../support/streams.js";

const BYTES = Uint8Array.from({ length: 256 }, (_, i) => i);

interface Recorded {
  readonly events: string[];
  headers: Headers;
  trailers: Headers;
}

/** Options that note when headers and trailers come. */
function tracking(
  script: Script,
  call: string,
): {
  recorded: Recorded;
  options: {
    headers: Record<string, string>;
    onHeader: (headers: Headers) => void;
    onTrailer: (trailers: Headers) => void;
  };
} {
  const recorded: Recorded = { events: [], headers: new Headers(), trailers: new Headers() };
  return {
    recorded,
    options: {
      ...scripted(script, call),
      onHeader(headers) {
        recorded.events.push("headers");
        recorded.headers = headers;
      },
      onTrailer(trailers) {
        recorded.events.push("trailers");
        recorded.trailers = trailers;
      },
    },
  };
}

async function noteMessages(messages: AsyncIterable<unknown>, recorded: Recorded): Promise<void> {
  for await (const message of messages) recorded.events.push(message === undefined ? "nothing" : "message");
}

export function metadata(scene: Scene): void {
  const script: Script = {
    headers: { "x-answer": "first, second", "x-bytes-bin": encodeBinaryHeader(BYTES) },
    trailers: { "x-last": "good bye", "x-last-bin": encodeBinaryHeader(BYTES) },
  };

  function check({ headers, trailers }: Recorded): void {
    assert.equal(headers.get("x-answer"), "first, second");
    assert.deepEqual(decodeBinaryHeader(headers.get("x-bytes-bin")!), BYTES);
    assert.equal(trailers.get("x-last"), "good bye");
    assert.deepEqual(decodeBinaryHeader(trailers.get("x-last-bin")!), BYTES);
    assert.equal(headers.get("x-last"), null, "trailers are no headers");
    assert.equal(trailers.get("x-answer"), null, "headers are no trailers");
  }

  test("headers come before the first message, trailers after the last, also where there is none", async (context) => {
    const { client } = await scene.connect(context);
    for (const count of [0, 1, 3]) {
      const expected = ["headers", ...Array.from({ length: count }, () => "message"), "trailers"];
      const counted = tracking(script, scene.newCall());
      await noteMessages(client.count({ count: BigInt(count) }, counted.options), counted.recorded);
      assert.deepEqual(counted.recorded.events, expected, "server streaming");
      check(counted.recorded);
      const chatted = tracking(script, scene.newCall());
      await noteMessages(client.chat(items(count), chatted.options), chatted.recorded);
      assert.deepEqual(chatted.recorded.events, expected, "bidirectional");
      check(chatted.recorded);
      const summed = tracking(script, scene.newCall());
      await client.sum(items(count), summed.options);
      assert.deepEqual(summed.recorded.events, ["headers", "trailers"]);
      check(summed.recorded);
    }
    const echoed = tracking(script, scene.newCall());
    await client.echo({}, echoed.options);
    check(echoed.recorded);
  });

  test("headers of a request reach the handler of every kind", async (context) => {
    const { client, server } = await scene.connect(context);
    const call = scene.newCall();
    const headers = {
      ...scripted({}, call).headers,
      "x-plain": "of the client",
      "x-data-bin": encodeBinaryHeader(BYTES),
      "x-long": "y".repeat(6000),
    };
    const runs = [
      () => client.echo({}, { headers }),
      () => all(client.count({}, { headers })),
      () => client.sum(items(1), { headers }),
      () => all(client.chat(items(1), { headers })),
    ];
    for (const [i, run] of runs.entries()) {
      await run();
      const { calls, requestHeaders } = await server.seen(call);
      assert.equal(calls, i + 1);
      assert.equal(requestHeaders["x-plain"], "of the client");
      assert.deepEqual(decodeBinaryHeader(requestHeaders["x-data-bin"]), BYTES);
      assert.equal(requestHeaders["x-long"].length, 6000);
    }
  });

  test("headers and trailers of a call that fails are in the error, those of the error itself too", async (context) => {
    const { client } = await scene.connect(context);
    const failing: Script = {
      ...script,
      fail: {
        code: Code.Aborted,
        message: "no more",
        metadata: { "x-of-error": "yes", "x-error-bin": encodeBinaryHeader(BYTES) },
      },
    };
    for (const failAfter of [0, 2]) {
      const { options, recorded } = tracking({ ...failing, failAfter }, scene.newCall());
      const { error, messages } = await outcomeOf(client.chat(items(3), options));
      assert.ok(error instanceof ConnectError);
      assert.equal(messages.length, failAfter);
      assert.equal(error.metadata.get("x-of-error"), "yes");
      assert.deepEqual(decodeBinaryHeader(error.metadata.get("x-error-bin")!), BYTES);
      assert.equal(error.metadata.get("x-last"), "good bye", "trailers");
      if (failAfter > 0) assert.equal(recorded.headers.get("x-answer"), "first, second");
    }
  });
}
