import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import * as timers from "node:timers";
import * as timersPromises from "node:timers/promises";
import * as own from "./timers.js";

test("the timers are those of the runtime where those are not faked", () => {
  for (const name of ["setTimeout", "clearTimeout", "setInterval", "clearInterval", "setImmediate"] as const)
    assert.equal(own[name], timers[name], name);
  assert.equal(own.queueMicrotask, queueMicrotask);
  assert.equal(own.sleep, timersPromises.setTimeout);
});

const USE = `
  const order = [];
  const late = own.setTimeout(() => order.push("never"), 20);
  own.clearTimeout(late);
  own.clearTimeout(undefined);
  const before = own.nowMs();
  await new Promise((resolve) => own.setTimeout(resolve, 30, "value")).then((value) => order.push(value ?? "late"));
  if (own.nowMs() - before < 28) order.push("the clock stands still");
  await new Promise((resolve) => own.setImmediate(resolve));
  order.push("turn");
  await new Promise((resolve) => own.queueMicrotask(resolve));
  order.push("microtask");
  let ticks = 0;
  await new Promise((resolve) => { const interval = own.setInterval(() => { if (++ticks === 3) { own.clearInterval(interval); resolve(); } }, 5); });
  await own.sleep(30);
  order.push(ticks);
  const abort = new AbortController();
  const slept = own.sleep(1e6, undefined, { signal: abort.signal });
  abort.abort();
  await slept.catch(() => order.push("woken"));
  await own.sleep(1, undefined, { signal: abort.signal }).catch(() => order.push("woken before"));
  own.setTimeout(() => order.push("does not keep the process"), 1e6).unref();
  console.log(order.join());`;

const FAKES = {
  nothing: "",
  "node:timers, as node:test does it": `const { mock } = await import("node:test"); mock.timers.enable();`,
  "everything that has a name": `
    const dead = () => { const fake = () => ({ unref() { return this; } }); fake.clock = {}; return fake; };
    for (const module of [(await import("node:module")).createRequire(import.meta?.url ?? "file:///")("node:timers"), globalThis])
      for (const name of ["setTimeout", "clearTimeout", "setInterval", "clearInterval", "setImmediate", "clearImmediate", "queueMicrotask"]) module[name] = dead();
    (await import("node:module")).syncBuiltinESMExports();
    Object.defineProperty((await import("node:perf_hooks")).performance, "now", { value: () => 0 });`,
};

for (const [what, fake] of Object.entries(FAKES)) {
  test(`timers, turns and the clock are real although this was faked before they were loaded: ${what}`, () => {
    const code = `${fake}\nconst own = await import(${JSON.stringify(new URL("./timers.js", import.meta.url).href)});\n${USE}`;
    const { stdout, stderr, status } = spawnSync(
      process.execPath,
      ["--no-warnings", "--input-type=module", "-e", code],
      { encoding: "utf8", timeout: 120_000 },
    );
    assert.equal(stdout.trim(), "value,turn,microtask,3,woken,woken before", stderr);
    assert.equal(status, 0, "the process did not end by itself");
  });
}
