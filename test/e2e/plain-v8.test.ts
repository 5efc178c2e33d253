/** `ISTHMUS_V8=plain`: V8's flags, garbage collection and counts are left alone, and everything works. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { onlyWithAddon } from "../support/carriers.js";
import { runScriptOk } from "../support/processes.js";
import { tempSocket } from "../support/temp.js";

/** Calls whose leases are dropped, then calls whose leases are released. Reports the V8 flags that were set. */
const SCRIPT = `
const { default: v8 } = await import("node:v8");
const { syncBuiltinESMExports } = await import("node:module");
const { loan, release } = await import(data.index);
const flags = [];
const set = v8.setFlagsFromString;
v8.setFlagsFromString = (flag) => { flags.push(flag); set(flag); };
syncBuiltinESMExports();
const server = createIsthmusServer({ routes: (router) => router.service(TestService, { echo: ({ data }) => ({ data }) }) });
await server.listen(data.path);
const transport = createIsthmusTransport({ address: data.path });
const client = createClient(TestService, transport);
for (let i = 0; i < 16; i++) await client.echo({ data: new Uint8Array(1 << 20) });
const dropped = transport.stats().connection.leases;
let intact = 0;
let empty = 0;
for (let i = 0; i < 50; i++) {
  const bytes = await loan(transport, 1 << 20);
  bytes.fill(i);
  const reply = await client.echo({ data: bytes });
  if (reply.data.length === 1 << 20 && reply.data.every((byte) => byte === i)) intact++;
  release(reply);
  if (reply.data.length === 0) empty++;
}
say({ intact, empty, added: Math.max(transport.stats().connection.leases - dropped, 0), flags });
await transport.close();
await server.close();
`;

const index = new URL("../../src/index.js", import.meta.url).href;

interface Outcome {
  readonly flags: readonly string[];
}

for (const [policy, env] of [
  ["plain", { ISTHMUS_V8: "plain" }],
  ["", { ISTHMUS_V8: "" }],
] as const) {
  test(policy === "plain"
    ? "with ISTHMUS_V8=plain no flag of V8 is set; calls work, and release gives leases back"
    : "without it the same calls set flags", { skip: onlyWithAddon }, async (context) => {
    const { said } = await runScriptOk(context, SCRIPT, { index, path: tempSocket(context) }, { env });
    const { flags, ...counts } = said[0] as Outcome;
    assert.deepEqual(counts, { intact: 50, empty: 50, added: 0 });
    assert.equal(flags.length === 0, policy === "plain", flags.join(" "));
  });
}
