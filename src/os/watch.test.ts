import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { requireAddon, type WatchHandle } from "./addon.js";
import {
  closeAll,
  collectUntil,
  descriptorCount,
  moduleText,
  runChild,
  runChildOk,
  scratchFolder,
  skip,
  socketPair,
  systemError,
  waitUntil,
} from "./fixture.test.util.js";

test("a watch reports bytes until they are read, and the hang-up", { skip }, async (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const events: string[] = [];
  const watch = addon.watch(server, (readable, hangup) => {
    events.push(`${readable} ${hangup}`);
    if (hangup) addon.closeWatch(watch);
    else if (events.length >= 2) addon.clearDoorbell(server, []);
  });
  addon.ringDoorbell(client);
  await waitUntil("two events", () => events.length >= 2);
  await sleep(50);
  assert.deepEqual(events, ["true false", "true false"], "the second one read the byte");
  addon.closeDescriptor(client);
  await waitUntil("the hang-up", () => events.length >= 3);
  assert.equal(events[2], "true true");
  closeAll(server);
});

test("nextTick and promise callbacks run between two events", { skip }, async (context) => {
  const addon = requireAddon();
  const pairs = [socketPair(context), socketPair(context)];
  const order: string[] = [];
  const watches = pairs.map(([, server]) =>
    addon.watch(server, () => {
      addon.clearDoorbell(server, []);
      order.push("event");
      process.nextTick(() => order.push("tick"));
      void Promise.resolve().then(() => order.push("promise"));
    }),
  );
  for (const [client] of pairs) addon.ringDoorbell(client);
  await waitUntil("both", () => order.length >= 6);
  assert.deepEqual(order, ["event", "tick", "promise", "event", "tick", "promise"]);
  watches.forEach((watch) => addon.closeWatch(watch));
  closeAll(...pairs.flat());
});

test("events come in the async context of the call of watch", { skip }, async (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const storage = new AsyncLocalStorage<string>();
  const seen: (string | undefined)[] = [];
  const watch = storage.run("of the watch", () =>
    addon.watch(server, () => {
      addon.clearDoorbell(server, []);
      seen.push(storage.getStore());
    }),
  );
  storage.run("of the ring", () => addon.ringDoorbell(client));
  await waitUntil("the event", () => seen.length > 0);
  assert.deepEqual(seen, ["of the watch"]);
  addon.closeWatch(watch);
  closeAll(client, server);
});

test("a watch closed in its own event is not called again, nor is one closed by another's", {
  skip,
}, async (context) => {
  const addon = requireAddon();
  const pairs = [socketPair(context), socketPair(context)];
  let events = 0;
  const watches: WatchHandle[] = pairs.map(([, server]) =>
    addon.watch(server, () => {
      events++;
      for (const watch of watches) addon.closeWatch(watch);
      closeAll(...pairs.map(([, fd]) => fd));
    }),
  );
  for (const [client] of pairs) addon.ringDoorbell(client);
  await waitUntil("an event", () => events > 0);
  await sleep(50);
  assert.equal(events, 1);
  for (const watch of watches) {
    addon.closeWatch(watch);
    addon.refWatch(watch);
    addon.unrefWatch(watch);
  }
  closeAll(...pairs.map(([fd]) => fd));
});

test("after closeWatch the descriptor's number can be used anew at once", { skip }, async (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  for (let round = 0; round < 50; round++) {
    let events = 0;
    const stale = addon.watch(server, () => assert.fail("a closed watch was called"));
    addon.closeWatch(stale);
    const watch = addon.watch(server, () => {
      events++;
      addon.clearDoorbell(server, []);
    });
    addon.ringDoorbell(client);
    await waitUntil("the event", () => events === 1);
    addon.closeWatch(watch);
  }
  closeAll(client, server);
});

test("a listener is watched too", { skip }, async (context) => {
  const addon = requireAddon();
  const path = join(scratchFolder(context), "listener.sock");
  const listener = addon.bindSocket(path, 0o600, -1);
  addon.listenSocket(listener, 4);
  const accepted: number[] = [];
  const watch = addon.watch(listener, (readable) => {
    assert.ok(readable);
    for (let fd: number; (fd = addon.acceptSocket(listener)) >= 0; ) accepted.push(fd);
  });
  const clients = [addon.connectSocket(path), addon.connectSocket(path)];
  await waitUntil("both accepted", () => accepted.length === 2);
  addon.closeWatch(watch);
  closeAll(listener, ...clients, ...accepted);
});

test("what cannot be watched is refused, and leaves the rest working", { skip }, async (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const before = descriptorCount();
  const file = openSync(new URL(import.meta.url), "r");
  assert.throws(() => addon.watch(file, () => {}), systemError("EPERM", /^watch descriptor \d+: /));
  closeSync(file);
  assert.throws(() => addon.watch(file, () => {}), systemError("EBADF"));
  let events = 0;
  const watch = addon.watch(server, () => {
    events++;
    addon.clearDoorbell(server, []);
  });
  assert.throws(() => addon.watch(server, () => {}), systemError("EEXIST"));
  addon.ringDoorbell(client);
  await waitUntil("the event", () => events === 1);
  addon.closeWatch(watch);
  assert.equal(descriptorCount(), before);
  closeAll(client, server);
});

test("a watch whose handle is garbage goes on", { skip }, async (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  let hungUp = false;
  let events = 0;
  let handleCollected = false;
  const collected = new FinalizationRegistry<string>(() => (handleCollected = true));
  const start = () => {
    const handle = addon.watch(server, (_, hangup) => {
      events++;
      addon.clearDoorbell(server, []);
      if (hangup) hungUp = true;
    });
    addon.unrefWatch(handle);
    collected.register(handle, "");
  };
  start();
  await collectUntil(() => handleCollected);
  assert.ok(handleCollected);
  addon.ringDoorbell(client);
  await waitUntil("an event", () => events > 0);
  assert.equal(hungUp, false);
  addon.closeDescriptor(client);
  await waitUntil("the hang-up", () => hungUp);
});

/** Code for a child that creates two connected sockets `a` and `b`. */
const PAIR = `
  const fs = await import("node:fs");
  const folder = fs.mkdtempSync("/tmp/isthmus-os-");
  const listener = addon.bindSocket(folder + "/s", 0o600, -1);
  addon.listenSocket(listener, 1);
  const a = addon.connectSocket(folder + "/s");
  const b = addon.acceptSocket(listener);
  fs.rmSync(folder, { recursive: true });
`;

test("an open watch keeps the process, an unref'd one does not", { skip }, async () => {
  const held = await runChildOk(`${PAIR}
    const watch = addon.watch(b, () => { console.log("rung"); addon.closeWatch(watch); });
    addon.unrefWatch(watch);
    addon.refWatch(watch);
    setTimeout(() => addon.ringDoorbell(a), 100).unref();
    setTimeout(() => { console.log("late"); process.exit(1); }, 60_000).unref();`);
  assert.equal(held, "rung");
  const unheld = await runChildOk(`${PAIR}
    addon.unrefWatch(addon.watch(b, () => console.log("rung")));
    process.on("exit", () => console.log("exit"));`);
  assert.equal(unheld, "exit");
});

test("what an event throws is one uncaught exception", { skip }, async () => {
  const caught = await runChildOk(`${PAIR}
    process.on("uncaughtException", (error, origin) => { console.log(error.message, origin); addon.closeWatch(watch); });
    const watch = addon.watch(b, () => { addon.clearDoorbell(b, []); throw new Error("thrown in event"); });
    addon.ringDoorbell(a);`);
  assert.equal(caught, "thrown in event uncaughtException");
  const fatal = await runChild(`${PAIR}
    addon.watch(b, () => { throw new Error("thrown in event"); });
    addon.ringDoorbell(a);`);
  assert.equal(fatal.code, 1);
  assert.match(fatal.stderr, /Error: thrown in event\n\s+at /);
  const primitive = await runChildOk(`${PAIR}
    process.on("uncaughtException", (error) => { console.log(error); addon.closeWatch(watch); });
    const watch = addon.watch(b, () => { addon.clearDoorbell(b, []); throw undefined; });
    addon.ringDoorbell(a);`);
  assert.equal(primitive, "undefined");
});

test("a process may exit with an open watch", { skip }, async () => {
  await runChildOk(`${PAIR} addon.watch(b, () => {}); setTimeout(() => process.exit(0), 20);`);
  await runChildOk(`${PAIR} addon.watch(b, () => process.exit(0)); addon.ringDoorbell(a);`);
});

/** Runs a child that starts workers with `code`, one after another, ends each with `end`, and then prints "fine". */
function inWorkers(code: string, end: string): Promise<string> {
  const text = moduleText(`${PAIR}\n${code}`);
  return runChildOk(`
    const { Worker } = await import("node:worker_threads");
    const url = new URL("data:text/javascript," + encodeURIComponent(${JSON.stringify(text)}));
    for (let round = 0; round < 5; round++) {
      const worker = new Worker(url);
      const exited = new Promise((resolve, reject) => { worker.on("exit", resolve); worker.on("error", reject); });
      ${end}
      await exited;
    }
    console.log("fine");`);
}

const ONE_MESSAGE = 'await new Promise((resolve) => worker.once("message", resolve));';
const READY = 'const { parentPort } = await import("node:worker_threads"); parentPort.postMessage("ready");';

test("a worker may return with an open watch", { skip }, async () => {
  assert.equal(await inWorkers("addon.unrefWatch(addon.watch(b, () => {}));", ""), "fine");
});

test("a worker may exit with an open watch, and one just closed", { skip }, async () => {
  assert.equal(
    await inWorkers("addon.watch(b, () => {}); addon.closeWatch(addon.watch(a, () => {})); process.exit(0);", ""),
    "fine",
  );
});

test("a worker may exit inside an event", { skip }, async () => {
  assert.equal(await inWorkers("addon.watch(b, () => process.exit(0)); addon.ringDoorbell(a);", ""), "fine");
});

test("a worker may be terminated with open watches", { skip }, async () => {
  const code = `addon.watch(b, () => {}); addon.watch(a, () => {}); ${READY}`;
  assert.equal(await inWorkers(code, `${ONE_MESSAGE} await worker.terminate();`), "fine");
});

test("a worker may be terminated while events pour in", { skip }, async () => {
  const code = `addon.watch(b, () => {}); addon.ringDoorbell(a); ${READY}`;
  assert.equal(await inWorkers(code, `${ONE_MESSAGE} await worker.terminate();`), "fine");
});

test("a worker may be terminated inside an event that does not end", { skip }, async () => {
  const code = `addon.watch(b, () => { parentPort.postMessage("in"); for (;;); }); addon.ringDoorbell(a);
    const { parentPort } = await import("node:worker_threads");`;
  assert.equal(await inWorkers(code, `${ONE_MESSAGE} await worker.terminate();`), "fine");
});

test("a worker that ends takes its mappings and spares the main thread's", { skip }, async () => {
  const output = await runChildOk(`
    const { Worker } = await import("node:worker_threads");
    const { readFileSync } = await import("node:fs");
    const fd = addon.createSegment("workers", 4096);
    const own = new Uint8Array(addon.mapSegment(fd, 4096, 0, true));
    own[0] = 7;
    const mapped = () => readFileSync("/proc/self/maps", "utf8").split("workers").length - 1;
    const text = ${JSON.stringify(moduleText("globalThis.kept = addon.mapSegment(FD, 4096, 0, false); process.exit(0);"))};
    const worker = new Worker(new URL("data:text/javascript," + encodeURIComponent(text.replace("FD", fd))));
    await new Promise((resolve) => worker.on("exit", resolve));
    console.log(mapped(), own[0]);`);
  assert.equal(output, "1 7");
});
