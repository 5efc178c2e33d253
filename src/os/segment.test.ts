import assert from "node:assert/strict";
import { closeSync, openSync, readFileSync, statSync, writeSync } from "node:fs";
import test, { type TestContext } from "node:test";
import { requireAddon, SEALS } from "./addon.js";
import {
  collectUntil,
  descriptorCount,
  mappingCount,
  runChild,
  runChildOk,
  skip,
  systemError,
  waitUntil,
} from "./fixture.test.util.js";

const PAGE = skip === false ? requireAddon().pageSize() : 4096;

function createSegment(context: TestContext, name: string, byteLength: number): number {
  const fd = requireAddon().createSegment(name, byteLength);
  context.after(() => requireAddon().closeDescriptor(fd));
  return fd;
}

test("a new segment is private, empty, unsealed but sealable, and takes no memory", { skip }, (context) => {
  const addon = requireAddon();
  const fd = createSegment(context, "new", 16 * PAGE);
  const status = statSync(`/proc/self/fd/${fd}`);
  assert.equal(status.mode & 0o777, 0o600);
  assert.equal(status.blocks, 0);
  const { seals, byteLength } = addon.inspectSegment(fd);
  assert.equal(seals & (SEALS.SEAL | SEALS.SHRINK | SEALS.GROW | SEALS.WRITE | SEALS.FUTURE_WRITE), 0);
  assert.equal(byteLength, 16 * PAGE);
  assert.match(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"), /flags:\s+0?2\d{6}/, "close-on-exec");
});

test("seals add up, and SEAL ends it", { skip }, (context) => {
  const addon = requireAddon();
  const fd = createSegment(context, "seals", PAGE);
  addon.sealSegment(fd, SEALS.SHRINK);
  addon.sealSegment(fd, SEALS.GROW | SEALS.SEAL);
  const mask = SEALS.SEAL | SEALS.SHRINK | SEALS.GROW | SEALS.WRITE | SEALS.FUTURE_WRITE;
  assert.equal(addon.inspectSegment(fd).seals & mask, SEALS.SEAL | SEALS.SHRINK | SEALS.GROW);
  assert.throws(() => addon.sealSegment(fd, SEALS.WRITE), systemError("EPERM"));
});

test("a segment sealed FUTURE_WRITE is writable through old mappings only", { skip }, (context) => {
  const addon = requireAddon();
  const fd = createSegment(context, "future-write", PAGE);
  const own = new Uint8Array(addon.mapSegment(fd, PAGE, 0, true));
  addon.sealSegment(fd, SEALS.SHRINK | SEALS.GROW | SEALS.FUTURE_WRITE | SEALS.SEAL);

  const before = descriptorCount();
  const mapped = mappingCount("future-write");
  assert.throws(() => addon.mapSegment(fd, PAGE, 0, true), systemError("EPERM", /writable/));
  assert.throws(() => addon.mapSegment(fd, PAGE, PAGE, true), systemError("EPERM"));
  assert.throws(() => writeSync(fd, "x"), { code: "EPERM" });
  const reopened = openSync(`/proc/self/fd/${fd}`, "r+");
  assert.throws(() => addon.mapSegment(reopened, PAGE, 0, true), systemError("EPERM"));
  closeSync(reopened);
  assert.equal(descriptorCount(), before);
  assert.equal(mappingCount("future-write"), mapped);

  const peer = new Uint8Array(addon.mapSegment(fd, PAGE, 0, false));
  own[5] = 55;
  assert.equal(peer[5], 55);
});

test("a mapping that fails gives its address space back", { skip }, (context) => {
  const addon = requireAddon();
  const byteLength = 64 << 20;
  const fd = createSegment(context, "refused", byteLength);
  addon.sealSegment(fd, SEALS.FUTURE_WRITE);
  const virtualBytes = () => 1024 * Number(/^VmSize:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "utf8"))![1]);
  const before = virtualBytes();
  for (let round = 0; round < 100; round++)
    assert.throws(() => addon.mapSegment(fd, byteLength, 0, true), { code: "EPERM" });
  assert.ok(virtualBytes() - before < 50 * byteLength);
});

test("a read-only mapping of a sealed segment cannot be made writable by mprotect", { skip }, (context) => {
  const addon = requireAddon();
  const fd = createSegment(context, "may-write", PAGE);
  const open = addon.mapSegment(fd, PAGE, 0, false);
  assert.deepEqual(mayWriteFlags("may-write"), [true], "the flag tells the two apart");
  addon.sealSegment(fd, SEALS.FUTURE_WRITE);
  const sealed = addon.mapSegment(fd, PAGE, 0, false);
  assert.deepEqual(mayWriteFlags("may-write").sort(), [false, true]);
  assert.equal(open.byteLength, sealed.byteLength);
});

/** For each mapping of that name: whether mprotect could make it writable (VmFlags "mw"). */
function mayWriteFlags(name: string): boolean[] {
  const ranges = readFileSync("/proc/self/smaps", "utf8").split(/\n(?=[0-9a-f]+-[0-9a-f]+ )/);
  return ranges.filter((range) => range.includes(name)).map((range) => /^VmFlags:.* mw\b/m.test(range));
}

test("a mirror shows the last bytes of the segment behind its end", { skip }, (context) => {
  const addon = requireAddon();
  const fd = createSegment(context, "mirror", 3 * PAGE);
  const writable = new Uint8Array(addon.mapSegment(fd, 3 * PAGE, 2 * PAGE, true));
  assert.equal(writable.length, 5 * PAGE);
  writable[PAGE] = 1;
  writable[3 * PAGE - 1] = 2;
  assert.equal(writable[3 * PAGE], 1);
  assert.equal(writable[5 * PAGE - 1], 2);
  writable[3 * PAGE + 7] = 3;
  assert.equal(writable[PAGE + 7], 3);
  writable[0] = 4;

  const readOnly = new Uint8Array(addon.mapSegment(fd, 3 * PAGE, 2 * PAGE, false));
  assert.deepEqual(readOnly, writable);
  assert.equal(readOnly[0], 4);
  assert.equal(readOnly[3 * PAGE + 7], 3);
});

test("a mirror may be the whole segment", { skip }, (context) => {
  const addon = requireAddon();
  const fd = createSegment(context, "twice", PAGE);
  const bytes = new Uint8Array(addon.mapSegment(fd, PAGE, PAGE, true));
  bytes[PAGE - 1] = 1;
  bytes[PAGE] = 2;
  assert.equal(bytes[2 * PAGE - 1], 1);
  assert.equal(bytes[0], 2);
});

test("a store through a read-only mapping is SIGSEGV, as documented", { skip }, async () => {
  const { signal } = await runChild(`
    const fd = addon.createSegment("read-only", ${PAGE});
    new Uint8Array(addon.mapSegment(fd, ${PAGE}, 0, false))[0] = 1;`);
  assert.equal(signal, "SIGSEGV");
});

test("lengths that are not whole pages, too long or empty are refused", { skip }, (context) => {
  const addon = requireAddon();
  const fd = createSegment(context, "lengths", 4 * PAGE);
  for (const [byteLength, mirrorByteLength] of [
    [0, 0],
    [PAGE + 1, 0],
    [PAGE, 1],
    [PAGE, 2 * PAGE],
    [2 ** 32, 0],
    [2 ** 31, 2 ** 31],
  ] as const) {
    assert.throws(() => addon.mapSegment(fd, byteLength, mirrorByteLength, true), RangeError);
  }
  assert.equal(mappingCount("lengths"), 0);
});

test("the largest mapping is just below 4 GiB", { skip }, (context) => {
  const addon = requireAddon();
  const byteLength = 2 ** 32 - PAGE;
  const fd = createSegment(context, "largest", byteLength);
  const buffer = addon.mapSegment(fd, byteLength, 0, true);
  assert.equal(buffer.byteLength, byteLength);
  new Uint8Array(buffer)[byteLength - 1] = 1;
  addon.detachMapping(buffer);
});

test("a detached mapping is empty at once, unmapped soon, and may be detached again", { skip }, async (context) => {
  const addon = requireAddon();
  const fd = createSegment(context, "detached", PAGE);
  const buffer = addon.mapSegment(fd, PAGE, PAGE, true);
  const view = new Uint8Array(buffer);
  assert.equal(mappingCount("detached"), 2);
  addon.detachMapping(buffer);
  addon.detachMapping(buffer);
  assert.equal(buffer.byteLength, 0);
  assert.equal(view.length, 0);
  await waitUntil("unmapped", () => mappingCount("detached") === 0);
});

test("a collected mapping is unmapped", { skip }, async (context) => {
  const addon = requireAddon();
  const fd = createSegment(context, "collected", PAGE);
  const mapAndDrop = () => void addon.mapSegment(fd, PAGE, 0, true);
  mapAndDrop();
  assert.equal(mappingCount("collected"), 1);
  await collectUntil(() => mappingCount("collected") === 0);
  assert.equal(mappingCount("collected"), 0);
});

test("a mapping stays while a view on it is held, also after its descriptor is closed", { skip }, async () => {
  const addon = requireAddon();
  const fd = addon.createSegment("held", PAGE);
  const view = new Uint8Array(addon.mapSegment(fd, PAGE, 0, true), 10, 10);
  addon.closeDescriptor(fd);
  let rounds = 0;
  await collectUntil(() => ++rounds > 5);
  assert.equal(mappingCount("held"), 1);
  view[0] = 1;
  addon.detachMapping(view.buffer);
  await waitUntil("unmapped", () => mappingCount("held") === 0);
});

const transfers = typeof (ArrayBuffer.prototype as { transfer?: unknown }).transfer === "function";
test("a mapping moves with transfer()", {
  skip: skip || (!transfers && "no ArrayBuffer.prototype.transfer"),
}, async (context) => {
  const addon = requireAddon();
  const fd = createSegment(context, "moved", PAGE);
  const first = addon.mapSegment(fd, PAGE, 0, true);
  new Uint8Array(first)[3] = 33;
  const second = (first as unknown as { transfer(): ArrayBuffer }).transfer();
  assert.equal(first.byteLength, 0);
  let rounds = 0;
  await collectUntil(() => ++rounds > 5);
  assert.equal(mappingCount("moved"), 1);
  assert.equal(new Uint8Array(second)[3], 33);
  addon.detachMapping(second);
  await waitUntil("unmapped", () => mappingCount("moved") === 0);
});

test("pages are committed and returned", { skip }, (context) => {
  const addon = requireAddon();
  const fd = createSegment(context, "pages", 64 * PAGE);
  const bytes = new Uint8Array(addon.mapSegment(fd, 64 * PAGE, 0, true));
  const heldBytes = () => statSync(`/proc/self/fd/${fd}`).blocks * 512;
  bytes[10 * PAGE] = 1;
  addon.commitPages(fd, 8 * PAGE, 8 * PAGE);
  assert.equal(heldBytes(), 8 * PAGE);
  assert.equal(bytes[10 * PAGE], 1, "contents stay");
  addon.returnPages(fd, 8 * PAGE, 4 * PAGE);
  assert.equal(heldBytes(), 4 * PAGE);
  assert.equal(bytes[10 * PAGE], 0);
  assert.equal(addon.inspectSegment(fd).byteLength, 64 * PAGE);
});

test("pages of a sealed segment: no growth beyond the end, none returned under FUTURE_WRITE", { skip }, (context) => {
  const addon = requireAddon();
  const fd = createSegment(context, "sealed-pages", 4 * PAGE);
  addon.sealSegment(fd, SEALS.SHRINK | SEALS.GROW);
  addon.commitPages(fd, 0, 4 * PAGE);
  assert.throws(() => addon.commitPages(fd, 0, 5 * PAGE), systemError("EPERM", /^commit 20480 bytes at 0 of/));
  addon.returnPages(fd, 0, PAGE);
  addon.sealSegment(fd, SEALS.FUTURE_WRITE);
  addon.commitPages(fd, 0, 4 * PAGE);
  assert.throws(() => addon.returnPages(fd, 0, PAGE), systemError("EPERM"));
});

test("what is no memfd is refused", { skip }, (context) => {
  const addon = requireAddon();
  const directory = openSync("/", "r");
  const device = openSync("/dev/null", "r");
  context.after(() => [directory, device].forEach(closeSync));
  assert.throws(() => addon.inspectSegment(directory), systemError("EINVAL", /not a memfd/));
  assert.throws(() => addon.inspectSegment(device), systemError("EINVAL", /not a memfd/));
  assert.throws(() => addon.inspectSegment(999_999), systemError("EBADF"));
});

test("hugetlbfs is refused", { skip }, async (context) => {
  const outcome = await runChild(
    `import { openSync } from "node:fs";
     try { addon.inspectSegment(openSync(process.env.FOLDER + "/huge", "w+")); } catch (error) { console.log(error.message); }`,
    {
      shell: `FOLDER=$(mktemp -d) && export FOLDER && trap 'rmdir "$FOLDER"' EXIT &&
        unshare -m sh -c 'mount -t hugetlbfs none "$FOLDER" || exit 77; exec "$@"' sh "$@"`,
    },
  );
  if (outcome.code !== 0) return context.skip(`hugetlbfs cannot be mounted here: ${outcome.stderr.trim()}`);
  assert.match(outcome.stdout, /hugetlbfs is refused \(EINVAL\)/);
});

test("out of shared memory, commitPages says which limits there are", { skip }, async (context) => {
  const outcome = await runChild(
    `import { openSync, ftruncateSync } from "node:fs";
     const fd = openSync(process.env.FOLDER + "/file", "w+");
     ftruncateSync(fd, 4 << 20);
     try { addon.commitPages(fd, 0, 4 << 20); } catch (error) { console.log(error.message); }`,
    {
      shell: `FOLDER=$(mktemp -d) && export FOLDER && trap 'rmdir "$FOLDER"' EXIT &&
        unshare -m sh -c 'mount -t tmpfs -o size=1m none "$FOLDER" || exit 77; exec "$@"' sh "$@"`,
    },
  );
  if (outcome.code !== 0) return context.skip(`no tmpfs can be mounted here: ${outcome.stderr.trim()}`);
  assert.match(outcome.stdout, /\(ENOSPC\); shared memory is exhausted/);
});

test("out of address space, mapSegment names vm.max_map_count and leaves nothing mapped", { skip }, async (context) => {
  const output = await runChildOk(`
    import { spawnSync } from "node:child_process";
    import { readFileSync } from "node:fs";
    const fd = addon.createSegment("address-space", 1 << 30);
    const bytes = 1024 * Number(/VmSize:\\s+(\\d+)/.exec(readFileSync("/proc/self/status", "utf8"))[1]);
    const limited = spawnSync("prlimit", ["--pid", String(process.pid), "--as=" + (bytes + (256 << 20))]);
    if (limited.status !== 0) console.log("no prlimit");
    else try { addon.mapSegment(fd, 1 << 30, 0, true); } catch (error) { console.log(error.message); }
    if (readFileSync("/proc/self/maps", "utf8").includes("address-space")) console.log("still mapped");`);
  if (output === "no prlimit") return context.skip(output);
  assert.match(
    output,
    /^map 1073741824 bytes .*\(ENOMEM\); the process may have reached vm\.max_map_count \(see \/proc\/sys\/vm\/max_map_count\)$/,
  );
});

test("a process that reaches vm.max_map_count lives, is told the limit, and can map again later", {
  skip,
}, async (context) => {
  const limit = Number(readFileSync("/proc/sys/vm/max_map_count", "utf8"));
  if (limit > 100_000) return context.skip(`vm.max_map_count is ${limit}: too many to try`);
  const output = await runChildOk(`
    import { readFileSync } from "node:fs";
    const fd = addon.createSegment("many", ${PAGE});
    const held = [];
    const mapAll = () => { for (;;) held.push(addon.mapSegment(fd, ${PAGE}, 0, true)); };
    for (let round = 0; round < 3; round++) {
      try { mapAll(); } catch (error) { console.log(error.message); }
      for (let i = 0; i < 10; i++) try { mapAll(); } catch (error) { if (error.code !== "ENOMEM") throw error; }
      console.log(held.length > ${limit} / 2);
      const garbage = [];
      for (let i = 0; i < 100_000; i++) garbage.push({ i });
      for (const mapping of held.splice(0)) addon.detachMapping(mapping);
      while (readFileSync("/proc/self/maps", "utf8").includes("memfd:many")) await new Promise((resolve) => setTimeout(resolve, 20));
    }`);
  const lines = output.split("\n");
  assert.equal(lines.length, 6);
  for (const line of lines) assert.match(line, /^true$|\(ENOMEM\); the process may have reached vm\.max_map_count/);
});

test("ten thousand segments, mapped and detached, leave nothing behind", { skip }, async () => {
  const addon = requireAddon();
  const descriptors = descriptorCount();
  for (let batch = 0; batch < 100; batch++) {
    for (let i = 0; i < 100; i++) {
      const fd = addon.createSegment("cycle", 2 * PAGE);
      const buffer = addon.mapSegment(fd, 2 * PAGE, PAGE, true);
      addon.sealSegment(fd, SEALS.SHRINK | SEALS.GROW | SEALS.FUTURE_WRITE | SEALS.SEAL);
      addon.closeDescriptor(fd);
      new Uint8Array(buffer)[0] = i;
      addon.detachMapping(buffer);
    }
    await new Promise(setImmediate);
  }
  await waitUntil("unmapped", () => mappingCount("cycle") === 0);
  assert.equal(descriptorCount(), descriptors);
});

test("a segment's name that is too long or empty is refused", { skip }, () => {
  const addon = requireAddon();
  const before = descriptorCount();
  assert.throws(() => addon.createSegment("", PAGE), systemError("EINVAL"));
  assert.throws(() => addon.createSegment("x".repeat(250), PAGE), systemError("EINVAL"));
  assert.throws(() => addon.createSegment("x".repeat(5000), PAGE), systemError("ENAMETOOLONG"));
  assert.equal(descriptorCount(), before);
});

test("a segment that cannot get its length is closed again", { skip }, async () => {
  const output = await runChildOk(
    `import { readdirSync } from "node:fs";
     process.stdout; // opens a descriptor of its own
     const before = readdirSync("/proc/self/fd").length;
     try { addon.createSegment("too-large", 1 << 30); } catch (error) { console.log(error.message); }
     console.log(readdirSync("/proc/self/fd").length - before);`,
    { shell: 'ulimit -f 1024; exec "$@"' },
  );
  assert.equal(output, "ftruncate of segment too-large with 1073741824 bytes: File too large (EFBIG)\n0");
});
