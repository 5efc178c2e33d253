import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { closeSync, openSync, truncateSync, writeFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import { requireAddon } from "./addon.js";
import {
  closeAll,
  runChild,
  runChildOk,
  scratchFolder,
  skip,
  socketPair,
  systemError,
  waitUntil,
} from "./fixture.test.util.js";

/** Creates a file of this many bytes in which no two blocks of 4 KiB are equal. */
function file(context: TestContext, byteLength: number): { path: string; fd: number; content: Buffer } {
  const content = Buffer.alloc(byteLength, "0123456789abcdef-");
  for (let offset = 0; offset + 8 <= byteLength; offset += 4096) content.writeUInt32LE(offset + 1, offset);
  const path = join(scratchFolder(context), "sent");
  writeFileSync(path, content);
  const fd = openSync(path, "r");
  context.after(() => closeSync(fd));
  return { path, fd, content };
}

/** Reads what is available now. */
function receiveAll(fd: number): Buffer {
  const fragments: Buffer[] = [];
  const into = Buffer.alloc(1 << 20);
  for (let length: number; (length = requireAddon().receiveMessage(fd, into).byteLength) > 0; )
    fragments.push(Buffer.from(into.subarray(0, length)));
  return Buffer.concat(fragments);
}

test("a part of a file is sent, and at the end of the file there is nothing to send", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const { fd, content } = file(context, 10_001);
  assert.equal(addon.sendFile(client, fd, 3, 5000), 5000);
  assert.deepEqual(receiveAll(server), content.subarray(3, 5003));
  assert.equal(addon.sendFile(client, fd, 9000, 5000), 1001, "only what there is");
  assert.deepEqual(receiveAll(server), content.subarray(9000));
  assert.equal(addon.sendFile(client, fd, 10_001, 1), 0);
  assert.equal(addon.sendFile(client, fd, 2 ** 40, 1), 0);
  assert.equal(addon.sendFile(client, fd, 0, 10), 10, "the file's own position plays no part");
  assert.deepEqual(receiveAll(server), content.subarray(0, 10));
  closeAll(client, server);
});

test("a memfd is sent as a file is", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const segment = addon.createSegment("sent", addon.pageSize());
  Buffer.from(addon.mapSegment(segment, addon.pageSize(), 0, true)).write("hello", 100);
  assert.equal(addon.sendFile(client, segment, 100, 5), 5);
  assert.equal(receiveAll(server).toString(), "hello");
  closeAll(client, server, segment);
});

test("a large file goes through in parts, each time the socket can take more, and arrives whole", {
  skip,
}, async (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const { fd, content } = file(context, 12_345_678);
  const hash = createHash("sha256");
  let received = 0;
  const reader = addon.watch(server, (readable) => {
    if (!readable) return;
    const bytes = receiveAll(server);
    received += bytes.length;
    hash.update(bytes);
  });
  let offset = 0;
  let waits = 0;
  await new Promise<void>((resolve, reject) => {
    const pump = () => {
      try {
        while (offset < content.length) {
          const sent = addon.sendFile(client, fd, offset, content.length - offset);
          if (sent === -1) {
            waits++;
            addon.watchWritable(client, pump);
            return;
          }
          assert.ok(sent > 0);
          offset += sent;
        }
        resolve();
      } catch (error) {
        reject(error instanceof Error ? error : new Error(String(error)));
      }
    };
    pump();
  });
  await waitUntil("all is read", () => received === content.length);
  assert.ok(waits > 0, "the socket was full at times");
  assert.equal(hash.digest("hex"), createHash("sha256").update(content).digest("hex"));
  addon.closeWatch(reader);
  closeAll(client, server);
});

test("a file that shrinks under the sender ends early", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const { path, fd } = file(context, 20_000);
  assert.equal(addon.sendFile(client, fd, 0, 5000), 5000);
  truncateSync(path, 6000);
  assert.equal(addon.sendFile(client, fd, 5000, 15_000), 1000);
  assert.equal(addon.sendFile(client, fd, 6000, 14_000), 0);
  closeAll(client, server);
});

test("a file is sent over a socket of node's own, with a watch on a duplicate", { skip }, async (context) => {
  const addon = requireAddon();
  const { fd, content } = file(context, 3_000_000);
  const received: Buffer[] = [];
  const listener = net.createServer((socket) => socket.on("data", (chunk: Buffer) => received.push(chunk)));
  const path = join(scratchFolder(context), "node.sock");
  await new Promise<void>((resolve) => listener.listen(path, resolve));
  const socket = net.connect(path);
  await new Promise((resolve) => socket.once("connect", resolve));
  const own = (socket as unknown as { _handle: { fd: number } })._handle.fd;
  assert.throws(() => addon.watchWritable(own, () => {}), systemError("EEXIST"));
  const duplicate = addon.duplicateDescriptor(own);
  for (let offset = 0; offset < content.length; ) {
    const sent = addon.sendFile(own, fd, offset, content.length - offset);
    if (sent < 0) await new Promise<void>((resolve) => void addon.watchWritable(duplicate, resolve));
    else offset += sent;
  }
  addon.closeDescriptor(duplicate);
  const length = () => received.reduce((sum, { length }) => sum + length, 0);
  await waitUntil("all is read", () => length() === content.length);
  assert.ok(Buffer.concat(received).equals(content));
  socket.destroy();
  listener.close();
});

test("sending to a peer that has gone is EPIPE and kills nobody, also where SIGPIPE is not ignored any more", {
  skip,
}, async (context) => {
  const path = join(scratchFolder(context), "gone.sock");
  const code = (prepare: string, attempt: string) => `
    import { openSync } from "node:fs";
    ${prepare}
    const listener = addon.bindSocket(${JSON.stringify(path)}, 0o600, -1);
    addon.listenSocket(listener, 1);
    const client = addon.connectSocket(${JSON.stringify(path)});
    const server = addon.acceptSocket(listener);
    addon.shutdownSocket(server);
    addon.closeDescriptor(server);
    const file = openSync(process.execPath, "r");
    for (let i = 0; i < 3; i++) try { ${attempt} } catch (error) { console.log(error.code, error.syscall); }
    process.kill(process.pid, 0);
    console.log("lives");`;
  const send = "addon.sendFile(client, file, 0, 1000)";
  const noLongerIgnored = `const f = () => console.log("signal"); process.on("SIGPIPE", f); process.off("SIGPIPE", f);`;
  const output = "EPIPE sendfile\nEPIPE sendfile\nEPIPE sendfile\nlives";
  assert.equal(await runChildOk(code("", send)), output);
  const unlink = `import { rmSync } from "node:fs"; rmSync(${JSON.stringify(path)});`;
  assert.equal(await runChildOk(code(unlink + noLongerIgnored, send)), output);
  const { signal } = await runChild(
    `${noLongerIgnored} process.kill(process.pid, "SIGPIPE"); setTimeout(() => {}, 1000);`,
  );
  assert.equal(signal, "SIGPIPE", "the signal would have killed");
});

test("what cannot be sent, or not without waiting, is refused with the reason", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const { fd, path } = file(context, 100);
  assert.throws(() => addon.sendFile(client, fd, 0, 0), RangeError);
  assert.throws(() => addon.sendFile(client, fd, -1, 1), RangeError);
  assert.throws(() => addon.sendFile(client, 999_999, 0, 1), systemError("EBADF"));
  assert.throws(() => addon.sendFile(999_999, fd, 0, 1), systemError("EBADF"));
  assert.throws(() => addon.sendFile(client, server, 0, 1), systemError("ESPIPE"));
  const blocking = openSync(path, "r+");
  assert.throws(() => addon.sendFile(blocking, fd, 0, 1), systemError("EINVAL", /not non-blocking/));
  closeSync(blocking);
  closeAll(client, server);
});

test("a watch for writing is called once, when there is room again, and not after it is closed", {
  skip,
}, async (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  let called = 0;
  addon.watchWritable(client, (...given: unknown[]) => (called += 1 + given.length));
  await waitUntil("there is room at once", () => called > 0);
  await new Promise((resolve) => setTimeout(resolve, 30));
  assert.equal(called, 1);

  while (addon.ringDoorbell(client) === 0) continue;
  const watch = addon.watchWritable(client, () => called++);
  assert.throws(() => addon.watchWritable(client, () => {}), systemError("EEXIST"));
  await new Promise((resolve) => setTimeout(resolve, 30));
  assert.equal(called, 1, "there is no room");
  receiveAll(server);
  await waitUntil("there is room", () => called === 2);
  addon.closeWatch(watch);
  addon.refWatch(watch);

  const closed = addon.watchWritable(client, () => called++);
  addon.closeWatch(closed);
  const closing = addon.watchWritable(client, () => {
    called++;
    addon.closeWatch(closing);
  });
  await waitUntil("the last one", () => called > 2);
  await new Promise((resolve) => setTimeout(resolve, 30));
  assert.equal(called, 3);
  closeAll(client, server);
});

test("a watch for writing is called when the peer hangs up, and then sending says why", { skip }, async (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const { fd } = file(context, 100);
  while (addon.ringDoorbell(client) === 0) continue;
  let called = 0;
  addon.watchWritable(client, () => called++);
  closeAll(server);
  await waitUntil("the call", () => called > 0);
  assert.throws(
    () => addon.sendFile(client, fd, 0, 1),
    (error) => ["EPIPE", "ECONNRESET"].includes((error as { code: string }).code),
  );
  closeAll(client);
});

test("an open watch for writing keeps the process alive, one that was called or unreffed does not, and what it throws is uncaught", {
  skip,
}, async (context) => {
  const path = join(scratchFolder(context), "alive.sock");
  const code = `
    import { rmSync } from "node:fs";
    const listener = addon.bindSocket(${JSON.stringify(path)}, 0o600, -1);
    addon.listenSocket(listener, 1);
    const client = addon.connectSocket(${JSON.stringify(path)});
    const server = addon.acceptSocket(listener);
    rmSync(${JSON.stringify(path)});
    const fill = () => { while (addon.ringDoorbell(client) === 0); };`;
  assert.equal(await runChildOk(`${code} addon.watchWritable(client, () => console.log("called"));`), "called");
  assert.equal(
    await runChildOk(`${code} fill(); addon.unrefWatch(addon.watchWritable(client, () => console.log("called")));`),
    "",
  );
  assert.equal(
    await runChildOk(`${code} fill(); addon.watchWritable(client, () => console.log("called"));
      setTimeout(() => { const into = new Uint8Array(1 << 20); while (addon.receiveMessage(server, into).byteLength > 0); }, 50).unref();
      setTimeout(() => {}, 100);`),
    "called",
  );
  const thrown = await runChild(
    `${code} addon.watchWritable(client, () => { throw new Error("thrown in onWritable"); });`,
  );
  assert.equal(thrown.code, 1);
  assert.match(thrown.stderr, /thrown in onWritable/);
});
