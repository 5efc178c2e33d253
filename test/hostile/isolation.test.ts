/**
 * Whom a side trusts with shared memory, and that a side that trusts nobody shows its handlers nothing that changes,
 * whatever writes to all memory that a peer can reach.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { closeSync, openSync, writeSync } from "node:fs";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createIsthmusServer, loan, region } from "../../src/index.js";
import { requireAddon, SEALS } from "../../src/os/addon.js";
import { encodeHandshake } from "../../src/wire/hello.js";
import { startPeer } from "../stress/processes.js";
import type { Trusted } from "../system/containers.peer.js";
import { connectionOf, fillPattern, patternFault, serveOwn } from "../support/own-routes.js";
import { HELLO, RawPeer } from "../support/raw-peer.js";
import { tempSocket } from "../support/temp.js";
import { connectTo } from "../support/test-server.js";
import { testRoutes } from "../support/test-service.js";
import { noPython, runPython } from "./python.js";

const program = new URL("../system/containers.peer.js", import.meta.url);
const mayUnshare = (...namespaces: string[]) =>
  spawnSync("unshare", [...namespaces, "true"]).status === 0 ? false : `this process may not unshare ${namespaces[0]}`;

describe("by default", () => {
  for (const [what, namespaces, expected] of [
    [
      "the same namespaces",
      [],
      { isolation: "shared", isolationReason: "the peer is a process of the same user in the same namespaces" },
    ],
    ["another user namespace", ["--user", "--map-root-user"], /^the namespaces of the peer's process cannot be read/],
    ["another mount namespace", ["--mount"], /^the peer is in another mount namespace$/],
    [
      "another process id namespace",
      ["--pid", "--fork", "--kill-child"],
      /^the peer is in another process id namespace$/,
    ],
  ] as const) {
    test(`a client in ${what} is ${expected instanceof RegExp ? "not " : ""}trusted`, {
      skip: namespaces.length > 0 && mayUnshare(...namespaces),
    }, async (context) => {
      const path = tempSocket(context);
      const server = createIsthmusServer({ routes: testRoutes });
      await server.listen(path);
      context.after(() => server.close({ timeoutMs: 0 }));
      const wrap = namespaces.length === 0 ? [] : ["unshare", ...namespaces];
      const client = await startPeer(context, program, { wrap });
      await client.ask("connect", { path });
      const trusted = await client.ask<Trusted>("trusted");
      if (!(expected instanceof RegExp)) assert.deepEqual(trusted, expected);
      else {
        assert.equal(trusted.isolation, "snapshot");
        assert.match(trusted.isolationReason ?? "", expected);
      }
      assert.equal(server.stats().isolated, expected instanceof RegExp ? 1 : 0);
      assert.equal(server.stats().carriers.shm, 1);
    });
  }
});

test("a side that isolates itself seals its arena before the peer gets it", async (context) => {
  const { path } = await serveOwn(context, {}, { server: { isolation: "snapshot" } });
  const addon = requireAddon();
  const peer = RawPeer.connect(context, path);
  peer.send(encodeHandshake(HELLO), peer.makeSegments());
  const [, arena] = (await peer.receiveHandshake()).descriptors;
  const { seals, byteLength } = addon.inspectSegment(arena);
  assert.notEqual(seals & SEALS.FUTURE_WRITE, 0);
  assert.throws(() => addon.mapSegment(arena, byteLength, 0, true), { code: "EPERM" });
  assert.throws(() => addon.returnPages(arena, 0, 4096), { code: "EPERM" });
  assert.throws(() => writeSync(arena, "x"), { code: "EPERM" });
  const opened = openSync(`/proc/self/fd/${arena}`, "r+");
  context.after(() => closeSync(opened));
  assert.throws(() => writeSync(opened, "x"), { code: "EPERM" });
});

for (const [what, server, client] of [
  ["the server isolates", "snapshot", "shared"],
  ["the client isolates", "shared", "snapshot"],
  ["both isolate", "snapshot", "snapshot"],
] as const) {
  test(`if ${what}, neither leases, and loans of every size still go without a copy of the sender's`, async (context) => {
    const seen: [faultBefore: number, faultAfter: number][] = [];
    const own = await serveOwn(
      context,
      {
        async echo({ data }, handlerContext) {
          const answer = await loan(handlerContext, data.length);
          fillPattern(answer, 2);
          const before = patternFault(data, 1);
          await sleep(5);
          seen.push([before, patternFault(data, 1)]);
          return { data: answer };
        },
      },
      { server: { isolation: server }, client: { isolation: client } },
    );
    const { transport } = own;
    for (const byteLength of [40_000, 5 << 20, 30 << 20]) {
      const request = await loan(transport, byteLength);
      fillPattern(request, 1);
      const { data } = await own.client.echo({ data: request });
      assert.deepEqual([data.length, patternFault(data, 2)], [byteLength, -1]);
    }
    assert.deepEqual(seen, [
      [-1, -1],
      [-1, -1],
      [-1, -1],
    ]);
    const { spansLeased, spansSentInPlace, spansCopiedIn, spansCopiedOut } = connectionOf(transport);
    assert.deepEqual(
      { spansLeased, spansSentInPlace, spansCopiedIn, spansCopiedOut },
      { spansLeased: 0, spansSentInPlace: 3, spansCopiedIn: 0, spansCopiedOut: 3 },
    );
    assert.equal(transport.stats().isolation, "snapshot");
    assert.match(
      transport.stats().isolationReason ?? "",
      client === "snapshot" ? /^the option isolation is "snapshot"$/ : /^the peer isolates itself/,
    );
    assert.equal(own.server.stats().isolated, 1);
  });
}

test("a part of a region is copied for a peer that is not trusted, because the region would show all of it", async (context) => {
  const { client, transport } = await serveOwn(
    context,
    { echo: ({ data }) => ({ text: String(patternFault(data, 1)) }) },
    { client: { isolation: "snapshot" } },
  );
  const bytes = await region(200_000);
  fillPattern(bytes, 1);
  assert.equal((await client.echo({ data: bytes.subarray(0, 100_000) })).text, "-1");
  const { spansCopiedIn, spansSentInPlace } = connectionOf(transport);
  assert.deepEqual([spansCopiedIn, spansSentInPlace], [1, 0]);
  assert.equal((await client.echo({ data: bytes })).text, "-1");
  assert.equal(connectionOf(transport).spansSentInPlace, 1);
});

test("text that a handler makes of bytes that the peer changes meanwhile does not crash a server that isolates", {
  skip: noPython,
}, async (context) => {
  const path = tempSocket(context);
  const server = await startPeer(context, new URL("./text.peer.js", import.meta.url));
  await server.ask("listen", path);
  const attack = runPython(context, "text.py", path);
  assert.equal(await attack.report, "sent");
  const { client } = connectTo(context, { path });
  assert.equal((await client.echo({ data: Buffer.alloc(100_000, "a") })).text, "200000");
});
