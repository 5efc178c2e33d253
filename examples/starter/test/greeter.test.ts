import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { createClient, createIsthmusServer, createIsthmusTransport } from "isthmus";
import { GreeterService } from "../proto/greeter_pb.js";
import { routes } from "../src/routes.js";

const folder = mkdtempSync(join(tmpdir(), "starter-"));
const address = process.platform === "win32" ? "tcp:127.0.0.1:7001" : join(folder, "greeter.sock");
const server = createIsthmusServer({ routes });
const transport = createIsthmusTransport({ address });
const client = createClient(GreeterService, transport);

before(() => server.listen(address));
after(async () => {
  await transport.close();
  await server.close();
  rmSync(folder, { recursive: true });
});

test("greets by name", async () => {
  assert.equal((await client.greet({ name: "Ada" })).text, "Hello, Ada!");
});

test("counts down to 1", async () => {
  const numbers: number[] = [];
  for await (const { number } of client.countDown({ from: 3 })) numbers.push(number);
  assert.deepEqual(numbers, [3, 2, 1]);
});
