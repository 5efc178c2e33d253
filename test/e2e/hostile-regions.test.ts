/** Peers that lie about regions: each loses its own connection, and leaves nothing behind. */
import assert from "node:assert/strict";
import { closeSync, openSync } from "node:fs";
import { before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { TestContext } from "node:test";
import { SEALS } from "../../src/os/addon.js";
import { FLAG, KIND, SPAN, SPANS_MAX } from "../../src/wire/frame.js";
import { FEATURE } from "../../src/wire/hello.js";
import { onlyWithAddon } from "../support/carriers.js";
import { RawPeer } from "../support/raw-peer.js";
import type { Descriptors } from "../support/resources.js";
import { suiteOwner } from "../support/temp.js";
import type { TestClient, TestServerProcess } from "../support/test-server.js";
import { connectTo, serveInChild, warmUp } from "../support/test-server.js";
import { waitUntil } from "../support/waiting.js";

const REGION_BYTES = 64 << 10;
const REGION_SEALS = SEALS.WRITE | SEALS.SHRINK | SEALS.GROW | SEALS.SEAL;
const EAGAIN = -11;
/** The tag of `data`, and its length as a varint of three bytes. */
const HEAD = Uint8Array.of(0x1a, (REGION_BYTES & 0x7f) | 0x80, ((REGION_BYTES >> 7) & 0x7f) | 0x80, REGION_BYTES >> 14);

interface RegionLies {
  seals?: number;
  byteLength?: number;
  committedBytes?: number;
}

/** A memfd; closed by the caller. */
function makeRegion(
  peer: RawPeer,
  { seals = REGION_SEALS, byteLength = REGION_BYTES, committedBytes = byteLength }: RegionLies = {},
): number {
  const { addon } = peer;
  const descriptor = addon.createSegment("lying-region", byteLength);
  if (committedBytes > 0) addon.commitPages(descriptor, 0, committedBytes);
  if (seals !== 0) addon.sealSegment(descriptor, seals);
  return descriptor;
}

function passOn(peer: RawPeer, descriptor: number): void {
  assert.equal(peer.addon.sendDescriptor(peer.descriptor, descriptor), 0);
  closeSync(descriptor);
}

/** A request of `Echo` whose data is the region of this number. */
function request(
  peer: RawPeer,
  number: number,
  more: { flags?: number; offset?: number; streamId?: number; code?: number } = {},
): void {
  const entry = Uint32Array.of(HEAD.length, REGION_BYTES, number, 0, more.offset ?? 0, more.flags ?? SPAN.region);
  peer.frame({
    kind: KIND.request,
    flags: FLAG.endStream,
    code: more.code ?? 0,
    streamId: more.streamId ?? 0x10001,
    body: Buffer.concat([new Uint8Array(entry.buffer), HEAD]),
    spanCount: 1,
    fragmentLength: HEAD.length,
    messageLength: HEAD.length + REGION_BYTES,
  });
  peer.publish();
}

describe("a client that lies about regions", { skip: onlyWithAddon }, () => {
  const owner = suiteOwner();
  let server: TestServerProcess;
  let honest: TestClient;
  let baseline: Descriptors;

  before(async () => {
    server = await serveInChild(owner);
    await warmUp(server);
    honest = connectTo(owner, server);
    await honest.client.echo({});
    baseline = await server.resources();
  });

  const isAsBefore = async () => {
    assert.equal((await honest.client.echo({ text: "honest" })).text, "honest");
    assert.equal(honest.transport.stats().connections, 1);
    await waitUntil("the server's descriptors and mappings to be gone", async () => {
      const now = await server.resources();
      return now.open <= baseline.open && now.mappings <= baseline.mappings ? true : JSON.stringify({ now, baseline });
    });
  };

  const open = async (context: TestContext) => {
    const peer = await RawPeer.open(context, server.path, FEATURE.spans);
    peer.define(0, "Echo");
    peer.publish();
    await waitUntil("the server to read the definition", () => peer.consumed);
    return peer;
  };

  const answered = async (peer: RawPeer, count: number) => {
    const answers: { kind: number; code: number }[] = [];
    await waitUntil(
      `${count} answers`,
      () => answers.push(...peer.read().filter(({ kind }) => kind === KIND.response)) >= count,
    );
    assert.deepEqual(
      answers.map(({ code }) => code),
      Array.from({ length: count }, () => 0),
    );
  };

  const isViolation = async (context: TestContext, act: (peer: RawPeer) => void | Promise<void>) => {
    const { violations } = await server.stats();
    const peer = await open(context);
    await act(peer);
    await peer.hungUp();
    assert.equal((await server.stats()).violations, violations + 1);
    peer.close();
    await isAsBefore();
  };

  test("may as well send honest ones, in the order of their numbers", async (context) => {
    const peer = await open(context);
    for (let number = 1; number <= 3; number++) passOn(peer, makeRegion(peer));
    request(peer, 2, { streamId: 0x10001 });
    request(peer, 3, { streamId: 0x10002 });
    request(peer, 1, { streamId: 0x10003 });
    await answered(peer, 3);
    peer.close();
    await isAsBefore();
  });

  test("may take a region back that it has not named", async (context) => {
    const peer = await open(context);
    for (let round = 0; round < 5; round++) {
      for (let i = 1; i <= SPANS_MAX; i++) passOn(peer, makeRegion(peer));
      for (let i = 1; i <= SPANS_MAX; i++) peer.frame({ kind: KIND.dropRegion, argument: round * SPANS_MAX + i });
      peer.publish();
      await waitUntil("the server to read that", () => peer.consumed);
    }
    assert.equal((await server.resources()).open <= baseline.open + 8, true);
    peer.close();
    await isAsBefore();
  });

  test("has a refused request's regions closed", async (context) => {
    const peer = await open(context);
    for (let i = 0; i < 20; i++) {
      passOn(peer, makeRegion(peer));
      // Methods that are not served, and answers, are refused or dropped with what came along.
      peer.frame({ kind: KIND.method, code: 7, metadata: Buffer.from("/isthmus.test.TestService/None") });
      request(peer, i + 1, { streamId: 0x10000 + i, code: 7 });
      await waitUntil("the refusal", () => peer.read().some(({ code }) => code === 12));
    }
    assert.equal((await server.resources()).open <= baseline.open + 8, true);
    peer.close();
    await isAsBefore();
  });

  const lies: [what: string, lies: RegionLies][] = [
    ["that is not sealed", { seals: 0 }],
    ["that can still be written", { seals: SEALS.SHRINK | SEALS.GROW }],
    ["that can still shrink", { seals: SEALS.WRITE | SEALS.GROW }],
    ["that is sparse", { committedBytes: 0 }],
    ["of which only the last page has no memory", { committedBytes: REGION_BYTES - 4096 }],
    ["that is too small", { byteLength: REGION_BYTES - 4096 }],
  ];
  for (const [what, how] of lies) {
    test(`a region ${what}`, (context) =>
      isViolation(context, (peer) => {
        passOn(peer, makeRegion(peer, how));
        request(peer, 1);
      }));
  }

  const cases: [what: string, act: (peer: RawPeer) => void | Promise<void>][] = [
    ["a region without a descriptor", (peer) => request(peer, 1)],
    [
      "a regular file in place of a region",
      (peer) => {
        passOn(peer, openSync(process.execPath, "r"));
        request(peer, 1);
      },
    ],
    [
      "a socket in place of a region",
      (peer) => {
        passOn(peer, peer.addon.duplicateDescriptor(peer.descriptor));
        request(peer, 1);
      },
    ],
    [
      "a part past the end of a region",
      (peer) => {
        passOn(peer, makeRegion(peer));
        request(peer, 1, { offset: 1 });
      },
    ],
    [
      "region 0",
      (peer) => {
        passOn(peer, makeRegion(peer));
        request(peer, 0);
      },
    ],
    [
      "flags of a region and of a block at once",
      (peer) => {
        passOn(peer, makeRegion(peer));
        request(peer, 1, { flags: SPAN.region | SPAN.returned });
      },
    ],
    [
      "the same region twice",
      async (peer) => {
        passOn(peer, makeRegion(peer));
        request(peer, 1);
        await answered(peer, 1);
        request(peer, 1, { streamId: 0x10002 });
      },
    ],
    [
      "a number far ahead",
      (peer) => {
        passOn(peer, makeRegion(peer));
        request(peer, 0xffff_ffff);
      },
    ],
    [
      "taking back what was never sent",
      (peer) => {
        peer.frame({ kind: KIND.dropRegion, argument: 1 });
        peer.publish();
      },
    ],
    ["1000 descriptors that no frame names", (peer) => flood(peer, () => undefined)],
    [
      "1000 descriptors, and frames that name none of them",
      (peer) =>
        flood(peer, () => {
          peer.frame({ kind: KIND.ping });
          peer.publish();
        }),
    ],
    [
      "1000 descriptors, and then a frame that names the last",
      async (peer) => {
        await flood(peer, () => undefined);
        request(peer, 1000);
      },
    ],
  ];
  for (const [what, act] of cases) test(what, (context) => isViolation(context, act));

  async function flood(peer: RawPeer, between: () => void): Promise<void> {
    const descriptor = makeRegion(peer);
    for (let sent = 0; sent < 1000; ) {
      const result = peer.addon.sendDescriptor(peer.descriptor, descriptor);
      if (result === 0) {
        if (++sent % 100 === 0) between();
      } else if (result === EAGAIN) {
        await sleep(1);
      } else {
        break;
      }
    }
    closeSync(descriptor);
  }

  test("a descriptor is not taken where regions were not agreed on", async (context) => {
    const { violations } = await server.stats();
    const peer = await RawPeer.open(context, server.path);
    passOn(peer, makeRegion(peer));
    await peer.hungUp();
    assert.equal((await server.stats()).violations, violations + 1);
    peer.close();
    await isAsBefore();
  });
});
