/** Clients that lie: each loses its own connection, and nobody else notices. */
import assert from "node:assert/strict";
import { closeSync, openSync } from "node:fs";
import { before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { TestContext } from "node:test";
import { toBinary, create } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { ARENA_UNIT_BYTES, WORD } from "../../src/memory/shm/layout.js";
import { SEALS } from "../../src/os/addon.js";
import { FLAG, FRAME_BYTES_MAX, KIND, METHODS_MAX } from "../../src/wire/frame.js";
import { encodeHandshake } from "../../src/wire/hello.js";
import { EchoRequestSchema, WaitRequestSchema } from "../proto/test_pb.js";
import type { SegmentLies } from "../support/raw-peer.js";
import { HELLO, RawPeer } from "../support/raw-peer.js";
import type { Descriptors } from "../support/resources.js";
import { suiteOwner } from "../support/temp.js";
import type { TestClient, TestServerProcess } from "../support/test-server.js";
import { connectTo, serveInChild, warmUp } from "../support/test-server.js";
import { waitUntil } from "../support/waiting.js";

const hello = encodeHandshake(HELLO);
const waitForever = toBinary(WaitRequestSchema, create(WaitRequestSchema, { milliseconds: 60_000 }));

function blockReference(unit: number, generation: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(unit, generation).buffer);
}

describe("a lying client", () => {
  const owner = suiteOwner();
  let server: TestServerProcess;
  let honest: TestClient;
  let baseline: Descriptors;

  before(async () => {
    server = await serveInChild(owner, { handshakeTimeoutMs: 3000, maxStreams: 1000, memory: { ringBytes: 65536 } });
    await warmUp(server);
    honest = connectTo(owner, server);
    await honest.client.echo({});
    baseline = await server.resources();
  });

  const stillServes = async () => {
    assert.equal((await honest.client.echo({ text: "honest" })).text, "honest");
    assert.equal(honest.transport.stats().connections, 1);
  };

  describe("in the handshake", () => {
    const isRefused = async (
      context: TestContext,
      message: RegExp,
      shakeHands: (peer: RawPeer) => void,
      code = Code.Unavailable,
    ) => {
      const before = (await server.stats()).refused;
      const peer = RawPeer.connect(context, server.path);
      shakeHands(peer);
      const answer = (await peer.receiveHandshake()).message;
      assert.equal(answer?.kind, "refused");
      assert.ok(answer.kind === "refused");
      assert.match(answer.message, message);
      assert.equal(Code[answer.code], Code[code]);
      await peer.hungUp();
      assert.equal((await server.stats()).refused, before + 1);
      await stillServes();
    };

    const segments: [what: string, lies: SegmentLies, message: RegExp][] = [
      ["whose ring is not sealed", { ringSeals: 0 }, /SEGMENT-1.*ring has seals \d+, not all of 23/],
      [
        "whose ring can be mapped writable by others",
        { ringSeals: SEALS.SHRINK | SEALS.GROW | SEALS.SEAL },
        /SEGMENT-1.*ring/,
      ],
      ["whose ring can shrink", { ringSeals: SEALS.GROW | SEALS.SEAL | SEALS.FUTURE_WRITE }, /SEGMENT-1.*ring/],
      ["whose ring can grow", { ringSeals: SEALS.SHRINK | SEALS.SEAL | SEALS.FUTURE_WRITE }, /SEGMENT-1.*ring/],
      [
        "whose ring can get more seals",
        { ringSeals: SEALS.SHRINK | SEALS.GROW | SEALS.FUTURE_WRITE },
        /SEGMENT-1.*ring/,
      ],
      ["whose arena can shrink", { arenaSeals: SEALS.GROW | SEALS.SEAL }, /SEGMENT-1.*arena has seals/],
      ["whose arena is not sealed", { arenaSeals: 0 }, /SEGMENT-1.*arena has seals \d+, not all of 7/],
      [
        "whose ring has another size than it says",
        { ringSegmentBytes: 65536 * 4 },
        /LAYOUT-3.*the header says 131072 bytes, the descriptor has 262144/,
      ],
      [
        "whose ring is a single page",
        { ringSegmentBytes: 65536, ringHeader: (words) => (words[3] = 65536) },
        /LAYOUT-3/,
      ],
      ["whose arena has another size than it says", { arenaSegmentBytes: 1 << 21 }, /LAYOUT-3/],
      [
        "whose arena is too small",
        { arenaSegmentBytes: 65536, arenaHeader: (words) => (words[3] = 65536) },
        /LAYOUT-3/,
      ],
      ["whose ring has no magic number", { ringHeader: (words) => (words[0] = 0) }, /LAYOUT-2.*magic/],
      [
        "whose ring is of another layout",
        { ringHeader: (words) => (words[1] = 2) },
        /LAYOUT-2: layout version 2 is not 1/,
      ],
      ["whose ring says it is an arena", { ringHeader: (words) => (words[2] = 2) }, /LAYOUT-2: segment kind 2 where 1/],
      [
        "whose ring is no power of two",
        { ringHeader: (words) => (words[4] = 65537) },
        /LAYOUT-3: ring bytes must be a power of two/,
      ],
      ["whose ring is said to be larger than its segment", { ringHeader: (words) => (words[4] = 1 << 28) }, /LAYOUT-3/],
      ["whose ring is said to have no bytes", { ringHeader: (words) => (words[4] = 0) }, /LAYOUT-3/],
      ["with too many release slots", { ringHeader: (words) => (words[5] = 1 << 20) }, /LAYOUT-3: release slots/],
      ["with three release slots", { ringHeader: (words) => (words[5] = 3) }, /LAYOUT-3: release slots/],
      ["whose arena has no magic number", { arenaHeader: (words) => (words[0] = 1) }, /LAYOUT-2.*magic/],
    ];
    for (const [what, lies, message] of segments) {
      test(what, (context) => isRefused(context, message, (peer) => peer.send(hello, peer.makeSegments(lies))));
    }

    test("whose arena comes first", (context) =>
      isRefused(context, /SEGMENT-1|LAYOUT-2/, (peer) => peer.send(hello, peer.makeSegments().reverse())));
    test("without descriptors", (context) => isRefused(context, /0 descriptors/, (peer) => peer.send(hello)));
    test("with one descriptor", (context) =>
      isRefused(context, /1 descriptors/, (peer) => peer.send(hello, peer.makeSegments().slice(1))));
    test("with the same descriptor twice", (context) => {
      return isRefused(context, /LAYOUT-2|SEGMENT-1/, (peer) => {
        const [ring] = peer.makeSegments();
        peer.send(hello, [ring, ring]);
      });
    });
    test("with three descriptors", (context) => {
      return isRefused(context, /3 descriptors/, (peer) => {
        const [ring, arena] = peer.makeSegments();
        peer.send(hello, [ring, arena, arena]);
      });
    });
    test("with sixteen descriptors, spread over the greeting's bytes", (context) => {
      return isRefused(context, /\d+ descriptors/, (peer) => {
        const [ring, arena] = peer.makeSegments();
        for (let i = 0; i < 8; i++) peer.send(hello.subarray(i, i + 1), [ring, arena]);
        peer.send(hello.subarray(8));
      });
    });
    test("whose descriptors are no segments", (context) => {
      return isRefused(context, /./, (peer) => {
        const file = openSync("/dev/null", "r");
        peer.send(hello, [file, file]);
        context.after(() => closeSync(file));
      });
    });
    test("that accepts no streams", (context) =>
      isRefused(context, /malformed/, (peer) =>
        peer.send(encodeHandshake({ ...HELLO, maxStreams: 0 }), peer.makeSegments()),
      ));
    test("that speaks another language", (context) =>
      isRefused(context, /not an Isthmus handshake/, (peer) => peer.send(Buffer.from("GET / HTTP/1.1\r\n\r\n"))));
    test("that announces an endless greeting", (context) => {
      return isRefused(context, /not an Isthmus handshake/, (peer) => {
        const long = hello.slice();
        new DataView(long.buffer).setUint32(4, 1 << 30, true);
        peer.send(long, peer.makeSegments());
      });
    });
    test("that welcomes the server", (context) =>
      isRefused(
        context,
        /did not start with a greeting/,
        (peer) =>
          peer.send(encodeHandshake({ kind: "accepted", version: 1, features: 0, maxStreams: 5 }), peer.makeSegments()),
        Code.InvalidArgument,
      ));
    test("that requires what this server does not have", (context) =>
      isRefused(
        context,
        /requires features 0x80000000 that this server does not have/,
        (peer) => peer.send(encodeHandshake({ ...HELLO, featuresRequired: 0x80000001 }), peer.makeSegments()),
        Code.FailedPrecondition,
      ));
    test("that never finishes its greeting", (context) =>
      isRefused(
        context,
        /no greeting within 3000 ms/,
        (peer) => peer.send(hello.subarray(0, 20), peer.makeSegments()),
        Code.DeadlineExceeded,
      ));

    test("that hangs up after any number of the greeting's bytes", async (context) => {
      const before = (await server.stats()).refused;
      for (let byteLength = 0; byteLength < hello.length; byteLength++) {
        const peer = RawPeer.connect(context, server.path);
        if (byteLength > 0) peer.send(hello.subarray(0, byteLength), peer.makeSegments());
        peer.close();
      }
      await waitUntil(
        "all to be counted",
        async () => (await server.stats()).refused === before + hello.length || (await server.stats()).refused - before,
      );
      await stillServes();
    });

    test("that hangs up after its greeting, before the answer, many times", async (context) => {
      for (let i = 0; i < 30; i++) {
        const peer = RawPeer.connect(context, server.path);
        peer.send(hello, peer.makeSegments());
        if (i % 2 === 1) await sleep(1);
        peer.close();
      }
      await waitUntil("all to be gone", async () => (await server.stats()).connections === 1);
      await stillServes();
    });

    test("whose greeting comes byte by byte is let in: that is no lie", async (context) => {
      const peer = RawPeer.connect(context, server.path);
      const descriptors = peer.makeSegments();
      peer.send(hello.subarray(0, 1), descriptors);
      for (let i = 1; i < hello.length; i++) {
        await sleep(1);
        peer.send(hello.subarray(i, i + 1));
      }
      await peer.join("accepted");
    });
  });

  describe("on its connection", () => {
    /**
     * Opens a connection on which method 0 is Echo and 1 is Wait, lets `act` lie, and expects that the server ends it
     * as a violation.
     */
    const isViolation = async (context: TestContext, act: (peer: RawPeer) => void | Promise<void>) => {
      const { violations } = await server.stats();
      const peer = await RawPeer.open(context, server.path);
      peer.define(0, "Echo");
      peer.define(1, "Wait");
      peer.publish();
      await waitUntil("the server to read the definitions", () => peer.consumed);
      await act(peer);
      await peer.hungUp();
      assert.equal((await server.stats()).violations, violations + 1);
      await stillServes();
    };
    const afterFrame = (frame: Parameters<RawPeer["frame"]>[0]) => (peer: RawPeer) => {
      peer.frame(frame);
      peer.publish();
    };

    const request = { kind: KIND.request, flags: FLAG.endStream };
    const openWait = { ...request, code: 1, streamId: 0x10005, body: waitForever };
    const cases: [what: string, act: (peer: RawPeer) => void | Promise<void>][] = [
      ["garbage after the greeting", (peer) => void peer.send(Buffer.from("garbage"))],
      ["a second greeting, with descriptors", (peer) => void peer.send(hello, peer.makeSegments())],
      ["a tail beyond the ring's capacity", (peer) => peer.publish((peer.tail + 65536 + 8) | 0)],
      ["a tail that is not aligned", (peer) => peer.publish(peer.tail + 4)],
      ["a tail that moves back", (peer) => peer.publish(peer.tail - 8)],
      ["a tail half the number space ahead", (peer) => peer.publish((peer.tail + 2 ** 31) | 0)],
      ["a frame of no length", afterFrame({ ...request, byteLength: 0 })],
      ["a frame shorter than its header", afterFrame({ ...request, byteLength: 24 })],
      ["a frame of the largest number", afterFrame({ ...request, byteLength: -1 })],
      ["a frame longer than frames may be", afterFrame({ ...request, byteLength: FRAME_BYTES_MAX + 8 })],
      ["a frame that reaches past the tail", afterFrame({ ...request, byteLength: 4096 })],
      ["metadata longer than its frame", afterFrame({ ...request, metadataLength: 1000 })],
      ["metadata of the largest number", afterFrame({ ...request, metadataLength: -1 })],
      [
        "a fragment longer than its frame",
        afterFrame({ ...request, body: new Uint8Array(8), fragmentLength: 5000, messageLength: 5000 }),
      ],
      ["a fragment longer than its message", afterFrame({ ...request, body: new Uint8Array(8), messageLength: 4 })],
      ["a message longer than messages may be", afterFrame({ ...request, body: new Uint8Array(8), messageLength: -1 })],
      ["part of a message, and no more", afterFrame({ ...request, body: new Uint8Array(8), messageLength: 9 })],
      ["all of a message, and more", afterFrame({ ...request, flags: FLAG.more, body: new Uint8Array(8) })],
      ["spans, which were not negotiated", afterFrame({ ...request, spanCount: 1 })],
      ["a kind of frame that there is not", afterFrame({ kind: 200 })],
      ["a kind of frame that only servers send", afterFrame({ kind: KIND.response })],
      ["kind 0", afterFrame({ kind: 0 })],
      ["a method number that was not defined", afterFrame({ ...request, code: 7 })],
      [
        "a method number past the limit",
        afterFrame({ kind: KIND.method, code: METHODS_MAX, metadata: Buffer.from("/x/Y") }),
      ],
      ["a stream slot past the limit", afterFrame({ ...request, streamId: 0x10000 + 1000 })],
      [
        "a stream slot that is open",
        (peer) => {
          peer.frame(openWait);
          peer.frame({ ...openWait, streamId: 0x20005 });
          peer.publish();
        },
      ],
      [
        "a further fragment of a message that is whole",
        (peer) => {
          peer.frame(openWait);
          peer.frame({ kind: KIND.message, streamId: 0x10005, body: new Uint8Array(8) });
          peer.publish();
        },
      ],
      [
        "fragments that are more than their message",
        (peer) => {
          peer.frame({ ...request, flags: FLAG.more, streamId: 0x10005, body: new Uint8Array(8), messageLength: 12 });
          peer.frame({ kind: KIND.message, streamId: 0x10005, body: new Uint8Array(8), messageLength: 12 });
          peer.publish();
        },
      ],
      [
        "fragments that differ about their message's length",
        (peer) => {
          peer.frame({ ...request, flags: FLAG.more, streamId: 0x10005, body: new Uint8Array(8), messageLength: 16 });
          peer.frame({ kind: KIND.message, streamId: 0x10005, body: new Uint8Array(8), messageLength: 17 });
          peer.publish();
        },
      ],
      [
        "a block in the arena's header",
        afterFrame({
          ...request,
          flags: FLAG.inBlock,
          body: blockReference(0, 1),
          messageLength: 100,
          fragmentLength: 100,
        }),
      ],
      [
        "a block past the arena",
        afterFrame({
          ...request,
          flags: FLAG.inBlock,
          body: blockReference(256, 1),
          messageLength: 100,
          fragmentLength: 100,
        }),
      ],
      [
        "a block of the largest number",
        afterFrame({
          ...request,
          flags: FLAG.inBlock,
          body: blockReference(0xffffffff, 1),
          messageLength: 100,
          fragmentLength: 100,
        }),
      ],
      [
        "a block that reaches past the arena",
        afterFrame({
          ...request,
          flags: FLAG.inBlock,
          body: blockReference(255, 1),
          messageLength: ARENA_UNIT_BYTES + 1,
          fragmentLength: ARENA_UNIT_BYTES + 1,
        }),
      ],
      [
        "a block reference that is cut off",
        afterFrame({
          ...request,
          flags: FLAG.inBlock,
          body: new Uint8Array(4),
          messageLength: 100,
          fragmentLength: 100,
        }),
      ],
      ["bytes on the doorbell line that are no doorbells", (peer) => void peer.send(Uint8Array.of(0, 0, 1))],
      [
        "a doorbell that never stops",
        async (peer) => {
          for (let i = 0; i < 100_000; i++) if (peer.addon.ringDoorbell(peer.descriptor) === -32) return;
          await sleep(1);
        },
      ],
      [
        "releases of blocks that were never given out",
        async (peer) => {
          peer.words[WORD.releaseEntries] = 5;
          peer.words[WORD.releaseEntries + 1] = 1;
          Atomics.store(peer.words, WORD.released, 1);
          // A large answer makes the server look at them.
          new Uint8Array(peer.arena, 4096).set(
            toBinary(EchoRequestSchema, create(EchoRequestSchema, { data: new Uint8Array(300_000) })),
          );
          peer.frame({
            ...request,
            flags: FLAG.inBlock,
            streamId: 0x10001,
            body: blockReference(1, 1),
            messageLength: 300_004,
            fragmentLength: 300_004,
          });
          peer.publish();
          await sleep(1);
        },
      ],
      [
        "more releases than there are slots",
        async (peer) => {
          Atomics.store(peer.words, WORD.released, 100_000);
          new Uint8Array(peer.arena, 4096).set(
            toBinary(EchoRequestSchema, create(EchoRequestSchema, { data: new Uint8Array(300_000) })),
          );
          peer.frame({
            ...request,
            flags: FLAG.inBlock,
            streamId: 0x10001,
            body: blockReference(1, 1),
            messageLength: 300_004,
            fragmentLength: 300_004,
          });
          peer.publish();
          await sleep(1);
        },
      ],
    ];
    for (const [what, act] of cases) test(what, (context) => isViolation(context, act));

    for (const head of [-8, 4, 1 << 20]) {
      for (const [handler, body] of [
        ["Echo", toBinary(EchoRequestSchema, create(EchoRequestSchema, { data: new Uint8Array(300) }))],
        ["Wait", toBinary(WaitRequestSchema, create(WaitRequestSchema, { milliseconds: 1 }))],
      ] as const) {
        test(`a read cursor of ${head} while answers of ${handler} fill the ring`, (context) =>
          isViolation(context, async (peer) => {
            peer.define(2, handler);
            Atomics.store(peer.words, WORD.head, head);
            for (let i = 0; i < 990; i++) {
              peer.frame({ ...request, code: 2, streamId: 0x10000 + i, body });
              if (i % 100 === 99) {
                peer.publish();
                await sleep(2);
              }
            }
            peer.publish();
          }));
      }
    }

    test("a request that is no message is answered with an error, and the connection stays", async (context) => {
      const peer = await RawPeer.open(context, server.path);
      peer.define(0, "Echo");
      peer.frame({ ...request, streamId: 0x10001, body: Uint8Array.of(0x0a, 0xff) });
      peer.frame({ ...request, streamId: 0x10002, body: Uint8Array.of(0x0a, 0x01, 0x41) });
      peer.publish();
      const answers: { kind: number; code: number; streamId: number }[] = [];
      await waitUntil("two answers", () => answers.push(...peer.read()) >= 2);
      assert.deepEqual(
        answers.map(({ kind, code, streamId }) => [kind, code, streamId]),
        [
          [KIND.response, Code.Internal, 0x10001],
          [KIND.response, 0, 0x10002],
        ],
      );
    });

    test("frames for streams that are not open are ignored", async (context) => {
      const peer = await RawPeer.open(context, server.path);
      peer.define(0, "Echo");
      peer.frame({ kind: KIND.reset, streamId: 0x12345, code: 1 });
      peer.frame({ kind: KIND.message, streamId: 0x12345, body: new Uint8Array(8) });
      peer.frame({ kind: KIND.ping, argument: 77 });
      peer.frame({ kind: KIND.pong });
      peer.frame({ kind: KIND.goAway });
      peer.frame({ ...request, streamId: 0x10002 });
      peer.publish();
      const answers: { kind: number }[] = [];
      await waitUntil("a pong and an answer", () => answers.push(...peer.read()) >= 2);
      assert.deepEqual(
        answers.map(({ kind }) => kind),
        [KIND.pong, KIND.response],
      );
    });

    test("promises of messages of 2 GiB that never come cost the server nothing that lasts", async (context) => {
      const peer = await RawPeer.open(context, server.path);
      peer.define(0, "Echo");
      for (let i = 0; i < 20; i++)
        peer.frame({
          ...request,
          flags: FLAG.more,
          streamId: 0x10000 + i,
          body: new Uint8Array(8),
          messageLength: 2 ** 31 - 65536,
        });
      peer.publish();
      await waitUntil("the server to read them", () => peer.consumed);
      await stillServes();
      peer.close();
      await waitUntil("the server to notice", async () => (await server.stats()).connections === 1);
      await stillServes();
    });

    for (const [byte, count] of [
      [0, 1],
      [0, 16],
      [1, 1],
      [1, 16],
    ]) {
      test(`${count} descriptors that come with a byte ${byte} on the doorbell line are closed, and the connection ends`, async (context) => {
        const { open } = await server.resources();
        const { violations } = await server.stats();
        const peer = await RawPeer.open(context, server.path);
        const file = openSync("/dev/null", "r");
        peer.send(Uint8Array.of(byte), new Array<number>(count).fill(file));
        closeSync(file);
        await peer.hungUp();
        peer.close();
        assert.equal((await server.stats()).violations, violations + 1);
        await waitUntil("the server to have closed everything", async () => (await server.resources()).open <= open);
        await stillServes();
      });
    }

    test("a client that calls and reads no answers is cut off or held back, while others are served", async (context) => {
      const peer = await RawPeer.open(context, server.path);
      peer.define(0, "Echo");
      const body = toBinary(EchoRequestSchema, create(EchoRequestSchema, { data: new Uint8Array(1000) }));
      let slot = 0;
      for (let round = 0; round < 400; round++) {
        const start = peer.tail;
        while (peer.tail - start < 40_000) {
          peer.frame({ ...request, streamId: 0x10000 + (slot++ % 1000), body });
        }
        peer.publish();
        if (round % 20 === 0) await stillServes();
        for (let i = 0; i < 50 && !peer.consumed; i++) await sleep(1);
        if (!peer.consumed) break;
      }
      peer.close();
      await waitUntil("the server to notice", async () => (await server.stats()).connections === 1);
      await stillServes();
    });
  });

  test("has left no descriptor and no mapping behind, none of them all", async () => {
    await waitUntil("descriptors and mappings of all the liars to be gone", async () => {
      const now = await server.resources();
      return (now.open <= baseline.open && now.mappings <= baseline.mappings) || JSON.stringify({ now, baseline });
    });
  });
});
