/** What is left of a queue when a message is taken back. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Parts } from "../../wire/parts.js";
import type { Entry } from "./queued.js";
import { QueuedBytes, QueuedHead, takeBack } from "./queued.js";

const bytes = (byteLength: number, value: number) => new Uint8Array(byteLength).fill(value);

function fragment(source: Parts, value: number, isFinal: boolean): [QueuedHead, QueuedBytes, QueuedBytes] {
  const head = new QueuedHead(bytes(32, value), source, isFinal);
  const parts = [new QueuedBytes(bytes(100_000, value), head, true), new QueuedBytes(bytes(5, value), head, false)];
  parts[1].isLast = true;
  return [head, parts[0], parts[1]];
}

const lengths = (entries: readonly Entry[]) =>
  entries.map((entry) => (entry instanceof Uint8Array ? entry.length : "bytes" in entry ? entry.bytes.length : -1));

test("a fragment of which a part was written is filled up, and later ones are taken back, wherever it was cut", () => {
  const frames = bytes(40, 9);
  for (const cut of ["in its frame", "behind its frame", "within its bytes"]) {
    let unused = 0;
    const lost = new Parts([bytes(1, 1)], { use: () => undefined, unuse: () => unused++ });
    const other = fragment(new Parts([]), 2, true);
    const [head, first, second] = fragment(lost, 1, false);
    const last = fragment(lost, 1, true);
    const entries: Entry[] = [head, first, second, frames, ...other, ...last, frames];
    if (cut === "in its frame") head.begin(20);
    else head.begin(32);
    if (cut === "within its bytes") first.advance(70_000);
    const from = cut === "in its frame" ? 0 : 1;
    const before = lengths(entries).reduce((sum, length) => sum + length);
    const { all, ofFragments } = takeBack(entries, from, lost);
    const zeros = cut === "within its bytes" ? [30_000] : [65_536, 100_000 - 65_536];
    assert.deepEqual(lengths(entries), [head.bytes.length, ...zeros, 5, 40, ...lengths(other), 40]);
    assert.deepEqual([all, ofFragments], [32 + 100_005, 100_005]);
    assert.equal(
      before - all,
      lengths(entries).reduce((sum, length) => sum + length),
    );
    assert.ok(
      entries
        .slice(1, 2 + zeros.length)
        .every((entry) => entry instanceof Uint8Array && entry.every((byte) => byte === 0)),
    );
    assert.equal(unused, 2, "neither fragment is read any more");
  }
});

test("a fragment that is with the socket up to its frame has begun; one of which nothing has left has not", () => {
  const lost = new Parts([bytes(1, 1)]);
  const [head, ...parts] = fragment(lost, 1, false);
  const given: Entry[] = [head, ...parts];
  takeBack(given, 1, lost);
  assert.deepEqual(lengths(given), [32, 65_536, 100_000 - 65_536, 5]);
  const waiting: Entry[] = fragment(lost, 1, false);
  takeBack(waiting, 0, lost);
  assert.deepEqual(waiting, []);
});
