/** Large values in every message of a stream: wherever they lie, and however long they last, they are what was sent. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Code } from "@connectrpc/connect";
import type { LeaseLifetime } from "../../../src/index.js";
import { release, retain } from "../../../src/index.js";
import { collectSoon } from "../../../src/memory/v8/gc.js";
import { patternFault } from "../../support/own-routes.js";
import type { Scene, SceneClient, SceneServer } from "../../support/scenes.js";
import { connectStreams, scripted } from "../../support/scenes.js";
import type { PayloadKind } from "../../support/stream-service.js";
import { ownItem, PAYLOADS } from "../../support/stream-service.js";
import { items } from "../../support/streams.js";
import { failure, waitUntil } from "../../support/waiting.js";

const LIFETIMES: readonly LeaseLifetime[] = ["collected", "scoped", "copied"];
const MESSAGES = 24;
const DATA_BYTES = 150_000;

export function payloads(scene: Scene): void {
  /** Nothing of the client's memory is in use any more, and it holds nothing of the server's. */
  async function allReturned({ transport, client }: SceneClient, server: SceneServer): Promise<void> {
    if (!scene.hasLeases) return;
    await waitUntil("all blocks to be back", async () => {
      collectSoon();
      await server.collect();
      // A side looks for what came back when it has something to do.
      await client.echo({});
      const { arenaInUseBytes, loans, leases } = transport.stats().connection!;
      return (
        (arenaInUseBytes === 0 && loans === 0 && leases === 0) || JSON.stringify({ arenaInUseBytes, loans, leases })
      );
    });
  }

  for (const leases of LIFETIMES) {
    test(`${PAYLOADS.join(", ")} in every message of both directions (leases: ${leases})`, async (context) => {
      const server = await scene.serve(context, { leases });
      const here = connectStreams(context, server, { leases });
      await here.client.echo({});
      const carry = async (payload: PayloadKind) => {
        const call = scene.newCall();
        const requests = items(MESSAGES, (i) => ownItem(i, { payload, dataBytes: DATA_BYTES + i }, here.transport));
        let number = 0;
        let last: Uint8Array | undefined;
        let detached = 0;
        for await (const reply of here.client.chat(requests, scripted({ checks: true, payload }, call))) {
          if (last?.length === 0) detached++;
          assert.deepEqual(
            [Number(reply.number), reply.data.length, patternFault(reply.data, number)],
            [number, DATA_BYTES + number, -1],
            `${payload}, message ${number}`,
          );
          last = reply.data;
          number++;
        }
        assert.equal(number, MESSAGES, payload);
        const seen = await server.seen(call);
        assert.deepEqual([seen.items, seen.damaged], [MESSAGES, 0], payload);
        const expected = scene.isOwn && leases === "scoped" ? MESSAGES - 1 : 0;
        assert.equal(detached, expected, `${payload}: answers that were gone when the next one came`);
        if (expected > 0) assert.equal(last?.length, 0, `${payload}: the last answer, after the end`);
        // The handler's last request is still the handler's when the stream ends; each earlier one went with the next.
        assert.equal(seen.detached, expected, `${payload}: requests that were gone when the next one came`);
      };
      for (const payload of PAYLOADS) await carry(payload);
      await allReturned(here, server);
    });
  }

  test("what is retained stays, on both sides (leases: scoped)", async (context) => {
    const server = await scene.serve(context, { leases: "scoped" });
    const here = connectStreams(context, server, { leases: "scoped" });
    await here.client.echo({});
    const call = scene.newCall();
    const kept: Uint8Array[] = [];
    for await (const reply of here.client.chat(
      items(MESSAGES, (i) => ownItem(i, { payload: "loan", dataBytes: DATA_BYTES }, here.transport)),
      scripted({ checks: true, keeps: true, payload: "loan" }, call),
    )) {
      retain(reply);
      kept.push(reply.data);
    }
    assert.deepEqual(
      kept.map((data, i) => [data.length, patternFault(data, i)]),
      kept.map(() => [DATA_BYTES, -1]),
    );
    assert.equal(kept.length, MESSAGES);
    assert.equal((await server.seen(call)).damaged, 0);
    for (const data of kept) release(data);
    await allReturned(here, server);
  });

  test("what is kept of a stream stays as it was, whatever comes later (leases: collected)", async (context) => {
    const { client, transport, server } = await scene.connect(context);
    const kept: { seed: number; data: Uint8Array }[] = [];
    const carry = async (round: number) => {
      for await (const { number, data } of client.chat(
        items(20, (i) =>
          ownItem(round * 20 + i, { payload: i % 2 === 0 ? "loan" : "heap", dataBytes: 60_000 + i * 4096 }, transport),
        ),
      )) {
        kept.push({ seed: Number(number), data });
        if (kept.length % 3 === 0) kept.splice((kept.length * 31) % kept.length, 1);
      }
      collectSoon();
      await client.echo({});
      for (const { seed, data } of kept) assert.equal(patternFault(data, seed), -1, `message ${seed}`);
    };
    for (let round = 0; round < 4; round++) await carry(round);
    kept.length = 0;
    await allReturned({ client, transport }, server);
  });

  test("release gives a message's memory back in the middle of a stream (leases: collected)", async (context) => {
    const { client, transport, server } = await scene.connect(context, { memory: { arenaBytes: 2 << 20 } });
    let count = 0;
    for await (const reply of client.chat(
      items(30, (i) => ownItem(i, { payload: "loan", dataBytes: 300_000 }, transport)),
    )) {
      assert.equal(patternFault(reply.data.subarray(0, 4096), count++), -1);
      release(reply);
      if (scene.hasLeases) assert.equal(reply.data.length, 0);
    }
    assert.equal(count, 30);
    await allReturned({ client, transport }, server);
  });

  test("streams that are given up in the middle give all memory back", async (context) => {
    const { client, transport, server } = await scene.connect(context);
    for (let round = 0; round < 6; round++) {
      const controller = new AbortController();
      let count = 0;
      const run = (async () => {
        const requests = items(1000, (i) => ownItem(i, { payload: "loan", dataBytes: 200_000 }, transport));
        for await (const reply of client.chat(requests, {
          ...scripted({ payload: "loan" }),
          signal: controller.signal,
        })) {
          assert.equal(patternFault(reply.data.subarray(0, 4096), count), -1);
          if (++count === round * 2 + 1) controller.abort();
        }
      })();
      await failure(run, Code.Canceled, /./);
      assert.equal(count, round * 2 + 1);
    }
    await allReturned({ client, transport }, server);
  });
}
