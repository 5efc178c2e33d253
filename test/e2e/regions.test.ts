/** `region`: memory that is sealed and handed over, to as many peers as like. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { Code } from "@connectrpc/connect";
import { createIsthmusServer, region, release } from "../../src/index.js";
import { LEASE_LIFETIMES } from "../../src/memory/payload/lease.js";
import { PAYLOAD_BYTES_MAX } from "../../src/wire/frame.js";
import { TestService } from "../proto/test_pb.js";
import { onlyWithAddon } from "../support/carriers.js";
import { crc32, patternBytes } from "../support/checksum.js";
import type { Child } from "../support/processes.js";
import { startChild } from "../support/processes.js";
import { ownDescriptors } from "../support/resources.js";
import type { Owner } from "../support/temp.js";
import { tempSocket } from "../support/temp.js";
import { connectTo, PLACES, startServer } from "../support/test-server.js";
import { failure, waitUntil } from "../support/waiting.js";

export interface RegionsPeerData {
  role: "keep" | "send";
  path: string;
}

const MEBIBYTE = 1 << 20;
/**
 * What the largest region, and its receiver's private copy of no page of it, need to be safe from the machine's limit.
 */
const AVAILABLE_BYTES_MIN = 5 * 1024 * MEBIBYTE;

function availableBytes(): number {
  return Number(/MemAvailable:\s+(\d+) kB/.exec(readFileSync("/proc/meminfo", "utf8"))![1]) * 1024;
}

async function startKeeper(owner: Owner): Promise<{ path: string; child: Child }> {
  const path = tempSocket(owner);
  return {
    path,
    child: await startChild(owner, "../e2e/regions.peer.js", { role: "keep", path } satisfies RegionsPeerData),
  };
}

for (const place of PLACES) {
  describe(`regions, ${place}`, () => {
    test("regions of any size, and parts of them, arrive as they were filled, any number of times", async (context) => {
      const server = await startServer(context, place);
      for (const carrier of ["auto", "socket"] as const) {
        const { client } = connectTo(context, server, { carrier });
        for (const byteLength of [0, 1, 4095, 4096, 40_000, 3 * MEBIBYTE + 5]) {
          const bytes = await region(byteLength);
          assert.equal(bytes.length, byteLength);
          bytes.set(patternBytes(byteLength, 5));
          for (let time = 0; time < 2; time++) {
            const { data } = await client.echo({ data: bytes });
            assert.equal(Buffer.compare(data, patternBytes(byteLength, 5)), 0, `${byteLength} bytes`);
          }
          const part = bytes.subarray(byteLength >> 3, byteLength - (byteLength >> 3));
          assert.equal(Buffer.compare((await client.echo({ data: part })).data, part), 0);
          release(bytes);
          if (onlyWithAddon === false) assert.equal(bytes.length, 0);
        }
      }
    });

    test("a region larger than the arena arrives", { skip: onlyWithAddon }, async (context) => {
      const server = await startServer(context, place);
      const { client, transport } = connectTo(context, server, { memory: { arenaBytes: MEBIBYTE } });
      const bytes = await region(20 * MEBIBYTE);
      bytes.set(patternBytes(bytes.length, 9));
      const expected = crc32(bytes);
      const before = transport.stats().connection?.spansSentInPlace ?? 0;
      assert.equal((await client.checksum({ data: bytes })).checksum, expected);
      assert.equal(transport.stats().connection!.spansSentInPlace, before + 1, "it went by descriptor");
    });
  });
}

for (const leases of LEASE_LIFETIMES) {
  test(`a region arrives with leases "${leases}" as any large value does`, { skip: onlyWithAddon }, async (context) => {
    let kept: Uint8Array | undefined;
    const server = createIsthmusServer({
      leases,
      routes: (router) =>
        router.service(TestService, { echo: ({ data }) => ({ number: BigInt(crc32((kept = data))) }) }),
    });
    const path = tempSocket(context);
    await server.listen(path);
    context.after(() => server.close({ timeoutMs: 0 }));
    const { client } = connectTo(context, { path });
    const bytes = await region(MEBIBYTE);
    bytes.fill(3);
    assert.equal((await client.echo({ data: bytes })).number, BigInt(crc32(bytes)));
    if (leases === "collected" || leases === "copied") {
      assert.equal(kept![MEBIBYTE - 1], 3);
      release(kept!);
      if (leases === "collected") assert.equal(kept!.length, 0);
    } else if (leases === "scoped") {
      await waitUntil("the bytes to be gone", () => kept!.length === 0);
    } else {
      await waitUntil("the bytes to be gone", () => {
        try {
          return kept!.length < 0;
        } catch (error) {
          return /Echo/.test(String(error));
        }
      });
    }
  });
}

describe("a region that is sent", { skip: onlyWithAddon }, () => {
  test("reaches two processes, and neither it nor they change what the others see", async (context) => {
    const keepers = [await startKeeper(context), await startKeeper(context)];
    const clients = keepers.map(({ path }) => connectTo(context, { path }).client);
    const bytes = await region(5 * MEBIBYTE);
    bytes.set(patternBytes(bytes.length, 21));
    const expected = crc32(bytes);
    for (const client of clients) assert.equal((await client.echo({ data: bytes })).number, BigInt(bytes.length));
    bytes.fill(1);
    for (const { child } of keepers)
      assert.equal(await child.ask("checksum"), expected, "stores after sending stay with the sender");
    await keepers[0].child.ask("write", 2);
    assert.equal(await keepers[0].child.ask("byteAt", 4000), 2);
    assert.equal(await keepers[1].child.ask("checksum"), expected, "a receiver's stores stay with the receiver");
    assert.equal(bytes[4000], 1);
    assert.equal((await clients[1].echo({ data: bytes })).number, BigInt(bytes.length));
    assert.equal(await keepers[1].child.ask("checksum"), expected, "what is sent again is what was sealed");
  });

  test("stays readable when its sender is killed", async (context) => {
    const keeper = await startKeeper(context);
    const sender = await startChild(context, "../e2e/regions.peer.js", {
      role: "send",
      path: keeper.path,
    } satisfies RegionsPeerData);
    await sender.ask("send", 3 * MEBIBYTE);
    await sender.kill();
    await waitUntil("the connection to end", async () => (await keeper.child.ask("connections")) === 0);
    assert.equal(await keeper.child.ask("checksum"), crc32(new Uint8Array(3 * MEBIBYTE).fill(7)));
  });

  test("leaves no descriptor and no mapping behind, here or there", async (context) => {
    const keeper = await startKeeper(context);
    const { client } = connectTo(context, keeper);
    const send = async () => {
      const bytes = await region(MEBIBYTE);
      await client.echo({ data: bytes });
      release(bytes);
      await keeper.child.ask("drop");
    };
    await send();
    const here = ownDescriptors();
    const there = await keeper.child.ask("resources");
    for (let i = 0; i < 40; i++) await send();
    await waitUntil("this side to be as before", () => {
      const now = ownDescriptors();
      return now.open <= here.open && now.mappings <= here.mappings ? true : JSON.stringify({ here, now });
    });
    await waitUntil("the other side to be as before", async () => {
      const now = JSON.stringify(await keeper.child.ask("resources"));
      return now === JSON.stringify(there) ? true : now;
    });
  });

  test("is given up when nobody refers to it", async () => {
    const before = ownDescriptors();
    for (let i = 0; i < 20; i++) (await region(100_000)).fill(1);
    await waitUntil("the descriptors to be closed", () => ownDescriptors().open <= before.open);
  });

  test("goes in many messages at once", async (context) => {
    const server = await startServer(context, "two processes");
    const { client } = connectTo(context, server);
    const regions = await Promise.all(Array.from({ length: 8 }, () => region(40_000)));
    regions.forEach((bytes, i) => bytes.fill(i));
    const replies = await Promise.all(
      Array.from({ length: 600 }, (_, i) => client.checksum({ data: regions[i % 8], sequence: BigInt(i) })),
    );
    replies.forEach(({ checksum, sequence }, i) => {
      assert.equal(Number(sequence), i);
      assert.equal(checksum, crc32(regions[i % 8]));
    });
  });

  test("may be canceled and released while it waits", async (context) => {
    const server = await startServer(context, "two processes", { memory: { ringBytes: 65_536 } });
    const { client } = connectTo(context, server, { memory: { ringBytes: 65_536 } });
    await client.echo({});
    const before = ownDescriptors();
    for (let round = 0; round < 5; round++) {
      const bytes = await region(200_000);
      const controller = new AbortController();
      const calls = Array.from({ length: 300 }, () =>
        client.checksum({ data: bytes }, { signal: controller.signal }).catch(() => undefined),
      );
      controller.abort();
      release(bytes);
      await Promise.all(calls);
      assert.equal((await client.echo({ text: "well" })).text, "well");
    }
    await waitUntil("no descriptor to be left", () => ownDescriptors().open <= before.open);
  });
});

describe("the size of a region", () => {
  test("is at most 2 GiB − 64 KiB, and a number", async () => {
    const refused = await failure(
      region(PAYLOAD_BYTES_MAX + 1),
      Code.ResourceExhausted,
      /2147418113 bytes is larger than the limit of 2147418112 bytes/,
    );
    assert.equal(refused.code, Code.ResourceExhausted);
    await failure(region(-1), Code.InvalidArgument, /whole number/);
    await failure(region(1.5), Code.InvalidArgument, /whole number/);
  });

  const tooLittle =
    availableBytes() < AVAILABLE_BYTES_MIN ? `needs ${AVAILABLE_BYTES_MIN} bytes of available memory` : onlyWithAddon;
  test("2 GiB − 64 KiB arrive in another process, and exist once", { skip: tooLittle }, async (context) => {
    const keeper = await startKeeper(context);
    const { client } = connectTo(context, keeper);
    const bytes = await region(PAYLOAD_BYTES_MAX);
    const ends = [0, 4096, PAYLOAD_BYTES_MAX >> 1, PAYLOAD_BYTES_MAX - 1];
    ends.forEach((at, i) => (bytes[at] = 100 + i));
    const before = availableBytes();
    const reply = await client.echo({ data: bytes });
    assert.equal(reply.number, BigInt(PAYLOAD_BYTES_MAX));
    for (const [i, at] of ends.entries()) assert.equal(await keeper.child.ask("byteAt", at), 100 + i);
    assert.ok(before - availableBytes() < 512 * MEBIBYTE, "no second copy was made");
    release(bytes);
    await keeper.child.ask("drop");
    await waitUntil("the memory to come back", () => availableBytes() > before + 1024 * MEBIBYTE);
  });
});
