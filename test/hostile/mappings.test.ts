/** Clients that send one region again and again to use up the mappings of a server. */
import assert from "node:assert/strict";
import { closeSync } from "node:fs";
import { describe, test } from "node:test";
import { createClient, createIsthmusTransport } from "../../src/index.js";
import { SEALS } from "../../src/os/addon.js";
import { FLAG, KIND, SPAN } from "../../src/wire/frame.js";
import { FEATURE } from "../../src/wire/hello.js";
import { TestService } from "../proto/test_pb.js";
import { full } from "../stress/settings.js";
import { onlyWithAddon } from "../support/carriers.js";
import { RawPeer } from "../support/raw-peer.js";
import { waitUntil } from "../support/waiting.js";
import { serveAttacked } from "./server.js";

const REGION_BYTES = 32 << 10;
const MAPPED_MAX = 1024;
const TIMES = full ? 65_600 : 3000;
/** The tag of `data`, and its length as a varint of three bytes. */
const HEAD = Uint8Array.of(0x1a, (REGION_BYTES & 0x7f) | 0x80, ((REGION_BYTES >> 7) & 0x7f) | 0x80, REGION_BYTES >> 14);

describe("one region sent many times", { skip: onlyWithAddon }, () => {
  test("is mapped a bounded number of times, then copied, and unmapped when its handlers are done", async (t) => {
    const server = await serveAttacked(t, { limits: { keptBytes: 2 ** 40 } });
    const transport = createIsthmusTransport({ address: server.path });
    t.after(() => transport.close());
    const honest = createClient(TestService, transport);
    await honest.echo({});
    const before = await server.resources();
    const peer = await RawPeer.open(t, server.path, FEATURE.spans);
    peer.define(0, "Unfinished");
    const region = peer.addon.createSegment("hostile-region", REGION_BYTES);
    peer.addon.commitPages(region, 0, REGION_BYTES);
    peer.addon.sealSegment(region, SEALS.WRITE | SEALS.SHRINK | SEALS.GROW | SEALS.SEAL);
    for (let number = 1; number <= TIMES; number++) {
      assert.equal(peer.addon.sendDescriptor(peer.descriptor, region), 0);
      const entry = Uint32Array.of(HEAD.length, REGION_BYTES, number, 0, 0, SPAN.region);
      peer.frame({
        kind: KIND.request,
        flags: FLAG.endStream,
        streamId: 0x10000 + ((number - 1) & 0xffff) + ((number - 1) >> 16) * 0x10000,
        body: Buffer.concat([new Uint8Array(entry.buffer), HEAD]),
        spanCount: 1,
        fragmentLength: HEAD.length,
        messageLength: HEAD.length + REGION_BYTES,
      });
      peer.publish();
      if (number % 32 === 0) await waitUntil("the server to read that", () => peer.consumed);
    }
    closeSync(region);
    await waitUntil("all handlers to run", async () => (await server.condition()).handlers.running === TIMES);
    const during = await server.resources();
    assert.ok(during.mappings >= before.mappings + MAPPED_MAX, `${during.mappings} mappings: none are made any more`);
    assert.ok(during.mappings <= before.mappings + MAPPED_MAX + 16, `${during.mappings} mappings of one client`);
    assert.equal((await honest.echo({ text: "honest" })).text, "honest");
    peer.close();
    await server.release();
    await waitUntil("the server's mappings and descriptors to be gone", async () => {
      const after = await server.resources();
      return after.mappings <= before.mappings && after.open <= before.open ? true : JSON.stringify({ before, after });
    });
  });
});
