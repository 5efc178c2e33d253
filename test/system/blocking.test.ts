/** Blocking calls: what a thread sees that stands still until it has its answer. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { Worker } from "node:worker_threads";
import { Code, ConnectError } from "@connectrpc/connect";
import type { BlockingClient, BlockingClientOptions } from "../../src/index.js";
import { createBlockingClient, mapFile, region } from "../../src/index.js";
import { loadAddon } from "../../src/os/addon.js";
import { EchoReplySchema, TestService } from "../proto/test_pb.js";
import { crc32 } from "../support/checksum.js";
import { runScript, runScriptOk } from "../support/processes.js";
import { rawListener } from "../support/raw-peer.js";
import { ownDescriptors } from "../support/resources.js";
import type { BlockingLoop, BlockingTask } from "../support/servers/blocking-worker.js";
import type { WorkerTask } from "../support/servers/worker.js";
import type { Owner } from "../support/temp.js";
import { suiteOwner, tempFolder, tempSocket } from "../support/temp.js";
import { connectTo, serveInChild, startServer } from "../support/test-server.js";
import { waitUntil, within } from "../support/waiting.js";

const skip = loadAddon().reason ?? false;
const indexUrl = new URL("../../src/index.js", import.meta.url).href;

function clientOf(
  owner: Owner,
  path: string,
  options: Partial<BlockingClientOptions> = {},
): BlockingClient<typeof TestService> {
  const client = createBlockingClient(TestService, { ...options, address: path });
  owner.after(() => client.close());
  return client;
}

/** Accepts and hangs up; not on this thread, which stands still. */
async function serveInWorkerThatHangsUp(owner: Owner, onAttempt: () => void): Promise<string> {
  const path = tempSocket(owner);
  const code = `
    const { parentPort, workerData } = require("node:worker_threads");
    require("node:net").createServer((socket) => { parentPort.postMessage("attempt"); socket.destroy(); }).listen(workerData, () => parentPort.postMessage("listening"));`;
  const worker = new Worker(code, { eval: true, workerData: path });
  owner.after(() => worker.terminate());
  await within(60_000, "the server's start", once(worker, "message"));
  worker.on("message", onAttempt);
  return path;
}

/** The ConnectError that `act` throws, which must have this code and text. */
function thrown(act: () => unknown, code: Code, message: RegExp): ConnectError {
  try {
    act();
  } catch (error) {
    assert.ok(error instanceof ConnectError, String(error));
    assert.match(error.message, message);
    assert.equal(Code[error.code], Code[code], error.message);
    return error;
  }
  return assert.fail(`expected a failure with ${Code[code]} ${String(message)}, but it succeeded`);
}

/** Runs a shell line about `milliseconds` from now, whatever this thread does meanwhile. */
function soon(owner: Owner, milliseconds: number, line: string): void {
  const child = spawn("sh", ["-c", `sleep ${milliseconds / 1000}; ${line}`], { stdio: "ignore" });
  owner.after(() => child.kill());
}

async function serveInWorker(owner: Owner): Promise<string> {
  const path = tempSocket(owner);
  const worker = new Worker(new URL("../support/servers/worker.js", import.meta.url), {
    workerData: { role: "serve", path } satisfies WorkerTask,
  });
  owner.after(() => worker.terminate());
  await within(60_000, "the server's start", once(worker, "message"));
  return path;
}

function startCaller(owner: Owner, task: BlockingTask): Worker {
  const worker = new Worker(new URL("../support/servers/blocking-worker.js", import.meta.url), { workerData: task });
  owner.after(() => worker.terminate());
  return worker;
}

const places = {
  "another process": async (owner: Owner) => (await serveInChild(owner)).path,
  "a worker of this process": serveInWorker,
};

for (const [place, serve] of Object.entries(places)) {
  describe(`blocking calls of a server in ${place}`, { skip }, () => {
    const owner = suiteOwner();
    let made: Promise<string> | undefined;
    const path = () => (made ??= serve(owner));

    test("return the message, with headers and trailers", async (context) => {
      const client = clientOf(context, await path());
      let header: Headers | undefined;
      let trailer: Headers | undefined;
      const reply = client.echo(
        { text: "grüße", number: 7n, data: new Uint8Array([1, 2, 3]) },
        { headers: { "x-color": "red" }, onHeader: (h) => (header = h), onTrailer: (t) => (trailer = t) },
      );
      assert.deepEqual([reply.text, reply.number, [...reply.data]], ["grüße", 7n, [1, 2, 3]]);
      assert.equal(header?.get("x-color"), "red");
      assert.equal(trailer?.get("x-trailer-color"), "red");
    });

    test("throw the handler's error with code, details and metadata", async (context) => {
      const client = clientOf(context, await path());
      const error = thrown(
        () => client.fail({ code: Code.NotFound, message: "no such thing", details: ["one", "two"] }),
        Code.NotFound,
        /no such thing/,
      );
      assert.deepEqual(
        error.findDetails(EchoReplySchema).map(({ text }) => text),
        ["one", "two"],
      );
      assert.equal(error.metadata.get("x-failed"), "yes");
      thrown(() => client.fail({ plain: true, message: "secret" }), Code.Internal, /internal error/);
      assert.equal(client.echo({ text: "goes on" }).text, "goes on");
    });

    test("carry 20 MiB each way, also through an arena of 1 MiB", async (context) => {
      const data = new Uint8Array(20 << 20);
      for (let i = 0; i < data.length; i++) data[i] = i * 31 + (i >> 13);
      for (const memory of [undefined, { arenaBytes: 1 << 20 }]) {
        const client = clientOf(context, await path(), memory === undefined ? {} : { memory });
        const reply = client.checksum({ sequence: 3n, data });
        assert.deepEqual([reply.sequence, reply.checksum], [3n, crc32(data)]);
        assert.ok(Buffer.compare(reply.data, data) === 0);
      }
    });

    test("end at their deadline, and the next one works", async (context) => {
      const client = clientOf(context, await path());
      thrown(() => client.wait({ milliseconds: 600_000 }, { timeoutMs: 50 }), Code.DeadlineExceeded, /timed out/);
      assert.equal(client.wait({ milliseconds: 20 }, { timeoutMs: 120_000 }).text, "waited");
      const hurried = clientOf(context, await path(), { defaultTimeoutMs: 30 });
      thrown(() => hurried.wait({ milliseconds: 600_000 }), Code.DeadlineExceeded, /timed out/);
      assert.equal(hurried.wait({ milliseconds: 1 }, { timeoutMs: 120_000 }).text, "waited");
    });

    test("sleep in the kernel and are woken, each time", async (context) => {
      const client = clientOf(context, await path(), { polling: false });
      for (let i = 0; i < 200; i++)
        assert.equal(client.wait({ milliseconds: i % 3 }, { timeoutMs: 120_000 }).text, "waited");
    });

    test("of unknown and of streaming methods fail", async (context) => {
      const client = clientOf(context, await path());
      thrown(() => client.unfinished({}), Code.Unimplemented, /Unfinished/);
      assert.equal("count" in client, true);
      thrown(
        () => (client as unknown as { count(request: object): unknown }).count({}),
        Code.Unimplemented,
        /streaming/,
      );
    });

    test("keep to the limits of messages and headers", async (context) => {
      const client = clientOf(context, await path(), { readMaxBytes: 50_000, writeMaxBytes: 100_000 });
      thrown(() => client.echo({ data: new Uint8Array(100_001) }), Code.ResourceExhausted, /writeMaxBytes 100000/);
      thrown(() => client.echo({ data: new Uint8Array(60_000) }), Code.ResourceExhausted, /readMaxBytes 50000/);
      thrown(() => client.echo({}, { headers: { "x-long": "x".repeat(20_000) } }), Code.ResourceExhausted, /./);
      assert.equal(client.echo({ data: new Uint8Array(40_000) }).data.length, 40_000);
    });

    test("send files and regions", async (context) => {
      const client = clientOf(context, await path());
      const file = join(tempFolder(context), "payload");
      const bytes = Buffer.alloc(3 << 20, "isthmus ");
      writeFileSync(file, bytes);
      const mapped = await mapFile(file);
      assert.equal(client.checksum({ data: mapped }).checksum, crc32(bytes));
      const shared = await region(1 << 20);
      shared.fill(5);
      for (let i = 0; i < 3; i++)
        assert.equal(
          client.checksum({ sequence: BigInt(i), data: shared }).checksum,
          crc32(new Uint8Array(1 << 20).fill(5)),
        );
      writeFileSync(file, "short");
      thrown(() => client.checksum({ data: mapped }), Code.DataLoss, /become shorter/);
    });
  });
}

test("a server that was stopped lets the deadline pass, and answers when it goes on", { skip }, async (context) => {
  const server = await serveInChild(context);
  const client = clientOf(context, server.path);
  client.echo({});
  process.kill(server.child.pid, "SIGSTOP");
  thrown(() => client.echo({ text: "anybody?" }, { timeoutMs: 100 }), Code.DeadlineExceeded, /timed out/);
  thrown(
    () => clientOf(context, server.path).echo({}, { timeoutMs: 100 }),
    Code.DeadlineExceeded,
    /before there was a connection/,
  );
  soon(context, 100, `kill -CONT ${server.child.pid}`);
  assert.equal(client.echo({ text: "again" }, { timeoutMs: 120_000 }).text, "again");
});

test("a deadline that passes aborts the handler", { skip }, async (context) => {
  const server = await serveInChild(context);
  const client = clientOf(context, server.path);
  client.echo({});
  thrown(() => client.wait({ milliseconds: 600_000 }, { timeoutMs: 2000 }), Code.DeadlineExceeded, /timed out/);
  await waitUntil("the handler's abort", async () =>
    (await server.observations()).some(({ aborted, code }) => aborted && code === "DeadlineExceeded"),
  );
});

test("a call in flight fails when the server is killed, and the client goes on with the next server", {
  skip,
}, async (context) => {
  const path = tempSocket(context);
  const first = await serveInChild(context, {}, { address: path });
  const client = clientOf(context, path);
  client.echo({});
  soon(context, 100, `kill -9 ${first.child.pid}`);
  thrown(() => client.wait({ milliseconds: 600_000 }, { timeoutMs: 500_000 }), Code.Unavailable, /connection lost/);
  thrown(() => client.echo({}), Code.Unavailable, /nobody listens/);
  await first.child.exited;
  await serveInChild(context, {}, { address: path });
  assert.equal(client.echo({ text: "second" }).text, "second");
});

test("a server that went between two calls costs none of them", { skip }, async (context) => {
  const path = tempSocket(context);
  const first = await serveInChild(context, {}, { address: path });
  const client = clientOf(context, path);
  client.echo({});
  await first.child.kill();
  const second = await serveInChild(context, {}, { address: path });
  assert.equal(client.echo({ text: "after a kill" }).text, "after a kill");
  await second.close();
  await serveInChild(context, {}, { address: path });
  assert.equal(client.echo({ text: "after a close" }).text, "after a close");
});

test("while a server drains, calls go to the one that took its path over", { skip }, async (context) => {
  const path = tempSocket(context);
  const first = await serveInChild(context, {}, { address: path });
  const client = clientOf(context, path);
  client.echo({});
  const slow = connectTo(context, { path }).client.wait({ milliseconds: 300 });
  await waitUntil("the slow call", async () => (await first.observations()).length === 1);
  const second = await serveInChild(context, {}, { address: path, listen: { takeover: true } });
  const closed = first.close();
  // Asked after `close`, answered after it has said goodbye.
  await first.stats();
  assert.equal(client.echo({ text: "moved" }).text, "moved");
  assert.equal((await second.stats()).connections, 1);
  assert.equal((await slow).text, "waited");
  await closed;
});

test("a server that drains while a request is written takes all of it, and the next call goes to the next server", {
  skip,
}, async (context) => {
  const path = tempSocket(context);
  const first = await serveInChild(context, {}, { address: path });
  const script = `
    const { createBlockingClient } = await import(data.indexUrl);
    const client = createBlockingClient(TestService, { address: data.path, memory: { arenaBytes: 256 << 10 } });
    const bytes = new Uint8Array(128 << 20).fill(7);
    say(Buffer.compare(client.echo({ data: bytes }).data, bytes));
    say(client.echo({ text: "next" }).text);`;
  const client = runScriptOk(context, script, { path, indexUrl });
  await waitUntil("the request to have begun", async () => (await first.stats()).pendingCalls === 1);
  const second = await serveInChild(context, {}, { address: path, listen: { takeover: true } });
  await within(60_000, "close()", first.close());
  assert.deepEqual((await client).said, [0, "next"]);
  assert.equal((await second.stats()).violations, 0);
});

test("servers that take a path over from each other cost a client that calls on and on nothing, and each call is run once", {
  skip,
}, async (context) => {
  const path = tempSocket(context);
  let server = await serveInChild(context, {}, { address: path });
  const until = new SharedArrayBuffer(4);
  const worker = startCaller(context, { path, calls: 1, hang: false, until });
  await within(60_000, "the first call", once(worker, "message"));
  let runs = 0;
  for (let i = 0; i < 6; i++) {
    const next = await serveInChild(context, {}, { address: path, listen: { takeover: true } });
    runs += await server.closeCounting();
    server = next;
  }
  Atomics.store(new Int32Array(until), 0, 1);
  const [{ calls, failures }] = (await within(60_000, "the last call", once(worker, "message"))) as [BlockingLoop];
  runs += await server.closeCounting();
  context.diagnostic(`${calls} calls over 7 servers`);
  assert.deepEqual(failures, []);
  // Every other call is one of `Wait`, which the servers count.
  assert.equal(runs, Math.ceil(calls / 2));
});

test("a server that accepts and goes away before it has answered is tried again, up to four times", {
  skip,
}, async (context) => {
  let attempts = 0;
  const gone = await serveInWorkerThatHangsUp(context, () => attempts++);
  thrown(() => clientOf(context, gone).echo({}), Code.Unavailable, /closed the connection|reset by peer/);
  await waitUntil("its attempts to be counted", () => attempts === 4 || attempts);
});

test("a server on the same thread is refused at once, by whatever name, and is not disturbed", {
  skip,
}, async (context) => {
  const server = await startServer(context, "one process");
  const link = join(tempFolder(context), "link.sock");
  symlinkSync(server.path, link);
  for (const path of [server.path, `unix:${server.path}`, link]) {
    thrown(
      () => clientOf(context, path).echo({}),
      Code.FailedPrecondition,
      /this very thread.*worker thread or another process/,
    );
  }
  assert.equal((await connectTo(context, server).client.echo({ text: "fine" })).text, "fine");
  const worker = startCaller(context, { path: server.path, calls: 100, hang: false });
  await within(60_000, "a worker's calls of this thread's server", once(worker, "message"));
  await server.close();
});

test("a path that this thread served once, and another process serves now, is no longer refused", {
  skip,
}, async (context) => {
  const server = await startServer(context, "one process");
  await server.close();
  await serveInChild(context, {}, { address: server.path });
  assert.equal(clientOf(context, server.path).echo({ text: "theirs" }).text, "theirs");
});

test("somebody who never answers the handshake is given up, with a hint at deadlocks", { skip }, (context) => {
  const path = tempSocket(context);
  rawListener(context, path);
  const before = ownDescriptors();
  thrown(
    () => clientOf(context, path, { handshakeTimeoutMs: 50 }).echo({}),
    Code.Unavailable,
    /no answer to the handshake within 50 ms.*while this thread is blocked/,
  );
  assert.equal(ownDescriptors().open, before.open);
});

test("addresses that cannot be served are refused with what is wrong", { skip }, async (context) => {
  const folder = tempFolder(context);
  thrown(
    () => clientOf(context, join(folder, "sever.sock")).echo({}),
    Code.Unavailable,
    /no such path; is the server running/,
  );
  writeFileSync(join(folder, "file"), "");
  thrown(() => clientOf(context, join(folder, "file")).echo({}), Code.Unavailable, /not a socket/);
  thrown(
    () => clientOf(context, "tcp:127.0.0.1:1"),
    Code.FailedPrecondition,
    /blocking calls need shared memory and a Unix socket/,
  );
  thrown(() => clientOf(context, ""), Code.InvalidArgument, /expected a socket path/);
  thrown(() => clientOf(context, "x.sock", { memory: { arenaBytes: 5 } }), Code.InvalidArgument, /option memory/);
  const script = `
    const { createBlockingClient } = await import(data.index);
    try { createBlockingClient(TestService, { address: "x.sock" }); } catch (error) { say({ code: Code[error.code], message: error.message }); }`;
  const { said } = await runScriptOk(context, script, { index: indexUrl }, { env: { ISTHMUS_ADDON: "none" } });
  assert.match(JSON.stringify(said), /FailedPrecondition.*blocking calls need shared memory.*ISTHMUS_ADDON/);
});

test("a server without shared memory is refused with the reason", { skip }, async (context) => {
  const script = `
    const server = createIsthmusServer({ routes: testRoutes, carrier: "socket" });
    await server.listen(data.path);
    say("listening");
    await sleep(600_000);`;
  const path = tempSocket(context);
  const running = runScript(context, script, { path });
  const { client } = connectTo(context, { path });
  await waitUntil("the server", () => client.echo({}).then(() => true, String));
  thrown(() => clientOf(context, path).echo({}), Code.FailedPrecondition, /shared memory/);
  void running;
});

test("a closed client throws, and closing twice is fine", { skip }, async (context) => {
  const server = await serveInChild(context);
  const client = createBlockingClient(TestService, { address: server.path });
  client.echo({});
  client.close();
  client[Symbol.dispose]();
  thrown(() => client.echo({}), Code.Unavailable, /closed/);
  await waitUntil("the connection's end", async () => (await server.stats()).connections === 0);
});

test("a call from within a call of the same client is refused, and of another client is not", {
  skip,
}, async (context) => {
  const { path } = await serveInChild(context);
  const client = clientOf(context, path);
  const other = clientOf(context, path);
  const withGetter = (inner: BlockingClient<typeof TestService>) => ({
    get text() {
      return inner.echo({ text: "inner" }).text;
    },
  });
  assert.equal(client.echo(withGetter(other)).text, "inner");
  thrown(() => client.echo(withGetter(client)), Code.FailedPrecondition, /in the middle of another call/);
  assert.equal(client.echo({ text: "fine" }).text, "fine");
});

test("a process with an idle blocking client ends by itself", { skip }, async (context) => {
  const { path } = await serveInChild(context);
  const script = `
    const { createBlockingClient } = await import(data.index);
    say(createBlockingClient(TestService, { address: data.path }).echo({ text: "once" }).text);`;
  const { said } = await runScriptOk(context, script, { path, index: indexUrl });
  assert.deepEqual(said, ["once"]);
});

test("a loop of blocking calls with 1 MiB each way takes bounded memory", { skip }, async (context) => {
  const server = await serveInChild(context);
  const script = `
    const { createBlockingClient } = await import(data.index);
    const client = createBlockingClient(TestService, { address: data.path });
    const bytes = new Uint8Array(1 << 20).fill(3);
    const rss = [];
    for (let i = 1; i <= data.calls; i++) {
      const reply = client.echo({ number: BigInt(i), data: bytes });
      if (reply.number !== BigInt(i) || reply.data.length !== bytes.length || reply.data[i] !== 3) throw new Error("wrong reply");
      if (i % (data.calls / 4) === 0) rss.push(process.memoryUsage.rss());
    }
    say(rss);`;
  const calls = Number(process.env["ISTHMUS_BLOCKING_CALLS"] ?? 1600);
  const { said } = await runScriptOk(
    context,
    script,
    { path: server.path, index: indexUrl, calls },
    { limitMs: 120_000 + calls * 200 },
  );
  const [first, ...later] = said[0] as number[];
  context.diagnostic(`resident: ${[first, ...later].map((bytes) => `${bytes >> 20} MiB`).join(", ")}`);
  for (const bytes of later) assert.ok(bytes < first + (200 << 20), `${first} bytes grew to ${bytes}`);
});

test("eight workers call at once", { skip }, async (context) => {
  const { path } = await serveInChild(context);
  const workers = Array.from({ length: 8 }, () => startCaller(context, { path, calls: 300, hang: false }));
  const exits = workers.map((worker) => once(worker, "exit"));
  for (const exit of exits) assert.deepEqual(await within(60_000, "a worker's end", exit), [0]);
});

test("a worker that is terminated in the middle of a blocking call ends, and the server learns of it", {
  skip,
}, async (context) => {
  const server = await serveInChild(context);
  const before = ownDescriptors();
  for (let round = 0; round < 3; round++) {
    const worker = startCaller(context, { path: server.path, calls: 10, hang: true });
    await within(60_000, "the calls before", once(worker, "message"));
    await waitUntil("the call that hangs", async () => (await server.stats()).pendingCalls === 1);
    await within(60_000, "the worker's end", worker.terminate());
    await waitUntil("the connection's end", async () => (await server.stats()).connections === 0);
  }
  await waitUntil(
    "descriptors to be gone",
    () => ownDescriptors().open <= before.open || JSON.stringify(ownDescriptors()),
  );
});
