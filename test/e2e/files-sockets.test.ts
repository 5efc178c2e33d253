/** `mapFile` over sockets: by `sendfile`, whatever becomes of the file, the call and the peer. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  closeSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { freemem } from "node:os";
import { dirname, join } from "node:path";
import { describe, test } from "node:test";
import type { TestContext } from "node:test";
import { Code, createClient } from "@connectrpc/connect";
import type { ConnectRouter } from "@connectrpc/connect";
import { createIsthmusServer, createIsthmusTransport, mapFile, release } from "../../src/index.js";
import { CARRIER } from "../support/carriers.js";
import { crc32, patternBytes } from "../support/checksum.js";
import { KindsService } from "../proto/kinds_pb.js";
import { TestService } from "../proto/test_pb.js";
import { startChild } from "../support/processes.js";
import { tempSocket } from "../support/temp.js";
import { connectTo, serveInChild, startServer } from "../support/test-server.js";
import { testRoutes } from "../support/test-service.js";
import { failure, waitUntil } from "../support/waiting.js";

const skip = CARRIER === "socket" ? "without the addon files are read to the heap at once" : false;
const MIB = 1 << 20;

function tempFile(context: TestContext, bytes: Uint8Array, name = "file.bin"): string {
  const path = join(dirname(tempSocket(context)), name);
  writeFileSync(path, bytes);
  return path;
}

/** Descriptors of this process that lead to `target`, or to any socket. */
function descriptorsTo(target: RegExp): number {
  return readdirSync("/proc/self/fd").filter((descriptor) => {
    try {
      return target.test(readlinkSync(`/proc/self/fd/${descriptor}`));
    } catch {
      return false;
    }
  }).length;
}

describe("mapped files over sockets", { skip }, () => {
  for (const kind of ["a Unix socket", "TCP"]) {
    test(`parts of files, and several in one message, arrive as they are, over ${kind}`, async (context) => {
      const server = createIsthmusServer({ routes: testRoutes, carrier: "socket" });
      const { address } = await server.listen(kind === "TCP" ? "tcp:127.0.0.1:0" : `unix:${tempSocket(context)}`);
      const transport = createIsthmusTransport({ address, carrier: "socket" });
      context.after(async () => {
        await transport.close();
        await server.close({ timeoutMs: 0 });
      });
      const client = createClient(TestService, transport);
      const content = patternBytes(5 * MIB + 123, 3);
      const path = tempFile(context, content);
      const parts = [
        [1, 40_000],
        [4095, 70_000],
        [4097, 1_064_960],
        [12_345, 1_064_961],
        [777, 3 * MIB],
        [0, content.length],
      ];
      await Promise.all(
        parts.map(async ([offset, length]) => {
          const { data } = await client.echo({
            data: await mapFile(path, { offset, length }),
            text: "t".repeat(offset),
            number: BigInt(length),
          });
          assert.equal(
            Buffer.compare(data, content.subarray(offset, offset + length)),
            0,
            `${length} bytes from ${offset} on`,
          );
        }),
      );
      const blobs = await Promise.all(parts.map(([offset, length]) => mapFile(path, { offset, length })));
      const mixed = blobs.flatMap((blob, i) => [blob, patternBytes(i * 30_000, i)]);
      const reply = await createClient(KindsService, transport).echo({ blobs: mixed, string: "last" });
      assert.equal(reply.blobs.length, mixed.length);
      reply.blobs.forEach((blob, i) => {
        const [offset, length] = parts[i >> 1];
        const expected =
          i % 2 === 0 ? content.subarray(offset, offset + length) : patternBytes((i >> 1) * 30_000, i >> 1);
        assert.equal(Buffer.compare(blob, expected), 0, `blob ${i}`);
      });
    });
  }

  test("a server's answer from a file arrives as it is", async (context) => {
    const content = patternBytes(3 * MIB, 9);
    const path = tempFile(context, content);
    const routes = (router: ConnectRouter) =>
      router.service(TestService, { echo: async () => ({ data: await mapFile(path) }) });
    const server = createIsthmusServer({ routes, carrier: "socket" });
    const address = tempSocket(context);
    await server.listen(address);
    context.after(() => server.close({ timeoutMs: 0 }));
    const { client } = connectTo(context, { path: address }, { carrier: "socket" });
    for (let i = 0; i < 3; i++) assert.equal(Buffer.compare((await client.echo({})).data, content), 0);
  });

  test("a file that becomes shorter while it is sent fails that call, and no other, and its message is never seen", async (context) => {
    const server = await serveInChild(context);
    const { client, transport } = connectTo(context, server, { carrier: "socket" });
    await client.echo({});
    const path = tempFile(context, new Uint8Array(0));
    const cases = [
      [20 * MIB, 20 * MIB - 2],
      [20 * MIB, 12 * MIB + 5],
      [20 * MIB, 0],
      [450_000, 449_998],
      [450_000, 300_000],
    ];
    for (const [size, left] of cases) {
      const content = patternBytes(size, 5);
      const other = tempFile(context, content, "other.bin");
      writeFileSync(path, content);
      const [bytes, otherBytes] = [await mapFile(path), await mapFile(other)];
      // Nobody reads, so the file is under way when it becomes shorter.
      process.kill(server.child.pid, "SIGSTOP");
      const calls = [client.checksum({ data: bytes }), client.checksum({ data: otherBytes })] as const;
      await waitUntil("the file to be under way", () => transport.stats().connection!.unsentBytes > 0);
      truncateSync(path, left);
      const small = client.echo({ text: "alive" });
      process.kill(server.child.pid, "SIGCONT");
      const error = await failure(calls[0], Code.DataLoss, /file\.bin has become shorter: it ends at byte/);
      assert.ok(error.message.length > 0);
      assert.equal((await calls[1]).checksum, crc32(content));
      assert.equal((await small).text, "alive");
      assert.equal(transport.stats().connection!.unsentBytes, 0);
    }
    const { connections, violations } = await server.stats();
    assert.deepEqual({ connections, violations }, { connections: 1, violations: 0 });
  });

  test("calls that are given up while their file is sent leave the others whole, and no descriptor", async (context) => {
    const server = await serveInChild(context);
    const { client } = connectTo(context, server, { carrier: "socket" });
    const content = patternBytes(9 * MIB, 5);
    const path = tempFile(context, content);
    const bytes = await mapFile(path);
    for (let round = 0; round < 8; round++) {
      const controller = new AbortController();
      const given = failure(client.checksum({ data: bytes }, { signal: controller.signal }), Code.Canceled, /./);
      const whole = client.checksum({ data: bytes });
      for (let turn = 0; turn < round; turn++) await new Promise((resolve) => setImmediate(resolve));
      controller.abort();
      await given;
      assert.equal((await whole).checksum, crc32(content));
    }
    release(bytes);
    await waitUntil("the file to be closed", () => descriptorsTo(/file\.bin$/) === 0);
  });

  test("a peer that dies while a file is sent to it ends the connection, with every descriptor", async (context) => {
    const server = await serveInChild(context);
    const { client, transport } = connectTo(context, server, { carrier: "socket" });
    const before = descriptorsTo(/^socket:/);
    await client.echo({});
    const bytes = await mapFile(tempFile(context, patternBytes(20 * MIB, 5)));
    process.kill(server.child.pid, "SIGSTOP");
    const lost = failure(client.checksum({ data: bytes }), Code.Unavailable, /connection lost/);
    await waitUntil("the file to be under way", () => transport.stats().connection!.unsentBytes > 0);
    await server.child.kill();
    await lost;
    release(bytes);
    await waitUntil(
      "the descriptors to be closed",
      () => (descriptorsTo(/^socket:/) <= before && descriptorsTo(/file\.bin$/) === 0) || descriptorsTo(/^socket:/),
    );
  });

  test("where the socket's descriptor cannot be found files go through a buffer, with the same result", async (context) => {
    const server = await startServer(context, "two processes");
    const { client } = connectTo(context, server, { carrier: "socket" });
    const { prototype } = (await import("../../src/carrier/socket/file-sender.js")).FileSender;
    const hidden = prototype as unknown as { descriptorOfSocket: () => number };
    context.mock.method(hidden, "descriptorOfSocket", () => -1);
    const content = patternBytes(5 * MIB + 7, 8);
    const path = tempFile(context, content);
    const bytes = await mapFile(path);
    assert.equal((await client.checksum({ data: bytes })).checksum, crc32(content));
    const call = client.checksum({ data: bytes });
    await new Promise((resolve) => setImmediate(resolve));
    truncateSync(path, 1000);
    await failure(call, Code.DataLoss, /file\.bin has become shorter/);
    assert.equal((await client.echo({ text: "alive" })).text, "alive");
  });

  test("the largest payload, from a sparse file, takes no memory of its sender's", {
    timeout: 600_000,
  }, async (context) => {
    const byteLength = 2 ** 31 - (64 << 10);
    if (freemem() < 3 * byteLength) return context.skip("there is not enough memory for the receiver");
    const path = tempFile(context, new Uint8Array(0));
    truncateSync(path, byteLength);
    const descriptor = openSync(path, "r+");
    for (const at of [0, 12_345_678, byteLength - 4]) writeSync(descriptor, Buffer.from("mark"), 0, 4, at);
    closeSync(descriptor);
    const address = tempSocket(context);
    await startChild(context, "servers/marks.js", { address });
    const { client } = connectTo(context, { path: address }, { carrier: "socket" });
    const before = process.memoryUsage().rss;
    const { text } = await client.echo({ data: await mapFile(path) });
    assert.equal(text, `${byteLength} mark mark mark`);
    assert.ok(process.memoryUsage().rss - before < 100 * MIB);
  });

  test("the bytes do not pass through this process's memory", async (context) => {
    if (spawnSync("strace", ["-e", "trace=none", "true"]).status !== 0)
      return context.skip("strace cannot be used here");
    const server = await serveInChild(context);
    const byteLength = 30 * MIB;
    const path = tempFile(context, patternBytes(byteLength, 5));
    const log = tempFile(context, new Uint8Array(0), "strace.log");
    const script = `
      const { createIsthmusTransport, mapFile } = await import(process.argv[1]);
      const { TestService } = await import(process.argv[2]);
      const { createClient } = await import("@connectrpc/connect");
      const transport = createIsthmusTransport({ address: process.argv[3], carrier: "socket" });
      const { checksum } = await createClient(TestService, transport).checksum({ data: await mapFile(process.argv[4]) });
      console.log(checksum);
      await transport.close();`;
    const modules = ["../../src/index.js", "../proto/test_pb.js"].map(
      (module) => new URL(module, import.meta.url).href,
    );
    const traced = [
      "-f",
      "-y",
      "-qq",
      "-e",
      "trace=sendfile,read,pread64,readv,preadv",
      "-o",
      log,
      process.execPath,
      "--input-type=module",
      "-e",
      script,
      ...modules,
      server.path,
      path,
    ];
    const { status, stdout, stderr } = spawnSync("strace", traced, { encoding: "utf8", timeout: 300_000 });
    assert.equal(status, 0, stderr);
    assert.equal(Number(stdout), crc32(readFileSync(path)));
    const bytes = { sendfile: 0, others: 0 };
    const unfinished = new Map<string, string>();
    for (const line of readFileSync(log, "utf8").split("\n")) {
      const [thread] = line.split(" ", 1);
      if (line.endsWith("<unfinished ...>")) unfinished.set(thread, line);
      const found = /(\w+)(?:\(| resumed).*\) += (\d+)$/.exec(line);
      // Only the beginning of a call that another thread's interrupts in the log names the file.
      const beginning = line.includes(" resumed>") ? unfinished.get(thread) : line;
      if (found === null || beginning?.includes("file.bin") !== true) continue;
      bytes[found[1] === "sendfile" ? "sendfile" : "others"] += Number(found[2]);
    }
    // All but the last byte, which is read to see that the file is whole.
    assert.deepEqual(bytes, { sendfile: byteLength - 1, others: 1 });
  });
});
