import assert from "node:assert/strict";
import { test } from "node:test";
import type { ReceivedFrame } from "../carrier/carrier.js";
import { Violation } from "../memory/shared/violation.js";
import { FLAG } from "../wire/frame.js";
import { Assembly, Received, takeMetadata } from "./inbound.js";

function piece(bytes: number[], messageLength: number, more: boolean): ReceivedFrame {
  const pieceSource = Uint8Array.of(99, ...bytes, 99);
  return { flags: more ? FLAG.more : 0, messageLength, pieceLength: bytes.length, pieceSource, pieceOffset: 1 } as ReceivedFrame;
}

const reception = { lifetime: "collected", taker: "/test.Service/Method" } as const;

function assemblyOf(messageLength: number): Assembly {
  const frame = { messageLength, inlineLength: messageLength, spanCount: 0 } as ReceivedFrame;
  return new Assembly(frame, Received.of(frame, undefined, reception));
}

const violation = (rule: string) => (error: unknown) => error instanceof Violation && error.rule === rule;

test("pieces become the message in the order they come", () => {
  const assembly = assemblyOf(5);
  assert.equal(assembly.add(piece([1, 2], 5, true)), false);
  assert.equal(assembly.add(piece([3], 5, true)), false);
  assert.equal(assembly.add(piece([4, 5], 5, false)), true);
  assert.deepEqual([...assembly.bytes], [1, 2, 3, 4, 5]);
});

test("pieces that do not add up break the protocol (PIECE-1, PIECE-2)", () => {
  assert.throws(() => assemblyOf(3).add(piece([1, 2, 3, 4], 3, true)), violation("PIECE-1"));
  assert.throws(() => assemblyOf(3).add(piece([1], 4, true)), violation("PIECE-1"));
  assert.throws(() => assemblyOf(3).add(piece([1], 3, false)), violation("PIECE-2"));
  assert.throws(() => assemblyOf(3).add(piece([1, 2, 3], 3, true)), violation("PIECE-2"));
});

test("an empty piece of a message that goes on breaks the protocol: the work would have no bound (PIECE-3)", () => {
  assert.throws(() => assemblyOf(5).add(piece([], 5, true)), violation("PIECE-3"));
});

test("metadata is a copy, whatever the scratch is, and undefined where there is none", () => {
  for (const scratch of [Uint8Array.of(0, 1, 2, 3), Buffer.of(0, 1, 2, 3)]) {
    const metadata = takeMetadata({ scratch, metadataOffset: 1, metadataLength: 2 } as ReceivedFrame)!;
    scratch.fill(9);
    assert.deepEqual([...metadata], [1, 2]);
    assert.equal(takeMetadata({ scratch, metadataOffset: 1, metadataLength: 0 } as ReceivedFrame), undefined);
  }
});
