import assert from "node:assert/strict";
import { test } from "node:test";
import type { Lease } from "../../memory/payload/lease.js";
import { BlockLeases } from "./block-leases.js";
import { StarvedPeer } from "./upkeep.js";

const ARENA_BYTES = 16 << 20;
const SLOTS = 4096;

function starvedPeer(leases: number, bytesEach: number) {
  const peerLeases = new BlockLeases(SLOTS, ARENA_BYTES);
  for (let i = 0; i < leases; i++) peerLeases.add(bytesEach);
  const seen = { collections: 0 };
  const blocks = {
    peerLeases,
    get holdsPeers() {
      return peerLeases.count > 0;
    },
  };
  return { peer: new StarvedPeer(blocks, () => void seen.collections++), peerLeases, seen };
}

test("a peer of whose arena one small lease is held has garbage collected once, however often it asks (STARVED-1)", () => {
  const { peer, seen } = starvedPeer(1, 32 << 10);
  for (let i = 0; i < 1000; i++) peer.onStarved();
  assert.equal(seen.collections, 1);
});

test("a peer of whose arena much is leased has garbage collected each time, in bytes or in blocks", () => {
  for (const { peer, seen } of [starvedPeer(2, ARENA_BYTES / 32), starvedPeer(SLOTS / 16, 1)]) {
    for (let i = 0; i < 3; i++) peer.onStarved();
    assert.equal(seen.collections, 3);
  }
});

test("nothing is collected for a peer without leases", () => {
  const { peer, peerLeases, seen } = starvedPeer(1, 100);
  peerLeases.ended({ byteLength: 100 } as Lease);
  peer.onStarved();
  assert.equal(seen.collections, 0);
});
