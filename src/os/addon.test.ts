import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, statSync, symlinkSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { isSystemError, loadAddon, requireAddon, type Addon } from "./addon.js";
import { descriptorCount, runChildOk, scratchFolder, skip, systemError } from "./fixture.test.util.js";

test("the addon is loaded once", { skip }, () => {
  assert.equal(loadAddon(), loadAddon());
  assert.equal(requireAddon(), loadAddon().addon);
});

test("ISTHMUS_ADDON=none turns the addon off, and the reason says so", () => {
  const url = new URL("./addon.js", import.meta.url).href;
  const code = `
    const { loadAddon, requireAddon } = await import(${JSON.stringify(url)});
    console.log(loadAddon().addon, loadAddon().reason);
    try { requireAddon(); } catch (error) { console.log(error.message); }`;
  const child = spawnSync(process.execPath, ["--input-type=module", "-e", code], {
    env: { ...process.env, ISTHMUS_ADDON: "none" },
    encoding: "utf8",
  });
  assert.deepEqual(child.stdout.trim().split("\n"), [
    "undefined turned off by the environment variable ISTHMUS_ADDON=none",
    "isthmus: the native addon is not available: turned off by the environment variable ISTHMUS_ADDON=none",
  ]);
});

test("a compiled addon goes before a prebuilt one, one that loads before one that does not, and the reason names the place", {
  skip,
}, (context) => {
  const folder = scratchFolder(context);
  const [own, built, prebuilt] = ["dist/src/os", "build", `prebuilds/linux-${process.arch}`].map((path) =>
    join(folder, path),
  );
  for (const path of [own, built, prebuilt]) mkdirSync(path, { recursive: true });
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
  for (const module of ["addon.js", "package-files.js", "runtime.js"])
    copyFileSync(new URL(`./${module}`, import.meta.url), join(own, module));
  const load = (named = "") => {
    const code = `const { loadAddon } = await import("./addon.js"); const { addon, reason } = loadAddon(); console.log(reason ?? addon.pageSize());`;
    return spawnSync(process.execPath, ["--input-type=module", "-e", code], {
      cwd: own,
      env: { ...process.env, ISTHMUS_ADDON: named },
      encoding: "utf8",
    }).stdout.trim();
  };
  const arch = process.arch;
  assert.equal(
    load(),
    `there is no native addon for linux-${arch}; compile one from the package's native folder and set ISTHMUS_ADDON to its path (docs/install.md)`,
  );
  writeFileSync(join(built, "isthmus.node"), "not an addon");
  assert.match(
    load(),
    /^build\/isthmus\.node does not load: .*file too short; compile one from the package's native folder/,
  );
  const working = ["build/isthmus.node", `prebuilds/linux-${arch}/isthmus.node`].find((path) =>
    existsSync(new URL(`../../../${path}`, import.meta.url)),
  );
  copyFileSync(new URL(`../../../${working!}`, import.meta.url), join(prebuilt, "isthmus.node"));
  assert.match(load(), /^\d+$/);

  const elsewhere = join(folder, "elsewhere.node");
  assert.match(load(elsewhere), new RegExp(`^ISTHMUS_ADDON=${elsewhere} does not load: `), "no other is tried");
  copyFileSync(join(prebuilt, "isthmus.node"), elsewhere);
  writeFileSync(join(prebuilt, "isthmus.node"), "");
  assert.match(load(elsewhere), /^\d+$/);
  assert.match(load("../../../elsewhere.node"), /^\d+$/, "relative to the working directory");
});

test("a failed system call has code, errno, syscall and a message for people", { skip }, () => {
  assert.throws(
    () => requireAddon().connectSocket("/nowhere/x.sock"),
    (error) => {
      assert.ok(isSystemError(error));
      assert.equal(error.code, "ENOENT");
      assert.equal(error.errno, -2);
      assert.equal(error.syscall, "connect");
      assert.equal(error.message, "connect to /nowhere/x.sock: No such file or directory (ENOENT)");
      return true;
    },
  );
  assert.equal(isSystemError(new Error("plain")), false);
  assert.equal(isSystemError({ code: "ENOENT", errno: -2, syscall: "open" }), false);
});

test("arguments that make no sense throw before any system call", { skip }, () => {
  const addon = requireAddon();
  const any = addon as unknown as Record<keyof Addon, (...values: unknown[]) => unknown>;
  const before = descriptorCount();
  for (const descriptor of [-1, 0.5, NaN, Infinity, 2 ** 31]) {
    assert.throws(() => any.closeDescriptor(descriptor), RangeError, String(descriptor));
    assert.throws(() => any.watch(descriptor, () => {}), RangeError);
    assert.throws(() => any.clearDoorbell(descriptor, []), RangeError);
  }
  assert.throws(() => any.closeDescriptor("3"), TypeError);
  assert.throws(() => any.closeDescriptor(), TypeError);
  for (const byteLength of [-1, 1.5, NaN, 2 ** 53]) {
    assert.throws(() => any.createSegment("x", byteLength), RangeError);
    assert.throws(() => any.commitPages(0, byteLength, 1), RangeError);
  }
  assert.throws(() => any.createSegment(1, 1), TypeError);
  assert.throws(() => any.mapSegment(0, 4096, 0), TypeError);
  assert.throws(() => any.detachMapping(new Uint8Array(1)), TypeError);
  assert.throws(() => any.sendMessage(0, new Uint16Array(1), []), TypeError);
  assert.throws(() => any.sendMessage(0, new Uint8Array(1), {}), TypeError);
  assert.throws(() => any.sendMessage(0, new Uint8Array(1), [-1]), RangeError);
  assert.throws(() => any.sendMessage(0, new Uint8Array(1), new Array(17).fill(0)), RangeError);
  assert.throws(() => any.sendMessage(0, new Uint8Array(0), [0]), RangeError);
  assert.throws(() => any.receiveMessage(0, new Uint8Array(0)), RangeError);
  assert.throws(() => any.watch(0, undefined), TypeError);
  assert.throws(() => any.closeWatch({}), TypeError);
  assert.throws(() => any.refWatch(undefined), TypeError);
  assert.throws(() => any.bindSocket("/tmp/x", 0o10000, -1), RangeError);
  assert.throws(() => any.bindSocket("/tmp/x", 0o600, -2), RangeError);
  assert.equal(any.ringDoorbell("3"), -22);
  assert.equal(any.ringDoorbell(NaN), -22);
  assert.equal(descriptorCount(), before);
});

test("a file is locked once, within a process and across processes, and only its owner can open it", {
  skip,
}, async (context) => {
  const addon = requireAddon();
  const file = join(scratchFolder(context), "lock");
  const tryInChild = `console.log(addon.lockFile(${JSON.stringify(file)}) >= 0 ? "locked" : "held")`;
  const umask = process.umask(0o777);
  const lock = addon.lockFile(file);
  process.umask(umask);
  assert.ok(lock >= 0);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  const before = descriptorCount();
  assert.equal(addon.lockFile(file), -1);
  assert.equal(descriptorCount(), before);
  assert.equal(await runChildOk(tryInChild), "held");
  addon.closeDescriptor(lock);
  assert.equal(await runChildOk(tryInChild), "locked", "it was left behind");
  const again = addon.lockFile(file);
  assert.ok(again >= 0);
  unlinkSync(file);
  const next = addon.lockFile(file);
  assert.ok(next >= 0, "the file of the next holder is another one");
  addon.closeDescriptor(again);
  addon.closeDescriptor(next);
});

test("locking what cannot be a lock says what is wrong", { skip }, (context) => {
  const addon = requireAddon();
  const folder = scratchFolder(context);
  assert.throws(() => addon.lockFile("/nowhere/lock"), systemError("ENOENT", /^open the lock \/nowhere\/lock: /));
  assert.throws(() => addon.lockFile(folder), systemError("EISDIR"));
  symlinkSync("target", join(folder, "link"));
  assert.throws(() => addon.lockFile(join(folder, "link")), systemError("ELOOP"));
});

test("affinity is that of this thread", { skip }, async (context) => {
  const cpus = requireAddon().affinity();
  assert.ok(cpus.length > 0);
  assert.deepEqual(
    cpus,
    [...cpus].sort((a, b) => a - b),
  );
  const last = cpus.at(-1)!;
  if (spawnSync("taskset", ["--version"]).error !== undefined) return context.skip("no taskset");
  const output = await runChildOk("console.log(JSON.stringify(addon.affinity()))", {
    shell: `taskset -c ${last} "$@"`,
  });
  assert.deepEqual(JSON.parse(output), [last]);
});

test("out of descriptors, the message says how to raise the limit, and a spare helps out once", { skip }, async () => {
  const output = await runChildOk(
    `
    const held = [];
    let error;
    try { for (;;) held.push(addon.openSpare()); } catch (caught) { error = caught; }
    console.log(error.code + "|" + error.message);
    try { addon.createSegment("full", 4096); } catch (caught) { console.log(caught.code + "|" + caught.syscall); }
    addon.closeDescriptor(held.pop());
    const fd = addon.createSegment("fits", 4096);
    addon.closeDescriptor(fd);`,
    { shell: 'ulimit -n 48; exec "$@"' },
  );
  const [spare, segment] = output.split("\n");
  assert.match(spare, /^EMFILE\|open a spare descriptor: Too many open files \(EMFILE\); raise .*ulimit -n/);
  assert.equal(segment, "EMFILE|memfd_create");
});
