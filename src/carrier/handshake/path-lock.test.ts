import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { loadAddon } from "../../os/addon.js";
import { tempSocket } from "../../../test/support/temp.js";
import { lockPath } from "./path-lock.js";

const { addon } = loadAddon();
const withAddon = { skip: addon === undefined && "there is no addon" };
const lockOf = (path: string) => join(dirname(path), ".server.sock.lock");

for (const [kind, own] of [
  ["a file", addon],
  ["a directory", undefined],
] as const) {
  test(`as ${kind}, a lock is held by one at a time and leaves nothing behind`, async (context) => {
    const path = tempSocket(context);
    let holders = 0;
    let most = 0;
    const hold = async () => {
      const unlock = await lockPath(own, path);
      most = Math.max(most, ++holders);
      await new Promise((resolve) => setTimeout(resolve, 1));
      holders--;
      unlock();
    };
    await Promise.all(Array.from({ length: 20 }, hold));
    assert.equal(most, 1);
    assert.deepEqual(readdirSync(dirname(path)), []);
  });
}

test("who has the addon and who has not exclude each other", withAddon, async (context) => {
  const path = tempSocket(context);
  for (const [first, second] of [
    [addon, undefined],
    [undefined, addon],
  ]) {
    const unlock = await lockPath(first, path);
    let locked = false;
    const waiting = lockPath(second, path).then((unlock) => {
      locked = true;
      unlock();
    });
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal(locked, false);
    unlock();
    await waiting;
  }
});

test("a file that a killed server has left behind is taken over at once", withAddon, async (context) => {
  const path = tempSocket(context);
  writeFileSync(lockOf(path), "");
  (await lockPath(addon, path))();
  assert.equal(existsSync(lockOf(path)), false);
});

test("a directory that a killed server has left behind is broken", async (context) => {
  const path = tempSocket(context);
  mkdirSync(lockOf(path));
  (await lockPath(addon, path))();
  assert.deepEqual(readdirSync(dirname(path)), []);
});
