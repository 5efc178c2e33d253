import assert from "node:assert/strict";
import { test } from "node:test";
import { loadAddon } from "../../src/os/addon.js";
import { runExample } from "../run.test.util.js";
import { draw, findBright } from "./frames.js";

const skip = loadAddon().reason ?? false;

test("the camera example finds every rectangle where it was drawn", { skip, timeout: 600_000 }, async (context) => {
  const output = await runExample(context, "camera", "60");
  assert.match(
    output,
    /^60 frames of 1920 × 1080 over shm: \d+ frames\/s with drawing; a call p50 \d+ µs, p99 \d+ µs$/m,
  );
  assert.match(output, /^verified: .* in 60 of 60 frames$/m);
});

test("a frame without a rectangle has none, and one at the edge is found whole", () => {
  const rgb = new Uint8Array(64 * 48 * 3);
  assert.equal(findBright(rgb, 64, 48), undefined);
  const box = { x: 44, y: 30, width: 20, height: 18 };
  draw(rgb, 64, box);
  assert.deepEqual(findBright(rgb, 64, 48), box);
  assert.throws(() => findBright(rgb, 65, 48), /has not/);
});
