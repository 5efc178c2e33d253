/** A user who may read a server's directory, and no more: servers start and stop there all the same. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, readdirSync } from "node:fs";
import { dirname } from "node:path";
import { test } from "node:test";
import { createIsthmusServer } from "../../src/index.js";
import { tempSocket } from "../support/temp.js";
import { testRoutes } from "../support/test-service.js";

const skip =
  spawnSync("python3", ["-c", ""]).status !== 0
    ? "there is no python3"
    : process.getuid?.() !== 0 && "only root can act as another user";

/** Locks the directory, and again and again whatever can be opened in it. */
const LOCKER = `
import fcntl, os, sys
os.setgid(12345)
os.setuid(12345)
held = [os.open(sys.argv[1], os.O_RDONLY)]
fcntl.flock(held[0], fcntl.LOCK_EX)
print("locked", flush=True)
while True:
    for name in os.listdir(sys.argv[1]):
        try:
            held.append(os.open(os.path.join(sys.argv[1], name), os.O_RDONLY))
            fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            print("locked", name, flush=True)
        except OSError:
            pass
`;

test("who locks a directory that he may only read stops no server", { skip }, async (context) => {
  const path = tempSocket(context);
  const directory = dirname(path);
  chmodSync(directory, 0o755);
  const locker = spawn("python3", ["-c", LOCKER, directory], { stdio: ["ignore", "pipe", "inherit"] });
  context.after(() => locker.kill("SIGKILL"));
  let output = "";
  locker.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  await once(locker.stdout, "data");
  for (let round = 0; round < 20; round++) {
    const server = createIsthmusServer({ routes: testRoutes });
    await server.listen(path);
    await server.close();
  }
  assert.deepEqual(readdirSync(directory), []);
  assert.equal(output.trim(), "locked", "nothing but the directory could be locked");
});
