/** `mapFile`: what arrives is the file, whatever becomes of it. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, openSync, readdirSync, readlinkSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { mapFile, release } from "../../src/index.js";
import { collectSoon } from "../../src/memory/v8/gc.js";
import { CARRIER } from "../support/carriers.js";
import { crc32, patternBytes } from "../support/checksum.js";
import { runScriptOk } from "../support/processes.js";
import { tempSocket } from "../support/temp.js";
import { connectTo, PLACES, startServer } from "../support/test-server.js";
import { waitUntil } from "../support/waiting.js";

const skip = CARRIER === "socket" ? "without the addon files are read to the heap at once" : false;

function tempFile(context: Parameters<typeof tempSocket>[0], bytes: Uint8Array): string {
  const path = join(dirname(tempSocket(context)), "file.bin");
  writeFileSync(path, bytes);
  return path;
}

async function refusal(promise: Promise<unknown>): Promise<ConnectError> {
  const error = await promise.then(
    () => assert.fail("it was not refused"),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof ConnectError, String(error));
  return error;
}

for (const place of PLACES) {
  describe(`mapped files, ${place}`, () => {
    test("files of any size arrive as they are, whole and in part", async (context) => {
      const server = await startServer(context, place);
      const content = Buffer.from(patternBytes(3_000_000, 7));
      const path = tempFile(context, content);
      for (const carrier of ["auto", "socket"] as const) {
        const { client } = connectTo(context, server, { carrier });
        for (const [offset, length] of [
          [0, 0],
          [0, 1],
          [1, 4095],
          [4097, 5000],
          [4095, 20_000],
          [8192, 40_000],
          [12_345, 1_500_001],
          [0, 3_000_000],
        ]) {
          const bytes = await mapFile(path, { offset, length });
          assert.equal(bytes.length, length);
          const { data } = await client.echo({ data: bytes });
          assert.equal(
            Buffer.compare(data, content.subarray(offset, offset + length)),
            0,
            `${length} bytes from ${offset} on`,
          );
        }
        const whole = await mapFile(path);
        const { data } = await client.echo({ data: whole.subarray(100, 2_000_100) });
        assert.equal(Buffer.compare(data, content.subarray(100, 2_000_100)), 0);
      }
    });

    test("what is written to the array changes neither the file nor what is sent", { skip }, async (context) => {
      const server = await startServer(context, place);
      const { client } = connectTo(context, server);
      const content = Buffer.from(patternBytes(200_000, 3));
      const path = tempFile(context, content);
      const bytes = await mapFile(path);
      bytes.fill(0);
      assert.equal(Buffer.compare((await client.echo({ data: bytes })).data, content), 0);
      assert.equal(
        Buffer.compare((await client.echo({ data: bytes.subarray(0, 100) })).data, content.subarray(0, 100)),
        0,
      );
      assert.equal(Buffer.compare(readFileSync(path), content), 0);
    });

    test("a file that was truncated fails the call, and nothing else", { skip }, async (context) => {
      const server = await startServer(context, place);
      const { client, transport } = connectTo(context, server);
      const socket = connectTo(context, server, { carrier: "socket" });
      for (const size of [100, 10_000, 300_000, 5_000_000]) {
        const path = tempFile(context, patternBytes(size, 5));
        const bytes = await mapFile(path);
        truncateSync(path, Math.floor(size / 3));
        for (const { echo } of [client, socket.client]) {
          const error = await refusal(echo({ data: bytes }));
          assert.equal(error.code, Code.DataLoss, error.message);
          assert.match(error.message, /file\.bin has become shorter: it ends at byte/);
          assert.equal((await echo({ text: "alive" })).text, "alive");
        }
      }
      await waitUntil(
        "the blocks to come back",
        () => transport.stats().connection!.arenaInUseBytes === 0 || transport.stats().connection!.arenaInUseBytes,
      );
    });

    test("a call that is given up while its file is read leaves nothing behind", { skip }, async (context) => {
      const server = await startServer(context, place);
      const { client, transport } = connectTo(context, server);
      await client.echo({});
      const bytes = await mapFile(tempFile(context, patternBytes(30_000_000, 5)));
      for (let round = 0; round < 10; round++) {
        const controller = new AbortController();
        const call = refusal(client.checksum({ data: bytes }, { signal: controller.signal }));
        if (round % 2 === 1) await new Promise((resolve) => setImmediate(resolve));
        controller.abort();
        assert.equal((await call).code, Code.Canceled);
      }
      await waitUntil("the blocks to come back", async () => {
        await client.echo({});
        return transport.stats().connection!.arenaInUseBytes === 0 || transport.stats().connection!.arenaInUseBytes;
      });
    });
  });
}

test("no page of a truncated file is touched, whatever field it is in", { skip }, async (context) => {
  // In a process of its own: touching one would be SIGBUS.
  const server = await startServer(context, "two processes");
  const path = tempFile(context, patternBytes(64 << 10, 5));
  const outcome = await runScriptOk(
    context,
    `
    const { mapFile } = await import(data.index);
    const { typedList } = await import(data.codec);
    const { KindsSchema, KindsService } = await import(data.kinds);
    const { create } = await import("@bufbuild/protobuf");
    const { truncateSync } = await import("node:fs");
    const transport = createIsthmusTransport({ address: data.address });
    const client = createClient(KindsService, transport);
    const bytes = await mapFile(data.path);
    truncateSync(data.path, 0);
    const messages = [
      { bytes: bytes.subarray(0, 10) },
      { bytes: bytes.subarray(0, 10_000) },
      { bytes },
      { blobs: [bytes.subarray(1, 2), bytes] },
      { boolMap: { true: bytes } },
      { choice: { case: "choiceBytes", value: bytes.subarray(8, 16) } },
      { doubles: typedList(new Float64Array(bytes.buffer, 0, 4)) },
      { doubles: typedList(new Float64Array(bytes.buffer)) },
      { doubles: typedList(new Float32Array(bytes.buffer, 0, 4)) },
      { int64s: typedList(new BigInt64Array(bytes.buffer)) },
      Object.assign(create(KindsSchema), { $unknown: [{ no: 1000, wireType: 0, data: bytes.subarray(0, 1) }] }),
    ];
    for (const message of messages) await sayFailure(client.echo(message));
    await transport.close();
    `,
    {
      address: server.path,
      path,
      index: new URL("../../src/index.js", import.meta.url).href,
      codec: new URL("../../src/codec/index.js", import.meta.url).href,
      kinds: new URL("../proto/kinds_pb.js", import.meta.url).href,
    },
  );
  const said = outcome.said as { code: string; message: string }[];
  assert.equal(said.length, 11);
  for (const { code, message } of said) {
    assert.equal(code, "DataLoss", message);
    assert.match(message, /file\.bin has become shorter/);
  }
});

test("a file that becomes shorter while it is sent fails that call, and the connection lives on", {
  skip,
}, async (context) => {
  const server = await startServer(context, "two processes");
  const { client, transport } = connectTo(context, server);
  await client.echo({});
  const path = tempFile(context, patternBytes(40_000_000, 5));
  const bytes = await mapFile(path);
  const call = refusal(client.checksum({ data: bytes }));
  await new Promise((resolve) => setImmediate(resolve));
  truncateSync(path, 39_999_999);
  assert.equal((await call).code, Code.DataLoss);
  assert.equal((await client.echo({ text: "alive" })).text, "alive");
  await waitUntil(
    "the blocks to come back",
    () => transport.stats().connection!.arenaInUseBytes === 0 || transport.stats().connection!.arenaInUseBytes,
  );
});

test("bytes that are released while they are sent are sent on", { skip }, async (context) => {
  const server = await startServer(context, "two processes");
  const { client } = connectTo(context, server);
  await client.echo({});
  const content = patternBytes(5_000_000, 6);
  const path = tempFile(context, content);
  const files = await Promise.all([mapFile(path), mapFile(path)]);
  // The second is read after the first.
  const calls = files.map((data) => client.checksum({ data }));
  for (const bytes of files) release(bytes);
  for (const { checksum } of await Promise.all(calls)) assert.equal(checksum, crc32(content));
});

test("a pipe is refused, and nothing waits for its other end", { skip }, async (context) => {
  const path = `${tempFile(context, new Uint8Array(1))}.pipe`;
  execFileSync("mkfifo", [path]);
  assert.equal((await refusal(mapFile(path))).code, Code.InvalidArgument);
});

test("files that nobody refers to any more do not use up the descriptors", { skip }, (context) => {
  const path = tempFile(context, new Uint8Array(100));
  const script = `
    const { mapFile } = await import(process.argv[1]);
    for (let i = 0; i < 2000; i++) await mapFile(process.argv[2]);
    console.log("mapped");`;
  const node = [
    process.execPath,
    "--input-type=module",
    "-e",
    script,
    new URL("../../src/index.js", import.meta.url).href,
    path,
  ];
  assert.equal(
    execFileSync("sh", ["-c", 'ulimit -n 200 && exec "$@"', "sh", ...node], { encoding: "utf8" }),
    "mapped\n",
  );
});

test("mistakes are told with the path", async (context) => {
  const path = tempFile(context, new Uint8Array(10));
  const cases: [() => Promise<unknown>, Code, RegExp][] = [
    [() => mapFile(`${path}.no`), Code.NotFound, /map .*file\.bin\.no: /],
    [() => mapFile(dirname(path)), Code.InvalidArgument, /not a regular file/],
    [
      () => mapFile(path, { offset: 5, length: 6 }),
      Code.InvalidArgument,
      /bytes 5 to 11 are not in this file of 10 bytes/,
    ],
    [() => mapFile(path, { offset: 11 }), Code.InvalidArgument, /not in this file/],
    [
      () => mapFile(path, { length: -1 }),
      Code.InvalidArgument,
      /map .*: option length: expected a whole number of bytes, at least 0, not -1/,
    ],
  ];
  for (const [map, code, text] of cases) {
    const error = await refusal(map());
    assert.equal(error.code, code, error.message);
    assert.match(error.message, text);
  }
  const large = `${path}.large`;
  closeSync(openSync(large, "w"));
  truncateSync(large, 2 ** 31);
  const error = await refusal(mapFile(large));
  assert.equal(error.code, Code.ResourceExhausted);
  assert.match(error.message, /limit of 2147418112/);
});

test("descriptors are closed by release, and when the bytes are garbage", { skip }, async (context) => {
  const path = tempFile(context, new Uint8Array(5000));
  const open = () =>
    readdirSync("/proc/self/fd").filter((descriptor) => {
      try {
        return readlinkSync(`/proc/self/fd/${descriptor}`) === path;
      } catch {
        return false;
      }
    }).length;
  const bytes = await mapFile(path);
  assert.equal(open(), 1);
  release(bytes);
  release(bytes);
  assert.equal(bytes.length, 0);
  assert.equal(open(), 0);
  for (let i = 0; i < 20; i++) await mapFile(path);
  await waitUntil("the descriptors of garbage to be closed", () => {
    collectSoon();
    return open() === 0 || open();
  });
});
