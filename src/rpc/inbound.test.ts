import assert from "node:assert/strict";
import { test } from "node:test";
import type { ReceivedFrame } from "../carrier/carrier.js";
import { Violation } from "../memory/shm/violation.js";
import { FLAG } from "../wire/frame.js";
import { Reassembler, ReceivedParts, takeMetadata } from "./inbound.js";

function fragment(bytes: number[], messageLength: number, more: boolean): ReceivedFrame {
  const fragmentSource = Uint8Array.of(99, ...bytes, 99);
  return {
    flags: more ? FLAG.more : 0,
    messageLength,
    fragmentLength: bytes.length,
    fragmentSource,
    fragmentOffset: 1,
  } as ReceivedFrame;
}

const receivePolicy = { lifetime: "collected", callLabel: "/test.Service/Method" } as const;

function assemblyOf(messageLength: number): Reassembler {
  const frame = { messageLength, inlineLength: messageLength, spanCount: 0 } as ReceivedFrame;
  return new Reassembler(frame, ReceivedParts.of(frame, undefined, receivePolicy));
}

const violation = (rule: string) => (error: unknown) => error instanceof Violation && error.rule === rule;

test("fragments become the message in the order they come", () => {
  const reassembler = assemblyOf(5);
  assert.equal(reassembler.add(fragment([1, 2], 5, true)), false);
  assert.equal(reassembler.add(fragment([3], 5, true)), false);
  assert.equal(reassembler.add(fragment([4, 5], 5, false)), true);
  assert.deepEqual([...reassembler.bytes], [1, 2, 3, 4, 5]);
});

test("fragments that do not add up break the protocol (PIECE-1, PIECE-2)", () => {
  assert.throws(() => assemblyOf(3).add(fragment([1, 2, 3, 4], 3, true)), violation("PIECE-1"));
  assert.throws(() => assemblyOf(3).add(fragment([1], 4, true)), violation("PIECE-1"));
  assert.throws(() => assemblyOf(3).add(fragment([1], 3, false)), violation("PIECE-2"));
  assert.throws(() => assemblyOf(3).add(fragment([1, 2, 3], 3, true)), violation("PIECE-2"));
});

test("an empty fragment of a message that goes on breaks the protocol: the work would have no bound (PIECE-3)", () => {
  assert.throws(() => assemblyOf(5).add(fragment([], 5, true)), violation("PIECE-3"));
});

test("metadata is a copy, whatever the scratch is, and undefined where there is none", () => {
  for (const scratch of [Uint8Array.of(0, 1, 2, 3), Buffer.of(0, 1, 2, 3)]) {
    const metadata = takeMetadata({ scratch, metadataOffset: 1, metadataLength: 2 } as ReceivedFrame)!;
    scratch.fill(9);
    assert.deepEqual([...metadata], [1, 2]);
    assert.equal(takeMetadata({ scratch, metadataOffset: 1, metadataLength: 0 } as ReceivedFrame), undefined);
  }
});
