import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import test from "node:test";
import { requireAddon } from "./addon.js";
import { runChildOk, skip, socketPair, systemError } from "./fixture.test.util.js";

const READABLE = 1;
const HUNG_UP = 2;

test("nothing to read: the wait ends with its time, and not before", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  for (const timeoutMs of [0, 0.5, 30]) {
    const from = performance.now();
    assert.equal(addon.waitReadable(client, timeoutMs), 0);
    const took = performance.now() - from;
    assert.ok(took >= timeoutMs - 0.1, `${took} ms instead of ${timeoutMs}`);
  }
  for (const fd of [client, server]) addon.closeDescriptor(fd);
});

test("bytes that are there, and a hang-up, end the wait at once and are told apart", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  assert.equal(addon.ringDoorbell(server), 0);
  assert.equal(addon.waitReadable(client, Infinity), READABLE);
  assert.equal(addon.clearDoorbell(client, []), 1);
  assert.equal(addon.waitReadable(client, 0), 0);
  addon.closeDescriptor(server);
  assert.equal(addon.waitReadable(client, Infinity) & HUNG_UP, HUNG_UP);
  addon.closeDescriptor(client);
});

test("a thread that waits for ever is woken by another process", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const child = spawn("sh", ["-c", "sleep 0.1; printf x >&3"], { stdio: ["ignore", "ignore", "ignore", server] });
  context.after(() => child.kill());
  assert.equal(addon.waitReadable(client, Infinity) & READABLE, READABLE);
  for (const fd of [client, server]) addon.closeDescriptor(fd);
});

test("signals neither end the wait nor make it longer", { skip }, async () => {
  const output = await runChildOk(`
    import { spawn } from "node:child_process";
    import { once } from "node:events";
    process.on("SIGUSR2", () => {});
    // Nothing is written to this socket, which is only bound.
    const fd = addon.bindSocket("/tmp/isthmus-wait-" + process.pid, 0o600, -1);
    addon.listenSocket(fd, 1);
    (await import("node:fs")).unlinkSync("/tmp/isthmus-wait-" + process.pid);
    // Signals come as long as this process lives. If each one restarted the wait, it would never end.
    const sender = spawn("sh", ["-c", "while kill -USR2 " + process.pid + "; do sleep 0.03; done"], { stdio: "ignore" });
    const from = performance.now();
    const found = addon.waitReadable(fd, 300);
    const took = performance.now() - from;
    // They must stop before this process ends, because it has no handler for them any more while it exits.
    sender.kill("SIGKILL");
    await once(sender, "exit");
    console.log(found, took >= 299);`);
  assert.equal(output, "0 true");
});

test("times and descriptors that make no sense are refused", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  for (const timeoutMs of [-1, NaN, -Infinity]) assert.throws(() => addon.waitReadable(client, timeoutMs), RangeError);
  assert.throws(() => addon.waitReadable(client, "1" as unknown as number), TypeError);
  assert.throws(() => addon.waitReadable(-1, 0), RangeError);
  for (const fd of [client, server]) addon.closeDescriptor(fd);
  assert.throws(() => addon.waitReadable(100_000, 0), systemError("EBADF", /wait for descriptor 100000/));
});
