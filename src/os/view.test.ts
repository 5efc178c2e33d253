import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { once } from "node:events";
import test, { type TestContext } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { requireAddon } from "./addon.js";
import { collectUntil, mappingCount, moduleText, runChild, runChildOk, skip, waitUntil } from "./fixture.test.util.js";

const PAGE = skip === false ? requireAddon().pageSize() : 4096;

/** The tokens reported since the last test began. */
const freed: number[] = [];
if (skip === false) requireAddon().onViewFreed((token) => freed.push(token));

function map(context: TestContext, name: string, pages: number, writable = true): ArrayBuffer {
  const addon = requireAddon();
  freed.length = 0;
  const fd = addon.createSegment(name, pages * PAGE);
  context.after(() => addon.closeDescriptor(fd));
  return addon.mapSegment(fd, pages * PAGE, 0, writable);
}

const transfer = (buffer: ArrayBuffer) => (buffer as unknown as { transfer(): ArrayBuffer }).transfer();
const skipTransfer = skip || (!("transfer" in ArrayBuffer.prototype) && "no ArrayBuffer.prototype.transfer");

test("a view has exactly its bytes of the mapping, at any offset, and shares them both ways", {
  skip,
}, async (context) => {
  const addon = requireAddon();
  const mapping = map(context, "shares", 3);
  const whole = new Uint8Array(mapping);
  for (const [offset, byteLength] of [
    [0, 1],
    [0, 3 * PAGE],
    [1, PAGE],
    [3 * PAGE - 1, 1],
    [4095, 4099],
    [PAGE, PAGE],
  ] as const) {
    const view = addon.viewMapping(mapping, offset, byteLength, 0);
    assert.ok(view instanceof ArrayBuffer);
    assert.equal(view.byteLength, byteLength);
    const bytes = new Uint8Array(view);
    whole[offset] = (offset + 7) & 255;
    assert.equal(bytes[0], (offset + 7) & 255);
    bytes[byteLength - 1] = 99;
    assert.equal(whole[offset + byteLength - 1], 99);
    addon.detachMapping(view);
  }
  await waitUntil("all are freed", () => freed.length === 6);
});

test("a view outside of the mapping, of nothing, of another buffer or a detached one is refused", {
  skip,
}, async (context) => {
  const addon = requireAddon();
  const any = addon as unknown as { viewMapping(...values: unknown[]): ArrayBuffer };
  const mapping = map(context, "refused", 2);
  const whole = 2 * PAGE;
  for (const [offset, byteLength] of [
    [0, whole + 1],
    [1, whole],
    [whole, 1],
    [whole, 0],
    [0, 0],
    [-1, 1],
    [0.5, 1],
    [NaN, 1],
    [0, -1],
    [2 ** 52, 1],
    [0, 2 ** 53],
  ]) {
    assert.throws(() => addon.viewMapping(mapping, offset, byteLength, 0), RangeError, `${offset} ${byteLength}`);
  }
  for (const token of [-1, 1.5, 2 ** 53, Infinity])
    assert.throws(() => addon.viewMapping(mapping, 0, 1, token), RangeError);
  for (const other of [
    undefined,
    {},
    new Uint8Array(mapping),
    new ArrayBuffer(PAGE),
    new SharedArrayBuffer(PAGE),
    Buffer.from("x").buffer,
  ]) {
    assert.throws(() => any.viewMapping(other, 0, 1, 0), TypeError);
  }
  const inside = addon.viewMapping(mapping, PAGE, PAGE, 1);
  assert.throws(() => addon.viewMapping(inside, 0, 1, 0), TypeError, "a view that starts inside");
  const start = addon.viewMapping(mapping, 0, PAGE, 2);
  assert.throws(
    () => addon.viewMapping(start, 0, PAGE + 1, 0),
    RangeError,
    "no view reaches past what it is made from",
  );
  for (const buffer of [inside, start, mapping]) {
    addon.detachMapping(buffer);
    assert.throws(() => addon.viewMapping(buffer, 0, 1, 0), TypeError);
  }
  await waitUntil("both freed", () => freed.length === 2);
  assert.deepEqual(freed.sort(), [1, 2]);
  assert.equal(mappingCount("refused"), 0);
});

test("a detached view is reported once, with its token, in a later turn", { skip }, async (context) => {
  const addon = requireAddon();
  const mapping = map(context, "detached-view", 1, false);
  const tokens = [0, 1, 2 ** 31, 2 ** 32 + 1, Number.MAX_SAFE_INTEGER, 1];
  for (const token of tokens) {
    const view = addon.viewMapping(mapping, 0, PAGE, token);
    addon.detachMapping(view);
    addon.detachMapping(view);
    assert.equal(view.byteLength, 0);
  }
  assert.deepEqual(freed, [], "not within the call");
  await Promise.resolve();
  assert.deepEqual(freed, [], "nor within the turn");
  await waitUntil("all are freed", () => freed.length >= tokens.length);
  for (let i = 0; i < 5; i++) await turn();
  assert.deepEqual([...freed].sort(), [...tokens].sort());
  assert.equal(new Uint8Array(mapping)[0], 0, "the mapping is there");
});

test("a view that is garbage is reported, and one that is held by a typed array is not", { skip }, async (context) => {
  const addon = requireAddon();
  const mapping = map(context, "garbage", 4);
  const held = (() => {
    for (let token = 100; token < 150; token++) void addon.viewMapping(mapping, token, 10, token);
    return new Uint8Array(addon.viewMapping(mapping, PAGE, PAGE, 7)).subarray(5, 6);
  })();
  await collectUntil(() => freed.length >= 50);
  assert.deepEqual(
    [...freed].sort(),
    Array.from({ length: 50 }, (_, i) => 100 + i),
  );
  new Uint8Array(mapping)[PAGE + 5] = 55;
  assert.equal(held[0], 55);
  addon.detachMapping(held.buffer);
  await waitUntil("the last one", () => freed.includes(7));
});

test("a view moved by transfer() is reported when what it became is gone, and not before", {
  skip: skipTransfer,
}, async (context) => {
  const addon = requireAddon();
  const mapping = map(context, "transferred", 1);
  new Uint8Array(mapping)[3] = 33;
  let moved = addon.viewMapping(mapping, 3, 100, 4);
  const first = new Uint8Array(moved);
  for (let i = 0; i < 10; i++) moved = transfer(moved);
  assert.equal(first.length, 0, "every earlier view is empty");
  let rounds = 0;
  await collectUntil(() => ++rounds > 5);
  assert.deepEqual(freed, []);
  assert.equal(new Uint8Array(moved)[0], 33);
  addon.detachMapping(moved);
  await waitUntil("freed", () => freed.length > 0);

  const dropped = addon.viewMapping(mapping, 0, 1, 5);
  (() => void transfer(dropped))();
  await collectUntil(() => freed.length > 1);
  assert.deepEqual(freed, [4, 5]);
});

test("a mapping stays until its last view is gone, readable and coherent, although its own buffer went first", {
  skip,
}, async () => {
  const addon = requireAddon();
  freed.length = 0;
  const fd = addon.createSegment("views-live-on", 4 * PAGE);
  const writer = new Uint8Array(addon.mapSegment(fd, 4 * PAGE, 0, true));
  const mapping = addon.mapSegment(fd, 4 * PAGE, 0, false);
  addon.closeDescriptor(fd);
  const views = [0, PAGE, 3 * PAGE].map((offset, token) => addon.viewMapping(mapping, offset, PAGE, token));
  assert.equal(mappingCount("views-live-on"), 2);
  addon.detachMapping(mapping);
  for (let i = 0; i < 5; i++) await turn();
  assert.equal(mappingCount("views-live-on"), 2);
  for (const [index, view] of views.entries()) {
    writer[[0, PAGE, 3 * PAGE][index] + 11] = index + 1;
    assert.equal(new Uint8Array(view)[11], index + 1);
    assert.equal(mappingCount("views-live-on"), 2);
    addon.detachMapping(view);
    await waitUntil("freed", () => freed.length > index);
  }
  await waitUntil("unmapped", () => mappingCount("views-live-on") === 1);
  addon.detachMapping(writer.buffer);
  await waitUntil("unmapped", () => mappingCount("views-live-on") === 0);
});

test("a mapping at an address where one was before is another mapping", { skip }, async () => {
  const addon = requireAddon();
  for (let round = 0; round < 200; round++) {
    const fd = addon.createSegment("again", PAGE);
    const mapping = addon.mapSegment(fd, PAGE, 0, true);
    const view = addon.viewMapping(mapping, 0, PAGE, round);
    new Uint8Array(mapping)[0] = round & 255;
    assert.equal(new Uint8Array(view)[0], round & 255);
    addon.detachMapping(mapping);
    addon.detachMapping(view);
    addon.closeDescriptor(fd);
    if (round % 3 === 0) await turn();
  }
  await waitUntil("all unmapped", () => mappingCount("again") === 0);
});

test("the listener runs in the async context in which it was set, and one that is set later replaces it", {
  skip,
}, async () => {
  const output = await runChildOk(`
    import { AsyncLocalStorage } from "node:async_hooks";
    const storage = new AsyncLocalStorage();
    const fd = addon.createSegment("context", ${PAGE});
    const mapping = addon.mapSegment(fd, ${PAGE}, 0, false);
    const free = async (token) => { addon.detachMapping(addon.viewMapping(mapping, 0, 1, token)); for (let turns = 0; turns < 20; turns++) await new Promise(setImmediate); };
    await free(0);
    storage.run("first", () => addon.onViewFreed((token) => {
      console.log(token, storage.getStore());
      process.nextTick(() => console.log("tick"));
    }));
    await storage.run("other", () => free(1));
    addon.onViewFreed((token) => console.log(token, storage.getStore()));
    await free(2);
    for (const wrong of [undefined, null, {}]) try { addon.onViewFreed(wrong); } catch (error) { console.log(error.name); }
    await free(3);`);
  assert.equal(
    output,
    ["1 first", "tick", "2 undefined", "TypeError", "TypeError", "TypeError", "3 undefined"].join("\n"),
  );
  assert.ok(new AsyncLocalStorage().getStore() === undefined);
});

test("what the listener throws is an uncaught exception, and the next ones are still reported", { skip }, async () => {
  const throwing = `
    const fd = addon.createSegment("throws", ${PAGE});
    const mapping = addon.mapSegment(fd, ${PAGE}, 0, false);
    addon.onViewFreed((token) => { console.log("freed", token); throw new Error("thrown for " + token); });
    for (let token = 0; token < 3; token++) addon.detachMapping(addon.viewMapping(mapping, 0, 1, token));
    let turns = 0;
    const end = () => (++turns < 20 ? setImmediate(end) : console.log("end"));
    end();`;
  const fatal = await runChild(throwing);
  assert.equal(fatal.code, 1);
  assert.match(fatal.stderr, /Error: thrown for 0/);
  assert.equal(fatal.stdout, "freed 0\n");
  const handled = await runChildOk(
    `process.on("uncaughtException", (error) => console.log(error.message));${throwing}`,
  );
  assert.equal(
    handled,
    ["freed 0", "thrown for 0", "freed 1", "thrown for 1", "freed 2", "thrown for 2", "end"].join("\n"),
  );
});

test("views neither keep the process alive nor disturb its end", { skip }, async () => {
  const code = `
    const fd = addon.createSegment("exit", ${64 * PAGE});
    const mapping = addon.mapSegment(fd, ${64 * PAGE}, 0, false);
    addon.onViewFreed(() => { if (exiting) console.log("called"); });
    let exiting = false;
    process.on("exit", () => { exiting = true; });
    globalThis.views = Array.from({ length: 1000 }, (_, token) => addon.viewMapping(mapping, token, PAGE, token));
    for (const view of views.slice(0, 100)) addon.detachMapping(view);`.replace("PAGE", String(PAGE));
  assert.equal(await runChildOk(code), "");
  assert.equal(await runChildOk(`${code} process.exit(0);`), "");
  assert.equal(await runChildOk(`${code} addon.detachMapping(mapping); views.length = 0;`), "");
});

test("a worker ends, is terminated or exits with views alive, its mappings go, and its listener is not called", {
  skip,
}, async () => {
  const addon = requireAddon();
  for (const [name, end] of [
    ["returns", ""],
    ["exits", "process.exit(0);"],
    ["waits", "setInterval(() => {}, 1000);"],
    ["frees", "setInterval(() => { for (const view of views.splice(0, 10)) addon.detachMapping(view); }, 1);"],
    [
      "spins",
      "for (;;) { addon.detachMapping(addon.viewMapping(mapping, 0, 1, 5)); if (Math.random() < 0.001) await new Promise(setImmediate); }",
    ],
  ] as const) {
    const segment = addon.createSegment(`worker-${name}`, 64 * PAGE);
    const code = moduleText(`
      import { parentPort } from "node:worker_threads";
      const mapping = addon.mapSegment(${segment}, ${64 * PAGE}, 0, true);
      let ending = false;
      addon.onViewFreed(() => { if (ending) throw new Error("called at the end"); });
      process.on("exit", () => { ending = true; });
      const views = globalThis.views = Array.from({ length: 1000 }, (_, token) => addon.viewMapping(mapping, token, 4096, token));
      if (views[0].transfer !== undefined) views.push(views.pop().transfer());
      for (const view of views.splice(0, 100)) addon.detachMapping(view);
      parentPort.postMessage("ready");
      ${end}`);
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`));
    const errors: unknown[] = [];
    worker.on("error", (error) => errors.push(error));
    const exited = once(worker, "exit");
    await once(worker, "message");
    if (["waits", "frees", "spins"].includes(name)) void worker.terminate();
    await exited;
    assert.deepEqual(errors, [], name);
    assert.equal(mappingCount(`worker-${name}`), 0, name);
    addon.closeDescriptor(segment);
  }
});

test("a hundred thousand views leave nothing behind", { skip }, async (context) => {
  const addon = requireAddon();
  const mapping = map(context, "many-views", 16);
  const residentBytes = () => process.memoryUsage.rss();
  const cycle = async (count: number) => {
    for (let token = 0; token < count; token++) {
      addon.detachMapping(addon.viewMapping(mapping, token & 1023, PAGE, token));
      if (token % 100 === 99) await turn();
    }
    await waitUntil("all are freed", () => freed.length === count);
    freed.length = 0;
  };
  await cycle(20_000);
  const before = residentBytes();
  await cycle(100_000);
  assert.ok(residentBytes() - before < 32 << 20, `${residentBytes() - before} bytes more`);
});
