/**
 * What a peer's bytes can make the codec hold. For n bytes of input, of the types here, it is at most 400 n and a
 * constant; the factor is the size of an empty message of many fields, which takes three bytes on the wire. It is never
 * half as much again as what protobuf-es holds. What is refused costs no more than copies of the input, whatever
 * lengths it announces.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { Cost } from "./memory.peer.js";

const HELD_PER_BYTE_MAX = 400;
const HELD_TO_PROTOBUF_ES_MAX = 1.5;
const REFUSED_PER_BYTE_MAX = 4;
/** For memory that is shared among messages, and what the engine makes of its own accord. */
const CONSTANT_BYTES = 1 << 20;
/** Enough for what protobuf-es needs, not for much more. */
const HEAP_MIB = 64;

const modes: [string, readonly string[]][] = [
  ["", []],
  [" where code must not be generated", ["--disallow-code-generation-from-strings"]],
];

describe("memory", () => {
  for (const [where, flags] of modes) {
    test(`that decoding takes is bounded by the input's size${where}`, () => {
      const program = fileURLToPath(new URL("memory.peer.js", import.meta.url));
      const child = spawnSync(
        process.execPath,
        ["--expose-gc", `--max-old-space-size=${HEAP_MIB}`, ...flags, program],
        { encoding: "utf8", timeout: 900_000 },
      );
      assert.equal(child.status, 0, child.stderr);
      const costs = JSON.parse(child.stdout) as readonly Cost[];
      assert.ok(
        costs.some((cost) => cost.outcome === "decoded" && cost.held > 100 * cost.inputBytes),
        "no input here takes much memory",
      );
      assert.ok(costs.some((cost) => cost.outcome === "refused"));
      for (const { name, inputBytes, held, heldByProtobufEs, outcome } of costs) {
        const figures = `${name}: ${held} bytes for ${inputBytes}, protobuf-es ${heldByProtobufEs}`;
        if (outcome === "refused") {
          assert.ok(held <= REFUSED_PER_BYTE_MAX * inputBytes + CONSTANT_BYTES, figures);
        } else {
          assert.ok(held <= HELD_PER_BYTE_MAX * inputBytes + CONSTANT_BYTES, figures);
          assert.ok(held <= HELD_TO_PROTOBUF_ES_MAX * heldByProtobufEs + CONSTANT_BYTES, figures);
        }
      }
    });
  }
});
