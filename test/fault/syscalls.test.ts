/**
 * A system call on a connection's socket that fails for good ends that connection, with an error that names the call,
 * and nothing else.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { runScriptOk } from "../support/processes.js";
import { tempSocket } from "../support/temp.js";
import { skip } from "../stress/settings.js";

const addonUrl = new URL("../../src/os/addon.js", import.meta.url).href;

/**
 * Two clients of one server, all in this process. What the first one's control sockets are is known; `breakSocket` puts
 * what is no socket in place of one.
 */
const PAIR = `
const { closeSync, openSync, readlinkSync } = await import("node:fs");
const { requireAddon } = await import(data.addonUrl);
const addon = requireAddon();
const numbers = { client: undefined, server: undefined };
for (const [name, side] of [["connectSocket", "client"], ["acceptSocket", "server"]]) {
  const call = addon[name];
  addon[name] = (argument) => {
    const number = call(argument);
    if (number >= 0) numbers[side] ??= number;
    return number;
  };
}
const server = createIsthmusServer({ polling: false, routes: (router) => router.service(TestService, {
  echo: ({ text }) => ({ text }),
  wait: async ({ milliseconds }) => { await new Promise((resolve) => setTimeout(resolve, milliseconds)); return { text: "waited" }; },
}) });
await server.listen(data.path);
numbers.client = numbers.server = undefined;
const transports = [0, 1].map(() => createIsthmusTransport({ address: data.path, polling: false }));
const [broken, fine] = transports.map((transport) => createClient(TestService, transport));
await broken.echo({ text: "1" });
await fine.echo({ text: "1" });

function breakSocket(number) {
  // The event loop goes on watching what it watched.
  const original = addon.duplicateDescriptor(number);
  closeSync(number);
  for (let opened = -1; opened !== number; ) opened = openSync("/dev/null", "r+");
  const isBroken = () => { try { return readlinkSync("/proc/self/fd/" + number) === "/dev/null"; } catch { return false; } };
  const looking = setInterval(() => {
    // The connection has closed what it takes for its socket; now the other end hears of it.
    if (isBroken()) return;
    clearInterval(looking);
    addon.closeDescriptor(original);
  }, 5);
}
const outcome = (promise) => promise.then(({ text }) => text, ({ message }) => message);
async function finish(failing) {
  say(await failing);
  say(await outcome(fine.echo({ text: "fine" })));
  // The connection ends in a later turn, perhaps with this call.
  let again;
  for (let tries = 0; tries < 20 && again !== "again"; tries++) again = await outcome(broken.echo({ text: "again" }));
  say(again);
  await Promise.all(transports.map((transport) => transport.close()));
  await server.close({ timeoutMs: 0 });
}
`;

/** An answer that was published before the connection ended arrives. */
const CASES = [
  [
    "recvmsg fails on a client that waits for an answer",
    "const failing = outcome(broken.wait({ milliseconds: 400 })); await sleep(100); breakSocket(numbers.client);",
    /connection lost: the control socket failed: recvmsg: .*ENOTSOCK/,
  ],
  [
    "send fails on a client that rings",
    "await sleep(100); breakSocket(numbers.client); const failing = outcome(broken.echo({}));",
    /connection lost: the control socket failed: send: ENOTSOCK/,
  ],
  [
    "recvmsg fails on a server that is rung",
    "await sleep(100); breakSocket(numbers.server); const failing = outcome(broken.echo({}));",
    /connection lost|^$/,
  ],
  [
    "send fails on a server that answers",
    "const failing = outcome(broken.wait({ milliseconds: 400 })); await sleep(100); breakSocket(numbers.server);",
    /connection lost|^waited$/,
  ],
] as const;

for (const [name, code, message] of CASES) {
  test(`${name}: that connection ends, another one goes on, and so does the client with a new one`, {
    skip,
  }, async (context) => {
    const { said, stderr } = await runScriptOk(context, `${PAIR}${code}\nawait finish(failing);`, {
      path: tempSocket(context),
      addonUrl,
    });
    assert.match(said[0] as string, message);
    assert.deepEqual(said.slice(1), ["fine", "again"]);
    assert.equal(stderr, "");
  });
}
