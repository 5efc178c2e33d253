import assert from "node:assert/strict";
import { closeSync, existsSync, fstatSync, openSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { requireAddon } from "./addon.js";
import {
  closeAll,
  descriptorCount,
  runChild,
  runChildOk,
  scratchFolder,
  skip,
  socketPair,
  systemError,
  waitUntil,
} from "./fixture.test.util.js";

const EAGAIN = -11;
const EPIPE = -32;

test("a bound path has the mode that was asked for, whatever the umask", { skip }, (context) => {
  const addon = requireAddon();
  const folder = scratchFolder(context);
  for (const mode of [0o600, 0o660, 0o666, 0o777, 0o200, 0]) {
    const path = join(folder, `mode-${mode.toString(8)}.sock`);
    const fd = addon.bindSocket(path, mode, -1);
    assert.equal(statSync(path).mode & 0o7777, mode);
    addon.closeDescriptor(fd);
  }
});

test("a bound path has the group that was asked for", { skip }, (context) => {
  if (process.getuid?.() !== 0) return context.skip("needs root");
  const addon = requireAddon();
  const path = join(scratchFolder(context), "group.sock");
  const fd = addon.bindSocket(path, 0o660, 12345);
  assert.equal(statSync(path).gid, 12345);
  assert.equal(statSync(path).uid, 0);
  assert.equal(statSync(path).mode & 0o7777, 0o660);
  addon.closeDescriptor(fd);
});

test("a group that may not be given leaves no path and no descriptor behind", { skip }, async (context) => {
  if (process.getuid?.() !== 0) return context.skip("needs root, to become another user");
  const output = await runChildOk(`
    import { existsSync, mkdtempSync, readdirSync, rmdirSync } from "node:fs";
    process.setgroups([]);
    process.setgid(65534);
    process.setuid(65534);
    const folder = mkdtempSync("/tmp/isthmus-os-");
    process.stdout; // opens a descriptor of its own
    const before = readdirSync("/proc/self/fd").length;
    try { addon.bindSocket(folder + "/x.sock", 0o660, 0); } catch (error) { console.log(error.code, error.syscall); }
    console.log(existsSync(folder + "/x.sock"), readdirSync("/proc/self/fd").length - before);
    rmdirSync(folder);`);
  assert.equal(output, "EPERM chown\nfalse 0");
});

test("a path that is taken is left alone", { skip }, (context) => {
  const addon = requireAddon();
  const path = join(scratchFolder(context), "taken");
  writeFileSync(path, "mine");
  const before = descriptorCount();
  assert.throws(() => addon.bindSocket(path, 0o600, -1), systemError("EADDRINUSE", /^bind to /));
  assert.ok(existsSync(path));
  assert.equal(descriptorCount(), before);
});

test("a path of 107 bytes is bound and connected; of 108 it is refused with both numbers", { skip }, (context) => {
  const addon = requireAddon();
  const folder = scratchFolder(context);
  const longest = `${folder}/${"é".repeat(40)}`.padEnd(107 - 40, "x");
  assert.equal(Buffer.byteLength(longest), 107);
  const listener = addon.bindSocket(longest, 0o600, -1);
  addon.listenSocket(listener, 1);
  closeAll(addon.connectSocket(longest), listener);

  const before = descriptorCount();
  const message = /the path has 108 bytes, the limit of a socket's is 107 \(ENAMETOOLONG\)$/;
  assert.throws(() => addon.bindSocket(`${longest}x`, 0o600, -1), systemError("ENAMETOOLONG", message));
  assert.throws(() => addon.connectSocket(`${longest}x`), systemError("ENAMETOOLONG", message));
  assert.throws(() => addon.connectSocket("x".repeat(100_000)), systemError("ENAMETOOLONG", /100000 bytes/));
  assert.equal(descriptorCount(), before);
});

test("empty paths and paths with NUL are refused", { skip }, () => {
  const addon = requireAddon();
  for (const path of ["", "\0abstract", "/tmp/a\0b"]) {
    assert.throws(() => addon.connectSocket(path), systemError("EINVAL"));
    assert.throws(() => addon.bindSocket(path, 0o600, -1), systemError("EINVAL"));
  }
  assert.equal(existsSync("/tmp/a"), false);
});

test("connecting fails with the reason and leaves no descriptor", { skip }, (context) => {
  const addon = requireAddon();
  const path = join(scratchFolder(context), "backlog.sock");
  const bound = addon.bindSocket(path, 0o600, -1);
  const before = descriptorCount();
  assert.throws(() => addon.connectSocket(path), systemError("ECONNREFUSED"));
  assert.throws(() => addon.connectSocket(`${path}x`), systemError("ENOENT"));
  assert.equal(descriptorCount(), before);

  addon.listenSocket(bound, 0);
  const clients = [addon.connectSocket(path)];
  assert.throws(() => {
    for (let i = 0; i < 10; i++) clients.push(addon.connectSocket(path));
  }, systemError("EAGAIN"));
  assert.equal(descriptorCount(), before + clients.length);
  closeAll(bound, ...clients);
});

test("accepting takes who waits, then says -1", { skip }, (context) => {
  const addon = requireAddon();
  const path = join(scratchFolder(context), "accept.sock");
  const listener = addon.bindSocket(path, 0o600, -1);
  addon.listenSocket(listener, 8);
  assert.equal(addon.acceptSocket(listener), -1);
  const clients = [addon.connectSocket(path), addon.connectSocket(path)];
  const servers = [addon.acceptSocket(listener), addon.acceptSocket(listener)];
  assert.ok(servers.every((fd) => fd > 2));
  assert.equal(addon.acceptSocket(listener), -1);
  closeAll(listener, ...clients, ...servers);
});

test("the peer's credentials are its process, user and group", { skip }, async (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const expected = { pid: process.pid, uid: process.getuid!(), gid: process.getgid!() };
  assert.deepEqual(addon.peerCredentials(client), expected);
  assert.deepEqual(addon.peerCredentials(server), expected);
  closeAll(client, server);

  const path = join(scratchFolder(context), "credentials.sock");
  const bound = addon.bindSocket(path, 0o600, -1);
  assert.throws(() => addon.peerCredentials(bound), systemError("ENOTCONN"));
  addon.listenSocket(bound, 1);
  const child = await runChildOk(`addon.connectSocket(${JSON.stringify(path)}); console.log(process.pid)`);
  const accepted = addon.acceptSocket(bound);
  assert.equal(addon.peerCredentials(accepted).pid, Number(child));
  closeAll(bound, accepted);
});

test("a message carries bytes and descriptors within a process", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const segment = addon.createSegment("passed", addon.pageSize());
  new Uint8Array(addon.mapSegment(segment, addon.pageSize(), 0, true))[9] = 99;
  const before = descriptorCount();

  assert.equal(addon.sendMessage(client, Buffer.from("hello"), [segment, segment]), 5);
  const into = new Uint8Array(64);
  const { byteLength, descriptors } = addon.receiveMessage(server, into);
  assert.equal(Buffer.from(into.subarray(0, byteLength)).toString(), "hello");
  assert.equal(descriptors.length, 2);
  assert.equal(descriptorCount(), before + 2);
  for (const fd of descriptors) {
    assert.equal(fstatSync(fd).ino, fstatSync(segment).ino);
    assert.equal(new Uint8Array(addon.mapSegment(fd, addon.pageSize(), 0, false))[9], 99);
  }
  assert.deepEqual(addon.receiveMessage(server, into), { byteLength: -1, descriptors: [] });
  closeAll(client);
  assert.deepEqual(addon.receiveMessage(server, into), { byteLength: 0, descriptors: [] });
  closeAll(server, segment, ...descriptors);
});

test("one read does not join the descriptors of two messages", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const spare = addon.openSpare();
  addon.sendMessage(client, Uint8Array.of(1), [spare]);
  addon.sendMessage(client, Uint8Array.of(2), [spare, spare]);
  const into = new Uint8Array(64);
  const first = addon.receiveMessage(server, into);
  const second = addon.receiveMessage(server, into);
  assert.deepEqual([first.byteLength, first.descriptors.length], [1, 1]);
  assert.deepEqual([second.byteLength, second.descriptors.length], [1, 2]);
  closeAll(client, server, spare, ...first.descriptors, ...second.descriptors);
});

test("sixteen descriptors fit a message", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const spare = addon.openSpare();
  addon.sendMessage(client, Uint8Array.of(0), new Array<number>(16).fill(spare));
  const { descriptors } = addon.receiveMessage(server, new Uint8Array(1));
  assert.equal(new Set(descriptors).size, 16);
  closeAll(client, server, spare, ...descriptors);
});

test("a segment crosses to another process, which can read it and not write it", { skip }, async (context) => {
  const addon = requireAddon();
  const page = addon.pageSize();
  const path = join(scratchFolder(context), "cross.sock");
  const listener = addon.bindSocket(path, 0o600, -1);
  addon.listenSocket(listener, 1);
  const child = runChildOk(`
    const socket = addon.connectSocket(${JSON.stringify(path)});
    const into = new Uint8Array(16);
    let message;
    while ((message = addon.receiveMessage(socket, into)).byteLength < 0) await new Promise((r) => setTimeout(r, 5));
    const [fd] = message.descriptors;
    const { seals, byteLength } = addon.inspectSegment(fd);
    try { addon.mapSegment(fd, byteLength, 0, true); } catch (error) { console.log(error.code); }
    console.log(seals & 31, Buffer.from(addon.mapSegment(fd, byteLength, 0, false), 0, 5).toString());`);
  let accepted = -1;
  await waitUntil("the child connects", () => (accepted = addon.acceptSocket(listener)) >= 0);
  const segment = addon.createSegment("cross", page);
  Buffer.from(addon.mapSegment(segment, page, 0, true)).write("hello");
  addon.sealSegment(segment, 0x10 | 0x4 | 0x2 | 0x1);
  assert.equal(addon.sendMessage(accepted, Uint8Array.of(1), [segment]), 1);
  assert.equal(await child, "EPERM\n23 hello");
  closeAll(listener, accepted, segment);
});

test("sending says -1 when the peer's buffer is full, and a part may be taken", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  const bytes = new Uint8Array(1 << 20);
  let taken = 0;
  let last: number;
  while ((last = addon.sendMessage(client, bytes, [])) >= 0) taken += last;
  assert.equal(last, -1);
  assert.ok(taken > 0 && taken % bytes.length !== 0, "the last one was taken in part");
  closeAll(server);
  assert.throws(() => addon.sendMessage(client, bytes, []), systemError("EPIPE"));
  closeAll(client);
});

test("more descriptors than fit are all closed, and the reader is told", { skip }, async (context) => {
  const addon = requireAddon();
  const path = join(scratchFolder(context), "many.sock");
  const listener = addon.bindSocket(path, 0o600, -1);
  addon.listenSocket(listener, 1);
  const sender = runChild("", {
    shell: `exec python3 -c 'import socket, time, array
s = socket.socket(socket.AF_UNIX); s.connect("${path}")
s.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 17))]); s.recv(1)'`,
  });
  let accepted = -1;
  const ready = waitUntil("the sender connects", () => (accepted = addon.acceptSocket(listener)) >= 0);
  const first = await Promise.race([ready, sender]);
  if (first !== undefined) return context.skip(`no python3 to send with: ${first.stderr}`);
  const before = descriptorCount();
  const into = new Uint8Array(8);
  let error: unknown;
  await waitUntil("the message", () => {
    try {
      return addon.receiveMessage(accepted, into).byteLength >= 0;
    } catch (caught) {
      error = caught;
      return true;
    }
  });
  systemError("EMSGSIZE", /more than 16 descriptors/)(error);
  assert.equal(descriptorCount(), before);
  closeAll(listener, accepted);
  await sender;
});

test("descriptors that the table has no room for are EMFILE, and none leaks", { skip }, async () => {
  const output = await runChildOk(
    `
    import { mkdtempSync, rmSync, readdirSync } from "node:fs";
    const folder = mkdtempSync("/tmp/isthmus-os-");
    const listener = addon.bindSocket(folder + "/s", 0o600, -1);
    addon.listenSocket(listener, 4);
    const client = addon.connectSocket(folder + "/s");
    const server = addon.acceptSocket(listener);
    const waiting = addon.connectSocket(folder + "/s");
    rmSync(folder, { recursive: true });
    addon.sendMessage(client, Uint8Array.of(1), [0, 1, 2]);
    process.stdout; // opens a descriptor of its own
    const held = [];
    try { for (;;) held.push(addon.openSpare()); } catch {}
    addon.closeDescriptor(held.pop());
    try { addon.receiveMessage(server, new Uint8Array(8)); } catch (error) { console.log(error.message); }
    while (addon.closesUnderWay() > 0); // what came is closed by another thread
    held.push(addon.openSpare());
    try { addon.openSpare(); console.log("room?"); } catch (error) { console.log(error.code); }
    try { addon.acceptSocket(listener); } catch (error) { console.log(error.syscall, error.code); }
    addon.closeDescriptor(held.pop());
    console.log(addon.acceptSocket(listener) > 0);`,
    { shell: 'ulimit -n 48; exec "$@"' },
  );
  const lines = output.split("\n");
  assert.match(lines[0], /^receive descriptors .*\(EMFILE\); raise the limit of open files \(ulimit -n\)$/);
  assert.deepEqual(lines.slice(1), ["EMFILE", "accept EMFILE", "true"]);
});

test("a doorbell rings, is cleared, and is clear", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  assert.equal(addon.clearDoorbell(server, []), 0);
  assert.equal(addon.ringDoorbell(client), 0);
  assert.equal(addon.ringDoorbell(client), 0);
  assert.equal(addon.clearDoorbell(server, []), 2);
  assert.equal(addon.clearDoorbell(server, []), 0);
  closeAll(client, server);
});

test("a doorbell that nobody clears fills up and never waits", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  let rung = 0;
  let answer: number;
  while ((answer = addon.ringDoorbell(client)) === 0) assert.ok(++rung < 1_000_000);
  assert.equal(answer, EAGAIN);
  let cleared = 0;
  for (let taken: number; (taken = addon.clearDoorbell(server, [])) > 0; cleared += taken) assert.ok(taken <= 4096);
  assert.equal(cleared, rung);
  assert.equal(addon.ringDoorbell(client), 0);
  closeAll(client, server);
});

test("clearing a doorbell gives the peer's last rings, and then says -1 when it hung up", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  addon.ringDoorbell(client);
  closeAll(client);
  assert.equal(addon.clearDoorbell(server, []), 1);
  assert.equal(addon.clearDoorbell(server, []), -1);
  assert.equal(addon.ringDoorbell(server), EPIPE);
  closeAll(server);

  const [reset, left] = socketPair(context);
  addon.ringDoorbell(reset);
  closeAll(left);
  assert.equal(addon.clearDoorbell(reset, []), -1, "ECONNRESET");
  closeAll(reset);
});

test("clearing a doorbell says -2 when a byte is not zero", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  addon.sendMessage(client, Uint8Array.of(0, 0, 7), []);
  assert.equal(addon.clearDoorbell(server, []), -2);
  closeAll(client, server);
});

test("a shut down socket reads as closed at both ends, and shutting down is forgiving", { skip }, (context) => {
  const addon = requireAddon();
  const [client, server] = socketPair(context);
  addon.shutdownSocket(client);
  addon.shutdownSocket(client);
  assert.equal(addon.clearDoorbell(server, []), -1);
  assert.equal(addon.ringDoorbell(client), EPIPE);
  const path = join(scratchFolder(context), "unconnected.sock");
  const bound = addon.bindSocket(path, 0o600, -1);
  addon.shutdownSocket(bound);
  closeAll(client, server, bound);
  assert.throws(() => addon.shutdownSocket(bound), systemError("EBADF"));
});

test("calls on what is no socket, or not open, say so and leak nothing", { skip }, () => {
  const addon = requireAddon();
  const before = descriptorCount();
  const file = openSync("/dev/null", "r+");
  assert.equal(addon.ringDoorbell(file), -88);
  assert.throws(() => addon.clearDoorbell(file, []), systemError("ENOTSOCK"));
  assert.throws(() => addon.acceptSocket(file), systemError("ENOTSOCK"));
  assert.throws(() => addon.listenSocket(file, 1), systemError("ENOTSOCK"));
  assert.throws(() => addon.sendMessage(file, Uint8Array.of(1), []), systemError("ENOTSOCK"));
  assert.throws(() => addon.receiveMessage(file, Uint8Array.of(1)), systemError("ENOTSOCK"));
  assert.throws(() => addon.peerCredentials(file), systemError("ENOTSOCK"));
  closeSync(file);
  assert.equal(addon.ringDoorbell(file), -9);
  assert.throws(
    () => addon.closeDescriptor(file),
    systemError("EBADF", /^close descriptor \d+: this thread does not hold it/),
  );
  assert.equal(descriptorCount(), before);
});
