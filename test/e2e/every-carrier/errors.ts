/** How streams fail: what was sent before arrives, then the code, each side once, and nobody goes on for nothing. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { ItemSchema } from "../../proto/streams_pb.js";
import type { Scene } from "../../support/scenes.js";
import { scripted } from "../../support/scenes.js";
import { all, items, numbersOf, outcomeOf, upTo } from "../../support/streams.js";
import { failure, waitUntil, within } from "../../support/waiting.js";

const CODES = [
  Code.Canceled,
  Code.Unknown,
  Code.InvalidArgument,
  Code.DeadlineExceeded,
  Code.NotFound,
  Code.AlreadyExists,
  Code.PermissionDenied,
  Code.ResourceExhausted,
  Code.FailedPrecondition,
  Code.Aborted,
  Code.OutOfRange,
  Code.Unimplemented,
  Code.Internal,
  Code.Unavailable,
  Code.DataLoss,
  Code.Unauthenticated,
];

export function errors(scene: Scene): void {
  test("a handler that throws first fails the call with its code, text and details, whatever its kind", async (context) => {
    const { client } = await scene.connect(context);
    const options = () =>
      scripted(
        { fail: { code: Code.NotFound, message: "nothing of that näme", details: ["one", "two"] } },
        scene.newCall(),
      );
    const runs: Record<string, () => Promise<unknown>> = {
      unary: () => client.echo({}, options()),
      "server streaming": () => all(client.count({ count: 3n }, options())),
      "client streaming": () => client.sum(items(3), options()),
      bidirectional: () => all(client.chat(items(3), options())),
    };
    for (const [kind, run] of Object.entries(runs)) {
      const error = await failure(run(), Code.NotFound, /nothing of that näme/);
      assert.equal(error.rawMessage, "nothing of that näme", kind);
      assert.deepEqual(
        error.findDetails(ItemSchema).map(({ text }) => text),
        ["one", "two"],
        kind,
      );
    }
  });

  test("every code arrives as it was thrown", async (context) => {
    const { client } = await scene.connect(context);
    for (const code of CODES) {
      const options = scripted({ fail: { code, message: `it was ${code}` } }, scene.newCall());
      await failure(all(client.count({}, options)), code, new RegExp(`it was ${code}`));
      await failure(client.sum(items(1), options), code, new RegExp(`it was ${code}`));
    }
  });

  test("what was sent before the handler threw is delivered first", async (context) => {
    const { client } = await scene.connect(context);
    for (const count of [1, 5, 300]) {
      const counted = await outcomeOf(
        client.count({ count: BigInt(count), failCode: Code.DataLoss, failMessage: "enough" }),
      );
      assert.deepEqual(numbersOf(counted.messages), upTo(count));
      assert.ok(counted.error instanceof ConnectError && counted.error.code === Code.DataLoss, String(counted.error));
      const chatted = await outcomeOf(
        client.chat(items(count + 5), scripted({ fail: { code: Code.Aborted, message: "enough" }, failAfter: count })),
      );
      assert.deepEqual(numbersOf(chatted.messages), upTo(count));
      assert.ok(chatted.error instanceof ConnectError && chatted.error.code === Code.Aborted, String(chatted.error));
    }
    const large = await outcomeOf(
      client.count({ count: 8n, dataBytes: 1 << 20, failCode: Code.DataLoss, failMessage: "enough" }),
    );
    assert.deepEqual(
      large.messages.map(({ data }) => data.length),
      upTo(8).map(() => 1 << 20),
    );
    assert.ok(large.error instanceof ConnectError && large.error.code === Code.DataLoss, String(large.error));
  });

  test("an error that is no ConnectError is Internal, and its text stays at home", async (context) => {
    const { client } = await scene.connect(context);
    const plain = scripted({ fail: { message: "a secret", plain: true } });
    for (const run of [
      () => client.echo({}, plain),
      () => all(client.count({}, plain)),
      () => client.sum(items(2), plain),
      () => all(client.chat(items(2), plain)),
    ]) {
      const error = await failure(run(), Code.Internal, /internal error/);
      assert.ok(!error.message.includes("secret"));
    }
  });

  test("a handler that throws while the client sends stops the client", async (context) => {
    const { client, server } = await scene.connect(context);
    const call = scene.newCall();
    const requests = items(1_000_000, (i) => ({ number: BigInt(i), data: new Uint8Array(1000) }));
    await failure(
      client.sum(
        requests,
        scripted({ fail: { code: Code.OutOfRange, message: "three are too many" }, failAfter: 3 }, call),
      ),
      Code.OutOfRange,
      /too many/,
    );
    await waitUntil("the requests to be closed", () => requests.closed);
    const { produced } = requests;
    assert.ok(produced < 100_000, `${produced} were made for nothing`);
    assert.equal((await server.seen(call)).items, 3);
  });

  test("a handler that answers without reading all ends the call, and stops the client", async (context) => {
    const { client, server } = await scene.connect(context);
    const call = scene.newCall();
    const requests = items(1_000_000, (i) => ({ number: BigInt(i), data: new Uint8Array(1000) }));
    const reply = await within(60_000, "the answer", client.sum(requests, scripted({ readMax: 2 }, call)));
    assert.deepEqual([reply.items, reply.sum], [2n, 1n]);
    await waitUntil("the requests to be closed", () => requests.closed);
    const chatted = await within(60_000, "the end", all(client.chat(items(1_000_000), scripted({ readMax: 3 }))));
    assert.deepEqual(numbersOf(chatted), [0, 1, 2]);
    const seen = await server.seen(call);
    assert.deepEqual([seen.items, seen.finished], [2, 1]);
  });

  test("a handler that never reads can answer", async (context) => {
    const { client } = await scene.connect(context);
    const reply = await within(60_000, "the answer", client.sum(items(10), scripted({ neverReads: true })));
    assert.equal(reply.items, 0n);
    const requests = items(1_000_000, (i) => ({ number: BigInt(i), data: new Uint8Array(1000) }));
    const answers = await within(
      60_000,
      "the answers",
      all(client.chat(requests, scripted({ neverReads: true, sendsAfterwards: 2 }))),
    );
    assert.deepEqual(numbersOf(answers), [1000, 1001]);
    await waitUntil("the requests to be closed", () => requests.closed);
  });

  test("requests that throw end the call on both sides", async (context) => {
    const { client, server } = await scene.connect(context);
    for (const [error, code] of [
      [new ConnectError("no more to be had", Code.Aborted), Code.Aborted],
      [new Error("no more to be had"), Code.Internal],
    ] as const) {
      const call = scene.newCall();
      const failing = items(1000, async (i) => {
        if (i < 3) return { number: BigInt(i) };
        await waitUntil("the handler to have seen three", async () => (await server.seen(call)).items === 3);
        throw error;
      });
      const thrown = await client.sum(failing, scripted({}, call)).then(
        () => undefined,
        (reason: unknown) => reason,
      );
      assert.ok(thrown instanceof ConnectError, String(thrown));
      assert.deepEqual([Code[thrown.code], thrown.rawMessage], [Code[code], "no more to be had"]);
      await waitUntil("the handler to end", async () => (await server.seen(call)).finished === 1);
      const seen = await server.seen(call);
      if (scene.isOwn)
        assert.deepEqual(
          [seen.inputEnded, seen.inputFailure !== undefined],
          [false, true],
          "an end by error is no end of the requests",
        );
      if (scene.isOwn) assert.ok(seen.aborted !== undefined, "the signal aborted");
    }
  });

  test("a failed stream leaves the connection as it was", async (context) => {
    const { client, transport } = await scene.connect(context);
    for (let i = 0; i < 50; i++) {
      await outcomeOf(
        client.chat(items(20), scripted({ fail: { code: Code.Aborted, message: "no" }, failAfter: i % 7 })),
      );
      assert.equal((await client.echo({ number: BigInt(i) })).number, BigInt(i));
    }
    assert.deepEqual([transport.stats().connections, transport.stats().pendingCalls], [1, 0]);
  });

  test("after its failure or end an iterator stays ended", async (context) => {
    const { client } = await scene.connect(context);
    for (const failCode of [0, Code.Aborted]) {
      const replies = client.count({ count: 1n, failCode })[Symbol.asyncIterator]();
      assert.equal((await replies.next()).done, false);
      if (failCode !== 0) await failure(replies.next(), Code.Aborted, /./);
      for (let i = 0; i < 3; i++) assert.deepEqual(await replies.next(), { done: true, value: undefined });
    }
  });
}
