import assert from "node:assert/strict";
import { test } from "node:test";
import { loadAddon } from "../../src/os/addon.js";
import { runExample } from "../run.test.util.js";

const skip = loadAddon().reason ?? false;

test("the file server example hands over a file as it is", { skip, timeout: 600_000 }, async (context) => {
  const output = await runExample(context, "file-server", "20");
  assert.match(output, /^20983865 bytes in 3 parts over shm: \d+ MB\/s$/m);
  assert.match(output, /^verified: SHA-256 [0-9a-f]{64} on both sides$/m);
});
