import assert from "node:assert/strict";
import { closeSync, openSync, readFileSync, readSync, statSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import { requireAddon, SEALS } from "./addon.js";
import { mappingCount, runChildOk, scratchFolder, skip, systemError, waitUntil } from "./fixture.test.util.js";

const PAGE = skip === false ? requireAddon().pageSize() : 4096;
const SEALED = SEALS.WRITE | SEALS.SHRINK | SEALS.GROW | SEALS.SEAL;

function scratchFile(context: TestContext, name: string, content: Uint8Array): { path: string; fd: number } {
  const path = join(scratchFolder(context), name);
  writeFileSync(path, content);
  const fd = openSync(path, "r");
  context.after(() => closeSync(fd));
  return { path, fd };
}

/** Bytes that differ from their neighbours, and from those a page further on. */
const pattern = (byteLength: number) =>
  Uint8Array.from({ length: byteLength }, (_, i) => (i * 31 + (i >> 8) * 7) & 255);

test("a file is mapped privately at any offset and with any length", { skip }, (context) => {
  const addon = requireAddon();
  const content = pattern(3 * PAGE + 123);
  const { fd } = scratchFile(context, "odd-offsets", content);
  const end = content.length;
  for (const [offset, byteLength] of [
    [0, end],
    [0, 1],
    [1, 1],
    [end - 1, 1],
    [PAGE, PAGE],
    [PAGE - 1, 2],
    [PAGE + 1, 2 * PAGE],
    [17, end - 17],
    [2 * PAGE + 5, 3],
  ] as const) {
    const buffer = addon.mapPrivate(fd, offset, byteLength);
    assert.equal(buffer.byteLength, byteLength);
    assert.deepEqual(new Uint8Array(buffer), content.subarray(offset, offset + byteLength), `${offset} ${byteLength}`);
    addon.detachMapping(buffer);
  }
});

test("what is written through a private mapping stays there, also of a file open for reading only", {
  skip,
}, (context) => {
  const addon = requireAddon();
  const content = pattern(2 * PAGE);
  const { path, fd } = scratchFile(context, "copy-on-write", content);
  const mine = new Uint8Array(addon.mapPrivate(fd, 5, PAGE));
  const other = new Uint8Array(addon.mapPrivate(fd, 0, 2 * PAGE));
  mine.fill(255);
  assert.ok(mine.every((byte) => byte === 255));
  assert.deepEqual(new Uint8Array(readFileSync(path)), content);
  assert.deepEqual(other, content);
});

test("a private mapping is unmapped with its buffer and its views, at the latest of them", {
  skip,
}, async (context) => {
  const addon = requireAddon();
  const { fd } = scratchFile(context, "private-life", pattern(3 * PAGE));
  const buffer = addon.mapPrivate(fd, 100, 2 * PAGE);
  const view = new Uint8Array(addon.viewMapping(buffer, 1, PAGE, 0));
  assert.equal(view[0], pattern(200)[101]);
  addon.detachMapping(buffer);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(mappingCount("private-life"), 1);
  view[0] = 1;
  addon.detachMapping(view.buffer);
  await waitUntil("unmapped", () => mappingCount("private-life") === 0);
});

test("a memfd is mapped privately, sealed or not", { skip }, (context) => {
  const addon = requireAddon();
  const fd = addon.createSegment("private-memfd", PAGE);
  context.after(() => addon.closeDescriptor(fd));
  writeSync(fd, "hello");
  const before = Buffer.from(addon.mapPrivate(fd, 1, 3));
  addon.sealSegment(fd, SEALED);
  const after = Buffer.from(addon.mapPrivate(fd, 1, 3));
  assert.equal(before.toString(), "ell");
  assert.equal(after.toString(), "ell");
  after[0] = 0x45;
  assert.equal(before.toString(), "ell");
});

test("ranges past the end of the file, of nothing, too long, or of what is no file are refused", {
  skip,
}, (context) => {
  const addon = requireAddon();
  const { path, fd } = scratchFile(context, "past-the-end", pattern(PAGE + 1));
  const message = /^map \d+ bytes at \d+ of descriptor \d+: the file has 4097 bytes \(EINVAL\)$/;
  for (const [offset, byteLength] of [
    [0, PAGE + 2],
    [PAGE + 1, 1],
    [PAGE, 2],
    [2 ** 40, 1],
    [Number.MAX_SAFE_INTEGER, 1],
    [0, 2 ** 32 - 1],
  ] as const) {
    assert.throws(
      () => addon.mapPrivate(fd, offset, byteLength),
      systemError("EINVAL", PAGE === 4096 ? message : undefined),
    );
  }
  for (const byteLength of [0, 2 ** 32, -1, 0.5]) assert.throws(() => addon.mapPrivate(fd, 0, byteLength), RangeError);
  const directory = openSync("/", "r");
  const device = openSync("/dev/zero", "r");
  const writeOnly = openSync(path, "a");
  context.after(() => [directory, device, writeOnly].forEach(closeSync));
  assert.throws(() => addon.mapPrivate(directory, 0, 1), systemError("EINVAL", /not a regular file/));
  assert.throws(() => addon.mapPrivate(device, 0, 1), systemError("EINVAL", /not a regular file/));
  assert.throws(() => addon.mapPrivate(writeOnly, 0, 1), systemError("EACCES"));
  assert.throws(() => addon.mapPrivate(999_999, 0, 1), systemError("EBADF"));
  assert.equal(mappingCount("past-the-end"), 0);
});

test("almost 4 GiB of a sparse file are mapped, and only the page that is touched is taken", { skip }, async () => {
  const output = await runChildOk(`
    const fd = addon.createSegment("sparse", 2 ** 33);
    const buffer = addon.mapPrivate(fd, 2 ** 32 + 1, 2 ** 32 - 1);
    const bytes = new Uint8Array(buffer);
    bytes[bytes.length - 1] = 7;
    console.log(buffer.byteLength, bytes[bytes.length - 1], addon.inspectSegment(fd).allocatedBytes);`);
  assert.equal(output, `4294967295 7 ${PAGE}`);
});

test("inspecting says how much memory a segment has, so that a sparse one is told from a committed one", {
  skip,
}, (context) => {
  const addon = requireAddon();
  const fd = addon.createSegment("allocated", 16 * PAGE);
  context.after(() => addon.closeDescriptor(fd));
  assert.equal(addon.inspectSegment(fd).allocatedBytes, 0);
  addon.commitPages(fd, 0, 15 * PAGE);
  assert.equal(addon.inspectSegment(fd).allocatedBytes, 15 * PAGE);
  addon.commitPages(fd, 0, 16 * PAGE);
  assert.equal(addon.inspectSegment(fd).allocatedBytes, 16 * PAGE);
  assert.equal(statSync(`/proc/self/fd/${fd}`).blocks * 512, 16 * PAGE);
});

function region(context: TestContext, name: string, pages: number): { fd: number; mapping: ArrayBuffer } {
  const addon = requireAddon();
  const fd = addon.createSegment(name, pages * PAGE);
  context.after(() => addon.closeDescriptor(fd));
  return { fd, mapping: addon.mapSegment(fd, pages * PAGE, 0, true) };
}

test("a sealed region keeps its bytes for everybody, and later stores are its buffer's alone", {
  skip,
}, async (context) => {
  const addon = requireAddon();
  const { fd, mapping } = region(context, "sealed-region", 4);
  const bytes = new Uint8Array(mapping);
  const view = new Uint8Array(addon.viewMapping(mapping, PAGE, PAGE, 0));
  const content = pattern(4 * PAGE);
  bytes.set(content);
  addon.sealRegion(fd, mapping);

  assert.deepEqual(bytes, content, "the buffer has what it had");
  assert.equal(addon.inspectSegment(fd).seals & 31, SEALED);
  bytes[0] = content[0] ^ 255;
  bytes[3 * PAGE] = content[3 * PAGE] ^ 255;
  view[7] = content[PAGE + 7] ^ 255;
  assert.equal(bytes[PAGE + 7], content[PAGE + 7] ^ 255, "views made before it show the same memory");
  assert.deepEqual(new Uint8Array(addon.mapSegment(fd, 4 * PAGE, 0, false)), content);
  const read = new Uint8Array(4 * PAGE);
  readSync(fd, read, 0, read.length, 0);
  assert.deepEqual(read, content);
  assert.throws(() => addon.mapSegment(fd, 4 * PAGE, 0, true), systemError("EPERM"));
  assert.throws(() => writeSync(fd, "x"), { code: "EPERM" });

  const elsewhere = await runChildOk(
    `import { openSync } from "node:fs";
     const fd = openSync("/proc/${process.pid}/fd/${fd}", "r");
     console.log(Buffer.from(addon.mapSegment(fd, ${4 * PAGE}, 0, false)).toString("base64"));`,
  );
  assert.equal(elsewhere, Buffer.from(content).toString("base64"));
});

test("a sealed region is one mapping, and goes with its buffer", { skip }, async (context) => {
  const addon = requireAddon();
  const { fd, mapping } = region(context, "sealed-life", 4);
  new Uint8Array(mapping)[0] = 1;
  addon.sealRegion(fd, mapping);
  assert.equal(mappingCount("sealed-life"), 1);
  addon.detachMapping(mapping);
  await waitUntil("unmapped", () => mappingCount("sealed-life") === 0);
});

test("a region that somebody else maps for writing is not sealed and stays as it was, until they are gone", {
  skip,
}, async (context) => {
  const addon = requireAddon();
  const { fd, mapping } = region(context, "busy", 2);
  const other = addon.mapSegment(fd, 2 * PAGE, 0, true);
  const [mine, theirs] = [new Uint8Array(mapping), new Uint8Array(other)];
  mine[0] = 1;
  assert.throws(
    () => addon.sealRegion(fd, mapping),
    systemError("EBUSY", /^seal descriptor \d+ against writing, with the mapping as it was before: .*\(EBUSY\)/),
  );
  assert.equal(addon.inspectSegment(fd).seals & SEALED, 0);
  mine[0] = 2;
  assert.equal(theirs[0], 2, "still shared");
  addon.detachMapping(other);
  await waitUntil("unmapped", () => mappingCount("busy") === 1);
  addon.sealRegion(fd, mapping);
  assert.equal(mine[0], 2);
  assert.equal(addon.inspectSegment(fd).seals & 31, SEALED);
});

test("only a writable mapping of the whole segment without mirror can be sealed, once", { skip }, (context) => {
  const addon = requireAddon();
  const any = addon as unknown as { sealRegion(...values: unknown[]): void };
  const { fd, mapping } = region(context, "only", 2);
  const other = region(context, "another", 2);
  const readOnly = addon.mapSegment(fd, 2 * PAGE, 0, false);
  const part = addon.mapSegment(fd, PAGE, 0, true);
  const mirrored = addon.mapSegment(fd, 2 * PAGE, PAGE, true);
  const copy = addon.mapPrivate(fd, 0, 2 * PAGE);
  for (const wrong of [readOnly, part, mirrored, copy, new ArrayBuffer(2 * PAGE), new Uint8Array(mapping), undefined]) {
    assert.throws(() => any.sealRegion(fd, wrong), TypeError);
  }
  assert.throws(() => addon.sealRegion(other.fd, mapping), TypeError, "of another file");
  assert.throws(() => addon.sealRegion(999_999, mapping), systemError("EBADF"));
  assert.equal(addon.inspectSegment(fd).seals & SEALED, 0);
  for (const buffer of [readOnly, part, mirrored, copy]) addon.detachMapping(buffer);

  addon.sealRegion(other.fd, other.mapping);
  assert.throws(() => addon.sealRegion(other.fd, other.mapping), TypeError, "sealed already");
  const { fd: sealed, mapping: writable } = region(context, "no-more-seals", 1);
  addon.sealSegment(sealed, SEALS.SEAL);
  new Uint8Array(writable)[0] = 5;
  assert.throws(() => addon.sealRegion(sealed, writable), systemError("EPERM", /as it was before/));
  new Uint8Array(writable)[1] = 6;
  assert.deepEqual(Array.from(readFileSync(`/proc/self/fd/${sealed}`).subarray(0, 2)), [5, 6], "still shared");
  addon.detachMapping(mapping);
  assert.throws(() => addon.sealRegion(fd, mapping), TypeError, "detached");
});
