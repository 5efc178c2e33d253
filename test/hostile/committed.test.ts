/** Clients that keep the blocks of a server whose memory is limited. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { createClient, createIsthmusTransport } from "../../src/index.js";
import { TestService } from "../proto/test_pb.js";
import { full } from "../stress/settings.js";
import { onlyWithAddon } from "../support/carriers.js";
import { memoryGroup } from "../support/memory-group.js";
import { connectionOf } from "../support/own-routes.js";
import type { Owner } from "../support/temp.js";
import { serveAttacked } from "./server.js";

const LIMIT_BYTES = 512 << 20;
const ANSWER_BYTES = 1 << 20;
const GREEDY = 4;
const KEPT = 160;
const HONEST_CALLS = full ? 1000 : 100;

function connectTo(owner: Owner, path: string) {
  const transport = createIsthmusTransport({ address: path });
  owner.after(() => transport.close());
  return { transport, client: createClient(TestService, transport) };
}

describe(`clients that keep blocks of a server in ${LIMIT_BYTES >> 20} MiB`, { skip: onlyWithAddon }, () => {
  test("leave memory for the others: all their large answers arrive", { timeout: 300_000 }, async (t) => {
    const group = memoryGroup(LIMIT_BYTES);
    if (group === undefined) return t.skip("no memory control group can be made here");
    const server = await serveAttacked(t, {}, group);
    t.after(() => group.remove());
    const answer = { sequence: BigInt(ANSWER_BYTES) };
    const committed: number[] = [];
    const kept: Uint8Array[] = [];
    for (let i = 0; i < GREEDY; i++) {
      const { client, transport } = connectTo(t, server.path);
      for (let k = 0; k < KEPT; k++) kept.push((await client.checksum(answer)).data);
      committed.push(connectionOf(transport).leasedBytes);
    }
    t.diagnostic(`greedy clients lease ${committed.map((bytes) => `${bytes >> 20} MiB`).join(", ")}`);
    const { client } = connectTo(t, server.path);
    for (let i = 0; i < HONEST_CALLS; i++) {
      const { data } = await client.checksum(answer);
      assert.equal(data.length, ANSWER_BYTES);
    }
    // They are still held.
    assert.equal(kept.length, GREEDY * KEPT);
    assert.ok(committed[0] <= LIMIT_BYTES / 4, `${committed[0]} bytes are leased by the first one`);
  });
});
