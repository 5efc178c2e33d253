import assert from "node:assert/strict";
import test from "node:test";
import fc from "fast-check";
import { eachLine, WholeLines } from "./lines.js";

test("however the bytes are cut, whole lines come out and nothing is lost", () => {
  const fragment = fc
    .array(fc.constantFrom(0x0a, 0x0d, 0x61, 0xff), { maxLength: 12 })
    .map((bytes) => Buffer.from(bytes));
  fc.assert(
    fc.property(fc.array(fragment, { maxLength: 20 }), (fragments) => {
      const lines = new WholeLines();
      const out: Buffer[] = [];
      for (const bytes of fragments) {
        const block = lines.push(bytes);
        if (block === undefined) continue;
        assert.equal(block.at(-1), 0x0a);
        out.push(block);
      }
      const pending = lines.pendingBytes;
      const last = lines.end();
      assert.equal(last?.length ?? 0, pending);
      assert.ok(last === undefined || !last.includes(0x0a));
      if (last !== undefined) out.push(last);
      assert.deepEqual(Buffer.concat(out), Buffer.concat(fragments));
      assert.equal(lines.end(), undefined);
    }),
  );
});

test("a block is cut into its lines, each with its newline", () => {
  const cut = (text: string) => [...eachLine(Buffer.from(text))].map(String);
  assert.deepEqual(cut(""), []);
  assert.deepEqual(cut("a\n\nb"), ["a\n", "\n", "b"]);
  assert.deepEqual(cut("a\r\n"), ["a\r\n"]);
});

test("a long line in many fragments is put together once", () => {
  const lines = new WholeLines();
  for (let at = 0; at < 1000; at++) assert.equal(lines.push(Buffer.alloc(1000, "x")), undefined);
  assert.equal(lines.pendingBytes, 1_000_000);
  assert.equal(lines.push(Buffer.from("y\nz"))?.length, 1_000_002);
  assert.equal(String(lines.end()), "z");
});
