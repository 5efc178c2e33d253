import assert from "node:assert/strict";
import { fstatSync, readFileSync } from "node:fs";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import { requireAddon } from "./addon.js";
import {
  closeAll,
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

const EAGAIN = -11;
const EBADF = -9;
const EINVAL = -22;
const EPIPE = -32;

/** Calls clearDoorbell until the socket is empty. Returns all results, and the descriptors that it returned. */
function clearAll(fd: number): { answers: number[]; descriptors: number[] } {
  const answers: number[] = [];
  const descriptors: number[] = [];
  for (;;) {
    const before = descriptors.length;
    const answer = requireAddon().clearDoorbell(fd, descriptors);
    if (answer === 0 && descriptors.length === before) return { answers, descriptors };
    answers.push(answer);
    if (answer < 0) return { answers, descriptors };
  }
}

test("a descriptor arrives close-on-exec, among rings, and is appended to what the array has", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const segment = addon.createSegment("sent", addon.pageSize());
  addon.ringDoorbell(client);
  addon.ringDoorbell(client);
  assert.equal(addon.sendDescriptor(client, segment), 0);
  addon.ringDoorbell(client);
  const descriptors = [-7];
  assert.equal(addon.clearDoorbell(server, descriptors), 3);
  assert.equal(descriptors.length, 2);
  assert.equal(descriptors[0], -7);
  const received = descriptors[1];
  assert.notEqual(received, segment);
  assert.equal(fstatSync(received).ino, fstatSync(segment).ino);
  assert.match(readFileSync(`/proc/self/fdinfo/${received}`, "utf8"), /flags:\s+0?2\d{6}/, "close-on-exec");
  closeAll(client, server, segment, received);
});

test("descriptors arrive in order, at most sixteen a call, and none is lost", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const segments = Array.from({ length: 40 }, (_, index) => addon.createSegment(`order-${index}`, addon.pageSize()));
  const before = descriptorCount();
  let rings = 0;
  for (const [index, segment] of segments.entries()) {
    for (let i = 0; i < index % 3; i++, rings++) assert.equal(addon.ringDoorbell(client), 0);
    assert.equal(addon.sendDescriptor(client, segment), 0);
  }
  const first: number[] = [];
  const answer = addon.clearDoorbell(server, first);
  assert.equal(first.length, 16);
  const { answers, descriptors } = clearAll(server);
  const all = [...first, ...descriptors];
  assert.equal(
    [answer, ...answers].reduce((a, b) => a + b),
    rings,
  );
  assert.deepEqual(
    all.map((fd) => fstatSync(fd).ino),
    segments.map((fd) => fstatSync(fd).ino),
  );
  assert.equal(descriptorCount(), before + segments.length);
  closeAll(client, server, ...segments, ...all);
});

test("the last descriptors of a peer that hung up are handed out before the hang-up", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const segment = addon.createSegment("last", addon.pageSize());
  addon.ringDoorbell(client);
  addon.sendDescriptor(client, segment);
  closeAll(client);
  const { answers, descriptors } = clearAll(server);
  assert.deepEqual(answers, [1, -1]);
  assert.equal(fstatSync(descriptors[0]).ino, fstatSync(segment).ino);
  closeAll(server, segment, ...descriptors);
});

test("sending a descriptor never throws and says what is wrong", { skip }, (context) => {
  const addon = requireAddon();
  const any = addon as unknown as { sendDescriptor(...values: unknown[]): number };
  const [client, server] = socketPair(context);
  const closed = addon.openSpare();
  addon.closeDescriptor(closed);
  assert.equal(addon.sendDescriptor(client, closed), EBADF);
  assert.equal(addon.sendDescriptor(closed, client), EBADF);
  for (const wrong of [undefined, "3", NaN, -1, 2 ** 31]) {
    assert.equal(any.sendDescriptor(client, wrong), EINVAL);
    assert.equal(any.sendDescriptor(wrong, client), EINVAL);
  }
  assert.equal(any.sendDescriptor(), EINVAL);
  while (addon.ringDoorbell(client) === 0) continue;
  assert.equal(addon.sendDescriptor(client, server), EAGAIN);
  closeAll(server);
  assert.equal(addon.sendDescriptor(client, client), EPIPE);
  closeAll(client);
});

/**
 * Sends messages, each of some bytes and a number of descriptors. Returns the result of a call, after checking that the
 * call leaves no descriptor open.
 */
function judged(
  context: TestContext,
  messages: readonly (readonly [bytes: number[], descriptorCount: number])[],
): number {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const [inner, held] = socketPair(context);
  const before = descriptorCount();
  for (const [bytes, count] of messages)
    addon.sendMessage(client, Uint8Array.from(bytes), new Array<number>(count).fill(inner));
  const descriptors: number[] = [];
  const answer = addon.clearDoorbell(server, descriptors);
  assert.deepEqual(descriptors, []);
  assert.equal(descriptorCount(), before);
  closeAll(inner, client, server);
  assert.equal(addon.clearDoorbell(held, []), -1, "no copy of the descriptor is left anywhere");
  closeAll(held);
  return answer;
}

test("whatever is neither a ring nor one descriptor with its byte is a violation, and nothing of the call stays open", {
  skip,
}, (context) => {
  assert.equal(judged(context, [[[2], 0]]), -2, "another byte");
  assert.equal(judged(context, [[[255], 1]]), -2, "another byte with a descriptor");
  assert.equal(judged(context, [[[1], 0]]), -2, "a 1 without a descriptor");
  assert.equal(judged(context, [[[0], 1]]), -2, "a descriptor without a 1");
  assert.equal(judged(context, [[[0, 0, 0], 1]]), -2);
  assert.equal(judged(context, [[[1], 2]]), -2, "two descriptors with a 1");
  assert.equal(judged(context, [[[1], 16]]), -2);
  assert.equal(judged(context, [[[1, 1], 2]]), -2);
  assert.equal(judged(context, [[[1, 1], 1]]), -2, "a 1 too many");
  assert.equal(
    judged(context, [
      [[1], 1],
      [[1], 1],
      [[3], 0],
    ]),
    -2,
    "those that came in order are closed too",
  );
  assert.equal(
    judged(context, [[new Array<number>(256).fill(0).concat(1), 1]]),
    -2,
    "a descriptor that came long before its 1",
  );
});

test("out of descriptors, clearing says -3 and closes what came in the same call", { skip }, async (context) => {
  const path = join(scratchFolder(context), "full.sock");
  const output = await runChildOk(
    `
    import { readdirSync } from "node:fs";
    process.stdout; // opens a descriptor of its own
    const listener = addon.bindSocket(${JSON.stringify(path)}, 0o600, -1);
    addon.listenSocket(listener, 1);
    const client = addon.connectSocket(${JSON.stringify(path)});
    const server = addon.acceptSocket(listener);
    for (let i = 0; i < 3; i++) if (addon.sendDescriptor(client, client) !== 0) console.log("not sent");
    const held = [];
    try { for (;;) held.push(addon.openSpare()); } catch {}
    addon.closeDescriptor(held.pop());
    addon.closeDescriptor(held.pop());
    const received = [];
    console.log(addon.clearDoorbell(server, received), received.length);
    while (addon.closesUnderWay() > 0); // what came is closed by another thread
    // Two places are free again: taking two must work, and taking a third must fail.
    let taken = 0;
    try { for (;;) { addon.openSpare(); taken++; } } catch (error) { console.log(error.code, taken); }`,
    { shell: 'ulimit -n 64; exec "$@"' },
  );
  assert.equal(output, "-3 0\nEMFILE 2");
});

test("an array is required, also when nothing is there", { skip }, (context) => {
  const addon = requireAddon();
  const any = addon as unknown as { clearDoorbell(...values: unknown[]): number };
  const [client, server] = socketPair(context);
  assert.throws(() => any.clearDoorbell(server), TypeError);
  assert.throws(() => any.clearDoorbell(server, { length: 0 }), TypeError);
  // An array that accepts a first element but no second one.
  const refusing: number[] = [];
  Object.setPrototypeOf(refusing, {
    set 1(_: number) {
      throw new Error("no more");
    },
  });
  const before = descriptorCount();
  for (let i = 0; i < 3; i++) addon.sendDescriptor(client, server);
  assert.throws(() => addon.clearDoorbell(server, refusing), /no more/);
  assert.equal(descriptorCount(), before, "what could not be given is closed");
  closeAll(client, server);
});

test("descriptors that a worker received are closed when it ends", { skip }, async (context) => {
  const addon = requireAddon();
  const { Worker } = await import("node:worker_threads");
  const [client, server] = socketPair(context);
  const [inner, held] = socketPair(context);
  addon.sendDescriptor(client, inner);
  addon.closeDescriptor(inner);
  const code = moduleText(`if (addon.clearDoorbell(${server}, []) !== 0) throw new Error("not taken");`);
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`));
  await new Promise((resolve, reject) => worker.once("exit", resolve).once("error", reject));
  await waitUntil("the descriptor is closed", () => addon.clearDoorbell(held, []) === -1);
  closeAll(client, server, held);
});

test("a duplicate is the same open file, close-on-exec, and outlives the first", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const duplicate = addon.duplicateDescriptor(client);
  assert.match(readFileSync(`/proc/self/fdinfo/${duplicate}`, "utf8"), /flags:\s+0?2\d{6}/, "close-on-exec");
  closeAll(client);
  assert.equal(addon.ringDoorbell(duplicate), 0);
  assert.equal(addon.clearDoorbell(server, []), 1);
  closeAll(duplicate, server);
  assert.throws(() => addon.duplicateDescriptor(duplicate), systemError("EBADF", /^duplicate descriptor/));
});

test("a descriptor crosses to another process while both ring", { skip }, async (context) => {
  const addon = requireAddon();
  const path = join(scratchFolder(context), "cross.sock");
  const listener = addon.bindSocket(path, 0o600, -1);
  addon.listenSocket(listener, 1);
  const child = runChild(`
    const socket = addon.connectSocket(${JSON.stringify(path)});
    const received = [];
    let rings = 0;
    const watch = addon.watch(socket, (readable, hangup) => {
      const answer = readable ? addon.clearDoorbell(socket, received) : -1;
      if (answer > 0) rings += answer;
      if (answer !== -1) return;
      addon.closeWatch(watch);
      const texts = received.map((fd) => Buffer.from(addon.mapSegment(fd, addon.inspectSegment(fd).byteLength, 0, false), 0, 7).toString());
      console.log(rings, texts.join());
    });`);
  let accepted = -1;
  await waitUntil("the child connects", () => (accepted = addon.acceptSocket(listener)) >= 0);
  for (let i = 0; i < 20; i++) {
    const segment = addon.createSegment("crossing", addon.pageSize());
    Buffer.from(addon.mapSegment(segment, addon.pageSize(), 0, true)).write(`text ${10 + i}`);
    addon.ringDoorbell(accepted);
    assert.equal(addon.sendDescriptor(accepted, segment), 0);
    addon.closeDescriptor(segment);
  }
  closeAll(accepted, listener);
  const { stdout, stderr } = await child;
  assert.equal(stdout.trim(), `20 ${Array.from({ length: 20 }, (_, i) => `text ${10 + i}`).join()}`, stderr);
});
