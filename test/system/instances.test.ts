/**
 * Two instances of the package in one thread: in jest each test file has one, and a bundle may have one beside the
 * program's. They share no memory of their own, and hand each other values as any other code does.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { skip } from "../stress/settings.js";
import { runScriptOk } from "../support/processes.js";
import { tempSocket } from "../support/temp.js";

const COMMON_JS = fileURLToPath(new URL("../../cjs/index.js", import.meta.url));
const VALUES = 50;
const VALUE_BYTES = 1 << 20;

const PROGRAM = `
import { createRequire } from "node:module";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import * as isthmus from ${JSON.stringify(new URL("../../src/index.js", import.meta.url).href)};

setFlagsFromString("--expose-gc");
const gc = runInNewContext("gc");
const other = createRequire(data.commonJs)(data.commonJs);
const instances = [isthmus, other];
const leasedBytes = (stats) => Number(/"leasedBytes":(\\d+)/.exec(JSON.stringify(stats))[1]);

// Another value, which the client leases from the server.
const routes = (router) => router.service(TestService, { echo: ({ data }) => ({ data: data.slice() }) });
// A frame of the loop may still hold the last values.
const kept = 2 * data.bytes;
const results = [];
for (const [server, client] of [[0, 1], [1, 0], [0, 0], [1, 1]]) {
  const path = data.path + server + client;
  const [here, there] = [instances[client], instances[1 - client]];
  const running = instances[server].createIsthmusServer({ routes });
  await running.listen(path);
  const transport = here.createIsthmusTransport({ address: path, carrier: "shm" });
  const service = here.createClient(TestService, transport);
  let right = 0;
  for (let i = 0; i < data.values; i++) {
    // A loan of either instance, through a client of this one; what comes back is given to both.
    const loan = await (i % 2 === 0 ? here : there).loan(transport, data.bytes);
    loan.fill(i);
    const reply = await service.echo({ data: loan });
    if (reply.data.length === data.bytes && reply.data.every((byte) => byte === i)) right++;
    there.release(reply);
    if (i % 3 === 0) here.release(reply);
  }
  for (let round = 0; round < 200 && leasedBytes(transport.stats()) > kept; round++) {
    gc();
    await sleep(10);
  }
  results.push({ right, isReturned: leasedBytes(transport.stats()) <= kept });
  await transport.close();
  await running.close();
}
say({ isOne: isthmus.createClient === other.createClient, results });
`;

test("two instances in one thread get their memory back, and each takes the other's values as plain ones", {
  skip,
}, async (context) => {
  const { said } = await runScriptOk(context, PROGRAM, {
    commonJs: COMMON_JS,
    path: tempSocket(context),
    values: VALUES,
    bytes: VALUE_BYTES,
  });
  const right = { right: VALUES, isReturned: true };
  assert.deepEqual(said, [{ isOne: false, results: [right, right, right, right] }]);
});
