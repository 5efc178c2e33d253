/** A server's socket path: who gets it, who keeps it, and what is left of it. */
import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { once } from "node:events";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { Code } from "@connectrpc/connect";
import { createIsthmusServer } from "../../src/index.js";
import { HAS_CREDENTIALS } from "../support/carriers.js";
import { runScript } from "../support/processes.js";
import { tempFolder, tempSocket } from "../support/temp.js";
import { connectTo, serveInChild } from "../support/test-server.js";
import { testRoutes } from "../support/test-service.js";
import { failure, waitUntil } from "../support/waiting.js";

function makeServer() {
  return createIsthmusServer({ routes: testRoutes });
}

const filesBeside = (path: string) => readdirSync(dirname(path)).sort();

test("the socket has mode 0600 unless another is asked for, whatever the umask, and nothing else is left beside it", async (context) => {
  const umask = process.umask(0);
  context.after(() => process.umask(umask));
  for (const [mask, mode, expected] of [
    [0o000, undefined, 0o600],
    [0o777, undefined, 0o600],
    // Without credentials no other user may be let in.
    [0o077, HAS_CREDENTIALS ? 0o666 : 0o700, HAS_CREDENTIALS ? 0o666 : 0o700],
  ] as const) {
    process.umask(mask);
    const path = tempSocket(context);
    process.umask(mask);
    const server = makeServer();
    await server.listen(path, mode === undefined ? {} : { mode });
    assert.equal(statSync(path).mode & 0o777, expected);
    assert.deepEqual(filesBeside(path), ["server.sock"]);
    await server.close();
    assert.deepEqual(filesBeside(path), []);
  }
});

test("a path that a live server has is AlreadyExists, in the same process and in another, and the server keeps serving", async (context) => {
  const server = await serveInChild(context);
  for (let i = 0; i < 3; i++) {
    await failure(
      makeServer().listen(server.path),
      Code.AlreadyExists,
      /a live server has it; stop that server, or pass takeover: true/,
    );
  }
  assert.equal((await connectTo(context, server).client.echo({ text: "alive" })).text, "alive");

  const path = tempSocket(context);
  const here = makeServer();
  await here.listen(path);
  await failure(here.listen(path), Code.AlreadyExists, /a live server has it/);
  await failure(makeServer().listen(path), Code.AlreadyExists, /a live server has it/);
  await here.close();
});

test("the socket of a server that was killed is replaced", async (context) => {
  const path = tempSocket(context);
  for (let round = 0; round < 3; round++) {
    const server = await serveInChild(context, {}, { address: path });
    await server.child.kill();
    assert.deepEqual(filesBeside(path), ["server.sock"], "it was left behind");
  }
  const server = await serveInChild(context, {}, { address: path });
  assert.equal((await connectTo(context, server).client.echo({ text: "new" })).text, "new");
});

test("another program's live socket is not taken, its dead one is", async (context) => {
  const path = tempSocket(context);
  const other = createServer().listen(path);
  await once(other, "listening");
  const server = makeServer();
  await failure(server.listen(path), Code.AlreadyExists, /a live server has it/);
  other.close();
  await once(other, "close");
  await server.listen(path);
  await server.close();
});

test("of many servers that start at once exactly one gets the path, and it works", async (context) => {
  const script = `
    import { existsSync } from "node:fs";
    const server = createIsthmusServer({ routes: (router) => router.service(TestService, { whoami: () => ({ pid: process.pid }) }) });
    while (Date.now() < data.startAt);
    try {
      await server.listen(data.path);
      say(process.pid);
      while (!existsSync(data.stop)) await sleep(10);
      process.kill(process.pid, "SIGKILL");
    } catch (error) {
      say(Code[error.code]);
    }`;
  const path = tempSocket(context);
  for (let round = 0; round < 3; round++) {
    // In the second and third round the last winner's dead socket lies there.
    const startAt = Date.now() + 500;
    const stop = join(tempFolder(context), "stop");
    let ended = 0;
    const running = Array.from({ length: 6 }, async () => {
      const outcome = await runScript(context, script, { path, startAt, stop });
      ended++;
      return outcome;
    });
    const { client, transport } = connectTo(context, { path });
    let winner = 0;
    await waitUntil("a server to answer", async () => {
      winner = await client.whoami({}).then(
        ({ pid }) => pid,
        () => 0,
      );
      return winner > 0;
    });
    await waitUntil("the others to give up", () => ended === 5 || ended);
    writeFileSync(stop, "");
    const said = (await Promise.all(running)).map((outcome) => outcome.said[0]);
    assert.deepEqual(
      said.filter((value) => typeof value === "number"),
      [winner],
    );
    assert.deepEqual(
      said.filter((value) => typeof value === "string"),
      Array.from({ length: 5 }, () => "AlreadyExists"),
    );
    await transport.close();
    assert.deepEqual(filesBeside(path), ["server.sock"]);
  }
});

test("servers that start and stop all the time in one folder leave nothing in it", async (context) => {
  const folder = tempFolder(context);
  const script = `
    for (let round = 0; round < 15; round++) {
      const server = createIsthmusServer({ routes: testRoutes });
      await server.listen(data.folder + "/" + data.name);
      await server.close();
    }
    say("done");`;
  const outcomes = await Promise.all(["a", "b", "c"].map((name) => runScript(context, script, { folder, name })));
  for (const { said, stderr } of outcomes) assert.deepEqual(said, ["done"], stderr);
  assert.deepEqual(readdirSync(folder), []);
});

test("takeover replaces a live server, which keeps its connections and does not remove the new one's socket", async (context) => {
  const path = tempSocket(context);
  const old = await serveInChild(context, {}, { address: path });
  const oldClient = connectTo(context, { path });
  const { pid: oldPid } = await oldClient.client.echo({}).then(() => old.child);
  const open = oldClient.client.wait({ milliseconds: 200 });
  const next = await serveInChild(context, {}, { address: path, listen: { takeover: true } });
  assert.notEqual(next.child.pid, oldPid);
  const newClient = connectTo(context, { path });
  await newClient.client.echo({});
  assert.equal((await open).text, "waited");
  await oldClient.client.echo({});
  assert.deepEqual([(await old.stats()).connections, (await next.stats()).connections], [1, 1]);
  await old.close();
  assert.deepEqual(filesBeside(path), ["server.sock"]);
  await waitUntil("the old client to notice", () => oldClient.transport.state === "idle");
  await oldClient.client.echo({});
  assert.equal((await next.stats()).connections, 2);
  await next.close();
  assert.deepEqual(filesBeside(path), []);
});

test("what is at the path and is no socket is never removed", async (context) => {
  const folder = tempFolder(context);
  const file = join(folder, "file");
  writeFileSync(file, "precious");
  const directory = join(folder, "directory");
  mkdirSync(directory);
  const link = join(folder, "link");
  symlinkSync(file, link);
  for (const path of [file, directory, link]) {
    for (const takeover of [false, true]) {
      await failure(
        makeServer().listen(path, { takeover }),
        Code.AlreadyExists,
        /something is there that is not a socket; remove it or choose another path/,
      );
    }
  }
  assert.equal(readFileSync(file, "utf8"), "precious");
  assert.deepEqual(readdirSync(folder).sort(), ["directory", "file", "link"]);
});

test("a folder that does not exist, or is a file, is said to be so", async (context) => {
  const folder = tempFolder(context);
  await failure(
    makeServer().listen(join(folder, "none", "server.sock")),
    Code.NotFound,
    /the directory .*none does not exist; create it first/,
  );
  writeFileSync(join(folder, "file"), "");
  await failure(makeServer().listen(join(folder, "file", "server.sock")), Code.InvalidArgument, /not a directory/);
});

test("a folder whose path leaves no room for a socket's name is said to be too long", async (context) => {
  const folder = tempFolder(context);
  const deep = join(folder, "d".repeat(104 - folder.length - 1));
  mkdirSync(deep);
  await failure(
    makeServer().listen(join(deep, "s")),
    Code.InvalidArgument,
    /the directory's path is too long for a Unix socket; use a shorter one/,
  );
});

test("one server may listen on several paths, and close() ends them all", async (context) => {
  const folder = tempFolder(context);
  const server = makeServer();
  const paths = ["a", "b", "c"].map((name) => join(folder, name));
  await Promise.all(paths.map((path) => server.listen(path)));
  for (const path of paths) assert.equal((await connectTo(context, { path }).client.echo({ text: path })).text, path);
  assert.equal(server.stats().connections, 3);
  await server.close();
  assert.deepEqual(readdirSync(folder), []);
});

test("close() removes the path only if it is still the server's own", async (context) => {
  const path = tempSocket(context);
  const server = makeServer();
  await server.listen(path);
  const other = makeServer();
  await other.listen(path, { takeover: true });
  await server.close();
  assert.deepEqual(filesBeside(path), ["server.sock"]);
  assert.equal((await connectTo(context, { path }).client.echo({ text: "still" })).text, "still");
  await other.close();
});

test("a server that is disposed of is closed", async (context) => {
  const path = tempSocket(context);
  const server = makeServer();
  await server.listen(path);
  await server[Symbol.asyncDispose]();
  assert.deepEqual(filesBeside(path), []);
});
