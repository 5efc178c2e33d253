import assert from "node:assert/strict";
import { test } from "node:test";
import { loadAddon } from "../../src/os/addon.js";
import { runExample } from "../run.test.util.js";

const skip = loadAddon().reason ?? false;

test("the embeddings example finds the vectors that are nearest", { skip, timeout: 600_000 }, async (context) => {
  const output = await runExample(context, "embeddings", "3000");
  assert.match(output, /^3072 vectors of 384 floats over shm, in batches of 1024: 4\.7 MB in \d+ ms$/m);
  assert.match(output, /^verified: 5 of 5 searches gave the best 10/m);
});
