import assert from "node:assert/strict";
import { once } from "node:events";
import { closeSync, fstatSync, openSync, writeFileSync } from "node:fs";
import { Socket } from "node:net";
import { join } from "node:path";
import type { TestContext } from "node:test";
import test from "node:test";
import { Worker } from "node:worker_threads";
import { requireAddon } from "./addon.js";
import { addonFiles } from "./package-files.js";
import {
  descriptorCount,
  moduleText,
  runChildOk,
  scratchFolder,
  skip,
  socketPair,
  systemError,
  waitUntil,
} from "./fixture.test.util.js";

/**
 * Starts a worker that runs code with `addon` and `makePair` (for two connected sockets) in scope. It reports what is
 * passed to `say(…)`, and ends when it is told how.
 */
async function startWorker(context: TestContext, code: string): Promise<{ worker: Worker; said: unknown }> {
  const folder = scratchFolder(context);
  const [file, socket] = [join(folder, "worker.mjs"), JSON.stringify(join(folder, "pairs.sock"))];
  const text = moduleText(`
    import { parentPort } from "node:worker_threads";
    import { Socket } from "node:net";
    const say = (value) => parentPort.postMessage(value);
    parentPort.on("message", (what) => (what === "exit" ? process.exit(0) : parentPort.close()));
    const listener = addon.bindSocket(${socket}, 0o600, -1);
    addon.listenSocket(listener, 8);
    const makePair = () => { const client = addon.connectSocket(${socket}); return [client, addon.acceptSocket(listener)]; };
    ${code}`);
  writeFileSync(file, text);
  const worker = new Worker(file);
  context.after(() => worker.terminate());
  const [said] = (await Promise.race([
    once(worker, "message"),
    once(worker, "error").then(([error]) => Promise.reject(error as Error)),
  ])) as unknown[];
  return { worker, said };
}

type End = "terminate" | "exit" | "natural end";
const ENDS: readonly End[] = ["terminate", "exit", "natural end"];

async function end(worker: Worker, how: End): Promise<void> {
  const exit = once(worker, "exit");
  if (how === "terminate") void worker.terminate();
  else worker.postMessage(how);
  await exit;
}

/** The open descriptors of this thread, with their files. */
function openFiles(context: TestContext, count: number): () => void {
  const files = Array.from({ length: count }, () => openSync("/dev/null", "r"));
  const { ino, dev } = fstatSync(files[0]);
  context.after(() => files.forEach((file) => closeSync(file)));
  return () => {
    for (const file of files) {
      const found = fstatSync(file);
      assert.deepEqual([found.ino, found.dev], [ino, dev], `descriptor ${file} is another file`);
    }
  };
}

for (const how of ENDS) {
  test(`a worker that ends (${how}) closes what it has from the addon, and no file that has a number which it gave to Node`, {
    skip,
  }, async (context) => {
    const before = descriptorCount();
    const { worker, said } = await startWorker(
      context,
      `
      const sockets = Array.from({ length: 8 }, () => makePair().map((number) => addon.handOverDescriptor(number, (fd) => new Socket({ fd })))).flat();
      const closed = Array.from({ length: 8 }, makePair).flat();
      for (const number of closed) addon.closeDescriptor(number);
      await Promise.all(sockets.map((socket) => new Promise((resolve) => socket.destroy().on("close", resolve))));
      say("ready");`,
    );
    assert.equal(said, "ready");
    const check = openFiles(context, 40);
    await end(worker, how);
    check();
    await waitUntil("the worker's descriptors to be closed", () => descriptorCount() <= before + 40);
  });

  test(`a worker that ends (${how}) while Node has a socket of it closes that once`, { skip }, async (context) => {
    const [client, server] = socketPair(context);
    const { worker } = await startWorker(
      context,
      `
      const socket = addon.handOverDescriptor(addon.duplicateDescriptor(${server}), (fd) => new Socket({ fd }));
      socket.unref();
      say("ready");`,
    );
    requireAddon().closeDescriptor(server);
    const check = openFiles(context, 10);
    await end(worker, how);
    check();
    // The peer notices it.
    assert.equal(requireAddon().waitReadable(client, 5000) & 2, 2);
    requireAddon().closeDescriptor(client);
  });
}

for (const [when, code] of [
  ["before Node has it", "(fd) => { say('taking'); for (;;); }"],
  ["after Node has it", "(fd) => { const socket = new Socket({ fd }); say('taking'); for (;;); }"],
  [
    "after Node has closed it again",
    "(fd) => { const socket = new Socket({ fd }); socket.destroy(); say('taking'); for (;;); }",
  ],
] as const) {
  test(`a worker terminated in the middle of a hand-over, ${when}, leaves nothing open and closes nobody's file`, {
    skip,
  }, async (context) => {
    const addon = requireAddon();
    const [client, server] = socketPair(context);
    const { worker, said } = await startWorker(
      context,
      `addon.handOverDescriptor(addon.duplicateDescriptor(${server}), ${code});`,
    );
    assert.equal(said, "taking");
    addon.closeDescriptor(server);
    const check = openFiles(context, 20);
    await end(worker, "terminate");
    check();
    assert.equal(addon.waitReadable(client, 5000) & 2, 2);
    addon.closeDescriptor(client);
  });
}

test("a descriptor is closed once, and only by the thread that has it", { skip }, async (context) => {
  const addon = requireAddon();
  const own = addon.openSpare();
  const notHeld = systemError("EBADF", /^close descriptor \d+: this thread does not hold it/);
  const { said } = await startWorker(
    context,
    `let code; try { addon.closeDescriptor(${own}); } catch (error) { code = error.code; } say(code);`,
  );
  assert.equal(said, "EBADF");
  fstatSync(own);
  addon.closeDescriptor(own);
  const file = openSync("/dev/null", "r");
  assert.equal(file, own);
  assert.throws(() => addon.closeDescriptor(own), notHeld);
  fstatSync(file);
  closeSync(file);
});

test("a hand-over that fails leaves the descriptor with the caller, one that works leaves nothing to close", {
  skip,
}, async (context) => {
  const addon = requireAddon();
  const before = descriptorCount();
  const [client, server] = socketPair(context);
  const failing = new Error("not taken");
  assert.throws(
    () =>
      addon.handOverDescriptor(server, () => {
        throw failing;
      }),
    failing,
  );
  const socket = addon.handOverDescriptor(server, (fd) => new Socket({ fd }));
  assert.throws(() => addon.closeDescriptor(server), systemError("EBADF"));
  assert.throws(
    () => addon.handOverDescriptor(server, () => assert.fail("called")),
    systemError("EBADF", /^hand over descriptor \d+: this thread does not hold it/),
  );
  assert.throws(() => addon.handOverDescriptor(client, undefined as never), TypeError);
  await once(socket.destroy(), "close");
  addon.closeDescriptor(client);
  assert.equal(descriptorCount(), before);
});

test("a thread may load the addon several times; each has what it made, and all of it is closed when the thread ends", {
  skip,
}, async () => {
  const output = await runChildOk(`
    import { readdirSync } from "node:fs";
    import { Worker } from "node:worker_threads";
    const count = () => readdirSync("/proc/self/fd").length;
    const path = ${JSON.stringify(addonFiles()[0].path)};
    const code = \`
      const load = () => { delete require.cache[\${JSON.stringify(path)}]; return require(\${JSON.stringify(path)}); };
      const [first, second] = [load(), load()];
      const made = [first, second].flatMap((addon) => [addon, addon].map((each) => each.openSpare()));
      try { second.closeDescriptor(made[0]); } catch (error) { require("node:worker_threads").parentPort.postMessage(error.code); }\`;
    const run = () => new Promise((resolve) => { const heard = []; new Worker(code, { eval: true, execArgv: [] }).on("message", (what) => heard.push(what)).on("exit", (end) => resolve([...heard, end].join())); });
    await run();
    const before = count();
    const outcome = [await run(), await run()];
    console.log(outcome.join(" "), count() - before);`);
  assert.equal(output, "EBADF,0 EBADF,0 0");
});
